"""Memory that a stray kernel cannot leave unnoticed: known bytes around each array, and beyond them pages that nobody may touch."""

import ctypes
import mmap
from typing import Any

GUARD = 512  # bytes before and after an array at least: what drivers want a part of a buffer aligned to
ALIGNMENT = 256  # bytes: the widest vector of any language, and more
FENCES = (1 << 34, 1 << 28, 1 << 22)  # bytes of address space: any 32-bit index of an 8-byte element ends in the first
FILL = 0xA5
_FAILED = ctypes.c_void_p(-1).value
_PAGE = mmap.PAGESIZE
_LARGE = 1 << 23  # bytes

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Fenced:
    """`nbytes` zeros. `array`: they alone; `view`: with `guard` bytes on either side. `close` it: its views must not be used after. `shift`:
    bytes, a multiple of the alignment, by which it lies further from the fence behind it than it could; None: next to the fence before it.

    Going further out than the guards is a segmentation fault, which ends the process and nothing else. Raises `MemoryError`.
    """

    def __init__(self, nbytes: int, fill: int = FILL, guard: int = GUARD, shift: int | None = 0) -> None:
        room = -(-nbytes // ALIGNMENT) * ALIGNMENT
        pages = -(-(room + (shift or 0) + 2 * guard) // _PAGE) * _PAGE
        for fence in FENCES:
            self._size = fence + pages + fence
            self._base = _libc.mmap(None, self._size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
            if self._base != _FAILED:
                break
        else:
            raise MemoryError(f"no address space for {nbytes} bytes")
        inside = self._base + fence
        if _libc.mprotect(inside, pages, mmap.PROT_READ | mmap.PROT_WRITE):
            self.close()
            raise MemoryError(f"no memory for {nbytes} bytes")
        if pages >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
            _libc.madvise(inside, pages, mmap.MADV_HUGEPAGE)  # a fault for 2 MiB rather than for 4 KiB
        # as near to the fence behind as alignment lets it be: most strays go there
        start = guard if shift is None else pages - guard - room - shift
        whole = memoryview((ctypes.c_ubyte * pages).from_address(inside)).cast("B")
        self._before, self.array, self._after = whole[:start], whole[start : start + nbytes], whole[start + nbytes :]
        self.view = whole[start - guard : start + nbytes + guard]
        self._fill = bytes([fill])
        for part in (self._before, self._after):
            part[:] = self._fill * part.nbytes

    def breach(self) -> str | None:
        """Where bytes around the array are no longer what they were, for a person; None where all are."""
        for part, where in ((self._before, "before its beginning"), (self._after, "past its end")):
            if bytes(part) != self._fill * part.nbytes:
                return where
        return None

    def close(self) -> None:
        if self._base is not None:
            _libc.munmap(self._base, self._size)
            self._base = None
