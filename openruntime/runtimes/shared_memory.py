"""Anonymous shared memory for large arrays: slabs of a few sizes, owned by the gateway, passed to workers by descriptor.

A slab is leased as a `memoryview`. The lease ends when the last view on it is dropped, wherever it went (an `Array`, a
transport's write buffer), so no slab is reused while somebody can still read it. Nothing is left behind after kill -9.
"""

import ctypes
import mmap
import os
import sys
from collections import defaultdict

from openruntime.contracts.errors import Unavailable

PAGE = 4096
_COARSE = 1 << 20  # bytes up to which slabs are powers of two
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("openruntime", os.MFD_CLOEXEC)
    else:  # macOS: a named segment, unlinked before anybody else can see it
        import _posixshmem  # type: ignore[import-not-found,unused-ignore]

        name = f"/or-{os.getpid()}-{os.urandom(6).hex()}"
        fd = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
        _posixshmem.shm_unlink(name)
    try:
        if hasattr(os, "posix_fallocate"):  # all pages at once cost half of what touching each does, and none is missing later
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _size(nbytes: int) -> int:
    """The smallest size of slab that holds `nbytes`: a power of two, from 1 MiB on in quarters between two of them."""
    size = max(PAGE, 1 << max(0, nbytes - 1).bit_length())
    step = size // 8 if size > _COARSE else size
    return max(1, -(-nbytes // step)) * step


class Slab:
    """One mapped segment. `id` is never used twice in a process. Raises `Unavailable` where the system has no memory or descriptor for it."""

    __slots__ = ("fd", "id", "map", "size")

    def __init__(self, slab_id: int, size: int) -> None:
        self.id = slab_id
        self.size = size
        try:
            self.fd = _anonymous_file(size)
            try:
                self.map = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED | _POPULATE)
            except OSError:
                os.close(self.fd)
                raise
        except OSError as error:
            raise Unavailable(f"the system has no {size} bytes of shared memory free now: {error.strerror}", retry_after=1) from error

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class SlabPool:
    """Leases slabs. Up to `keep` bytes of idle slabs stay mapped for reuse; more than `limit` bytes is refused."""

    def __init__(self, *, keep: int = 256 << 20, limit: int | None = None) -> None:
        self._keep = keep
        self.limit = limit if limit is not None else sys.maxsize
        self._idle: dict[int, list[Slab]] = defaultdict(list)
        self._idle_bytes = 0
        self._leased_bytes = 0
        self._next = 0
        self._types: dict[int, type[ctypes.Array[ctypes.c_ubyte]]] = {}
        self.closed_ids: list[int] = []  # for workers to unmap; they are few, so the list is kept whole

    @property
    def leased_bytes(self) -> int:
        return self._leased_bytes

    def allocate(self, nbytes: int) -> memoryview:
        """`nbytes` of writable shared memory, its content undefined. Raises `Unavailable` over the limit, the system's or ours."""
        size = _size(nbytes)
        if self._leased_bytes + size > self.limit:
            raise Unavailable(f"{nbytes} bytes of shared memory are not free now: {self._leased_bytes} of {self.limit} are in use", retry_after=1)
        idle = self._idle[size]
        if idle:
            slab = idle.pop()
            self._idle_bytes -= size
        else:
            self._next += 1
            slab = Slab(self._next, size)
        self._leased_bytes += size
        lease = self._lease_type(size).from_buffer(slab.map)
        lease.slab = slab  # type: ignore[attr-defined]
        return memoryview(lease).cast("B")[:nbytes]

    def _lease_type(self, size: int) -> type[ctypes.Array[ctypes.c_ubyte]]:
        found = self._types.get(size)
        if found is None:
            pool = self

            def __del__(lease: object) -> None:
                pool._return(lease.slab)  # type: ignore[attr-defined]

            found = type(f"Lease{size}", (ctypes.c_ubyte * size,), {"__del__": __del__})
            self._types[size] = found
        return found

    def _return(self, slab: Slab) -> None:
        self._leased_bytes -= slab.size
        self._idle[slab.size].append(slab)
        self._idle_bytes += slab.size

    def trim(self, keep: int | None = None) -> None:
        """Close idle slabs until `keep` bytes remain. Called between requests: a mapping cannot close inside its lease's end."""
        bound = self._keep if keep is None else keep
        for idle in self._idle.values():
            while idle and self._idle_bytes > bound:
                slab = idle.pop()
                self._idle_bytes -= slab.size
                self.closed_ids.append(slab.id)
                slab.close()

    def close(self) -> None:
        self.trim(0)


def locate(view: memoryview) -> tuple[Slab, int] | None:
    """The slab a view lies in and its offset there; None for memory of any other kind."""
    slab = getattr(view.obj, "slab", None)
    if not isinstance(slab, Slab) or view.nbytes == 0:
        return None
    return slab, ctypes.addressof(ctypes.c_ubyte.from_buffer(view)) - ctypes.addressof(view.obj)  # type: ignore[arg-type]
