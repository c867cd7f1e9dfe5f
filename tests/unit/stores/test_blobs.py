import asyncio
import errno
import mmap
import os
from pathlib import Path

import pytest

from openruntime.contracts.errors import Expired, StorageFull, Unavailable
from openruntime.stores.blobs import FileBlobs


async def test_the_same_bytes_are_written_once(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digests = await asyncio.gather(*(blobs.write(b"x" * 100_000, durable=n % 2 == 0) for n in range(8)))
    assert len(set(digests)) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [digests[0]]


@pytest.mark.parametrize("offset", [0, 64])  # in its page: only the first can go past the page cache
@pytest.mark.parametrize("size", [0, 5, 1 << 20, (1 << 20) + 4097])
async def test_results_have_names_of_their_own(tmp_path: Path, size: int, offset: int) -> None:
    blobs = FileBlobs(tmp_path)
    memory = mmap.mmap(-1, size + 4096)
    memory[offset : offset + size] = data = os.urandom(size)
    names = [await blobs.add(memoryview(memory)[offset : offset + size], durable=durable) for durable in (False, True)]
    assert len(set(names)) == 2
    assert [bytes(await blobs.read(name)) for name in names] == [data, data]


async def test_a_blob_that_a_power_cut_ate_is_written_again(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digest = await blobs.write(b"abc", durable=False)
    for damage, durable in ((b"", False), (b"xyz", True)):
        (tmp_path / digest[:2] / digest).write_bytes(damage)
        assert await blobs.write(b"abc", durable=durable) == digest
        assert bytes(await blobs.read(digest)) == b"abc"


async def test_sweep_drops_what_nobody_counts_after_its_grace(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path, grace=100.0)
    kept, old, new, read = [await blobs.write(bytes([n]) * 10, durable=False) for n in range(4)]
    draft = tmp_path / "draft-1-1"
    draft.write_bytes(b"half")
    for digest in (kept, old, read):
        os.utime(tmp_path / digest[:2] / digest, (0, 0))
    os.utime(draft, (0, 0))
    await blobs.read(read)
    assert await blobs.sweep({kept}) == 2
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {kept, new, read}
    with pytest.raises(Expired):
        await blobs.read(old)


async def test_a_disk_that_cannot_be_read_is_no_defect(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digest = await blobs.write(b"abc", durable=False)
    (tmp_path / digest[:2] / digest).unlink()
    (tmp_path / digest[:2] / digest).mkdir()  # any OSError will do
    with pytest.raises(Unavailable, match="cannot be used"):
        await blobs.read(digest)


async def test_views_survive_the_file(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path, grace=-1.0)
    data = os.urandom(2_000_000)
    view = await blobs.read(await blobs.write(data, durable=True))
    assert await blobs.sweep(()) == 1
    assert view == data


async def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    blobs = FileBlobs(tmp_path)
    with pytest.raises(StorageFull, match="space"):
        await blobs.write(b"abc", durable=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert bytes(await blobs.read(await blobs.write(b"abc", durable=True))) == b"abc"


@pytest.mark.parametrize("when", ["before it is moved", "after it was moved"])
async def test_what_another_process_relies_on_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Two processes share the folder: one writes the same bytes just when the other drops them."""
    here, there = FileBlobs(tmp_path, grace=100.0), FileBlobs(tmp_path, grace=100.0)
    digest = await here.write(b"abc", durable=True)
    os.utime(tmp_path / digest[:2] / digest, (0, 0))
    rename = Path.rename

    def meanwhile(path: Path, target: Path) -> Path:
        monkeypatch.undo()
        if when == "after it was moved":
            moved = rename(path, target)
            here._write(memoryview(b"abc"), False)
            return moved
        here._write(memoryview(b"abc"), False)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", meanwhile)
    await there.sweep(())
    assert bytes(await here.read(digest)) == b"abc"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [digest]
