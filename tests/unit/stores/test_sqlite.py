"""What only a store with a disk has to show: durability, a full disk, and what is written when."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest

from openruntime.contracts.errors import Internal, StorageFull
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.stores.database import NAME
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run, same


async def finish(store: SqliteStore, task: Task, size: int = 16) -> dict[str, Array] | None:
    """The outputs, whose bytes the store may drop from the record."""
    assert task in await store.claim([task.lane], 1)
    attempt = run(task)
    outputs = end(task, size=size).outputs
    assert await store.finish(task, attempt)
    return outputs


async def until_full(store: SqliteStore, make: Callable[[], list[Task]]) -> list[Task]:
    """Submit until the disk is full; the tasks that were refused."""
    for _ in range(10_000):
        tasks = make()
        (outcome,) = await asyncio.gather(store.submit(tasks, promised=True), return_exceptions=True)
        if outcome is not None:
            break
    assert isinstance(outcome, StorageFull)
    assert "space" in outcome.message
    return tasks


def rows(directory: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(directory / NAME)) as connection:
        return dict(connection.execute("SELECT id, status FROM tasks").fetchall())


@pytest.mark.parametrize("seconds", [0.2, 0.6])
async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, seconds: float) -> None:
    with subprocess.Popen([sys.executable, Path(__file__).with_name("acknowledge.py"), tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).decode().split("\n")[:-1]
    promised = {line.split()[1] for line in lines if line.startswith("promised")}
    ended = {line.split()[1] for line in lines if line.startswith("ended")}
    assert len(promised) > 50
    assert ended
    store = SqliteStore(tmp_path, inline_bytes=1000)
    waiting = {task.id for task in await store.open()}
    assert not waiting & ended
    for task_id in promised | ended:
        task = await store.get(task_id)
        assert task is not None
        if task_id in ended:
            assert task.status is TaskStatus.COMPLETED
            assert task.outputs is not None
            assert task.outputs["output"].view.nbytes == task.outputs["output"].nbytes
        elif task_id in waiting:
            loaded = await store.load(task)
            assert loaded["x"].view.nbytes == loaded["x"].nbytes
    await store.close()


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("needs root to mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


async def test_a_full_disk_refuses_new_tasks_and_harms_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path, "6m") as directory:
        store = SqliteStore(directory)
        await store.open()
        before, history = new_task(idempotency="before"), new_task(lane="io")
        await store.submit([before], promised=True)
        ballast = directory / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        refused = await until_full(store, lambda: [new_task(idempotency="refused", lane="other") for _ in range(100)])
        with pytest.raises(StorageFull):
            await store.submit([new_task(parameters={"x": new_array(300_000)})], promised=True)
        with pytest.raises(StorageFull):
            await store.shelf.put("tensor", "a", b"", {"x": new_array(60_000)}, ttl=10.0, tenant="local")
        assert await store.get(refused[0].id) is None
        assert await store.find("local", "refused") is not refused[-1]
        await store.submit([history], promised=False)
        with pytest.raises(StorageFull):
            await store.keep(history)
        assert not history.kept
        await finish(store, before)
        await finish(store, history)
        assert (await store.get(before.id)) is before
        ballast.unlink()
        after = new_task()
        await store.submit([after], promised=True)
        await store.keep(before)
        await store.close()
        assert rows(directory)[before.id] == "completed"
        store = SqliteStore(directory)
        recovered = {task.id for task in await store.open()}
        assert after.id in recovered
        assert before.id not in recovered
        assert not recovered & {task.id for task in refused}
        assert await store.get(history.id) is not None
        await store.close()


async def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """As a quota: the system refuses to write, though the disk has space."""
    store = SqliteStore(tmp_path)
    await store.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    waiting = new_task()
    await store.submit([waiting], promised=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        await until_full(store, lambda: [new_task(parameters={"x": new_array(50_000)}, lane="other")])
        await finish(store, waiting)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.keep(waiting)
    await store.close()
    store = SqliteStore(tmp_path, recent=0)
    assert waiting.id not in {task.id for task in await store.open()}
    found = await store.get(waiting.id)
    assert found is not None
    assert same(found.outputs, waiting.outputs)
    await store.close()


async def test_a_task_that_ends_before_its_accept_is_written_has_ended(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    task = new_task()
    submitted = asyncio.create_task(store.submit([task], promised=True))
    await asyncio.sleep(0)
    await finish(store, task)
    await submitted
    await store.keep(task)
    await store.close()
    store = SqliteStore(tmp_path, recent=0)
    assert await store.open() == []
    found = await store.get(task.id)
    assert found is not None
    assert same(found.outputs, task.outputs)
    await store.close()


async def test_a_record_that_cannot_be_encoded_harms_only_its_submit(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    good, beside, bad = new_task(), new_task(), new_task(parameters={"x": object()})
    outcomes = await asyncio.gather(store.submit([beside, bad], promised=True), store.submit([good], promised=True), return_exceptions=True)
    assert isinstance(outcomes[0], Internal)
    assert outcomes[1] is None
    assert await store.claim(["any"], 5) == [good]
    await store.close()
    store = SqliteStore(tmp_path)
    assert [task.id for task in await store.open()] == [good.id]
    await store.close()


async def test_unpromised_tasks_are_recorded_when_they_have_ended(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, inline_bytes=1000)
    await store.open()
    small, large, never = new_task(lane="a"), new_task(lane="b"), new_task(lane="c")
    await store.submit([small, large, never], promised=False)
    await finish(store, small)
    outputs = await finish(store, large, size=5000)
    assert rows(tmp_path) == {}
    await store.close()
    assert rows(tmp_path) == {large.id: "completed"}
    store = SqliteStore(tmp_path)
    await store.open()
    assert await store.get(never.id) is None
    assert (await store.get(small.id)) is not None
    found = await store.get(large.id)
    assert found is not None
    assert same(found.outputs, outputs)
    await store.close()


async def test_shared_memory_of_a_result_comes_back_with_its_file_not_with_its_row(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    pool, data = SlabPool(), os.urandom(3_000_001)
    task = new_task()
    await store.submit([task], promised=False)
    await store.claim(["any"], 1)
    attempt = run(task)
    memory = pool.allocate(len(data))
    memory[:] = data
    end(task).outputs = {"output": Array("uint8", (len(data),), memory)}
    del memory
    go_on = threading.Event()
    held = asyncio.create_task(store._disk.writer.job(lambda _: go_on.wait(10)))
    await store.finish(task, attempt)
    async with asyncio.timeout(5):
        while pool.leased_bytes:
            await asyncio.sleep(0.001)
    assert rows(tmp_path) == {}
    found = await store.get(task.id)
    assert found is task
    assert found.outputs is not None
    assert bytes(found.outputs["output"].view) == data
    go_on.set()
    await held
    await store.close()
    assert rows(tmp_path) == {task.id: "completed"}


async def test_a_result_that_a_power_cut_ate_has_expired(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    task = new_task()
    await store.submit([task], promised=False)
    await finish(store, task, size=2_000_000)
    await store.close()
    (file,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    for left in (1_500_000, 0):
        os.truncate(file, left)
        store = SqliteStore(tmp_path)
        await store.open()
        found = await store.get(task.id)
        assert found is not None
        assert found.outputs is None
        await store.close()


async def test_keeping_an_ended_task_has_its_result_fsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    task = new_task()
    await store.submit([task], promised=False)
    go_on = threading.Event()
    held = asyncio.create_task(store._disk.writer.job(lambda _: go_on.wait(10)))
    await finish(store, task, size=100_000)
    while task.outputs is None or task.outputs["output"].blob is None:
        await asyncio.sleep(0.001)
    synced: list[str] = []
    monkeypatch.setattr("openruntime.stores.blobs.sync", lambda path: synced.append(path.name))
    keeping = asyncio.create_task(store.keep(task))
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.gather(held, keeping)
    assert task.outputs["output"].blob in synced
    await store.close()


async def test_a_result_that_is_kept_while_it_is_written_rests_where_its_row_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path, blob_grace=-1.0)
    await store.open()
    task = new_task()
    await store.submit([task], promised=False)
    files, begun, go_on = store._spill._files, asyncio.Event(), asyncio.Event()
    add = files.add

    async def late(data: Any, *, durable: bool) -> str:
        name = await add(data, durable=durable)
        if not durable:
            begun.set()
            await go_on.wait()
        return name

    monkeypatch.setattr(files, "add", late)
    await finish(store, task, size=2_000_000)
    await begun.wait()
    await store.keep(task)
    go_on.set()
    while store._bulky or store._spooler is None:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    await store.prune(time())
    assert task.outputs is not None
    assert (await files.read(str(task.outputs["output"].blob))).nbytes == 2_000_000
    await store.close()


async def test_large_inputs_of_a_waiting_task_take_no_memory_and_go_with_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, blob_grace=-1.0)
    await store.open()
    data = os.urandom(100_000)
    tasks = [new_task(parameters={"x": Array("uint8", (100_000,), data)}, rank=float(n)) for n in range(2)]
    await store.submit(tasks, promised=True)
    assert tasks[0].call.parameters["x"].data is None
    files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert len(files) == 1
    await finish(store, tasks[0])
    await store.prune(time())
    loaded = await store.load(tasks[1])
    assert bytes(loaded["x"].view) == data
    assert tasks[1].call.parameters["x"].data is None
    await finish(store, tasks[1])
    await store.prune(time())
    assert not files[0].exists()
    await store.close()


async def test_a_result_outlives_the_tensor_it_came_from(tmp_path: Path) -> None:
    """A cache hit hands out an array that rests in a blob already: it is counted again, not written again."""
    store = SqliteStore(tmp_path, blob_grace=-1.0, recent=0)
    await store.open()
    await store.shelf.put("result", "key", b"", {"output": new_array(100_000)}, ttl=100.0, tenant="local")
    found = await store.shelf.get("result", "key")
    assert found is not None
    task = end(new_task(cached=True))
    task.outputs = found[1]
    await store.submit([task], promised=True)
    assert await store.shelf.trim("result", max_bytes=0) == 1
    await store.prune(time())
    again = await store.get(task.id)
    assert again is not None
    assert again is not task
    assert same(again.outputs, found[1])
    await store.close()


async def test_memory_of_ended_tasks_is_bounded(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, recent_bytes=100_000)
    await store.open()
    tasks = [new_task(rank=float(n)) for n in range(200)]
    await store.submit(tasks, promised=False)
    for task in tasks:
        await finish(store, task, size=10_000)
    await store.prune(time())
    assert store._ended_bytes <= 100_000
    for task in (tasks[0], tasks[-1]):
        found = await store.get(task.id)
        assert found is not None
        assert same(found.outputs, task.outputs)
    assert len((await store.list(limit=500))[0]) == 200
    await store.close()


async def test_a_cancelled_submit_does_not_disturb_the_others(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    gone, stays = new_task(), new_task()
    first, second = asyncio.create_task(store.submit([gone], promised=True)), asyncio.create_task(store.submit([stays], promised=True))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert stays in await store.claim(["any"], 5)
    await store.close()


async def test_large_inputs_that_cannot_be_written_leave_no_trace(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, queue_bound=1)
    await store.open()
    (tmp_path / "blobs").write_bytes(b"a file where a folder should be")
    with pytest.raises(Exception, match="--data-dir"):
        await store.submit([new_task(parameters={"x": new_array(100_000)}, idempotency="key")], promised=True)
    assert await store.find("local", "key") is None
    await store.submit([new_task()], promised=True)
    await store.close()


async def test_history_is_pruned_while_it_grows(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, history=100)
    await store.open()
    for _ in range(5):
        await store.submit([end(new_task()) for _ in range(1000)], promised=True)
    async with asyncio.timeout(10):
        while len(rows(tmp_path)) > 3000:
            await asyncio.sleep(0.01)
    await store.close()
