"""Leases end with the last view, wherever it went; nothing is reused while somebody can read it."""

import errno
import gc
import mmap
import os
from typing import Any

import pytest

from openruntime.contracts.errors import Unavailable
from openruntime.runtimes.shared_memory import SlabPool, locate


def descriptors() -> int:
    """Those open now, without what earlier tests left to the collector."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


def test_memory_comes_back_with_the_last_view() -> None:
    pool = SlabPool()
    view = pool.allocate(5000)
    part = view[100:200]
    assert (view.nbytes, pool.leased_bytes) == (5000, 8192)
    del view
    assert pool.leased_bytes == 8192
    del part
    gc.collect()
    assert pool.leased_bytes == 0


def test_a_returned_slab_is_used_again_and_a_leased_one_is_not() -> None:
    pool = SlabPool()
    first = pool.allocate(4096)
    slab, _ = locate(first) or pytest.fail("not in a slab")
    second = pool.allocate(4096)
    assert (locate(second) or (None,))[0] is not slab
    number = slab.id
    del first, slab
    third = pool.allocate(4000)
    assert (locate(third) or pytest.fail("not in a slab"))[0].id == number


def test_locate_tells_slab_and_offset() -> None:
    pool = SlabPool()
    view = pool.allocate(10_000)
    slab, offset = locate(view[4096:]) or pytest.fail("not in a slab")
    view[4096] = 77
    assert (offset, slab.map[4096]) == (4096, 77)
    assert locate(memoryview(bytearray(10))) is None


@pytest.mark.parametrize(
    ("nbytes", "taken"),
    [(0, 4096), (4097, 8192), (1 << 20, 1 << 20), ((1 << 20) + 1, 5 << 18), (8 << 20, 8 << 20), ((8 << 20) + 1, 10 << 20), (15 << 20, 16 << 20)],
)
def test_little_is_lost_to_the_size_of_slabs(nbytes: int, taken: int) -> None:
    pool = SlabPool()
    view = pool.allocate(nbytes)
    assert (view.nbytes, pool.leased_bytes) == (nbytes, taken)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="another system asks for memory by other calls")
@pytest.mark.parametrize("call", [(os, "posix_fallocate"), (os, "memfd_create"), (mmap, "mmap")])
def test_a_system_without_memory_is_unavailable_not_broken(monkeypatch: pytest.MonkeyPatch, call: tuple[Any, str]) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pool, before = SlabPool(), descriptors()
    monkeypatch.setattr(*call, full)
    with pytest.raises(Unavailable, match="10485760 bytes"):
        pool.allocate(10 << 20)
    assert (pool.leased_bytes, descriptors()) == (0, before)
    monkeypatch.undo()
    assert pool.allocate(10).nbytes == 10


def test_over_the_limit_is_refused_and_heals() -> None:
    pool = SlabPool(limit=8192)
    view = pool.allocate(8192)
    with pytest.raises(Unavailable, match="8192"):
        pool.allocate(1)
    del view
    assert pool.allocate(1).nbytes == 1


def test_trim_closes_descriptors() -> None:
    pool = SlabPool(keep=0)
    before = descriptors()
    views = [pool.allocate(4096) for _ in range(8)]
    assert descriptors() >= before + 8
    del views
    pool.trim()
    assert descriptors() == before
    assert len(pool.closed_ids) == 8
