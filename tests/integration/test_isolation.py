"""Operations that harm their worker, through a real server: each fails itself only, and the device is free again."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import psutil
import pytest

import openruntime
from benchmarks.load import Connection, ask, request
from benchmarks.servers import Server
from openruntime.errors import OutOfMemory, TaskCancelled, TaskTimeout, TooLarge, WorkerCrashed

PLUGIN = {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1] / "plugin"), os.environ.get("PYTHONPATH", "")]))}
MEMORY = 1 << 30
SLEEP = json.dumps({"operation": "rogue_sleep", "parameters": {"seconds": 60}, "cancel_on_disconnect": True}).encode()
WAIT = {"Content-Type": "application/json", "Prefer": "wait=30"}

Start = Callable[..., AbstractContextManager[Server]]


def with_settings(**settings: float) -> dict[str, str]:
    return PLUGIN | {"OPENRUNTIME_BACKENDS": "numpy"} | {f"OPENRUNTIME_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.fixture(scope="module")
def rogues(start_server: Start) -> Iterator[Server]:
    settings = with_settings(slots=2, threads=1, worker_memory=MEMORY, worker_growth=100 << 20, worker_idle=600, shutdown_grace=1)
    with start_server(environment=settings) as server:
        yield server


@pytest.fixture
def rt(rogues: Server) -> Iterator[openruntime.Runtime]:
    with openruntime.connect(rogues.url) as connected:
        yield connected


def workers(server: Server) -> dict[int, str | None]:
    """By the ids of their processes: the tasks they run."""
    return {slot["pid"]: slot["task"] for slot in ask(server.port, "GET", "/devices/cpu:0").json()["workers"] if slot["pid"] is not None}


def until(condition: Callable[[], object], seconds: float) -> float:
    """Wait for it; the seconds that took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - begun


def running(rt: openruntime.Runtime, task: str) -> bool:
    return rt.task(task).status().status == "running"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_whatever_a_worker_dies_of_harms_its_own_task_only(rt: openruntime.Runtime) -> None:
    crashes = [rt.submit("rogue_crash", how=how) for how in ("segfault", "abort")]
    lies = [rt.submit("rogue_channel", how=how) for how in ("close", "rubbish")]
    others = [rt.submit("expression", formula="x + 1", x=np.full(3, float(number))) for number in range(40)]
    for number, other in enumerate(others):  # all others, and at once
        assert other.result(60).tolist() == [number + 1.0] * 3
    for task in (*crashes, *lies):
        with pytest.raises(WorkerCrashed, match="died 2 times"):
            task.result(60)
        assert task.status().attempt >= 2


def test_a_gigabyte_on_stderr_holds_up_nobody(rt: openruntime.Runtime) -> None:
    loud = rt.submit("rogue_noise", megabytes=1000)
    answered = 0
    while not loud.done():
        assert rt.sum([1.0, float(answered)]) == 1.0 + answered
        answered += 1
    assert loud.result().tolist() == [1.0]
    assert answered > 1


def test_a_worker_that_leaks_is_replaced_when_it_is_idle(rogues: Server, rt: openruntime.Runtime) -> None:
    before = list(workers(rogues))
    leaks = [rt.submit("rogue_leak", megabytes=60) for _ in range(2 * len(before) + 1)]
    assert [leak.result(30).tolist() for leak in leaks] == [[1.0]] * len(leaks)
    until(lambda: any(gone(pid) for pid in before), 10)
    assert rt.sum([1.0, 2.0]) == 3.0
    assert rt.submit("sum", [1.0]).result(10) == 1.0


def test_what_a_running_task_holds_is_no_leak(rt: openruntime.Runtime) -> None:
    task = rt.submit("rogue_hoard", megabytes=300)
    assert task.result(30).tolist() == [300.0]
    assert task.status().attempt == 1


def test_out_of_memory_fails_one_task_with_estimate_and_actual(rogues: Server, rt: openruntime.Runtime) -> None:
    before = list(workers(rogues))
    with pytest.raises(OutOfMemory) as caught:
        rt.submit("rogue_hoard", megabytes=2000).result(60)
    said = str(caught.value)
    assert "rogue_hoard ran out of memory" in said
    assert f"of {MEMORY} that it may have" in said
    assert "was estimated to need 8 bytes" in said
    held = int(said.partition("its worker held ")[2].split()[0])
    assert held > MEMORY // 2
    assert not any(gone(pid) for pid in before[:1]), "no worker had to die of it"
    assert rt.sum([1.0, 2.0]) == 3.0


def test_what_could_never_fit_is_refused_before_it_waits(rt: openruntime.Runtime) -> None:
    with pytest.raises(TooLarge, match=f"a task may have {MEMORY}"):
        rt.uniform((1 << 28,), seed=1)


@pytest.mark.parametrize("operation", ["rogue_sleep", "rogue_spin", "rogue_hold"])
def test_a_cancelled_process_is_gone_and_neighbours_go_on(rogues: Server, rt: openruntime.Runtime, operation: str) -> None:
    neighbour = rt.submit("rogue_steps", count=60, pause=0.05)
    doomed = rt.submit(operation, seconds=600.0)
    until(lambda: running(rt, doomed.task_id) and running(rt, neighbour.task_id), 20)
    pid = next(pid for pid, task in workers(rogues).items() if task == doomed.task_id)
    doomed.cancel()
    assert until(lambda: gone(pid), 2) < 2
    with pytest.raises(TaskCancelled):
        doomed.result(2)
    assert neighbour.result(20).tolist() == [1.0]
    assert neighbour.status().attempt == 1


@pytest.mark.parametrize("fork", [True, False])
def test_what_an_operation_started_ends_with_it(rt: openruntime.Runtime, tmp_path: Path, fork: bool) -> None:
    mark = tmp_path / "child"
    task = rt.submit("rogue_parent", path=str(mark), fork=fork)
    until(mark.exists, 20)
    child = int(mark.read_text())
    task.cancel()
    until(lambda: gone(child), 2)
    with pytest.raises(TaskCancelled):
        task.result(5)


def test_nothing_outlives_a_killed_server_even_without_the_interpreters_lock(start_server: Start, tmp_path: Path) -> None:
    with start_server(environment=with_settings(slots=1), store="memory") as server:
        with openruntime.connect(server.url) as rt:
            task = rt.submit("rogue_hold", seconds=600.0)
            until(lambda: running(rt, task.task_id), 20)
            pids = list(workers(server))
        server.kill()
        for pid in pids:
            until(lambda pid=pid: gone(pid), 2)


@pytest.mark.parametrize("way", ["asgi", "short"])
@pytest.mark.parametrize("batch", [False, True])
def test_a_client_that_leaves_takes_its_task_with_it(rogues: Server, rt: openruntime.Runtime, way: str, batch: bool) -> None:
    path, body = ("/tasks/batch", b'{"tasks": [' + SLEEP + b"]}") if batch else ("/tasks", SLEEP)
    earlier = {task.task_id for task in rt.tasks(operation="rogue_sleep")}
    with Connection(rogues.port) as connection:
        if way == "short":  # a header block is known when it has come twice
            quick = body.replace(b"60", b"0.")
            for _ in range(2):
                connection.ask(request("POST", path, quick, WAIT))
            earlier |= {task.task_id for task in rt.tasks(operation="rogue_sleep")}
        connection.send(request("POST", path, body, WAIT))
        until(lambda: any(task.status == "running" for task in rt.tasks(operation="rogue_sleep") if task.task_id not in earlier), 20)
    (task,) = [task.task_id for task in rt.tasks(operation="rogue_sleep") if task.task_id not in earlier]
    until(lambda: rt.task(task).status().status == "cancelled", 3)


def test_a_deadline_that_passes_while_the_server_is_down_holds(start_server: Start, tmp_path: Path) -> None:
    with start_server(environment=with_settings(slots=1), data_dir=tmp_path) as server:
        with openruntime.connect(server.url) as rt:
            rt.submit("rogue_sleep", seconds=600.0)
            late, patient = (rt.submit("rogue_once", path=str(tmp_path / f"mark{n}"), timeout=timeout) for n, timeout in enumerate((1.0, 600.0)))
        server.kill()
    time.sleep(1.0)
    with start_server(environment=with_settings(slots=2, shutdown_grace=0), data_dir=tmp_path) as server, openruntime.connect(server.url) as rt:
        with pytest.raises(TaskTimeout, match="was over before it started"):
            rt.task(late.task_id).result(5)
        assert rt.task(patient.task_id).result(30).tolist() == [1.0]
        assert not (tmp_path / "mark0").exists(), "it never ran"
