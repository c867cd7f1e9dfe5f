"""System, devices, operations, tensors, the documentation, and what is not there."""

import subprocess
import sys
from typing import Any
from urllib.parse import quote

import pytest

from openruntime.contracts import npy, safetensors
from openruntime.contracts.payload import Array

ARRAY = Array("int16", (2, 1), b"\x01\x00\x02\x00")
NPY = {"Content-Type": "application/x-npy"}


async def test_system(gateway: Any, problem: Any) -> None:
    assert (await gateway.client.get("/")).json()["version"] == "1.2.3"
    found = (await gateway.client.get("/health")).json()
    assert (found["status"], found["devices"], found["websockets"]) == ("ok", {"cpu:0": "ready"}, 0)
    assert (await gateway.client.get("/health/ready")).json()["status"] == "ok"
    gateway.unready.append("draining")
    answer = await gateway.client.get("/health/ready")
    assert problem(answer, 503, "unavailable")["detail"] == "draining"
    assert answer.headers["retry-after"] == "1"
    assert (await gateway.client.get("/health")).json()["reason"] == "draining"
    assert (await gateway.client.get("/health/live")).status_code == 200


async def test_metrics(gateway: Any) -> None:
    text = await gateway.client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "openruntime_tasks_total 1" in text.text
    scrape = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
    assert (await gateway.client.get("/metrics", headers=scrape)).headers["content-type"].startswith("text/plain")
    assert (await gateway.client.get("/metrics", headers={"Accept": "application/json"})).json() == {"openruntime_tasks_total": 1}
    answer = await gateway.client.get("/metrics/history", params={"name": ["a", "b"], "seconds": 60})
    assert answer.json() == {
        "times": ["1970-01-01T00:00:00Z", "1970-01-01T00:00:15Z"],
        "every": 15.0,
        "series": {"a": [None, 60.0], "b": [None, 60.0]},
    }
    assert (await gateway.client.get("/metrics/history", params={"seconds": -1})).json()["field"] == "seconds"


async def test_devices(gateway: Any, problem: Any) -> None:
    assert [device["id"] for device in (await gateway.client.get("/devices")).json()["devices"]] == ["cpu:0"]
    assert [(row["name"], row["status"], row["reason"]) for row in (await gateway.client.get("/devices")).json()["backends"]] == [
        ("numpy", "ready", None), ("odd", "failed", "no chip"),
    ]  # fmt: skip
    problem(await gateway.client.get("/devices/cuda:0"), 404, "not_found")
    assert (await gateway.client.put("/devices/cpu:0/state", json={"state": "draining"})).json()["status"] == "draining"
    assert (await gateway.client.get("/devices/cpu:0")).json()["status"] == "draining"
    problem(await gateway.client.put("/devices/cpu:0/state", json={"state": "off"}), 400, "invalid_request", field="state")
    problem(await gateway.client.put("/devices/cpu:0/state", json={}), 400, "invalid_request", field="state")
    problem(
        await gateway.client.put("/devices/cpu:0/state", content=b"[" * 10_000, headers={"Content-Type": "application/json"}), 400, "invalid_request"
    )
    problem(await gateway.client.put("/devices/cpu:0/state", content=b"{}"), 415, "unsupported_media_type")
    problem(
        await gateway.client.put("/devices/cpu:0/state", content=b" " * 70_000, headers={"Content-Type": "application/json"}),
        413,
        "payload_too_large",
    )


async def test_operations(gateway: Any, problem: Any) -> None:
    found = (await gateway.client.get("/operations")).json()["operations"]
    assert [(item["name"], item["devices"], item["backends"]) for item in found] == [("double", ["cpu:0"], ["numpy"]), ("split", [], [])]
    assert (await gateway.client.get("/operations/double")).json()["name"] == "double"
    problem(await gateway.client.get("/operations/none"), 404, "not_found")


async def test_one_tensor(gateway: Any, problem: Any) -> None:
    answer = await gateway.client.post("/tensors?ttl=60", content=b"".join(npy.encode(ARRAY)), headers=NPY)
    assert (answer.status_code, answer.headers["location"]) == (201, f"/tensors/{answer.json()['id']}")
    place = answer.headers["location"]
    assert bytes(npy.decode((await gateway.client.get(place)).content).view) == ARRAY.data
    assert (await gateway.client.get(place, headers={"Accept": "application/json"})).json()["value"] == [[1], [2]]
    arrays, _ = safetensors.decode((await gateway.client.get(place, headers={"Accept": "application/x-safetensors"})).content)
    assert arrays["tensor"].shape == (2, 1)
    problem(await gateway.client.get(place, headers={"Accept": "text/html"}), 406, "not_acceptable")
    assert len((await gateway.client.get("/tensors")).json()["tensors"]) == 1
    deleted = await gateway.client.delete(place)
    assert (deleted.status_code, deleted.content) == (204, b"")
    problem(await gateway.client.get(place), 404, "not_found")


async def test_several_tensors(gateway: Any, problem: Any) -> None:
    headers = {"Content-Type": "application/x-safetensors"}
    answer = await gateway.client.post("/tensors", content=b"".join(safetensors.encode({"a": ARRAY, "b": ARRAY})), headers=headers)
    assert sorted(answer.json()["tensors"]) == ["a", "b"]
    problem(await gateway.client.post("/tensors", content=b"".join(safetensors.encode({})), headers=headers), 400, "invalid_request")
    problem(await gateway.client.post("/tensors", json=[1]), 415, "unsupported_media_type")
    for query in ("ttl=0", "ttl=nan", "ttl=x"):
        problem(await gateway.client.post(f"/tensors?{query}", content=b"", headers=headers), 400, "invalid_request", field="ttl")
    problem(await gateway.client.post("/tensors?tll=1", content=b"", headers=headers), 400, "invalid_request", field="tll")
    problem(await gateway.client.post("/tensors", content=b"\x93NUMPY", headers=NPY), 400, "invalid_request")


@pytest.mark.parametrize(
    "path", ["/none", "/tasks/", "/tasks/t/none", "/tasks/t/result/", "/tensors/", "/docs/%2e%2e%2fx", "/<script>alert(1)</script>"]
)
async def test_not_there(gateway: Any, problem: Any, path: str) -> None:
    problem(await gateway.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/tasks"), ("PUT", "/tasks/t"), ("POST", "/tasks/t/result"), ("GET", "/tasks/batch/x/y"), ("POST", "/ws")]
)
async def test_methods(gateway: Any, problem: Any, method: str, path: str) -> None:
    answer = await gateway.client.request(method, path)
    if answer.status_code == 405:
        problem(answer, 405, "method_not_allowed")
        assert (
            answer.headers["allow"]
            == {
                "/tasks": "GET, HEAD, OPTIONS, POST",
                "/tasks/t": "DELETE, GET, HEAD, OPTIONS",
                "/tasks/t/result": "GET, HEAD, OPTIONS",
            }[path]
        )
    else:
        problem(answer, 404, "not_found")


async def test_ids_are_only_text(gateway: Any, problem: Any) -> None:
    for odd in ("' OR 1=1 --", "<b>x<b>", "..", "\x00", "é" * 50, "a" * 5000):
        problem(await gateway.client.get(f"/tasks/{quote(odd, safe='')}".replace("..", "%2e%2e")), 404, "not_found")


async def test_documentation_is_complete_and_offline(gateway: Any) -> None:
    page = await gateway.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text.replace("<!DOCTYPE html>", "")
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon.png"):
        assert (await gateway.client.get(f"/docs/{asset}")).status_code == 200
    document = (await gateway.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    submit = document["paths"]["/tasks"]["post"]
    assert sorted(submit["requestBody"]["content"]) == ["application/json", "application/x-npy", "application/x-safetensors"]
    assert {"200", "202", "400", "406", "408", "413", "415", "422", "429", "503", "507"} <= set(submit["responses"])
    assert submit["requestBody"]["content"]["application/json"]["examples"]
    schemas = document["components"]["schemas"]
    assert {"TaskRequest", "TaskResponse", "Problem", "Batch", "DeviceInfo"} <= set(schemas)
    wanted = (
        "/ /health /health/live /health/ready /metrics /metrics/history /devices /devices/{device_id} /devices/{device_id}/state "
        "/operations /operations/{name} "
        "/tasks /tasks/batch /tasks/{task_id} /tasks/{task_id}/result /tasks/{task_id}/explain /tasks/{task_id}/trace /tensors /tensors/{tensor_id} "
        "/kernels /kernels/{name} /kernels/{name}/verify /kernels/{name}/tune "
        "/ai/agents /ai/tasks /ai/tasks/{run_id} /ai/tasks/{run_id}/approvals /ai/tasks/{run_id}/approvals/{approval} "
        "/ai/sessions /ai/sessions/{session} "
        "/ai/models /ai/models/{name} /ai/models/{name}/check /ai/models/aliases/{alias} /ai/models/aliases/{alias}/rollback "
        "/v1/models /v1/models/{model} /v1/chat/completions /v1/completions /v1/embeddings"
    )
    assert set(wanted.split()) == set(document["paths"])
    references = {item["$ref"] for item in _objects(document) if "$ref" in item}
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(schemas)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert "HTTPValidationError" not in str(operation), (method, path)


def _objects(value: Any) -> Any:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def test_the_gateway_does_not_import_numpy() -> None:
    code = "import sys, openruntime.gateway.app; print(sorted({'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
