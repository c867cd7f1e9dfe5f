"""The short forms of `python -m benchmarks.cancel`, `fairness` and `overload`; the long one of the first is `make soak`."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import safetensors.numpy

from benchmarks.cancel import cancel
from benchmarks.fairness import measure
from benchmarks.load import SAFETENSORS
from benchmarks.overload import overload


def _nothing_runs_on(tasks: int, folder: Path) -> None:
    outcome = cancel(tasks, seed=tasks, data=folder)
    assert (outcome.tasks, outcome.left_running) == (tasks, 0)
    assert set(outcome.neighbours) <= {"completed", "tried again"}
    assert outcome.neighbours["completed"] > 0
    assert max((seconds for found in outcome.gone.values() for seconds in found), default=0.0) < 2.0


def test_a_hundred_and_fifty_cancels_leave_nothing_running(tmp_path: Path) -> None:
    _nothing_runs_on(150, tmp_path)


@pytest.mark.soak
def test_ten_thousand_cancels_leave_nothing_running(tmp_path: Path) -> None:
    _nothing_runs_on(10_000, tmp_path)


def test_a_crowd_keeps_nobody_waiting_who_gives_a_name() -> None:
    found = measure(8000, 2.0, named=True)
    assert found["crowd_waiting"][1] > 0, "the crowd was done too soon to tell"
    assert found["crowd_waiting"][1] < found["crowd_waiting"][0], "nor is it kept waiting itself"
    assert found["others_p99_ms"] < 1000


def test_overload_is_refused_with_a_time_to_come_back_and_what_was_taken_is_done() -> None:
    found = overload(2.0, bound=20)
    assert set(found["statuses"]) == {202, 429}
    assert found["without_retry_after"] == 0
    assert found["ended"] == {"completed": found["accepted"]}
    assert found["memory_mib"][1] <= found["memory_allowed_mib"], "flat, but for the records of what was done"


def test_waiting_inputs_are_bounded_by_their_bytes_and_what_was_taken_is_done(start_server: Any) -> None:
    bound, size = 1 << 20, 60_000
    environment = {"OPENRUNTIME_QUEUE_BYTES": str(bound)}
    x = np.ones(size // 8)
    with start_server(store="sqlite", environment=environment) as server, httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:

        def drain(state: str) -> None:
            client.put("/devices/cpu:0/state", json={"state": state}).raise_for_status()

        def submit(arrays: int) -> httpx.Response:
            tasks = [{"operation": "expression", "parameters": {"formula": "x+1"}}] * arrays
            body = safetensors.numpy.save({f"{index}.x": x for index in range(arrays)}, metadata={"tasks": json.dumps(tasks)})
            return client.post("/tasks/batch", content=body, headers={"Content-Type": SAFETENSORS, "Cache-Control": "no-store"})

        def done(tasks: list[str]) -> list[str]:
            return [task["status"] for task in client.get("/tasks/batch", params={"ids": ",".join(tasks), "wait": 20}).json()["tasks"]]

        assert set(done([task["task_id"] for task in submit(10).json()["tasks"]])) == {"completed"}
        drain("draining")
        gateway, taken = psutil.Process(server.process.pid), list[str]()
        before = gateway.memory_info().rss
        for _ in range(100):
            answer = submit(5)
            if answer.status_code == 202:
                taken += [task["task_id"] for task in answer.json()["tasks"]]
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert str(bound) in answer.json()["detail"]
        assert bound - 5 * size < len(taken) * size <= bound
        assert gateway.memory_info().rss - before < 100 * 5 * size, "it holds what it took, and not all that it was sent"
        drain("ready")
        assert done(taken) == ["completed"] * len(taken)
        assert submit(5).status_code == 202, "there is room again"
