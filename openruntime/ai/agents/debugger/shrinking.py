"""Makes a failing input smaller while it still fails: axes first, then values.

Source: delta debugging, Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28 (2002), algorithm ddmin.
"""

from array import array as numbers
from collections.abc import Awaitable, Callable, Iterator, Mapping

from openruntime.ai.agents.experiments import sliced
from openruntime.contracts.payload import ITEMSIZE, Array

FEW = 64  # elements whose values are made simple, one by one
FORMATS = {"float32": "f", "float64": "d", "int8": "b", "uint8": "B", "int16": "h", "int32": "i", "int64": "q"}

Arrays = dict[str, Array]
Fails = Callable[[Arrays], Awaitable[bool]]


class Spent(Exception):
    """No more tries."""


class Shrinking:
    """`fails` says whether an input fails in the same way; it is asked `most` times at most."""

    def __init__(self, fails: Fails, most: int) -> None:
        self._fails = fails
        self._most = most
        self.steps = 0
        self.failing = 0

    async def _try(self, arrays: Arrays) -> bool:
        if self.steps >= self._most:
            raise Spent
        self.steps += 1
        found = await self._fails(arrays)
        self.failing += found
        return found

    async def shrink(self, arrays: Mapping[str, Array]) -> Arrays:
        """The smallest that was found."""
        self.best = dict(arrays)
        try:
            await self._axes()
            await self._values()
        except Spent:
            pass
        return self.best

    async def _axes(self) -> None:
        """Axes of the same length are cut together first, for they often have to agree; then each alone; until nothing more goes."""
        shorter = True
        while shorter:
            shorter = False
            for group in self._groups():
                shorter |= await self._cut(group)

    def _groups(self) -> Iterator[tuple[tuple[str, int], ...]]:
        lengths: dict[int, list[tuple[str, int]]] = {}
        for name, array in self.best.items():
            for axis, length in enumerate(array.shape):
                if length > 1:
                    lengths.setdefault(length, []).append((name, axis))
        for _, group in sorted(lengths.items(), reverse=True):
            yield tuple(group)
            if len(group) > 1:
                yield from ((place,) for place in group)

    async def _cut(self, group: tuple[tuple[str, int], ...]) -> bool:
        """One axis, or several alike: drop halves, then quarters and so on, while what is left fails. Whether it became shorter."""
        name, axis = group[0]
        if len({self.best[n].shape[a] for n, a in group}) > 1:
            return False
        began = self.best[name].shape[axis]
        parts = 2
        while (length := self.best[name].shape[axis]) > 1 and parts <= length:
            size = -(-length // parts)
            pieces = [(start, min(start + size, length)) for start in range(0, length, size)]
            for start, stop in pieces if parts == 2 else ():
                if await self._kept(group, [(start, stop)]):
                    break
            else:
                for start, stop in pieces:
                    if await self._kept(group, [(0, start), (stop, length)]):
                        parts = max(parts - 1, 2)
                        break
                else:
                    parts *= 2
        return self.best[name].shape[axis] < began

    async def _kept(self, group: tuple[tuple[str, int], ...], ranges: list[tuple[int, int]]) -> bool:
        """Whether it still fails with only these ranges of the axes; if so that is the best."""
        tried = dict(self.best)
        for name, axis in group:
            tried[name] = _joined(tried[name], axis, ranges)
        if any(not array.size for array in tried.values()) and all(array.size for array in self.best.values()):
            return False
        if await self._try(tried):
            self.best = tried
            return True
        return False

    async def _values(self) -> None:
        """Elements as 0, else 1, else rounded, where it fails all the same."""
        for name in list(self.best):
            array = self.best[name]
            if array.dtype not in FORMATS or array.size > FEW:
                continue
            for place in range(array.size):
                for simple in (lambda _: 0, lambda _: 1, round):
                    values = numbers(FORMATS[array.dtype], bytes(self.best[name].view))
                    try:
                        other = simple(values[place])
                    except (ValueError, OverflowError):  # NaN and infinities have no whole number
                        continue
                    if values[place] == other:
                        break
                    values[place] = other
                    tried = {**self.best, name: Array(array.dtype, array.shape, values.tobytes())}
                    if await self._try(tried):
                        self.best = tried
                        break


def _joined(array: Array, axis: int, ranges: list[tuple[int, int]]) -> Array:
    kept = [sliced(array, axis, start, stop) for start, stop in ranges if stop > start]
    if len(kept) == 1:
        return kept[0]
    outer = 1
    for length in array.shape[:axis]:
        outer *= length
    size = sum(part.shape[axis] for part in kept)
    rows = [len(part.view) // outer if outer else 0 for part in kept]
    data = b"".join(part.view[o * row : (o + 1) * row] for o in range(outer) for part, row in zip(kept, rows, strict=True))
    shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
    assert len(data) == ITEMSIZE[array.dtype] * Array(array.dtype, shape).size
    return Array(array.dtype, shape, data)
