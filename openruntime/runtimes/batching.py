"""Which of the jobs that wait in a worker run together as one call, and how many at a time: decided by what was measured, not foretold.

Jobs are alike that differ in their arrays' values only. Those that wait when the worker is free are joined; it never waits for more
(docs/decisions/batches-in-the-worker.md).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.payload import Array
from openruntime.contracts.records import Stacking
from openruntime.runtimes.channel import Job, WireArray

LONGEST = 0.005  # seconds a batch may take: what comes meanwhile waits for its end
SAMPLES = 5  # the last of each size
AGAIN = 64  # so many choices apart one size is tried that looked worse, for things change
MARGIN = 1.1  # a batch has to be so much faster than its jobs alone
REMEMBERED = 1024  # kinds of call

Ask = Callable[[str, Mapping[str, Any]], Stacking | None]

log = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode


class Kind:
    """Calls that can be joined: how, and the seconds that one was seen to take where so many ran as one (1: alone)."""

    def __init__(self, stacking: Stacking, sizes: Sequence[int]) -> None:
        self.stacking = stacking
        self._sizes = (1, *sizes)
        self._samples: dict[int, deque[float]] = {}
        self._each: dict[int, float] = {}  # the samples' medians
        self._turn = 0

    def size(self, waiting: int) -> int:
        """How many of so many that wait run as one now: what was not tried yet, else what was fastest."""
        allowed = [size for size in self._sizes if size <= waiting and self._whole(size) <= LONGEST]
        most = allowed[-1] if allowed else 1
        for size in (1, most):
            if size not in self._each:
                return size
        self._turn += 1
        if self._turn % AGAIN == 0:
            return allowed[self._turn // AGAIN % len(allowed)] if allowed else 1
        return min(self._each.keys() & set(allowed), key=lambda size: self._each[size] * (MARGIN if size > 1 else 1), default=1)

    def record(self, size: int, seconds: float) -> None:
        """`seconds` that each of `size` jobs took. The first of a size tells nothing: libraries are imported then, and kernels compiled."""
        samples = self._samples.get(size)
        if samples is None:
            self._samples[size] = deque(maxlen=SAMPLES)
            return
        samples.append(seconds)
        self._each[size] = sorted(samples)[len(samples) // 2]

    def _whole(self, size: int) -> float:
        """Seconds that so many together take at most, as far as is known: not longer than as many of the next smaller size."""
        known = max((tried for tried in self._each if tried <= size), default=0)
        return size * self._each[known] if known else 0.0


class Batching:
    """Joins jobs of one worker: up to `most`, and so that the calls' memory together is at most `nbytes`. `ask`: `ComputeBackend.stacking`."""

    def __init__(self, ask: Ask, sizes: Sequence[int], *, most: int, nbytes: int) -> None:
        self._ask = ask
        self._sizes = [size for size in sizes if size <= most]
        self._nbytes = nbytes
        self._kinds: dict[tuple[Any, ...], Kind | None] = {}

    def of(self, jobs: Sequence[Job], alone: frozenset[int] | set[int] = frozenset()) -> Iterator[tuple[list[Job], Kind | None]]:
        """The jobs in the order in which they run: the oldest always first, with others alike it. The kind, where it is to be told the seconds."""
        if len(jobs) == 1 or not self._sizes:
            for job in jobs:
                yield [job], None
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
                yield [job], None
            elif group and group[0] is job:  # else it ran with an older one
                yield [group.popleft() for _ in range(kind.size(len(group)))], kind

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
        sizes = [] if stacking is None else [size for size in self._sizes if size * stacking.memory <= self._nbytes]
        if len(self._kinds) >= REMEMBERED:
            self._kinds.clear()
        kind = self._kinds[key] = Kind(stacking, sizes) if stacking is not None and sizes else None
        return kind


def _identity(wire: WireArray) -> Any:
    """What is equal for two arrays of one dtype and shape only if their values are."""
    return (wire.slab, wire.offset) if wire.data is None else bytes(wire.data)


def joined(stacking: Stacking, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of the one call that stands for `calls`, given theirs."""
    parameters: dict[str, Any] = {**calls[0], **stacking.values}
    for name, (first, *rest) in stacking.arrays.items():
        data = b"".join([call[name].view for call in calls])
        parameters[name] = Array(calls[0][name].dtype, (len(calls) * first, *rest), data)
    return parameters


def parted(stacking: Stacking, outputs: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """The outputs of each of the `count` calls. Raises `ValueError` for other outputs than they have together."""
    parts: list[dict[str, Array]] = [{} for _ in range(count)]
    for name, spec in stacking.outputs.items():
        whole, nbytes = outputs[name], spec.nbytes
        if whole.dtype != spec.dtype or whole.nbytes != count * nbytes:
            raise ValueError(f"{count} calls have {name!r} of {spec.dtype} and {count * nbytes} bytes, not of {whole.dtype} and {whole.nbytes}")
        view = whole.view
        for i, part in enumerate(parts):
            part[name] = Array(spec.dtype, spec.shape, view[i * nbytes : (i + 1) * nbytes])
    return parts
