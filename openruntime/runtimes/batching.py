"""Which of the jobs that wait in a worker run together as one call, and how many at a time: decided by what was measured, not foretold.

Jobs are alike that differ in their arrays' values only. Those that wait when the worker is free are joined; it waits for more only where a call
by itself costs much, and others came along just before (docs/decisions/batches-in-the-worker.md).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.payload import Array
from openruntime.contracts.records import Stacking
from openruntime.runtimes.channel import Job, WireArray

LONGEST = 0.005  # seconds a batch may take, or as long as two calls one by one: what comes meanwhile waits for its end
SAMPLES = 5  # the last of each size
ENOUGH = 3  # that many are needed to judge: one may fall into a pause of the machine
AGAIN = 64  # so many choices apart one size is tried that looked worse, for things change
DEAR = 5e-4  # seconds: a call that costs so much by itself is worth a wait for others to join it
WINDOW = 1e-3  # seconds that such a wait takes at most
MARGIN = 1.1  # a batch has to be so much faster than its jobs alone
REMEMBERED = 1024  # kinds of call

Ask = Callable[[str, Mapping[str, Any]], Stacking | None]

log = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode


class Kind:
    """Calls that can be joined: how, and the seconds that one was seen to take among so many (1: alone).

    Up to `most` run as one; with `sizes`, only in these numbers, of which some may be repeats that nobody asked for.
    """

    def __init__(self, stacking: Stacking, most: int, sizes: Sequence[int] = ()) -> None:
        self.stacking = stacking
        self._most = most
        self._sizes = sizes
        self._samples: dict[int, deque[float]] = {}  # by the size, or where every one may be, by its power of two
        self._each: dict[int, float] = {}  # the samples' medians
        self._known: dict[int, tuple[int, float]] = {}  # by the same: the last size, and the seconds of all its calls by that median
        self._turn = 0
        self.patience = 0.0  # seconds worth waiting for others: as long as one call by itself takes, which a batch would save

    def size(self, waiting: int) -> int:
        """In which number they run as one now, given how many wait: what was not tried yet, else what is fastest for each of them."""
        sizes, longest = self._open(waiting), max(LONGEST, 2 * self._each.get(1, 0.0))
        allowed = [*sizes[:2], *[size for size in sizes[2:] if self._whole(size) <= longest]]
        for size in (1, allowed[-1]):
            if self._class(size) not in self._each:
                return size
        self._turn += 1
        if self._turn % AGAIN == 0:
            return allowed[self._turn // AGAIN % len(allowed)]
        tried = [size for size in allowed if self._class(size) in self._each]
        return min(tried, key=lambda size: self._each[self._class(size)] * size / min(size, waiting) * (MARGIN if size > 1 else 1))

    def _open(self, waiting: int) -> list[int]:
        """The numbers that so many could run in, rising: of several that are the same to the measurements, one."""
        waiting = min(waiting, self._most)
        if self._sizes:
            return [1, *[size for size in self._sizes if size <= self._most and size < 2 * waiting]]
        return [*[1 << i for i in range(waiting.bit_length() - 1)], waiting]

    def _class(self, size: int) -> int:
        return size if self._sizes else size.bit_length()

    def record(self, size: int, seconds: float) -> None:
        """`seconds` that each of `size` calls took. The first of a size tells nothing: libraries are imported then, and kernels compiled."""
        place = self._class(size)
        samples = self._samples.get(place)
        if samples is None:
            self._samples[place] = deque(maxlen=SAMPLES)
            return
        samples.append(seconds)
        if len(samples) < ENOUGH:
            return
        self._each[place] = each = sorted(samples)[(len(samples) - 1) // 2]
        self._known[place] = size, size * each
        alone, best = self._each.get(1, 0.0), min(self._each.values())
        self.patience = min(alone, WINDOW) if alone >= max(DEAR, 2 * best) else 0.0

    def _whole(self, size: int) -> float:
        """Seconds that so many together may take: a line through what the two next smaller numbers that were tried have taken."""
        *others, last = [(0, 0.0), *[known for place, known in sorted(self._known.items()) if place <= self._class(size)]]
        before = others[-1] if others else last
        slope = (last[1] - before[1]) / (last[0] - before[0]) if others else 0.0
        return last[1] + max(0.0, slope) * (size - last[0])


class Batching:
    """Joins jobs of one worker: up to `most`, and so that the calls' memory together is at most `nbytes`.

    `ask` and `sizes`: `stacking` and `batches` of the worker's `ComputeBackend`.
    """

    def __init__(self, ask: Ask, sizes: Sequence[int], *, most: int, nbytes: int) -> None:
        self._ask = ask
        self._most = most
        self._sizes = sizes
        self._nbytes = nbytes
        self._kinds: dict[tuple[Any, ...], Kind | None] = {}
        self._latest: Kind | None = None  # of the last batch
        self._company = 0  # so many ran in the last round

    def patience(self, jobs: int) -> float:
        """Seconds to wait for others that may join these: none where as many have come as the last time, so that one that is alone does not wait."""
        return self._latest.patience if self._latest is not None and jobs < self._company else 0.0

    def of(self, jobs: Sequence[Job], alone: frozenset[int] | set[int] = frozenset()) -> Iterator[tuple[list[Job], int, Kind | None]]:
        """The jobs in the order in which they run: the oldest always first, with others alike it, as one call of so many; and the kind that is to
        be told the seconds, where there is one."""
        self._company = len(jobs)
        if len(jobs) == 1 or self._most < 2:
            for job in jobs:
                yield [job], 1, None
            return
        groups: dict[tuple[Any, ...], deque[Job]] = {}
        places: list[tuple[Job, deque[Job] | None, Kind | None]] = []
        for job in jobs:
            found = None if job.id in alone else self._find(job)
            if found is None:
                places.append((job, None, None))
                continue
            group = groups.get(found[0])
            if group is None:
                group = groups[found[0]] = deque()
            group.append(job)
            places.append((job, group, found[1]))
        for job, group, kind in places:
            if group is None or kind is None:
                yield [job], 1, None
            elif group and group[0] is job:  # else it ran with an older one
                size = kind.size(len(group))
                self._latest = kind
                yield [group.popleft() for _ in range(min(size, len(group)))], size, kind

    def _find(self, job: Job) -> tuple[tuple[Any, ...], Kind] | None:
        """The job's kind, and what is equal for those jobs that it can run with."""
        key = (job.operation, _encode(job.scalars), *[(name, wire.dtype, wire.shape) for name, wire in job.arrays.items()])
        try:
            kind = self._kinds[key]
        except KeyError:
            kind = self._learn(job, key)
        if kind is None:
            return None
        arrays = kind.stacking.arrays
        if len(arrays) == len(job.arrays):
            return key, kind
        return (*key, *[_identity(wire) for name, wire in job.arrays.items() if name not in arrays]), kind

    def _learn(self, job: Job, key: tuple[Any, ...]) -> Kind | None:
        if any("." in name for name in job.arrays):  # items of a list
            stacking = None
        else:
            arrays = {name: Array(wire.dtype, wire.shape) for name, wire in job.arrays.items()}
            try:
                stacking = self._ask(job.operation, {**job.scalars, **arrays})
            except Exception as error:  # running it says what is wrong with the job; a rule may be a third party's
                log.debug("%s is not joined: %s", job.operation, error)
                stacking = None
        if len(self._kinds) >= REMEMBERED:
            self._kinds.clear()
        most = 1 if stacking is None else min(self._most, self._nbytes // stacking.memory)
        kind = self._kinds[key] = None if stacking is None or most < 2 else Kind(stacking, most, self._sizes)
        return kind


def _identity(wire: WireArray) -> Any:
    """What is equal for two arrays of one dtype and shape only if their values are."""
    return (wire.slab, wire.offset) if wire.data is None else bytes(wire.data)


def joined(stacking: Stacking, calls: Sequence[Mapping[str, Any]], size: int = 0) -> dict[str, Any]:
    """The parameters of the one call that stands for `calls`, given theirs; the last is repeated where there are fewer than `size`."""
    parameters: dict[str, Any] = {**calls[0], **stacking.values}
    size = max(size, len(calls))
    for name, (first, *rest) in stacking.arrays.items():
        views = [call[name].view for call in calls]
        data = b"".join(views + views[-1:] * (size - len(calls)))
        parameters[name] = Array(calls[0][name].dtype, (size * first, *rest), data)
    return parameters


def parted(stacking: Stacking, outputs: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """The outputs of each of the `count` calls. Raises `ValueError` for other outputs than so many have together."""
    parts: list[dict[str, Array]] = [{} for _ in range(count)]
    for name, spec in stacking.outputs.items():
        whole, nbytes = outputs[name], spec.nbytes
        if whole.dtype != spec.dtype or whole.nbytes != count * nbytes:
            raise ValueError(f"{count} calls have {name!r} of {spec.dtype} and {count * nbytes} bytes, not of {whole.dtype} and {whole.nbytes}")
        view = whole.view
        for i, part in enumerate(parts):
            part[name] = Array(spec.dtype, spec.shape, view[i * nbytes : (i + 1) * nbytes])
    return parts
