"""Which arrays rest in blobs, and the way there and back."""

import asyncio
import ctypes
import mmap
from typing import Any, TypeVar

import msgspec

from openruntime.contracts.errors import Expired
from openruntime.contracts.payload import Array
from openruntime.stores.blobs import CountedBlobs
from openruntime.stores.codec import arrays, exchange

Values = TypeVar("Values", bound="dict[str, Any]")


class Spill:
    """Arrays over `inline` bytes go to `files`; smaller ones stay where they are."""

    def __init__(self, files: CountedBlobs, inline: int) -> None:
        self._files = files
        self._inline = inline

    def needed(self, values: Any) -> bool:
        """Whether an array inside has to be written, or looked after because its blob was written before."""
        kind = type(values)
        if kind is Array:
            return values.blob is not None or values.nbytes > self._inline
        if kind is dict:
            return any(map(self.needed, values.values()))
        return kind in (list, tuple) and any(map(self.needed, values))

    def bulky(self, outputs: dict[str, Array], size: int) -> bool:
        """As `needed`, for a result of `size` bytes: asked for every task, so without a generator."""
        if size > self._inline:
            return self.needed(outputs)
        return any([array.blob for array in outputs.values()])

    async def write(self, values: Values, *, durable: bool, results: bool = False) -> Values:
        """A copy in which each large array names its blob, which is on disk; its bytes stay at hand. Raises `StorageFull`.

        `results`: they hardly come twice, so nothing is hashed."""
        found = [array for array in arrays(values) if array.blob is not None or array.nbytes > self._inline]
        written = await asyncio.gather(*(self._rest(array, durable, results) for array in found))
        swap = {id(array): rested for array, rested in zip(found, written, strict=True)}
        exchanged: Values = exchange(values, lambda array: swap.get(id(array), array))
        return exchanged

    async def _rest(self, array: Array, durable: bool, result: bool) -> Array:
        if array.blob is not None:
            name = await self._files.renew(array.blob, durable=durable)
            if name is not None:
                return array if name == array.blob else msgspec.structs.replace(array, blob=name)
            if array.data is None:
                raise Expired(f"the bytes of blob {array.blob} are gone")
        write = self._files.add if result else self._files.write
        return msgspec.structs.replace(array, blob=await write(array.view, durable=durable))

    def filled(self, values: Values) -> Values:
        """A copy with the bytes of every array at hand; for callers in a thread of their own. Raises `Expired`."""

        def fill(array: Array) -> Array:
            if array.data is not None or array.blob is None:
                return array
            data = self._files.load(array.blob)
            if data.nbytes != array.nbytes:  # a power cut may have eaten what nobody was promised
                raise Expired(f"blob {array.blob} has {data.nbytes} bytes of {array.nbytes}")
            return msgspec.structs.replace(array, data=data)

        filled: Values = exchange(values, fill)
        return filled


def emptied(values: Values) -> Values:
    """A copy in which arrays that rest in blobs hold no memory."""
    emptied: Values = exchange(values, lambda array: array if array.blob is None else msgspec.structs.replace(array, data=None))
    return emptied


def own(outputs: dict[str, Array]) -> dict[str, Array]:
    """A copy of a result in memory of this process alone, so that shared memory serves the next one; for a thread of its own.

    Where the system has huge pages that costs a tenth of fresh shared memory.
    """
    return {name: array if array.data is None or array.view.readonly else _copied(array) for name, array in outputs.items()}


def _copied(array: Array) -> Array:
    source = array.view
    memory = mmap.mmap(-1, source.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    target = memoryview(memory)
    to, start = (ctypes.addressof(ctypes.c_ubyte.from_buffer(view)) for view in (target, source))
    ctypes.memmove(to, start, source.nbytes)  # unlike a slice assignment it lets other threads run meanwhile
    return msgspec.structs.replace(array, data=target.toreadonly())
