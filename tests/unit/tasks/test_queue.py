"""What tasks are ordered by. Where they wait is the store's, and tested there."""

import time

import pytest

from openruntime.contracts.records import Call, Estimate, Task
from openruntime.stores.memory import MemoryStore
from openruntime.tasks.queue import TaskQueue


def rank(queue: TaskQueue, priority: int) -> float:
    """Of a task by a client of its own, as nobody waits for its turn here."""
    task = Task("1", Call("f", 1, {}, {}, Estimate()), "local", "any", priority, 0.0, 0.0)
    found = queue.rank(task)
    queue._fair.left(task)
    return found


def test_a_step_of_priority_is_worth_a_step_of_waiting() -> None:
    queue = TaskQueue(MemoryStore(), step=30.0)
    assert rank(queue, 5) - rank(queue, 10) == pytest.approx(150.0, abs=1.0)
    assert rank(queue, 5) == pytest.approx(time.time() - 150.0, abs=1.0)


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_moved_clock_changes_no_order(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    queue = TaskQueue(MemoryStore())
    before, real = rank(queue, 5), time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    assert before < rank(queue, 5) < before + 30


def test_what_was_found_at_the_start_came_before() -> None:
    queue, ahead = TaskQueue(MemoryStore(), step=30.0), time.time() + 3600
    queue.resume(ahead)
    assert rank(queue, 5) >= ahead - 5 * 30
    queue.resume(0.0)
    assert rank(queue, 5) >= ahead - 5 * 30
