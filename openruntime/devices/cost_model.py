"""How long a call will take on a device through a backend: learned from finished tasks, sensible before the first.

Seconds throughout. What a call costs is told apart: starting a worker, copying to and from the device's own memory, the first call of a
kind (compiling, loading), and the call itself, which this page is mostly about.

A cell holds the last samples of one (operation, dtype, power of two of work, device, backend); work is the estimate's FLOPs plus bytes
moved, or the number of elements where nothing is estimated. A cell's lower median (robust to pauses, which only ever add) is pulled towards a prior:
what the shipped profile says, times by how much this driver's calls differ from the profile; where that says nothing a per-driver fit,
`overhead + factor * max(flops / rate, bytes / bandwidth)`: the roofline of Williams, Waterman and Patterson, "Roofline: an insightful visual
performance model", CACM 52(4), 2009, plus a fixed price a call. A cell without samples takes the nearest one of the operation, scaled by
the ratio of their priors. All blending is done on logarithms, because the errors of such predictions are ratios. Which of the forms that
were tried does best: design, "Placement, tried".
"""

from collections import deque
from collections.abc import Iterable
from math import exp, frexp, isfinite, log
from statistics import median
from typing import Any

import msgspec

from openruntime.contracts.payload import ITEMSIZE
from openruntime.contracts.records import Call, Estimate
from openruntime.devices.profile import Document, Profile

SAMPLES = 15  # the last of each cell
FIT_SAMPLES = 64  # the last of each driver
REFRESH = 8  # a full cell's prediction is worked out anew after so many samples
SETTLED = 5  # samples after which a cell's middle is taken at its word
ENOUGH = 3  # samples that tell what cannot be
PRIOR = 0.5  # samples that the prior counts for
OTHER_DTYPE = 2.0  # distance, in powers of two, to the same operation on another dtype
OVERHEAD = 1e-4  # seconds a call, until measured
RATE = 1e10  # FLOP/s, until measured: one modest core
BANDWIDTH = 4e9  # bytes/s, until measured
START = 1.0  # seconds until a worker is up, until one has been seen to
SMALL = 1 << 20  # bytes: a smaller transfer tells what each costs, a larger one what a byte costs
LONGEST = 1e9  # seconds; an estimate that overflowed must not spoil the others
SHORTEST = 1e-7  # seconds; below the clock's resolution

Key = tuple[str, str, int]  # operation, dtype, power of two
Driver = tuple[str, str]  # device, backend
Place = tuple[str, str, str]  # operation, device, backend


class Cell(msgspec.Struct):
    """What was seen of one key: an estimate that stands for its size, the last seconds, and how many there were."""

    flops: float
    bytes: float
    samples: deque[float]
    count: int = 0


class Fit(msgspec.Struct):
    """What was seen of one driver.

    Seconds of calls too small to compute much, by how much the others missed the roofline, by how much all missed the profile; seconds of
    small transfers, and a byte of large ones; seconds that its workers took to start, and by which first calls took longer,
    also in times of what the profile says: a cache of compiled code makes that small.
    """

    overheads: deque[float]
    factors: deque[float]
    scales: deque[float]
    latencies: deque[float]
    paces: deque[float]
    starts: deque[float]
    firsts: deque[float]
    savings: deque[float]

    @classmethod
    def of(cls, figures: list[list[float]]) -> "Fit":
        return cls(*(deque(values, maxlen=FIT_SAMPLES) for values in figures))

    @classmethod
    def new(cls) -> "Fit":
        return cls.of([[]] * len(cls.__struct_fields__))

    def figures(self) -> list[list[float]]:
        return [list(values) for values in msgspec.structs.astuple(self)]

    def seconds(self, flops: float, moved: float) -> float:
        overhead = median(self.overheads) if self.overheads else OVERHEAD
        factor = median(self.factors) if self.factors else 1.0
        return overhead + factor * _roofline(flops, moved)


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """The plain form of a model that `dump` writes and `load` checks."""

    version: int
    cells: list[tuple[Key, Driver, float, float, list[float]]]
    fits: list[tuple[Driver, list[list[float]]]]
    firsts: list[tuple[Place, list[float]]]
    compilers: list[Driver]


class CostModel:
    """Predicts seconds of a call from the calls before it."""

    def __init__(self, profile: Profile | None = None) -> None:
        self._profile = profile or Profile(Document())
        self._cells: dict[Place, dict[tuple[str, int], Cell]] = {}  # -> (dtype, power)
        self._fits: dict[Driver, Fit] = {}
        self._firsts: dict[Place, deque[float]] = {}
        self._compilers: set[Driver] = set()
        self._known: dict[tuple[str, str, int, str, str], float] = {}  # predictions of cells with samples
        self._guessed: dict[Driver, dict[Key, float]] = {}  # and of those without
        self._moving: dict[Driver, tuple[float, float]] = {}  # seconds a transfer, and a byte

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def predict(self, call: Call, device: str, backend: str) -> float:
        """Seconds from start to end of `call` on a warm worker that knows it. Does not change with time, only with `record`."""
        estimate = call.estimate
        operation, dtype, power = call.operation, call.dtype, frexp(estimate.flops + estimate.bytes or call.elements)[1]
        seconds = self._known.get((operation, dtype, power, device, backend))
        if seconds is None:
            guessed = self._guessed.get((device, backend))
            seconds = guessed.get((operation, dtype, power)) if guessed is not None else None
            if seconds is None:
                seconds = self._work_out(call, power, device, backend)
        return seconds + self.transfer(call, device, backend) if self._moving else seconds

    def transfer(self, call: Call, device: str, backend: str) -> float:
        """Seconds of it that copies to and from the device's own memory take; 0 where none were seen."""
        moving = self._moving.get((device, backend))
        return moving[0] + moving[1] * call.elements * ITEMSIZE.get(call.dtype, 8) if moving is not None else 0.0

    def first(self, operation: str, device: str, backend: str) -> float:
        """Seconds that the first call takes longer than later ones: of a shape where the backend `compiles`, else of a worker."""
        firsts = self._firsts.get((operation, device, backend))
        if firsts:
            return median(firsts)
        profiled, fit = self._profile.first(operation, device, backend), self._fits.get((device, backend))
        if profiled is not None:
            return profiled * (median(fit.savings) if fit is not None and fit.savings else 1.0)
        return median(fit.firsts) if fit is not None and fit.firsts else 0.0

    def compiles(self, device: str, backend: str) -> bool:
        """Whether a call there was seen to compile."""
        return (device, backend) in self._compilers

    def start(self, device: str, backend: str) -> float:
        """Seconds until a worker is up."""
        fit = self._fits.get((device, backend))
        if fit is not None and fit.starts:
            return median(fit.starts)
        return self._profile.start(device, backend) or START

    def samples(self, call: Call, device: str, backend: str) -> int:
        """How many calls of this kind and size have ended there."""
        cell = self._cells.get((call.operation, device, backend), {}).get((call.dtype, _power(call)))
        return cell.count if cell is not None else 0

    def knows(self, operation: str, device: str, backend: str) -> bool:
        """Whether the operation was measured there, beyond the first call of each worker, or elsewhere on such a device."""
        return (operation, device, backend) in self._cells or self._profile.seconds(operation, "", 1.0, device, backend) is not None

    def fastest(self, call: Call, device: str, backend: str) -> float:
        """The least seconds that any of the last calls of this kind and size took there; 0 where too few were seen to say."""
        cell = self._cells.get((call.operation, device, backend), {}).get((call.dtype, _power(call)))
        return min(cell.samples) if cell is not None and len(cell.samples) >= ENOUGH else 0.0

    def hope(self, call: Call, device: str, backend: str) -> float:
        """Seconds that it may yet turn out to take there: the least that a few first calls took; 0 where enough were seen, or none."""
        cell = self._cells.get((call.operation, device, backend), {}).get((call.dtype, _power(call)))
        return min(cell.samples) if cell is not None and cell.count < SETTLED else 0.0

    # -- learning -------------------------------------------------------------------------------------------------------------

    def record(
        self, call: Call, device: str, backend: str, seconds: float, *, transfer: float = 0.0, compile: float = 0.0, first: bool = False,
        alone: bool = True,
    ) -> None:  # fmt: skip
        """Learn from a finished call: `seconds` in all, of them `transfer` and `compile`. Raises `ValueError`.

        `first`: of its kind on this worker. `alone`: nothing else used the device; what was slowed down counts only where little is known.
        """
        if not (isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a call takes a finite time of 0 s or more, not {seconds}")
        driver = (device, backend)
        if transfer:
            self._learn_transfer(driver, call.elements * ITEMSIZE.get(call.dtype, 8), transfer)
        if compile:
            self._compilers.add(driver)
        seconds = max(seconds - transfer - compile, SHORTEST)
        if first or compile:
            usual = self.predict(call, device, backend) - self.transfer(call, device, backend)
            extra = max(compile + max(0.0, seconds - usual if first else 0.0), SHORTEST)
            self._firsts.setdefault((call.operation, device, backend), deque(maxlen=SAMPLES)).append(extra)
            self._fit(driver).firsts.append(extra)
            profiled = self._profile.first(call.operation, device, backend)
            if profiled:
                self._fit(driver).savings.append(extra / profiled)
            if first:
                return
        power = _power(call)
        cells = self._cells.setdefault((call.operation, device, backend), {})
        cell = cells.get((call.dtype, power))
        if cell is None:
            cell = cells[call.dtype, power] = Cell(call.estimate.flops, call.estimate.bytes, deque(maxlen=SAMPLES))
        elif not alone and cell.count >= ENOUGH:
            return
        cell.samples.append(seconds)
        cell.count += 1
        if cell.count <= SAMPLES or cell.count % REFRESH == 0:
            self._learn_fit(driver, call, seconds)
            self._known.pop((call.operation, call.dtype, power, device, backend), None)
            self._guessed.pop(driver, None)

    def started(self, device: str, backend: str, seconds: float) -> None:
        """A worker was up after so many seconds."""
        self._fit((device, backend)).starts.append(max(seconds, SHORTEST))

    def _fit(self, driver: Driver) -> Fit:
        fit = self._fits.get(driver)
        if fit is None:
            fit = self._fits[driver] = Fit.new()
        return fit

    def _learn_fit(self, driver: Driver, call: Call, seconds: float) -> None:
        fit, estimate = self._fit(driver), call.estimate
        ideal = _roofline(estimate.flops, estimate.bytes)
        overhead = median(fit.overheads) if fit.overheads else OVERHEAD
        if ideal < overhead / 4:
            fit.overheads.append(seconds)
        else:
            fit.factors.append(max(seconds - overhead, seconds / 10) / ideal)
        profiled = self._profile.seconds(call.operation, call.dtype, _work(estimate, call.elements), *driver)
        if profiled is not None:
            fit.scales.append(seconds / profiled)

    def _learn_transfer(self, driver: Driver, moved: int, seconds: float) -> None:
        fit = self._fit(driver)
        if moved < SMALL:
            fit.latencies.append(seconds)
        else:
            fit.paces.append(seconds / moved)
        self._sum_up_transfers(driver, fit)

    def _sum_up_transfers(self, driver: Driver, fit: Fit) -> None:
        if fit.latencies or fit.paces:
            self._moving[driver] = (median(fit.latencies) if fit.latencies else 0.0, median(fit.paces) if fit.paces else 0.0)

    def _prior(self, operation: str, dtype: str, work: float, estimate: Estimate, fit: Fit, driver: Driver) -> float:
        """Without a sample of such a call: the profile, scaled, or the fit."""
        profiled = self._profile.seconds(operation, dtype, work, *driver)
        if profiled is None:
            return fit.seconds(estimate.flops, estimate.bytes)
        return profiled * (median(fit.scales) if fit.scales else 1.0)

    def _work_out(self, call: Call, power: int, device: str, backend: str) -> float:
        operation, dtype, estimate, driver = call.operation, call.dtype, call.estimate, (device, backend)
        fit = self._fits.get(driver) or Fit.new()
        cells = self._cells.get((operation, device, backend))
        if not cells:
            prior = self._prior(operation, dtype, _work(estimate, call.elements), estimate, fit, driver)
            self._guessed.setdefault(driver, {})[operation, dtype, power] = prior
            return prior

        def distance(other: tuple[str, int]) -> float:
            return abs(other[1] - power) + OTHER_DTYPE * (other[0] != dtype)

        nearest = min(cells, key=lambda other: (distance(other), other))
        cell, away = cells[nearest], distance(nearest)
        stands = Estimate(cell.flops, cell.bytes)
        there = self._prior(operation, nearest[0], _work(stands, 2.0 ** nearest[1]), stands, fit, driver)  # of the cell, whoever of its size asks
        prior = self._prior(operation, dtype, _work(estimate, call.elements), estimate, fit, driver) if away else there
        weight = len(cell.samples) / (len(cell.samples) + PRIOR + away)
        seconds = exp(weight * log(_middle(cell.samples) * prior / there) + (1 - weight) * log(prior))
        if away:
            self._guessed.setdefault(driver, {})[operation, dtype, power] = seconds
        else:
            self._known[operation, dtype, power, device, backend] = seconds
        return seconds

    # -- keeping --------------------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """All that was learned, as plain values for `load`."""
        return {
            "version": 2,
            "cells": [
                [[operation, dtype, power], [device, backend], cell.flops, cell.bytes, list(cell.samples)]
                for (operation, device, backend), cells in self._cells.items()
                for (dtype, power), cell in cells.items()
            ],
            "fits": [[list(driver), fit.figures()] for driver, fit in self._fits.items()],
            "firsts": [[list(place), list(seconds)] for place, seconds in self._firsts.items()],
            "compilers": [list(driver) for driver in sorted(self._compilers)],
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Take what `dump` gave, in place of what was learned. Raises `ValueError`, unchanged, for anything else."""
        try:
            plain = msgspec.convert(saved, Saved)
        except msgspec.ValidationError as error:
            raise ValueError(f"this is not a saved cost model: {error}") from error
        figures = [
            *(s for *_, samples in plain.cells for s in samples), *(s for _, samples in plain.firsts for s in samples),
            *(f for _, fit in plain.fits for values in fit for f in values),
        ]  # fmt: skip
        sizes = [size for _, _, flops, moved, _ in plain.cells for size in (flops, moved)]
        whole = all(cell[-1] for cell in plain.cells) and all(len(fit) == len(Fit.__struct_fields__) for _, fit in plain.fits)
        if plain.version != 2 or not whole or not all(isfinite(f) and f > 0 for f in figures) or not all(isfinite(s) and s >= 0 for s in sizes):
            raise ValueError("this is not a saved cost model of version 2 with positive, finite seconds")
        self.__init__(self._profile)  # type: ignore[misc]
        for (operation, dtype, power), (device, backend), flops, moved, samples in plain.cells:
            cells = self._cells.setdefault((operation, device, backend), {})
            cells[dtype, power] = Cell(flops, moved, deque(samples, maxlen=SAMPLES), len(samples))
        for driver, found in plain.fits:
            self._fits[driver] = fit = Fit.of(found)
            self._sum_up_transfers(driver, fit)
        self._firsts = {place: deque(seconds, maxlen=SAMPLES) for place, seconds in plain.firsts}
        self._compilers = set(plain.compilers)


def _power(call: Call) -> int:
    """The power of two that stands for a call's size."""
    return frexp(call.estimate.flops + call.estimate.bytes or call.elements)[1]


def _middle(samples: Iterable[float]) -> float:
    """The lower median: of two samples the one with less in its way."""
    ordered = sorted(samples)
    return ordered[(len(ordered) - 1) // 2]


def _work(estimate: Estimate, elements: float) -> float:
    return min(estimate.flops + estimate.bytes or float(elements), 1e300)


def _roofline(flops: float, moved: float) -> float:
    """Seconds that the slower of arithmetic and memory takes at the default rates."""
    return min(max(flops / RATE, moved / BANDWIDTH), LONGEST)
