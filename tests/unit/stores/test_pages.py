"""History that nobody was promised: many tasks in one row, their results in one file."""

import asyncio
import contextlib
import logging
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import pytest

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Filter, Task
from openruntime.stores import gathering as module
from openruntime.stores.database import NAME
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_task, run, same


async def ended(store: SqliteStore, number: int, *, size: int = 100, at: float | None = None, **fields: Any) -> list[Task]:
    """So many tasks that nobody was promised, submitted and ended."""
    tasks = [new_task(**fields) for _ in range(number)]
    await store.submit(tasks, promised=False)
    for task in tasks:
        await store.claim([task.lane], 1)
        run(task)
    for task in tasks:
        assert await store.finish(end(task, size=size, at=at), 1)
    return tasks


def query(directory: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(directory / NAME)) as connection:
        return [value for (value,) in connection.execute(statement)]


def files(directory: Path) -> list[Path]:
    return list((directory / "pages").iterdir())


async def listed(store: SqliteStore, limit: int = 70, **filters: Any) -> list[str]:
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.list(Filter(**filters), after=cursor, limit=limit)
        assert all(task.outputs is None for task in page)
        seen += [task.id for task in page]
        if cursor is None:
            return seen


@pytest.mark.parametrize("recent", [0, 150, 10_000])
@pytest.mark.parametrize("inline", [100, 65_536])
async def test_tasks_on_pages_are_found_and_listed_with_all_others(tmp_path: Path, recent: int, inline: int) -> None:
    store = SqliteStore(tmp_path, recent=recent, inline_bytes=inline)
    await store.open()
    tasks = await ended(store, 300)
    promised = end(new_task())
    await store.submit([promised], promised=True)
    other = await ended(store, 30, operation="fft", tenant="other", tags=("a", "b"))
    (failed,) = await ended(store, 1, lane="io")
    waiting = new_task(lane="later")
    await store.submit([waiting], promised=False)
    tasks += [promised, *other, failed]
    for _ in range(2):  # some still gather; then all is on disk
        assert await listed(store) == [task.id for task in reversed([*tasks, waiting])]
        await store.prune(time())
    assert len(query(tmp_path, "SELECT count FROM pages")) < 10
    assert len(query(tmp_path, "SELECT id FROM tasks")) == 1
    assert bool(files(tmp_path)) is (inline == 100)
    assert await listed(store, operation="fft", tag="b", tenant="other", device="cpu:0", status="completed") == [t.id for t in reversed(other)]
    assert await listed(store, tenant="nobody") == await listed(store, status="failed") == []
    for task in (tasks[0], tasks[299], promised, other[7], failed):
        found = await store.get(task.id)
        assert found is not None
        assert (found.id, found.call.operation, found.finished) == (task.id, task.call.operation, task.finished)
        assert same(found.outputs, task.outputs)
    assert await store.get(tasks[0].id + "x") is None
    await store.close()


async def test_close_writes_what_gathers(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    tasks = await ended(store, 5)
    assert query(tmp_path, "SELECT count FROM pages") == []
    await store.close()
    assert query(tmp_path, "SELECT count FROM pages") == [5]
    store = SqliteStore(tmp_path)
    await store.open()
    assert await listed(store) == [task.id for task in reversed(tasks)]
    await ended(store, 5)
    await store.close()
    assert query(tmp_path, "SELECT count FROM pages") == [5, 5]


async def test_what_gathers_is_written_soon(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    await ended(store, 5)
    await asyncio.sleep(module._LINGER + 0.3)
    assert query(tmp_path, "SELECT count FROM pages") == [5]
    await store.close()


async def test_only_what_is_small_unpromised_keyless_and_completed_goes_on_a_page(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, inline_bytes=1000)
    await store.open()
    (large,) = await ended(store, 1, size=2000)
    (keyed,) = await ended(store, 1, idempotency="key")
    failed = end(new_task(), TaskStatus.FAILED)
    await store.submit([failed], promised=False)
    await store.close()
    assert query(tmp_path, "SELECT count FROM pages") == []
    assert set(query(tmp_path, "SELECT id FROM tasks")) == {large.id, keyed.id, failed.id}


@pytest.mark.parametrize("recent", [0, 10_000])
async def test_prune_drops_whole_pages(tmp_path: Path, recent: int) -> None:
    everything: list[dict[str, Any]] = [{"history": 32}, {"history_bytes": 3200}, {"history_age": 100.0}]
    for number, bounds in enumerate(everything):
        directory = tmp_path / str(number)
        store = SqliteStore(directory, recent=recent, inline_bytes=100, **bounds)
        await store.open()
        now = time()
        old = await ended(store, 64, at=now - 200.0)
        await store.prune(now - 1000.0)
        new = await ended(store, 64, at=now)
        dropped = await store.prune(now)
        kept = await listed(store)
        assert len(kept) + dropped >= 64
        assert set(kept) <= {task.id for task in new}
        assert 32 <= len(kept) <= (64 if "history_age" in bounds else 35)
        assert await store.get(old[0].id) is await store.get(old[63].id) is None
        assert sum(query(directory, "SELECT count FROM pages")) == len(kept)
        assert len(files(directory)) == len(query(directory, "SELECT number FROM pages WHERE checksum IS NOT NULL"))
        assert await store.prune(now + 1e9) == len(kept)
        assert await listed(store) == []
        assert files(directory) == []
        assert store._ended_bytes == 0
        await store.close()


@pytest.mark.parametrize("inline", [100, 65_536])
async def test_results_on_pages_expire_before_their_records(tmp_path: Path, inline: int) -> None:
    store = SqliteStore(tmp_path, recent=0, inline_bytes=inline, result_ttl=50.0, history_age=1000.0)
    await store.open()
    late = await ended(store, 1, at=time() - 60.0)
    await store.prune(time() - 100.0)
    fresh = await ended(store, 1, at=time() - 40.0)
    found = await store.get(late[0].id)
    assert found is not None
    assert found.outputs is None
    assert await store.prune(time()) == 0
    assert (await store.get(fresh[0].id)).outputs is not None  # type: ignore[union-attr]
    assert await store.prune(time() + 20.0) == 0
    assert (await store.get(fresh[0].id)).outputs is None  # type: ignore[union-attr]
    assert query(tmp_path, "SELECT size + (outputs IS NOT NULL) FROM pages") == [0, 0]
    assert files(tmp_path) == []
    await store.close()


async def test_a_task_on_a_page_can_still_be_promised(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    (gathering,) = await ended(store, 1)
    await store.keep(gathering)
    assert query(tmp_path, "SELECT first FROM pages") == [gathering.id]
    (waiting,) = await ended(store, 1)
    store._gathering.turn()
    await store.keep(waiting)
    assert query(tmp_path, "SELECT first FROM pages") == [gathering.id, waiting.id]
    await store.keep(gathering)
    assert gathering.kept
    assert waiting.kept
    assert len(await listed(store)) == 2
    await store.close()


async def test_a_record_that_cannot_be_encoded_harms_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(tmp_path, recent=0)
    await store.open()
    tasks = await ended(store, 3)
    tasks[1].placement = {"reason": object()}
    await store.prune(time())
    assert await listed(store) == [tasks[2].id, tasks[0].id]
    assert tasks[1].id in caplog.text
    await store.close()


async def test_after_kill_9_pages_are_whole(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, Path(__file__).with_name("gather.py"), tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        await asyncio.sleep(1.6)
        killed = time()
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).decode().split("\n")[:-1]
    safe = {line.split()[0] for line in lines if float(line.split()[1]) < killed - 1.0}
    assert safe
    (tmp_path / "pages" / "1000000").write_bytes(b"written, not committed")
    store = SqliteStore(tmp_path)
    assert await store.open() == []
    there = await listed(store, limit=500)
    assert safe <= set(there)
    for task_id in there[:: len(there) // 50 + 1]:
        found = await store.get(task_id)
        assert found is not None
        assert found.outputs is not None
        assert found.outputs["output"].view.nbytes == 300
    assert not (tmp_path / "pages" / "1000000").exists()
    assert {int(path.name) for path in files(tmp_path)} == set(query(tmp_path, "SELECT number FROM pages WHERE checksum IS NOT NULL"))
    await store.close()


async def test_results_that_a_power_cut_has_eaten_are_gone(tmp_path: Path) -> None:
    damages: list[Callable[[Path], Any]] = [lambda path: path.write_bytes(bytes(path.stat().st_size)), Path.unlink]
    for damage in damages:
        store = SqliteStore(tmp_path, recent=0, inline_bytes=100)
        await store.open()
        (task,) = await ended(store, 1, size=100)
        await store.prune(time())
        damage(files(tmp_path)[0])
        found = await store.get(task.id)
        assert found is not None
        assert found.outputs is None
        await store.prune(time() + 1e9)
        await store.close()


async def test_a_full_disk_costs_the_oldest_history_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKLOG", 600)
    store = SqliteStore(tmp_path, recent=0, inline_bytes=100)
    await store.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    tasks: list[Task] = []
    try:
        for _ in range(60):
            tasks += await ended(store, 100)
            await asyncio.sleep(0.005)
        assert len(store._ended) <= 600 + 2 * 512
        assert await store.get(tasks[-1].id) is tasks[-1]
        assert store._disk.writer.failing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("given up") == 1
    assert caplog.records[-1].levelno == logging.WARNING
    await store.close()
    store = SqliteStore(tmp_path)
    await store.open()
    there = await listed(store, limit=500)
    assert there[0] == tasks[-1].id
    assert 600 - 512 <= len(there) <= 600 + 2 * 512
    assert len(set(there)) == len(there)
    await store.close()
