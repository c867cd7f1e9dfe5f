"""A data directory is opened by one owner, brought up to date, and never overwritten."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from openruntime.contracts.errors import Unavailable
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Filter
from openruntime.stores.database import NAME, check, migrations, queries
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run, same

RELEASED = Path(__file__).parent / "released"


async def fill(directory: Path) -> None:
    store = SqliteStore(directory)
    await store.open()
    await store.submit([new_task() for _ in range(50)], promised=True)
    await store.close()


async def refused(directory: Path) -> str:
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.suffix != ".lock"}
    with pytest.raises(Unavailable) as caught:
        await SqliteStore(directory).open()
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.suffix != ".lock"}
    assert after.get(NAME) == before.get(NAME)
    return caught.value.message


async def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    assert f"process {os.getpid()}" in await refused(tmp_path)
    await store.close()
    again = SqliteStore(tmp_path)
    assert await again.open() == []
    await again.close()


async def test_the_lock_of_another_process_counts_until_it_dies(tmp_path: Path) -> None:
    script = (
        "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX);"
        "os.write(f, str(os.getpid()).encode()); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "owner.lock")], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert f"process {owner.pid}" in await refused(tmp_path)
        owner.kill()
    store = SqliteStore(tmp_path)
    await store.open()
    await store.close()


async def test_a_refused_start_gives_the_lock_back(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database" * 1000)
    assert "damaged" in await refused(tmp_path)
    with (tmp_path / "owner.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / NAME) as connection:
        connection.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    connection.close()
    message = await refused(tmp_path)
    assert "newer" in message
    assert "upgrade" in message
    assert "openruntime restore" in message


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / NAME) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    assert "another program" in await refused(tmp_path)


@pytest.mark.parametrize("start", [0, 16, 100, 16384 + 8])
async def test_corruption_is_refused_with_the_way_out(tmp_path: Path, start: int) -> None:
    await fill(tmp_path)
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * (3 * 16384))
    message = await refused(tmp_path)
    assert "damaged" in message
    assert "backup" in message


async def test_a_database_cut_short_is_refused(tmp_path: Path) -> None:
    await fill(tmp_path)
    os.truncate(tmp_path / NAME, 20_000)
    assert "damaged" in await refused(tmp_path)


async def test_damage_in_history_is_seen_at_the_start(tmp_path: Path) -> None:
    """Nothing would read those pages before somebody asks for the task."""
    store = SqliteStore(tmp_path)
    await store.open()
    await store.submit([end(new_task(), TaskStatus.FAILED) for _ in range(2000)], promised=True)
    await store.close()
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(-3 * 16384, os.SEEK_END)
        file.write(b"\xff" * 16384)
    assert "damaged" in await refused(tmp_path)


async def test_a_waiting_task_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / NAME) as connection:
        connection.execute("UPDATE pending SET tasks = substr(tasks, 1, length(tasks) - 5)")
    connection.close()
    message = await refused(tmp_path)
    assert "damaged" in message
    assert "openruntime restore" in message


@pytest.mark.parametrize("tasks", [3000, 20])
async def test_the_log_of_another_database_is_not_folded_in(tmp_path: Path, tasks: int) -> None:
    """As when somebody puts another `openruntime.db` in place by hand, and leaves what is beside it: the log would overwrite it."""
    for name in ("mine", "other"):
        store = SqliteStore(tmp_path / name)
        await store.open()
        await store.submit([end(new_task(), TaskStatus.FAILED) for _ in range(500 if name == "mine" else tasks)], promised=True)
        if name == "other":
            shutil.copy(tmp_path / name / f"{NAME}-wal", tmp_path / "mine" / f"{NAME}-wal")
        await store.close()
    message = await refused(tmp_path / "mine")
    assert "another database" in message
    assert "openruntime restore" in message
    (tmp_path / "mine" / f"{NAME}-wal").unlink()
    store = SqliteStore(tmp_path / "mine")
    await store.open()
    assert len((await store.list(limit=1000))[0]) == 500
    await store.close()


async def test_looking_at_a_large_database_takes_a_bounded_time(tmp_path: Path) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / NAME) as connection:
        connection.execute("CREATE TABLE large AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT i FROM n")
        began = monotonic()
        assert connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        whole = monotonic() - began
        began = monotonic()
        check(connection, tmp_path / NAME, seconds=whole / 10)
        assert monotonic() - began < whole / 2
    connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody who may not read")
@pytest.mark.parametrize("secret", ["", NAME, "pages"])
async def test_what_may_not_be_read_is_refused_with_the_way_out(tmp_path: Path, secret: str) -> None:
    await fill(tmp_path)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o777) if folder == tmp_path else folder.chmod(0o755)
    for path in tmp_path.rglob("*"):
        os.chown(path, 65534, 65534)
    os.chown(tmp_path / secret, 0, 0)
    (tmp_path / secret).chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(Unavailable, match=r"cannot be used.*--data-dir"):
            await SqliteStore(tmp_path).open()
    finally:
        os.seteuid(0)
    store = SqliteStore(tmp_path)
    assert len(await store.open()) == 50
    await store.close()


async def test_a_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="--data-dir"):
        await SqliteStore(tmp_path / "file").open()


async def test_a_failed_migration_leaves_the_old_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tmp_path)
    steps = [*migrations(), "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1)"]
    monkeypatch.setattr("openruntime.stores.database.migrations", lambda: steps)
    assert "nowhere" in await refused(tmp_path)
    monkeypatch.undo()
    store = SqliteStore(tmp_path)
    assert len(await store.open()) == 50
    await store.close()


def test_every_schema_has_a_released_database() -> None:
    assert sorted(path.stem for path in RELEASED.glob("*.db")) == [f"{number:04}" for number in range(1, len(migrations()) + 1)]


@pytest.mark.parametrize("released", sorted(RELEASED.glob("*.db")), ids=lambda path: path.stem)
async def test_a_released_database_is_migrated_with_everything_in_it(tmp_path: Path, released: Path) -> None:
    """Each file was written by the code that had this schema: one task waits, one completed, one failed, one shelf entry."""
    shutil.copy(released, tmp_path / NAME)
    store = SqliteStore(tmp_path, result_ttl=1e12, history_age=1e12)
    (waiting,) = await store.open()
    assert waiting.call.parameters["x"].shape == (3,)
    assert bytes(waiting.call.parameters["x"].view) == b"abc"
    assert waiting.tags == ("waiting",)
    completed, failed = [(await store.list(Filter(status=status)))[0][0] for status in ("completed", "failed")]
    found = await store.get(completed.id)
    assert found is not None
    assert found.outputs is not None
    assert bytes(found.outputs["output"].view) == b"def"
    assert (await store.find("local", "key")) is not None
    assert failed.failure is not None
    assert failed.failure.code == "operation_failed"
    task = new_task(parameters={"x": new_array(10)})
    await store.submit([task], promised=True)
    claimed = await store.claim(["any"], 2)
    assert claimed == [waiting, task]
    attempt = run(task)
    assert await store.finish(end(task), attempt)
    again = await store.get(task.id)
    assert again is not None
    assert same(again.outputs, task.outputs)
    assert (await store.shelf.get("tensor", "key")) is not None
    await store.close()
    with sqlite3.connect(tmp_path / NAME) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
    connection.close()


def test_values_are_bound_never_written_into_statements() -> None:
    assert queries()
    for name, statement in queries().items():
        assert "'" not in statement.replace("'failed', 'cancelled'", ""), name
