"""A task keeps the distributed trace that it belongs to, and shows it."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import openruntime
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.models import TaskRequest
from openruntime.core.config import Settings
from openruntime.core.runtime import running

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
IDS = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "parent_id": "b7ad6b7169203331"}
SUM = {"operation": "sum", "parameters": {"x": [1, 2]}}


def shown(client: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    """The ids in what explains a task, and in every span of its trace."""
    client.get(f"/tasks/{task_id}?wait=20")
    told = client.get(f"/tasks/{task_id}/explain").json()
    spans = [event["args"] for event in client.get(f"/tasks/{task_id}/trace").json()["traceEvents"] if event["ph"] == "X"]
    assert spans
    return [{name: value for name, value in found.items() if name in IDS} for found in (told, *spans)]


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_the_trace_of_a_request_is_kept_with_its_tasks(start_server: Any, tmp_path: Path, store: str) -> None:
    header = {"traceparent": TRACE}
    with start_server(store=store, data_dir=tmp_path) as server, httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        one = client.post("/tasks", json=SUM, headers=header | {"Idempotency-Key": "k"})
        assert one.headers["traceparent"] == TRACE
        waited = client.post("/tasks", json=SUM, headers=header | {"Prefer": "wait=20"})
        many = client.post("/tasks/batch", json={"tasks": [SUM, SUM]}, headers=header).json()["tasks"]
        newer = client.post("/tasks", json=SUM, headers={"traceparent": "cc" + TRACE[2:] + "-more"})
        ids = [answer["task_id"] for answer in (one.json(), waited.json(), *many, newer.json())]
        assert [found for task_id in ids for found in shown(client, task_id) if found != IDS] == []
        assert set(map(str, shown(client, client.post("/tasks", json=SUM).json()["task_id"]))) == {"{}"}
        odd = client.post("/tasks", json=SUM, headers={"traceparent": "00-zz"})
        assert set(map(str, shown(client, odd.json()["task_id"]))) == {"{}"}
        retried = client.post("/tasks", json=SUM, headers={"traceparent": TRACE.replace("b7", "b8"), "Idempotency-Key": "k"}).json()
        assert (retried["task_id"], shown(client, ids[0])[0]) == (ids[0], IDS)
    if store == "sqlite":
        with start_server(store=store, data_dir=tmp_path) as server, httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            assert [found for task_id in ids for found in shown(client, task_id) if found != IDS] == []


async def test_a_waiting_task_has_its_trace_after_a_restart(tmp_path: Path) -> None:
    settings = Settings.load({"store": "sqlite", "data_dir": str(tmp_path), "threads": 1})
    async with running(settings) as runtime:
        runtime.devices.set_state("cpu:0", "draining")
        task = await runtime.tasks.submit(TaskRequest(**SUM), traceparent=TRACE)
    async with running(settings) as runtime:
        found = await runtime.tasks.status(task.id)
        assert found.traceparent == TRACE
        assert await runtime.tasks.wait(found, 20)
        assert (await runtime.tasks.explain(task.id)).items() >= IDS.items()


@pytest.mark.parametrize("kind", ["http", "embedded"])
def test_the_sdk_passes_one(request: pytest.FixtureRequest, kind: str) -> None:
    x = np.ones(3)
    with openruntime.connect(request.getfixturevalue("server").url if kind == "http" else None) as rt:
        futures = [rt.submit("sum", x, traceparent=TRACE, cache="no-store"), *rt.submit_many([SUM], traceparent=TRACE)]
        assert [future.explain()["trace_id"] for future in futures] == [IDS["trace_id"]] * 2
        assert list(rt.map("sum", [x, x], traceparent=TRACE, cache="no-store")) == [3, 3]
        assert [rt.task(task.task_id).explain()["parent_id"] for task in rt.tasks(limit=2)] == [IDS["parent_id"]] * 2
        assert rt.sum(x, traceparent=TRACE) == 3
        assert "trace_id" not in rt.submit("sum", x).explain()
        for wrong in ("00-zz", TRACE.upper(), 5):
            with pytest.raises(InvalidParameter, match="32 hexadecimal") as caught:
                rt.submit("sum", x, traceparent=wrong)
            assert caught.value.field == "traceparent"


@pytest.mark.parametrize(("backend", "library", "name"), [
    ("jax", "jax", "JaxBackend"), ("opencl", "opencl", "OpenCLBackend"), ("kernel", "opencl", "OpenCLBackend"),
])  # fmt: skip
def test_what_a_real_task_spent_its_time_on_is_in_its_trace_in_order(
    start_server: Any, tmp_path: Path, backend: str, library: str, name: str
) -> None:
    """As Perfetto shows it: one phase after the other, inside the span of the whole task."""
    driver = pytest.importorskip(f"openruntime.backends.{library}", reason="its library is not installed", exc_type=ImportError)
    if not getattr(driver, name).probe():
        pytest.skip(f"no {library} drives the processor here")
    x = np.linspace(0, 1, 300_017, dtype=np.float32)
    with start_server(store="memory", environment={"OPENRUNTIME_CACHE_DIR": str(tmp_path)}) as server, openruntime.connect(server.url) as rt:
        until = time.monotonic() + 60
        while library not in rt.devices()[0]["backends"]:  # it is asked what it drives
            assert time.monotonic() < until
            time.sleep(0.1)
        if backend == "kernel":
            source = "__kernel void twice(__global const float *x, __global float *y) { int i = get_global_id(0); y[i] = 2 * x[i]; }"
            of = {"dtype": "float32", "shape": ["n"]}
            kernel = {"inputs": [of | {"name": "x"}], "outputs": [of | {"name": "y"}], "grid": ["n"]}
            kernel |= {"name": "twice", "language": "opencl", "source": source}
            made = httpx.post(f"{server.url}/kernels", json=kernel, timeout=60)
            assert made.status_code == 201, made.text
            future, wanted = rt.submit("twice", x=x), 2 * x
        else:
            future, wanted = rt.submit("expression", formula="exp(-x) + sin(x)**2", x=x, device=backend), np.exp(-x) + np.sin(x) ** 2
        np.testing.assert_allclose(future.result(timeout=60), wanted, rtol=2e-5)
        told = future.explain()
        events = httpx.get(f"{server.url}/tasks/{future.task_id}/trace").json()["traceEvents"]
    assert {event["pid"] for event in events} == {1}, "one process, so that Perfetto shows them together"
    spans = {event["name"]: (event["ts"], event["ts"] + event["dur"]) for event in events if event["ph"] == "X"}
    phases = ["queue", "send", *(["transfer"] if told["transfer"] else []), *(["compile"] if backend != "kernel" else []), "compute", "return"]
    assert set(spans) - {"compile"} == {*phases, "work", told["operation"]} - {"compile"}
    assert all(spans[first][1] <= spans[second][0] + 1e-3 and spans[first][1] > spans[first][0] for first, second in pairwise(phases))
    assert all(spans["work"][0] - 1e-3 <= spans[phase][0] and spans[phase][1] <= spans["work"][1] + 1e-3 for phase in phases[2:-1])
    assert (spans[told["operation"]][0], spans["queue"][0]) == (0, 0)
    assert spans[told["operation"]][1] == pytest.approx(spans["return"][1])
    for phase in phases[2:-1]:
        assert (spans[phase][1] - spans[phase][0]) * 1e-6 == pytest.approx(told[phase], rel=1e-3), "as it is explained"
