"""Promised tasks in pages: one row for all that a commit accepts, gone when the last of them has ended."""

import asyncio
import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pytest

from openruntime.contracts.errors import StorageFull, Unavailable
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Reference
from openruntime.contracts.records import Life, Task
from openruntime.stores.database import NAME
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run, same

RELEASED = Path(__file__).parent / "released"


def query(directory: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(directory / NAME)) as connection:
        return [value for (value,) in connection.execute(statement)]


def copied(directory: Path, target: Path) -> Path:
    """What a kill -9 now would leave."""
    target.mkdir()
    for path in directory.iterdir():
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copy(path, target / path.name)
    return target


async def reopened(directory: Path, **options: Any) -> list[Task]:
    store = SqliteStore(directory, **options)
    tasks = await store.open()
    await store.close()
    return tasks


async def finish(store: SqliteStore, tasks: list[Task], *, status: TaskStatus = TaskStatus.COMPLETED) -> None:
    for task in tasks:
        await store.remove(task)
        attempt = run(task)
        assert await store.finish(end(task, status), attempt)
        assert not await store.finish(task, attempt)


async def test_a_page_goes_with_the_last_end(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "live")
    await store.open()
    tasks = [new_task() for _ in range(700)]
    await store.submit(tasks, promised=True)
    assert query(tmp_path / "live", "SELECT number FROM pending") == [1]
    assert query(tmp_path / "live", "SELECT id FROM tasks") == []
    await finish(store, tasks[:699])
    await store.prune(time())
    assert query(tmp_path / "live", "SELECT count(*) FROM pending WHERE number > 1") == [1]  # the last one has moved
    await store.prune(time())
    assert [task.id for task in await reopened(copied(tmp_path / "live", tmp_path / "copy"))] == [tasks[699].id]
    await finish(store, tasks[699:])
    await store.keep(tasks[699])
    await store.prune(time())
    assert query(tmp_path / "live", "SELECT number FROM pending") == []
    assert len((await store.list(limit=1000))[0]) == 700
    await store.close()


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_only_tasks_without_a_recorded_end_come_back(tmp_path: Path, status: TaskStatus) -> None:
    store = SqliteStore(tmp_path / "live")
    await store.open()
    tasks = [new_task() for _ in range(100)]
    for start in range(0, 100, 20):
        await store.submit(tasks[start : start + 20], promised=True)
    ended = [task for number, task in enumerate(tasks) if number % 2 and number < 60]
    await finish(store, ended, status=status)
    await store.keep(ended[-1])
    back = await reopened(copied(tmp_path / "live", tmp_path / "copy"))
    assert [task.id for task in back] == [task.id for task in tasks if task not in ended]
    assert all(same(found.call.parameters, task.call.parameters) for found, task in zip(back, (t for t in tasks if t not in ended), strict=True))
    assert all(task.kept and task.status is TaskStatus.QUEUED and task.outputs is None for task in back)
    await store.close()


async def test_a_task_does_not_come_back_when_history_has_forgotten_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "live", history=1)
    await store.open()
    tasks = [new_task() for _ in range(20)]
    await store.submit(tasks, promised=True)
    await finish(store, tasks[::2])
    assert await store.prune(time()) == 9
    await finish(store, tasks[1:8:2])
    assert await store.prune(time()) == 4
    left = [task.id for task in tasks[9::2]]
    assert [task.id for task in await reopened(copied(tmp_path / "live", tmp_path / "copy"), history=1)] == left
    await store.close()
    for _ in range(2):
        store = SqliteStore(tmp_path / "live", history=1)
        assert [task.id for task in await store.open()] == left
        await store.prune(time() + 1e9)
        await store.close()


async def test_stragglers_move_and_free_the_space_of_the_others(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    groups = [[new_task(parameters={"x": new_array(1000), "n": 2**70, "pair": (1, [None])}) for _ in range(100)] for _ in range(5)]
    for group in groups:
        await store.submit(group, promised=True)
    stay = [task for group in groups for task in group[::10]]
    await finish(store, [task for group in groups for task in group if task not in stay])
    await store.prune(time())
    await store.prune(time())
    assert len(query(tmp_path, "SELECT number FROM pending")) == 1
    assert query(tmp_path, "SELECT sum(length(tasks)) FROM pending")[0] < 50 * 2000
    await store.close()
    store = SqliteStore(tmp_path)
    back = await store.open()
    assert [task.id for task in back] == [task.id for task in stay]
    assert all(same(found.call.parameters, task.call.parameters) for found, task in zip(back, stay, strict=True))
    await finish(store, back)
    await store.close()
    assert await reopened(tmp_path) == []


async def test_the_newest_state_of_a_task_counts(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "live")
    await store.open()
    task, other = new_task(needs=("a",), parameters={"x": Reference(task="a")}), new_task()
    await store.submit([task, other], promised=True)
    task.call = new_task(parameters={"x": Array("uint8", (3,), b"abc")}).call
    task.needs = ()
    task.life = Life(TaskStatus.QUEUED, 2, 1, 1)
    await store.requeue(task)
    await store._disk.writer.flush()
    back, _ = await reopened(copied(tmp_path / "live", tmp_path / "one"))
    assert (back.needs, back.life) == ((), task.life)
    assert bytes(back.call.parameters["x"].view) == b"abc"
    await finish(store, [task])
    await store.keep(task)
    assert [task.id for task in await reopened(copied(tmp_path / "live", tmp_path / "two"))] == [other.id]
    await store.close()


async def test_a_waited_task_that_is_promised_after_all_comes_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "live", inline_bytes=1000)
    await store.open()
    task = new_task(parameters={"x": new_array(5000), "y": new_array(10)}, idempotency="key")
    await store.submit([task], promised=False)
    task.kept = True  # as the task manager does first
    await asyncio.gather(store.keep(task), store.keep(task))
    assert len(query(tmp_path / "live", "SELECT number FROM pending")) == 1
    again = SqliteStore(copied(tmp_path / "live", tmp_path / "copy"), inline_bytes=1000)
    (back,) = await again.open()
    assert await again.find("local", "key") is back
    assert same(await again.load(back), await store.load(task))
    await again.close()
    await store.close()


async def test_blobs_are_kept_for_tasks_that_may_come_back_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, inline_bytes=1000, blob_grace=-1.0)
    await store.open()
    tasks = [new_task(parameters={"x": [new_array(5000)]}) for _ in range(4)]
    await store.submit(tasks, promised=True)
    await finish(store, tasks[:2])
    await store.prune(time())
    await store.close()
    store = SqliteStore(tmp_path, inline_bytes=1000, blob_grace=-1.0)
    assert len(await store.open()) == 2
    await store.prune(time())
    assert len([path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]) == 2
    for task in await store.claim(["any"], 2):
        assert (await store.load(task))["x"][0].view.nbytes == 5000
    await store.close()


@pytest.mark.parametrize("released", ["0001", "0002"])
async def test_waiting_rows_of_older_schemas_become_pages_once(tmp_path: Path, released: str) -> None:
    shutil.copy(RELEASED / f"{released}.db", tmp_path / NAME)
    options: dict[str, Any] = {"result_ttl": 1e12, "history_age": 1e12}
    for _ in range(2):
        (waiting,) = await reopened(tmp_path, **options)
        assert bytes(waiting.call.parameters["x"].view) == b"abc"
    assert query(tmp_path, "SELECT count(*) FROM tasks WHERE finished IS NULL") == [0]
    store = SqliteStore(tmp_path, **options)
    await finish(store, await store.open())
    await store.close()
    assert await reopened(tmp_path, **options) == []


async def test_a_page_whose_tasks_ended_before_is_never_written(tmp_path: Path) -> None:
    """Their ends may overtake it on the way to the disk."""
    store = SqliteStore(tmp_path)
    await store.open()
    for _ in range(20):
        tasks = [new_task() for _ in range(512)]
        submitted = asyncio.create_task(store.submit(tasks, promised=True))
        await asyncio.sleep(0)
        await finish(store, tasks)
        await submitted
    await store.prune(time())
    await store.close()
    assert query(tmp_path, "SELECT number FROM pending") == []
    assert query(tmp_path, "SELECT sum(count) FROM pages") == [20 * 512]


@pytest.mark.parametrize("history", [100, 100_000])
async def test_kill_9_while_tasks_are_accepted_and_end(tmp_path: Path, history: int) -> None:
    """Over several lives: what was promised is there, once; what was recorded as ended does not come back."""
    promised: set[str] = set()
    ended: Counter[str] = Counter()
    for _ in range(3):
        command = [sys.executable, str(Path(__file__).with_name("churn.py")), str(tmp_path), str(history)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            await asyncio.sleep(0.7)
            process.send_signal(signal.SIGKILL)
            lines = [line.split() for line in (first + process.stdout.read()).decode().split("\n")[:-1]]
        back = [line[1] for line in lines if line[0] == "back"]
        assert len(back) == len(set(back))
        assert not set(back) & ended.keys()
        promised |= {line[1] for line in lines if line[0] == "promised"}
        ended.update(line[1] for line in lines if line[0] == "settled")
    assert len(promised) > 100
    assert ended
    store = SqliteStore(tmp_path, history=history)
    waiting = {task.id for task in await store.open()}
    assert not waiting & ended.keys()
    assert max(ended.values()) == 1
    if history > 100:
        for task_id in promised | ended.keys():
            assert await store.get(task_id) is not None, task_id
        recorded = [record for (record,) in _records(tmp_path)]
        assert len(recorded) == len(set(recorded))
        assert not set(recorded) & waiting
    await store.close()


def _records(directory: Path) -> list[tuple[str]]:
    decode = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
    paged = [(task_id,) for records in query(directory, "SELECT tasks FROM pages") for task_id in decode(records)]
    return paged + [(task_id,) for task_id in query(directory, "SELECT id FROM tasks")]


async def test_a_full_disk_withdraws_what_it_cannot_accept_and_ends_come_later(tmp_path: Path) -> None:
    """As a quota. A task of the refused submit that ended meanwhile leaves no trace."""
    store = SqliteStore(tmp_path)
    await store.open()
    before = [new_task() for _ in range(10)]
    await store.submit(before, promised=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        refused = [new_task(parameters={"x": new_array(50_000)}, lane="io") for _ in range(20)]
        submitted = asyncio.create_task(store.submit(refused, promised=True))
        await asyncio.sleep(0)
        await finish(store, refused[:1])
        with pytest.raises(StorageFull):
            await submitted
        await finish(store, before[:5])
        with pytest.raises(StorageFull):
            await store.keep(before[0])
        assert store.depths() == {"any": 5}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = new_task()
    await store.submit([after], promised=True)
    await store.keep(before[0])
    assert [await store.get(task.id) for task in refused] == [None] * 20
    await store.close()
    assert [task.id for task in await reopened(tmp_path)] == [task.id for task in [*before[5:], after]]


async def test_after_a_failed_prune_history_still_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a page counts as noted only when that is on disk."""
    store = SqliteStore(tmp_path / "live", history=1)
    await store.open()
    tasks = [new_task() for _ in range(8)]
    await store.submit(tasks, promised=True)
    await finish(store, tasks[:5])

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("openruntime.stores.pending.note", fail)
    with pytest.raises(Unavailable):
        await store.prune(time())
    monkeypatch.undo()
    assert await store.prune(time()) == 4
    assert [task.id for task in await reopened(copied(tmp_path / "live", tmp_path / "copy"))] == [task.id for task in tasks[5:]]
    await store.close()
