"""Shrinking, and what facts show: each rule alone."""

from typing import Any

import numpy as np
import pytest

from openruntime.ai.agents.debugger.causes import causes
from openruntime.ai.agents.debugger.findings import Diagnosis, Neighbours, Rerun, Statistics, summary
from openruntime.ai.agents.debugger.past import DEATHS, USE, device_past, timeline
from openruntime.ai.agents.debugger.shrinking import Arrays, Shrinking
from openruntime.ai.agents.experiments import Bench
from openruntime.contracts.payload import Array


def wire(array: np.ndarray) -> Array:
    return Array(array.dtype.name, array.shape, array.tobytes())


def plain(array: Array) -> np.ndarray:
    return np.frombuffer(array.view, array.dtype).reshape(array.shape)


async def test_shrinking_finds_the_one_number() -> None:
    x = np.arange(1000, dtype=np.float32) % 13
    x[617] = np.nan

    async def fails(arrays: Arrays) -> bool:
        return bool(np.isnan(plain(arrays["x"])).any())

    shrinking = Shrinking(fails, 200)
    small = await shrinking.shrink({"x": wire(x)})
    assert np.isnan(plain(small["x"])).tolist() == [True]
    assert shrinking.steps <= 40
    assert shrinking.failing >= 9


async def test_shrinking_keeps_what_has_to_agree_and_what_has_to_be_together() -> None:
    """A matrix stays square and its right-hand side as long; two equal rows both stay."""
    a = np.random.default_rng(0).standard_normal((20, 20))
    a[11] = a[4]
    a[:, 3] = 0

    async def fails(arrays: Arrays) -> bool:
        a, b = plain(arrays["a"]), plain(arrays["b"])
        return a.shape[0] == a.shape[1] == b.shape[0] and a.size > 0 and np.linalg.matrix_rank(a) < len(a)

    small = await Shrinking(fails, 400).shrink({"a": wire(a), "b": wire(np.ones((20, 3)))})
    assert small["a"].shape in ((1, 1), (2, 2))
    assert small["b"].shape == (small["a"].shape[0], 1)


async def test_shrinking_two_far_apart() -> None:
    x = np.zeros(64, np.int32)
    x[5], x[60] = 1, 2

    async def fails(arrays: Arrays) -> bool:
        return {1, 2} <= set(plain(arrays["x"]).tolist())

    small = await Shrinking(fails, 300).shrink({"x": wire(x)})
    assert plain(small["x"]).tolist() == [1, 2]


async def test_shrinking_makes_values_simple() -> None:
    async def fails(arrays: Arrays) -> bool:
        return bool((plain(arrays["x"]) > 3.2).any())

    small = await Shrinking(fails, 100).shrink({"x": wire(np.array([0.7, 5.3, 2.2]))})
    assert plain(small["x"]).tolist() == [5.0]


async def test_shrinking_stops_at_its_budget() -> None:
    async def fails(arrays: Arrays) -> bool:
        return arrays["x"].size > 10

    shrinking = Shrinking(fails, 3)
    small = await shrinking.shrink({"x": wire(np.zeros(1000))})
    assert shrinking.steps == 3
    assert small["x"].size == 125


def diagnosis(status: str = "completed", complaint: str = "wrong", **fields: Any) -> Diagnosis:
    task = {"status": status, "operation": "op", "code": fields.pop("code", None), "error": fields.pop("error", None)}
    return Diagnosis("t", complaint, task, **fields)


def array(name: str = "x", dtype: str = "float32", **fields: Any) -> Statistics:
    return Statistics(name, dtype, fields.pop("shape", [4]), tasks=["s"], **fields)


def rerun(how: str, status: str = "completed", **fields: Any) -> Rerun:
    return Rerun(how, fields.pop("place", "cpu:0/numpy"), status, "r", **fields)


CASES = {
    "singular_matrix": diagnosis(
        "failed",
        "failed",
        code="operation_failed",
        error="the matrix is singular, so it has no inverse",
        inputs=[array("a", "float64", shape=[4, 4], condition=1e17, rank=3)],
    ),
    "not_positive_definite": diagnosis(
        "failed", "failed", code="operation_failed", error="the matrix is not positive definite", inputs=[array("x", eigenvalue=-1.0)]
    ),
    "nan_input": diagnosis(inputs=[array(nan=1)], outputs=[array("output", nan=2)]),
    "infinite_input": diagnosis(inputs=[array(infinite=1)], outputs=[array("output", nan=2)]),
    "overflow_float32": diagnosis(inputs=[array(high=99.0)], outputs=[array("output", infinite=1)], reruns=[rerun("float64", strange=0)]),
    "precision": diagnosis(explain={"dtype": "float32"}, outputs=[array("output")], reruns=[rerun("float64", apart=0.1, strange=0)]),
    "no_finite_answer": diagnosis(inputs=[array()], outputs=[array("output", nan=1)], reruns=[rerun("float64", apart=0.0, strange=1)]),
    "out_of_memory": diagnosis("failed", "failed", code="out_of_memory", error="out of memory", explain={"estimate": {"memory": 1 << 30}}),
    "timeout_too_short": diagnosis(
        "failed",
        "failed",
        code="timeout",
        error="its `timeout` of 0.5 s was over while it ran",
        explain={"predicted": 2.0, "stages": {"queue": 0.01}},
    ),
    "waited_too_long": diagnosis("failed", "failed", code="timeout", error="its `timeout` of 0.5 s was over before it started"),
    "worker_crash": diagnosis(
        "failed",
        "failed",
        code="worker_crashed",
        error="the worker died 2 times; it was ended by SIGSEGV",
        reruns=[rerun("again", "failed", code="worker_crashed")],
    ),
    "dependency": diagnosis("failed", "failed", code="dependency_failed", error="task q failed"),
    "not_reproducible": diagnosis("failed", "failed", code="operation_failed", error="it went wrong", reruns=[rerun("again")]),
    "backend": diagnosis(
        "failed",
        "failed",
        code="operation_failed",
        error="it went wrong",
        explain={"backend": "numpy"},
        reruns=[rerun("again", "failed", code="operation_failed"), rerun("elsewhere", place="cpu:0/torch")],
    ),
    "operation_error": diagnosis("failed", "failed", code="operation_failed", error="there is a 14", reruns=[rerun("again", "failed")]),
    "wrong_kernel": diagnosis(verification={"ok": False, "verdict": "rejected: 3 of 14 cases fail", "task_id": "v"}),
    "differs_from_reference": diagnosis(reference={"what": "sum", "apart": 0.1, "allowed": 1e-5, "task": "q"}),
    "backends_differ": diagnosis(explain={"dtype": "float64"}, reruns=[rerun("elsewhere", apart=0.3)]),
    "slow_queue": diagnosis(complaint="slow", explain={"stages": {"queue": 3.0, "compute": 0.1}}, neighbours=Neighbours("cpu:0", 7, 3.0)),
    "slow_compile": diagnosis(complaint="slow", explain={"stages": {"compile": 3.0, "compute": 0.1}}),
    "slow_transfer": diagnosis(complaint="slow", explain={"stages": {"transfer": 3.0, "compute": 0.1}}),
    "slow_place": diagnosis(
        complaint="slow",
        explain={"stages": {"compute": 3.0}, "actual": 3.0},
        reruns=[rerun("again", seconds=3.0), rerun("elsewhere", place="cpu:0/torch", seconds=0.5)],
    ),
    "busy_machine": diagnosis(
        complaint="slow",
        explain={"stages": {"send": 1.0, "return": 1.0, "compute": 1.0}, "actual": 3.0, "predicted": 0.1},
        reruns=[rerun("again", seconds=0.1)],
    ),
    "misjudged": diagnosis(complaint="slow", explain={"stages": {"send": 1.0, "return": 1.0, "compute": 1.0}, "actual": 3.0, "predicted": 0.1}),
    "compute": diagnosis(complaint="slow", explain={"stages": {"compute": 3.0}, "actual": 3.0, "predicted": 2.9, "dtype": "float32"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_facts_show(name: str) -> None:
    found = CASES[name]
    found.causes = causes(found)
    assert found.causes, "no cause was found"
    assert found.causes[0].name == name
    assert found.causes[0].evidence
    told = summary(found)
    assert found.causes[0].told in told
    assert all(line in told for line in found.causes[0].evidence)


def test_nothing_is_claimed_of_what_is_well() -> None:
    found = diagnosis(
        explain={"dtype": "float32"},
        inputs=[array()],
        outputs=[array("output")],
        reruns=[rerun("elsewhere", apart=1e-7), rerun("float64", apart=1e-6, strange=0)],
    )
    assert causes(found) == []
    assert "Nothing wrong was found" in summary(found)


class Lately:
    """A device as the API tells of it: two tasks failed on it, and three of its workers have died while it was looked at."""

    async def get(self, path: str, **query: Any) -> Any:
        if path == "/devices/cuda:0":
            return {
                "status": "ready", "load": {"utilization": 0.5}, "workers": [{}, {}], "memory_total": 8, "memory_available": 2, "temperature": 71.0,
            }  # fmt: skip
        if path == "/tasks":
            rows = [
                ("own", "failed", "worker_crashed"),
                ("a", "failed", "worker_crashed"),
                ("b", "failed", "out_of_memory"),
                ("c", "completed", None),
            ]
            return {"tasks": [{"task_id": name, "status": status, "code": code} for name, status, code in rows]}
        assert path == "/metrics/history"
        assert query["name"] == [DEATHS, USE]
        series = {f'{DEATHS}{{device="cuda:0",backend="cuda"}}': [None, 1.0, 3.0], f'{DEATHS}{{device="cpu:0",backend="numpy"}}': [0.0, 9.0, 9.0]}
        return {"series": {**series, f'{USE}{{device="cuda:0"}}': [0.1, 0.9, 0.4]}}


async def test_how_a_device_has_been_lately() -> None:
    past = await device_past(Bench(Lately()), "cuda:0", "own")  # type: ignore[arg-type]
    assert (past.tasks, past.failed, past.deaths, past.workers) == (3, {"worker_crashed": 1, "out_of_memory": 1}, 3, 2)
    assert (past.use, past.highest_use, past.memory, past.temperature) == (0.5, 0.9, 0.25, 71.0)
    error = {"status": "failed", "code": "worker_crashed", "error": "the worker died: SIGSEGV", "operation": "rogue"}
    found = Diagnosis("own", task=error, explain={"worker_deaths": 1, "attempt": 1}, device=past)
    found.causes = causes(found)
    assert any("2 more workers of cuda:0 died lately" in line for line in found.causes[0].evidence)
    told = summary(found)
    for part in ("3 of its workers died", "1 worker_crashed, 1 out_of_memory", "at most 90%", "memory free 25%", "71 °C"):
        assert part in told, told


def test_what_happened_is_told_moment_by_moment() -> None:
    task = {"status": "completed", "created_at": "2026-11-23T10:00:00.000000Z", "finished_at": "2026-11-23T10:00:03.000000Z"}
    trace = [
        {"name": "queue", "ph": "X", "tid": 2, "ts": 0.0, "dur": 1e6}, {"name": "work", "ph": "X", "tid": 2, "ts": 1e6, "dur": 2e6},
        {"name": "matmul", "ph": "X", "tid": 1, "ts": 0.0, "dur": 3e6}, {"name": "thread_name", "ph": "M", "tid": 2},
    ]  # fmt: skip
    events = timeline(task, trace, {"attempt": 2, "failures": 0, "worker_deaths": 1})
    assert [event["what"] for event in events] == [
        "accepted",
        "queue: 1 s",
        "work: 2 s",
        "completed",
        "after 0 failures and 1 workers that died with it",
    ]
    assert events[2]["time"] == "2026-11-23T10:00:01.000000Z"
