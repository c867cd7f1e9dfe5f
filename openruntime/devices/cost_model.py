"""How long a call will take on a device through a backend: learned from finished tasks, sensible before the first.

Seconds throughout. A cell holds the last samples of one (operation, dtype, power of two of work, device, backend); work is the
estimate's FLOPs plus bytes moved, or the number of elements where nothing is estimated. A cell's median (robust to a pause of the
machine) is pulled towards a per-driver fit, `overhead + factor * max(flops / rate, bytes / bandwidth)`: the roofline of Williams,
Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009, plus a fixed price a call. A cell without
samples takes the nearest one of the operation, scaled by the ratio of their fits. All blending is done on logarithms, because the
errors of such predictions are ratios. Which of the forms that were tried does best: design, "Placement, tried".
"""

from collections import deque
from math import exp, frexp, isfinite, log
from statistics import median
from typing import Any

import msgspec

from openruntime.contracts.records import Call, Estimate

SAMPLES = 15  # the last of each cell
FIT_SAMPLES = 64  # the last of each driver
REFRESH = 8  # a full cell's prediction is worked out anew after so many samples
ENOUGH = 3  # samples that tell what cannot be
PRIOR = 0.5  # samples that the fit counts for
OTHER_DTYPE = 2.0  # distance, in powers of two, to the same operation on another dtype
OVERHEAD = 1e-4  # seconds a call, until measured
RATE = 1e10  # FLOP/s, until measured: one modest core
BANDWIDTH = 4e9  # bytes/s, until measured
LONGEST = 1e9  # seconds; an estimate that overflowed must not spoil the others
SHORTEST = 1e-7  # seconds; below the clock's resolution

Key = tuple[str, str, int, str, str]  # operation, dtype, power of two, device, backend
Driver = tuple[str, str]  # device, backend


class Cell(msgspec.Struct):
    """What was seen of one key: an estimate that stands for its size, the last seconds, and how many there were."""

    flops: float
    bytes: float
    samples: deque[float]
    count: int = 0


class Fit(msgspec.Struct):
    """What was seen of one driver: seconds of calls too small to compute much, and by how much the others missed the roofline."""

    overheads: deque[float]
    factors: deque[float]

    def seconds(self, flops: float, moved: float) -> float:
        overhead = median(self.overheads) if self.overheads else OVERHEAD
        factor = median(self.factors) if self.factors else 1.0
        return overhead + factor * _roofline(flops, moved)


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """The plain form of a model that `dump` writes and `load` checks."""

    version: int
    cells: list[tuple[Key, float, float, list[float]]]
    fits: list[tuple[Driver, list[float], list[float]]]
    firsts: list[tuple[str, str, str, list[float]]]


class CostModel:
    """Predicts seconds of a call, device transfers included, from the calls before it."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], dict[tuple[str, int], Cell]] = {}  # (operation, device, backend) -> (dtype, size)
        self._fits: dict[Driver, Fit] = {}
        self._firsts: dict[tuple[str, str, str], deque[float]] = {}
        self._known: dict[Key, float] = {}  # predictions of cells with samples
        self._guessed: dict[Key, float] = {}  # and of those without

    def predict(self, call: Call, device: str, backend: str) -> float:
        """Seconds from start to end of `call` on a warm worker. Does not change with time, only with `record`."""
        estimate = call.estimate
        key = (call.operation, call.dtype, frexp(estimate.flops + estimate.bytes or call.elements)[1], device, backend)
        seconds = self._known.get(key) or self._guessed.get(key)
        return seconds or self._work_out(key, estimate)

    def measured(self, operation: str, device: str, backend: str) -> bool:
        """Whether any call of the operation has ended there, beyond the first of each worker."""
        return (operation, device, backend) in self._cells

    def fastest(self, call: Call, device: str, backend: str) -> float:
        """The least seconds that any of the last calls of this kind and size took there; 0 where too few were seen to say."""
        cell = self._cells.get((call.operation, device, backend), {}).get((call.dtype, _power(call)))
        return min(cell.samples) if cell is not None and len(cell.samples) >= ENOUGH else 0.0

    def predict_first(self, call: Call, device: str, backend: str) -> float:
        """Seconds of the first call of a shape, compiling included; as `predict` where none was seen."""
        firsts = self._firsts.get((call.operation, device, backend))
        usual = self.predict(call, device, backend)
        return max(usual, median(firsts)) if firsts else usual

    def record(self, call: Call, device: str, backend: str, seconds: float, first: bool = False) -> None:
        """Learn from a finished call. `first`: of its shape on this worker, so that compiling is told apart. Raises `ValueError`."""
        if not (isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a call takes a finite time of 0 s or more, not {seconds}")
        seconds = max(seconds, SHORTEST)
        operation, estimate = call.operation, call.estimate
        place = (operation, device, backend)
        if first:
            self._firsts.setdefault(place, deque(maxlen=SAMPLES)).append(seconds)
            return
        power = _power(call)
        cells = self._cells.setdefault(place, {})
        cell = cells.get((call.dtype, power))
        if cell is None:
            cell = cells[call.dtype, power] = Cell(estimate.flops, estimate.bytes, deque(maxlen=SAMPLES))
        cell.samples.append(seconds)
        cell.count += 1
        if cell.count <= SAMPLES or cell.count % REFRESH == 0:
            self._learn_fit((device, backend), estimate, seconds)
            self._known.pop((operation, call.dtype, power, device, backend), None)
            self._guessed.clear()

    def _learn_fit(self, driver: Driver, estimate: Estimate, seconds: float) -> None:
        fit = self._fits.get(driver)
        if fit is None:
            fit = self._fits[driver] = Fit(deque(maxlen=FIT_SAMPLES), deque(maxlen=FIT_SAMPLES))
        ideal = _roofline(estimate.flops, estimate.bytes)
        overhead = median(fit.overheads) if fit.overheads else OVERHEAD
        if ideal < overhead / 4:
            fit.overheads.append(seconds)
        else:
            fit.factors.append(max(seconds - overhead, seconds / 10) / ideal)

    def _work_out(self, key: Key, estimate: Estimate) -> float:
        operation, dtype, power, device, backend = key
        fit = self._fits.get((device, backend)) or Fit(deque(), deque())
        prior = fit.seconds(estimate.flops, estimate.bytes)
        cells = self._cells.get((operation, device, backend))
        if not cells:
            self._guessed[key] = prior
            return prior

        def distance(other: tuple[str, int]) -> float:
            return abs(other[1] - power) + OTHER_DTYPE * (other[0] != dtype)

        nearest = min(cells, key=lambda other: (distance(other), other))
        cell, away = cells[nearest], distance(nearest)
        seen = median(cell.samples)
        weight = len(cell.samples) / (len(cell.samples) + PRIOR + away)
        if away:
            seen *= prior / fit.seconds(cell.flops, cell.bytes)
        else:
            prior = fit.seconds(cell.flops, cell.bytes)  # of the cell, whoever of its size asks
        seconds = exp(weight * log(seen) + (1 - weight) * log(prior))
        (self._guessed if away else self._known)[key] = seconds
        return seconds

    def dump(self) -> dict[str, Any]:
        """All that was learned, as plain values for `load`."""
        return {
            "version": 1,
            "cells": [
                [[operation, dtype, power, device, backend], cell.flops, cell.bytes, list(cell.samples)]
                for (operation, device, backend), cells in self._cells.items()
                for (dtype, power), cell in cells.items()
            ],
            "fits": [[list(driver), list(fit.overheads), list(fit.factors)] for driver, fit in self._fits.items()],
            "firsts": [[*place, list(seconds)] for place, seconds in self._firsts.items()],
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Take what `dump` gave, in place of what was learned. Raises `ValueError`, unchanged, for anything else."""
        try:
            plain = msgspec.convert(saved, Saved)
        except msgspec.ValidationError as error:
            raise ValueError(f"this is not a saved cost model: {error}") from error
        seconds = [s for _, _, _, samples in plain.cells + plain.firsts for s in samples]
        figures = seconds + [f for _, overheads, factors in plain.fits for f in overheads + factors]
        sizes = [size for _, flops, moved, _ in plain.cells for size in (flops, moved)]
        sound = all(isfinite(f) and f > 0 for f in figures) and all(isfinite(s) and s >= 0 for s in sizes) and all(cell[3] for cell in plain.cells)
        if plain.version != 1 or not sound:
            raise ValueError("this is not a saved cost model of version 1 with positive, finite seconds")
        self.__init__()  # type: ignore[misc]
        for (operation, dtype, power, device, backend), flops, moved, samples in plain.cells:
            cells = self._cells.setdefault((operation, device, backend), {})
            cells[dtype, power] = Cell(flops, moved, deque(samples, maxlen=SAMPLES), len(samples))
        for driver, overheads, factors in plain.fits:
            self._fits[driver] = Fit(deque(overheads, maxlen=FIT_SAMPLES), deque(factors, maxlen=FIT_SAMPLES))
        for operation, device, backend, firsts in plain.firsts:
            self._firsts[operation, device, backend] = deque(firsts, maxlen=SAMPLES)


def _power(call: Call) -> int:
    """The power of two that stands for a call's size."""
    return frexp(call.estimate.flops + call.estimate.bytes or call.elements)[1]


def _roofline(flops: float, moved: float) -> float:
    """Seconds that the slower of arithmetic and memory takes at the default rates."""
    return min(max(flops / RATE, moved / BANDWIDTH), LONGEST)
