import pytest

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Call, Estimate, Life, Task, Timings
from openruntime.tasks.explain import stages, trace


def task(status=TaskStatus.COMPLETED, seconds=3.0, **timings) -> Task:
    call = Call("matmul", 1, {}, {}, Estimate(1e9, 1e6))
    times = Timings(submitted=10.0, claimed=11.0, started=12.0, finished=20.0, received=21.0, **timings)
    return Task("t", call, "local", "any", 5, 0.0, 0.0, life=Life(status), seconds=seconds, timings=times)


def test_the_seconds_in_the_worker_are_told_apart():
    found = stages(task(transfer=1.0, compile=2.0))
    assert found == {"queue": 1, "send": 1, "transfer": 1, "compile": 2, "compute": 3, "pack": 2, "return": 1}
    assert sum(found.values()) == 21 - 10
    assert stages(task()) == {"queue": 1, "send": 1, "compute": 3, "pack": 5, "return": 1}


@pytest.mark.parametrize("seconds", [None, 50.0])
def test_a_task_without_result_has_its_time_in_the_worker(seconds):
    assert stages(task(TaskStatus.FAILED, seconds)) == {"queue": 1, "send": 1, "compute": 8, "return": 1}


def test_the_trace_has_what_the_worker_did_inside_its_work():
    spans = {event["name"]: (event["ts"] / 1e6, event["dur"] / 1e6) for event in trace(task(transfer=1.0, compile=2.0)) if event["ph"] == "X"}
    assert spans == {
        "matmul": (0, 11), "queue": (0, 1), "send": (1, 1), "work": (2, 8), "return": (10, 1),
        "transfer": (2, 1), "compile": (3, 2), "compute": (5, 3),
    }  # fmt: skip


def test_a_task_that_waits_shows_where_it_stands():
    waiting = task(TaskStatus.QUEUED, None)
    waiting.timings = Timings(submitted=10.0)
    assert stages(waiting) == {}
    assert [event for event in trace(waiting) if event["ph"] == "X"] == []
