"""POST /tasks, GET /tasks/{id}, GET /tasks/{id}/result, over real sockets."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from openruntime.contracts import npy, safetensors
from openruntime.contracts.models import TaskResponse, TaskStatus
from openruntime.contracts.payload import Array, Reference
from openruntime.gateway.results import describe

ARRAY = Array("float32", (3,), b"\x00\x00\x80\x3f" * 3)
SAFETENSORS = "application/x-safetensors"
NPY = "application/x-npy"


def packed(task: dict[str, Any], **arrays: Array) -> bytes:
    return b"".join(safetensors.encode(arrays, {"task": json.dumps(task)}))


async def test_submit_is_accepted_with_its_place(gateway: Any) -> None:
    answer = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": [1, 2]}, "priority": 9, "tags": ["a"]})
    assert answer.status_code == 202
    found = TaskResponse.model_validate(answer.json())
    assert answer.headers["location"] == f"/tasks/{found.task_id}"
    assert (found.priority, found.tags, found.operation) == (9, ["a"], "double")
    assert gateway.tasks.calls[0]["promised"] is True
    assert (await gateway.client.get(answer.headers["location"])).json()["result"] == {"output": [1, 2]}


def test_describe_has_the_fields_of_the_model() -> None:
    from openruntime.contracts.records import Call, Estimate, Task

    task = Task("1", Call("x", 1, {}, {}, Estimate()), "local", "any", 5, 1.5, 0.0)
    found = describe(task)
    assert list(found) == list(TaskResponse.model_fields)


async def test_wait_answers_with_the_result(gateway: Any) -> None:
    answer = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": [1.5, "NaN"]}}, headers={"Prefer": "wait=5"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=5"
    assert answer.json()["result"] == {"output": [1.5, "NaN"]}
    assert answer.json()["created_at"].endswith("Z")
    assert gateway.tasks.calls[0]["promised"] is False


async def test_wait_that_is_too_short_promises_the_task(gateway: Any) -> None:
    answer = await gateway.client.post("/tasks", json={"operation": "slow"}, headers={"Prefer": "respond-async, wait=0.05"})
    assert answer.status_code == 202
    assert gateway.tasks.kept == [answer.json()["task_id"]]
    waiting = asyncio.ensure_future(gateway.client.get(answer.headers["location"], params={"wait": 5}))
    await asyncio.sleep(0.05)
    gateway.tasks.release.set()
    assert (await waiting).json()["result"] == {"output": 7}


async def test_wait_is_bounded(start: Any) -> None:
    gateway = await start(longest_wait=0.05)
    answer = await gateway.client.post("/tasks", json={"operation": "slow"}, headers={"Prefer": "wait=3600"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.05")


async def test_safetensors_there_and_back(gateway: Any) -> None:
    headers = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS, "Prefer": "wait=5"}
    answer = await gateway.client.post("/tasks", content=packed({"operation": "split"}, x=ARRAY), headers=headers)
    assert answer.status_code == 200
    arrays, metadata = safetensors.decode(answer.content)
    assert {name: (a.dtype, a.shape, bytes(a.view)) for name, a in arrays.items()} == {
        name: ("float32", (3,), bytes(ARRAY.view)) for name in ("first", "second")
    }
    assert TaskResponse.model_validate_json(metadata["task"]).status is TaskStatus.COMPLETED


async def test_npy_with_its_query(gateway: Any) -> None:
    query = {"operation": "double", "priority": 7, "tags": ["a", "b"], "axis": "[1, 2]", "device_preference": "cpu:0"}
    answer = await gateway.client.post(
        "/tasks", params=query, content=b"".join(npy.encode(ARRAY)), headers={"Content-Type": NPY, "Accept": NPY, "Prefer": "wait=5"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == NPY
    assert bytes(npy.decode(answer.content).view) == bytes(ARRAY.view)
    request = gateway.tasks.calls[0]["request"]
    assert (request.priority, request.tags, request.device_preference, request.parameters) == (7, ["a", "b"], "cpu:0", {"axis": [1, 2]})


async def test_npy_cannot_hold_two_outputs(gateway: Any, problem: Any) -> None:
    headers = {"Accept": NPY, "Prefer": "wait=5"}
    answer = await gateway.client.post("/tasks", json={"operation": "split", "parameters": {"x": [1]}}, headers=headers)
    assert "first, second" in problem(answer, 406, "not_acceptable")["detail"]


async def test_large_results_become_tensors_once(start: Any) -> None:
    gateway = await start(inline_elements=4)
    sent = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": [[1, 2, 3], [4, 5, 6]]}})
    first = (await gateway.client.get(sent.headers["location"])).json()["result"]["output"]
    again = (await gateway.client.get(sent.headers["location"])).json()["result"]["output"]
    assert first == again == {"tensor": "a000000", "dtype": "int64", "shape": [2, 3]}
    assert (await gateway.client.delete("/tensors/a000000")).status_code == 204
    assert (await gateway.client.get(sent.headers["location"])).json()["result"]["output"]["dtype"] == "int64"
    assert len(gateway.tensors.kept) == 1


async def test_references_are_recognised(gateway: Any, problem: Any) -> None:
    parameters = {"x": [1], "a": {"tensor": "1"}, "b": {"task": "2", "output": "u"}, "c": {"real": 1, "imag": 2}}
    await gateway.client.post("/tasks", json={"operation": "double", "parameters": parameters})
    found = gateway.tasks.calls[0]["request"].parameters
    assert found == {"x": [1], "a": Reference(tensor="1"), "b": Reference(task="2", output="u"), "c": {"real": 1, "imag": 2}}
    for wrong in ({"tensor": 5}, {"task": "1", "tensor": "2"}, {"tensor": "1", "output": "u"}, {"task": "1", "more": "2"}):
        answer = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": wrong}})
        problem(answer, 422, "invalid_parameter", field="x")


async def test_headers_are_passed_on(gateway: Any, problem: Any) -> None:
    headers = {"Idempotency-Key": "k1", "Cache-Control": "no-store"}
    await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": 1}}, headers=headers)
    assert (gateway.tasks.calls[0]["idempotency"], gateway.tasks.calls[0]["cache"]) == ("k1", "no-store")
    answer = await gateway.client.post("/tasks", json={"operation": "double"}, headers={"Idempotency-Key": "k" * 256})
    problem(answer, 400, "invalid_request", field="Idempotency-Key")


async def test_a_failed_task(gateway: Any, problem: Any) -> None:
    answer = await gateway.client.post("/tasks", json={"operation": "fail"}, headers={"Prefer": "wait=5"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["code"], answer.json()["error"]) == ("failed", "operation_failed", "the matrix is singular")
    wanting_arrays = await gateway.client.post("/tasks", json={"operation": "fail"}, headers={"Prefer": "wait=5", "Accept": SAFETENSORS})
    assert wanting_arrays.json()["code"] == "operation_failed"
    assert wanting_arrays.headers["content-type"] == "application/problem+json"
    result = await gateway.client.get(answer.headers["location"] + "/result")
    assert result.json()["code"] == "operation_failed"


async def test_result_formats(gateway: Any, problem: Any) -> None:
    sent = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": [[1, 2]]}})
    place = sent.headers["location"] + "/result"
    assert (await gateway.client.get(place)).json()["result"] == {"output": [[1, 2]]}
    as_npy = await gateway.client.get(place, headers={"Accept": f"{SAFETENSORS};q=0.5, {NPY}"})
    assert npy.decode(as_npy.content).shape == (1, 2)
    problem(await gateway.client.get(place, headers={"Accept": "image/png"}), 406, "not_acceptable", field="Accept")
    slow = await gateway.client.post("/tasks", json={"operation": "slow"})
    problem(await gateway.client.get(slow.headers["location"] + "/result"), 409, "not_ready")
    problem(await gateway.client.get(slow.headers["location"], params={"wait": "soon"}), 400, "invalid_request", field="wait")


async def test_cancel_on_disconnect(gateway: Any) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/tasks", json={"operation": "slow", "cancel_on_disconnect": True}, headers={"Prefer": "wait=30"}, timeout=0.2)
    await asyncio.sleep(0.1)
    assert [task.life.status for task in gateway.tasks.tasks.values()] == [TaskStatus.CANCELLED]


async def test_cancel_list_explain_trace(gateway: Any, problem: Any) -> None:
    ids = [(await gateway.client.post("/tasks", json={"operation": "slow"})).json()["task_id"] for _ in range(3)]
    assert (await gateway.client.delete(f"/tasks/{ids[0]}")).json()["status"] == "cancelled"
    page = (await gateway.client.get("/tasks", params={"limit": 2, "status": "queued", "tag": "t"})).json()
    assert [task["task_id"] for task in page["tasks"]] == [ids[2], ids[1]]
    assert gateway.tasks.calls[-1]["status"] == "queued"
    rest = (await gateway.client.get("/tasks", params={"limit": 2, "cursor": page["next"]})).json()
    assert [task["task_id"] for task in rest["tasks"]] == [ids[0]]
    assert rest["next"] is None
    assert (await gateway.client.get(f"/tasks/{ids[0]}/explain")).json()["reason"] == "the only device"
    assert (await gateway.client.get(f"/tasks/{ids[0]}/trace")).json()["traceEvents"][0]["ph"] == "X"
    problem(await gateway.client.get("/tasks", params={"limit": 0}), 400, "invalid_request", field="limit")
    problem(await gateway.client.get("/tasks", params={"status": "odd"}), 400, "invalid_request", field="status")
    for place in ("", "/result", "/explain", "/trace"):
        problem(await gateway.client.get(f"/tasks/none{place}"), 404, "not_found")


async def test_the_same_functions_answer_below_a_root_path(start: Any, problem: Any) -> None:
    gateway = await start(root_path="/api")
    answer = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": 1}}, headers={"Prefer": "wait=1"})
    assert answer.json()["result"] == {"output": 1}
    assert (await gateway.client.get("/tasks/00000000-0000-7000-8000-000000000000/result")).json()["result"] == {"output": 1}
    problem(await gateway.client.post("/tasks", json={"operation": "unknown"}), 422, "unknown_operation", field="operation")
    problem(await gateway.client.get("/tasks/none"), 404, "not_found")
    batch = await gateway.client.post("/tasks/batch", json={"tasks": [{"operation": "double", "parameters": {"x": 1}}]})
    assert batch.status_code == 202


async def test_batch_with_one_bad_request(gateway: Any) -> None:
    tasks = [
        {"operation": "double", "parameters": {"x": [1]}},
        {"operation": "double", "priority": 0},
        {"operation": "unknown"},
        {"operation": "fail"},
    ]
    answer = await gateway.client.post("/tasks/batch", json={"tasks": tasks}, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 202
    assert gateway.tasks.calls[-1]["idempotency"] == "k1"
    found = answer.json()["tasks"]
    assert found[0]["task_id"] == "00000000-0000-7000-8000-000000000000"
    assert (found[1]["code"], found[1]["field"]) == ("invalid_request", "priority")
    assert (found[2]["code"], found[2]["status"]) == ("unknown_operation", 422)
    waited = await gateway.client.post("/tasks/batch", json={"tasks": tasks}, headers={"Prefer": "wait=5"})
    assert waited.status_code == 200
    assert waited.json()["tasks"][0]["result"] == {"output": [1]}
    assert waited.json()["tasks"][3]["status"] == "failed"


async def test_batch_as_safetensors(gateway: Any, problem: Any) -> None:
    metadata = {"tasks": json.dumps([{"operation": "double"}, {"operation": "split"}])}
    body = b"".join(safetensors.encode({"0.x": ARRAY, "1.x": ARRAY}, metadata))
    headers = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS, "Prefer": "wait=5"}
    answer = await gateway.client.post("/tasks/batch", content=body, headers=headers)
    arrays, metadata = safetensors.decode(answer.content)
    assert sorted(arrays) == ["0.output", "1.first", "1.second"]
    assert [task["status"] for task in json.loads(metadata["tasks"])] == ["completed", "completed"]
    stray = b"".join(safetensors.encode({"2.x": ARRAY}, {"tasks": '[{"operation": "double"}]'}))
    problem(await gateway.client.post("/tasks/batch", content=stray, headers=headers), 400, "invalid_request", field="2.x")


async def test_batch_that_is_not_ready_is_promised(gateway: Any) -> None:
    tasks = [{"operation": "slow"}, {"operation": "double", "parameters": {"x": 1}}]
    answer = await gateway.client.post("/tasks/batch", json={"tasks": tasks}, headers={"Prefer": "wait=0.05"})
    assert answer.status_code == 202
    assert gateway.tasks.kept == ["00000000-0000-7000-8000-000000000000", "00000000-0000-7000-8000-000000000001"]


@pytest.mark.parametrize("body", [{}, {"tasks": {}}, {"tasks": []}, {"tasks": [{}] * 1001}, {"tasks": [], "more": 1}, []])
async def test_batch_of_the_wrong_shape(gateway: Any, problem: Any, body: Any) -> None:
    problem(await gateway.client.post("/tasks/batch", json=body), 400, "invalid_request", field="tasks")


async def test_request_ids(gateway: Any) -> None:
    assert (await gateway.client.get("/health/live", headers={"X-Request-ID": "mine-1"})).headers["x-request-id"] == "mine-1"
    assert (await gateway.client.get("/tasks/none", headers={"X-Request-ID": "mine-2"})).headers["x-request-id"] == "mine-2"
    for bad in (b"x" * 129, b"caf\xc3\xa9", b""):
        answer = await gateway.client.get("/health/live", headers={b"X-Request-ID": bad})
        assert len(answer.headers["x-request-id"]) == 36


async def test_a_defect_is_logged_and_not_shown(gateway: Any, problem: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "openruntime"):
        answer = await gateway.client.post("/tasks", json={"operation": "defect"})
    assert "secret" not in answer.text
    found = problem(answer, 500, "internal")
    record = next(record for record in caplog.records if record.exc_info)
    assert record.request_id == found["request_id"]  # type: ignore[attr-defined]


async def test_queue_full_says_when_to_come_back(gateway: Any, problem: Any) -> None:
    answer = await gateway.client.post("/tasks", json={"operation": "full"})
    problem(answer, 429, "queue_full")
    assert answer.headers["retry-after"] == "3"


async def test_cors_only_where_it_is_allowed(start: Any) -> None:
    origin = {"Origin": "http://localhost:5173"}
    closed, opened = await start(), await start(cors=True)
    assert "access-control-allow-origin" not in (await closed.client.get("/health/live", headers=origin)).headers
    answer = await opened.client.post("/tasks", json={"operation": "unknown"}, headers=origin)
    assert answer.headers["access-control-allow-origin"] == "*"
    preflight = await opened.client.options(
        "/tasks", headers=origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefer"}
    )
    assert preflight.status_code == 200
