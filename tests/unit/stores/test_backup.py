"""Copies are whole, verified, of one moment, and overwrite nothing."""

import asyncio
import os
import resource
import shutil
import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest

from openruntime.contracts.errors import InvalidRequest, StorageFull, Unavailable
from openruntime.contracts.records import Task
from openruntime.stores.backup import Copied, backup, restore
from openruntime.stores.database import NAME, migrations
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run, same

RELEASED = Path(__file__).parent / "released"
FOREVER = {"result_ttl": 1e12, "history_age": 1e12}


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"}


async def filled(directory: Path, **bounds: float) -> tuple[SqliteStore, Task, list[Task]]:
    """An open store with a task that waits for large inputs, one that ended with its result in a blob, and four whose results share a file."""
    store = SqliteStore(directory, inline_bytes=1000, **bounds)
    await store.open()
    waiting, ended = new_task(parameters={"x": new_array(5000)}, lane="far"), [new_task(rank=float(number)) for number in range(5)]
    await store.submit([waiting, *ended], promised=True)
    for number, task in enumerate(ended):
        assert await store.claim(["any"], 1) == [task]
        attempt = run(task)
        await store.finish(end(task, size=900 if number else 2000), attempt)
    await asyncio.gather(*map(store.keep, ended))
    return store, waiting, ended


async def test_a_backup_is_a_data_directory_with_everything_in_it(tmp_path: Path) -> None:
    original, waiting, ended = await filled(tmp_path / "data")
    (tmp_path / "data/blobs/ab").mkdir(exist_ok=True)
    (tmp_path / "data/blobs/ab/abc").write_bytes(b"counted by nobody")
    copied = await asyncio.to_thread(backup, tmp_path / "data", tmp_path / "backup")
    assert copied == Copied(1, 5, 3, sum(map(len, files(tmp_path / "backup").values())), ())
    assert oct((tmp_path / "backup").stat().st_mode)[-3:] == "700"
    assert oct((tmp_path / "backup" / NAME).stat().st_mode)[-3:] == "600"
    assert restore(tmp_path / "backup", tmp_path / "restored") == copied
    assert files(tmp_path / "restored").keys() == files(tmp_path / "backup").keys()
    store = SqliteStore(tmp_path / "restored", inline_bytes=1000)
    (again,) = await store.open()
    assert again.id == waiting.id
    digest = waiting.call.parameters["x"].blob
    assert sha256((await store.load(again))["x"].view).hexdigest() == digest
    for task in ended:
        found = await store.get(task.id)
        assert found is not None
        assert same(found.outputs, (await original.get(task.id)).outputs)
    await store.close()
    await original.close()


async def test_history_dropped_meanwhile_means_a_newer_moment(tmp_path: Path) -> None:
    """After the database was copied, the server drops the tasks whose files are still to be taken."""
    store, _, ended = await filled(tmp_path / "data", history_age=0.05, blob_grace=-1.0)
    loop, dropped = asyncio.get_running_loop(), 0

    def meanwhile(done: float) -> None:
        nonlocal dropped
        if done == 0.5 and not dropped:
            dropped = asyncio.run_coroutine_threadsafe(store.prune(ended[0].created + 60), loop).result(10)

    copied = await asyncio.to_thread(backup, tmp_path / "data", tmp_path / "backup", meanwhile)
    await store.close()
    assert dropped == 5
    assert copied == Copied(1, 0, 1, sum(map(len, files(tmp_path / "backup").values())), ())


@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
async def test_files_that_the_data_directory_lacks_are_named(tmp_path: Path, damage: str) -> None:
    store, *_ = await filled(tmp_path / "data")
    await store.close()
    backup(tmp_path / "data", tmp_path / "whole")
    found = sorted(files(tmp_path / "whole").keys() - {NAME})
    broken = [name for name in found if len(Path(name).name) != 32 or damage != "changed"]  # a result's name does not say what is inside
    assert len(found) == 3
    for name in broken:
        path = tmp_path / "data" / name
        content = path.read_bytes()
        path.unlink() if damage == "gone" else path.write_bytes(content[:-1] if damage == "short" else bytes(1) + content[1:])
    copied = backup(tmp_path / "data", tmp_path / "backup")
    assert copied.missing == tuple(broken)
    assert files(tmp_path / "backup").keys() == {NAME, *found} - {*broken}


@pytest.mark.parametrize("released", sorted(RELEASED.glob("*.db")), ids=lambda path: path.stem)
async def test_every_released_schema_is_copied_as_it_is(tmp_path: Path, released: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(released, tmp_path / "data" / NAME)
    copied = restore(tmp_path / "data", tmp_path / "restored")
    assert (copied.waiting, copied.ended) == (1, 2)
    assert (tmp_path / "data" / NAME).read_bytes() == released.read_bytes()
    connection = sqlite3.connect(tmp_path / "restored" / NAME)
    assert connection.execute("PRAGMA user_version").fetchone() == (int(released.stem),)
    connection.close()
    store = SqliteStore(tmp_path / "restored", **FOREVER)
    assert len(await store.open()) == 1
    await store.close()


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store, *_ = await filled(tmp_path / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "full", tmp_path / "full/file", tmp_path / "data"):
        with pytest.raises(InvalidRequest, match=r"nothing is overwritten|data directory itself"):
            backup(tmp_path / "data", target)
    with pytest.raises(InvalidRequest, match="data directory itself"):
        backup(tmp_path / "data", tmp_path / "data/backup")
    with pytest.raises(InvalidRequest, match="neither a data directory nor a backup"):
        backup(tmp_path / "empty", tmp_path / "backup")
    with pytest.raises(Unavailable, match="a server runs on"):
        restore(tmp_path / "data", tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "empty")
    await store.close()
    assert files(tmp_path / "full") == {"file": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "full"]


async def test_what_comes_in_between_is_not_overwritten(tmp_path: Path) -> None:
    """As when a server is started on the directory while it is restored."""
    store, *_ = await filled(tmp_path / "data")
    await store.close()
    with pytest.raises(InvalidRequest, match="meanwhile"):
        restore(tmp_path / "data", tmp_path / "restored", lambda _: (tmp_path / "restored" / NAME).write_bytes(b"new") and None)
    assert files(tmp_path / "restored") == {NAME: b"new"}


@pytest.mark.parametrize("harm", ["damaged", "newer", "another program"])
async def test_what_cannot_be_relied_on_is_not_copied(tmp_path: Path, harm: str) -> None:
    store, *_ = await filled(tmp_path / "data")
    await store.close()
    path = tmp_path / "data" / NAME
    if harm == "damaged":
        with path.open("r+b") as file:
            file.seek(2 * 16384)
            file.write(b"\xff" * 5 * 16384)
    else:
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA {'user_version' if harm == 'newer' else 'application_id'} = {len(migrations()) + 1}")
        connection.close()
    with pytest.raises(Unavailable, match=harm):
        restore(tmp_path / "data", tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


async def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    store, *_ = await filled(tmp_path / "data")
    await store.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(StorageFull, match="no space left"):
            backup(tmp_path / "data", tmp_path / "backup")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["data"]
