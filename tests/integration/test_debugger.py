"""The debugger over a real server: tasks that fail, are wrong or slow for a known reason, and the cause that it finds."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openruntime
from benchmarks.agent_client import SdkClient
from benchmarks.servers import Server
from openruntime.ai.agents.debugger.findings import Diagnosis, summary
from openruntime.ai.agents.debugger.work import GONE, Debugging
from openruntime.ai.agents.experiments import Bench, Request
from openruntime.errors import NotFound

PLUGIN = os.pathsep.join(filter(None, [str(Path(__file__).parents[1] / "plugin"), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module")
def rogues(start_server: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    settings = {"PYTHONPATH": PLUGIN, "OPENRUNTIME_BACKENDS": "numpy", "OPENRUNTIME_SLOTS": "1", "OPENRUNTIME_THREADS": "1"}
    with start_server(store="memory", environment=settings) as server:
        yield server


@pytest.fixture
async def rt(rogues: Server) -> AsyncIterator[openruntime.AsyncRuntime]:
    async with openruntime.connect_async(rogues.url) as connected:
        yield connected


@pytest.fixture
def bench(rt: openruntime.AsyncRuntime) -> Bench:
    return Bench(SdkClient(rt.connection))


async def debugged(bench: Bench, operation: str, given: dict[str, Any], *, told: bool = True, complaint: str = "", **fields: Any) -> Diagnosis:
    """Run it, then ask why it went wrong; `told` what it was given."""
    task = await bench.task(Request(operation, given), **fields)
    return await Debugging(bench, task["task_id"], given if told else None, complaint=complaint).debug()


async def sent(rt: openruntime.AsyncRuntime, array: np.ndarray) -> dict[str, str]:
    return {"tensor": (await rt.tensor(array)).id}


def cause(found: Diagnosis) -> str:
    assert found.causes, summary(found)
    assert found.causes[0].evidence
    assert found.causes[0].told in summary(found)
    return found.causes[0].name


async def test_a_singular_matrix(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    a = np.random.default_rng(0).integers(-4, 5, (12, 12)).astype(np.float64)
    a[7] = a[3] = 0
    found = await debugged(bench, "solve", {"a": await sent(rt, a), "b": await sent(rt, np.ones((12, 2)))})
    assert cause(found) == "singular_matrix"
    matrix = found.inputs[0]
    assert (matrix.name, matrix.rank) == ("a", 10)
    assert matrix.condition is not None
    assert matrix.condition > 1e15
    assert found.reruns[0].code == "operation_failed"
    assert found.shrunk is not None
    assert found.shrunk.after == {"a": [1, 1], "b": [1, 1]}
    assert found.shrunk.values["a"] == [[0.0]]


async def test_a_matrix_that_is_not_positive_definite(bench: Bench) -> None:
    found = await debugged(bench, "cholesky", {"x": [[1.0, 2.0], [2.0, 1.0]]})
    assert cause(found) == "not_positive_definite"
    assert found.inputs[0].symmetric is True
    assert found.inputs[0].eigenvalue == pytest.approx(-1.0)


async def test_nan_in_the_input(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    x = np.random.default_rng(0).standard_normal((20, 50)).astype(np.float32)
    x[4, 7] = np.nan
    found = await debugged(bench, "softmax", {"x": await sent(rt, x)})
    assert cause(found) == "nan_input"
    assert (found.inputs[0].nan, found.inputs[0].infinite, found.outputs[0].nan) == (1, 0, 50)
    assert found.inputs[0].mean == pytest.approx(np.nanmean(x, dtype=np.float64), abs=1e-6)
    assert found.inputs[0].std == pytest.approx(np.nanstd(x, dtype=np.float64), rel=1e-6)
    assert (found.inputs[0].low, found.inputs[0].high) == (np.nanmin(x), np.nanmax(x))
    assert found.inputs[0].smallest == np.nanmin(np.abs(x))
    assert found.shrunk is not None
    assert found.shrunk.after == {"x": [1, 1]}
    assert found.shrunk.values == {"x": [["NaN"]]}


async def test_an_overflow_of_float32(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    x = np.linspace(-3, 3, 500, dtype=np.float32)
    x[123] = 200
    found = await debugged(bench, "expression", {"formula": "exp(x) / (1 + exp(x))", "x": await sent(rt, x)})
    assert cause(found) == "overflow_float32"
    double = next(run for run in found.reruns if run.how == "float64")
    assert double.strange == 0
    assert found.shrunk is not None
    assert found.shrunk.values == {"x": [200.0]}


async def test_out_of_memory(bench: Bench) -> None:
    assert cause(await debugged(bench, "rogue_crash", {"how": "memory"})) == "out_of_memory"


async def test_a_worker_that_crashes(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    found = await debugged(bench, "rogue_mine", {"x": await sent(rt, np.array([1.0, 2.0, 13.0, 4.0]))})
    assert cause(found) == "worker_crash"
    assert "SIGKILL" in found.causes[0].told
    assert found.shrunk is not None
    assert found.shrunk.values == {"x": [13.0]}


async def test_an_error_of_the_operation(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    found = await debugged(bench, "rogue_mine", {"x": await sent(rt, np.append(np.arange(9.0), [14.0] + [3.0] * 30))})
    assert cause(found) == "operation_error"
    assert "there is a 14" in found.causes[0].told
    assert found.shrunk is not None
    assert found.shrunk.values == {"x": [14.0]}


async def test_a_timeout_that_is_too_short(bench: Bench) -> None:
    found = await debugged(bench, "rogue_sleep", {"seconds": 0.6}, timeout=0.2)
    assert cause(found) == "timeout_too_short"
    assert any("with more time it completed" in line for line in found.causes[0].evidence)


async def test_a_task_that_waited_for_others(bench: Bench) -> None:
    client = bench.client
    first = await client.post("/tasks", {"operation": "rogue_sleep", "parameters": {"seconds": 0.7}})
    found = await debugged(bench, "rogue_sleep", {"seconds": 0.01})
    assert found.complaint == "slow"
    assert cause(found) == "slow_queue"
    assert found.neighbours is not None
    assert first["task_id"] in found.neighbours.examples


async def test_a_failed_dependency(bench: Bench) -> None:
    failed = await bench.client.post("/tasks", {"operation": "rogue_sleep", "parameters": {"seconds": 5}, "timeout": 0.3})
    found = await debugged(bench, "sum", {"x": {"task": failed["task_id"]}}, told=False)
    assert cause(found) == "dependency"


async def test_inputs_that_are_gone_are_asked_for(bench: Bench) -> None:
    found = await debugged(bench, "solve", {"a": [[1.0, 1.0], [1.0, 1.0]], "b": [1.0, 2.0]}, told=False)
    assert cause(found) == "singular_matrix"
    assert GONE in found.missing
    assert not found.reruns


async def test_what_is_well_is_not_blamed(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    found = await debugged(bench, "matmul", {"a": await sent(rt, np.eye(5)), "b": await sent(rt, np.ones((5, 5)))}, complaint="wrong")
    assert found.causes == []
    assert "Nothing wrong was found" in summary(found)


async def test_a_task_that_nobody_knows(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await Debugging(bench, "01900000-0000-7000-8000-000000000000").debug()
