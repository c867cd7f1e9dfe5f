"""What stands for an array in a list of arrays: tensors, other tasks' outputs, bytes and nested lists beside each other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import openruntime
from openruntime.client.sync import Runtime
from openruntime.contracts import npy, safetensors
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array
from openruntime.core.config import Settings
from openruntime.core.runtime import running
from openruntime.gateway.requests import task_request
from openruntime.runtimes.channel import MAX_DESCRIPTORS

THREE = Array("float64", (1,), np.array([3.0]).tobytes())
NOBODY = "0199c0de-7a3b-7c11-9d55-5b1f3c1a2b3c"


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False, headers={"Prefer": "wait=20"}) as found:
        yield found


@pytest.fixture
def tensor(client: httpx.Client) -> str:
    answer = client.post("/tensors", content=b"".join(npy.encode(THREE)), headers={"Content-Type": "application/x-npy"})
    found: str = answer.json()["id"]
    return found


def ask(client: httpx.Client, operation: str, **parameters: Any) -> httpx.Response:
    return client.post("/tasks", json={"operation": operation, "parameters": parameters})


def test_references_and_numbers_stand_side_by_side(client: httpx.Client, tensor: str) -> None:
    other = ask(client, "cumulative_sum", x=[4, 1]).json()["task_id"]
    for arrays, wanted in (
        ([{"tensor": tensor}, {"task": other}], [3, 4, 5]),
        ([[1.0, 2.0], {"tensor": tensor}, {"task": other, "output": "output"}], [1, 2, 3, 4, 5]),
        ([{"tensor": tensor}, {"real": [1], "imag": [0]}], {"real": [3, 1], "imag": [0, 0]}),
        ([{"real": [1], "imag": [0]}], {"real": [1], "imag": [0]}),
    ):
        assert ask(client, "concat", arrays=arrays).json()["result"]["output"] == wanted


def test_it_waits_for_the_tasks_in_its_list(client: httpx.Client) -> None:
    slow = {"operation": "heat2d", "parameters": {"grid": [[1.0, 2.0], [3.0, 4.0]], "iterations": 30_000}}
    ids = [client.post("/tasks", json=slow | {"priority": i}, headers={"Prefer": "", "Cache-Control": "no-store"}).json()["task_id"] for i in (5, 6)]
    task = client.post("/tasks", json={"operation": "stack", "parameters": {"arrays": [{"task": i} for i in ids]}}, headers={"Prefer": ""}).json()
    assert set(client.get(f"/tasks/{task['task_id']}/explain").json()["waiting_for"]) <= set(ids)
    ended = client.get(f"/tasks/{task['task_id']}?wait=30").json()
    assert ended["status"] == "completed", ended
    assert np.array(ended["result"]["output"]).shape == (2, 2, 2)
    assert ended["result"]["output"][0] == client.get(f"/tasks/{ids[0]}").json()["result"]["output"]


def test_bytes_and_references_fill_one_list(client: httpx.Client, tensor: str) -> None:
    task = {"operation": "concat", "parameters": {"arrays.1": {"tensor": tensor}, "arrays.2": [[7.0]][0]}}
    for name, body in (
        ("/tasks", safetensors.encode({"arrays.0": THREE}, {"task": json.dumps(task)})),
        ("/tasks/batch", safetensors.encode({"0.arrays.0": THREE}, {"tasks": json.dumps([task])})),
    ):
        answer = client.post(name, content=b"".join(body), headers={"Content-Type": "application/x-safetensors", "Accept": "application/json"}).json()
        assert answer.get("tasks", [answer])[0]["result"]["output"] == [3, 3, 7]


@pytest.mark.parametrize(
    ("operation", "parameters", "field", "words"),
    [
        ("concat", {"arrays": [{"task": 5}]}, "arrays.0", "no reference to an array"),
        ("concat", {"arrays": [[1], {"tensor": NOBODY}]}, "arrays.1", "has expired, if it was ever there"),
        ("concat", {"arrays": [{"tensor": "nobody"}]}, "arrays.0", "there is no tensor"),
        ("concat", {"arrays": [{"task": NOBODY}]}, "arrays.0", "there is no task"),
        ("concat", {"arrays": [{"tensor": NOBODY}], "arrays.0": [1]}, "arrays.0", "given twice"),
        ("concat", {"arrays": [[1]], "arrays.1": [1]}, "arrays.1", "came twice"),
        ("concat", {"arrays.1": [1]}, "arrays.0", "without gaps"),
        ("concat", {"arrays.x": [1]}, "arrays.0", "without gaps"),
        ("concat", {"arrays.0": [1], "arrays.00": [1]}, "arrays.1", "without gaps"),
        ("concat", {"arrays.0": 3}, "arrays.0", "write"),
        ("concat", {"arrays": [{"tensors": "x"}]}, "arrays.0", "an object stands for an array only as"),
        ("matmul", {"a": [[1]], "b.0": [[1]]}, "b.0", "takes no list of arrays"),
        ("sum", {"x": [1], "axis.0": [0]}, "axis.0", "takes no list of arrays"),
        ("matmul", {"a": [[1]], "c.0": [[1]]}, "c.0", "no parameter"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(client: httpx.Client, operation: str, parameters: Any, field: str, words: str) -> None:
    answer = ask(client, operation, **parameters)
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert words in answer.json()["detail"]


def test_a_list_for_one_array_is_told_from_numbers(client: httpx.Client, tensor: str) -> None:
    answer = ask(client, "sum", x=[{"tensor": tensor}])
    assert (answer.status_code, answer.json()["field"]) == (422, "x.0")
    assert "takes no list of arrays" in answer.json()["detail"]


def test_numbers_are_not_looked_through() -> None:
    numbers = [1.0, {"task": "x"}]
    assert task_request({"operation": "sum", "parameters": {"x": numbers}}).parameters["x"] is numbers


async def test_a_list_is_still_waited_for_after_a_restart(tmp_path: Path) -> None:
    settings = Settings.load({"store": "sqlite", "data_dir": str(tmp_path), "threads": 1})
    async with running(settings) as runtime:
        runtime.devices.set_state("cpu:0", "draining")
        first = await runtime.tasks.submit(task_request({"operation": "cumulative_sum", "parameters": {"x": [1, 2]}}))
        parameters = {"arrays": [[5, 6], {"task": first.id}]}
        second = await runtime.tasks.submit(task_request({"operation": "concat", "parameters": parameters}))
        assert second.needs == (first.id,)
    async with running(settings) as runtime:
        task = await runtime.tasks.status(second.id)
        assert await runtime.tasks.wait(task, 20)
        assert task.status is TaskStatus.COMPLETED, task.failure
        assert task.outputs is not None
        assert task.outputs["output"].view.cast("q").tolist() == [5, 6, 1, 3]


@pytest.fixture(scope="module", params=["http", "embedded"])
def rt(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    url = request.getfixturevalue("server").url if request.param == "http" else None
    with openruntime.connect(url) as runtime:
        yield runtime


def test_the_sdk_takes_lists_of_all_kinds(rt: Runtime) -> None:
    x = np.arange(3, dtype=np.float32)
    future, handle = rt.submit("cumulative_sum", x), rt.tensor(x + 1)
    found = rt.stack([x, future, handle])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 1, 2], [0, 1, 3], [1, 2, 3]])
    np.testing.assert_array_equal(rt.concat((handle, handle), axis=0), [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(rt.concat([[1, 2], [3]]), [1, 2, 3])
    [task] = rt.submit_many([{"operation": "stack", "parameters": {"arrays": [x, future]}}])
    assert task.result(30).dtype == np.float32
    with pytest.raises(InvalidParameter, match="a list of arrays") as caught:
        rt.stack([])
    assert caught.value.field == "arrays"
    with pytest.raises(InvalidParameter, match="convert it") as caught:
        rt.concat([x, np.array(["text"])])
    assert caught.value.field == "arrays.1"


def test_more_large_arrays_than_a_message_has_room_for(rt: Runtime) -> None:
    rows = [np.full(10_000, float(i)) for i in range(2 * MAX_DESCRIPTORS + 2)]
    np.testing.assert_array_equal(rt.stack([rt.tensor(row) for row in rows]), rows)
