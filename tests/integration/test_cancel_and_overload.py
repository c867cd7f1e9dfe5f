"""The short forms of `python -m benchmarks.cancel`, `fairness` and `overload`; the long one of the first is `make soak`."""

from pathlib import Path

import pytest

from benchmarks.cancel import cancel
from benchmarks.fairness import measure
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
    found = measure(1500, 2.0, named=True)
    assert found["crowd_waiting"][1] > 0, "the crowd was done too soon to tell"
    assert found["crowd_waiting"][1] < found["crowd_waiting"][0], "nor is it kept waiting itself"
    assert found["others_p99_ms"] < 1000


def test_overload_is_refused_with_a_time_to_come_back_and_what_was_taken_is_done() -> None:
    found = overload(2.0, bound=20)
    assert set(found["statuses"]) == {202, 429}
    assert found["without_retry_after"] == 0
    assert found["ended"] == {"completed": found["accepted"]}
