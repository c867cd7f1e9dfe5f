"""Statistics that single bad values do not move: each says in its docstring what it is and where it is from."""

from collections.abc import Sequence
from itertools import groupby
from math import exp, floor, log, sqrt
from statistics import NormalDist, median
from typing import NamedTuple

OUTLIER = 3.5  # modified z-score from which a value is one
SURE = 0.01  # the largest probability by which chance alone may have done it
FEWEST = 8  # values that anything is said of
POINTS = 300  # of a series that slopes are taken of: their number grows with its square


def percentile(ordered: Sequence[float], p: float) -> float:
    """Of sorted values, 0 <= p <= 100, between two of them on a straight line (Hyndman and Fan 1996, type 7: NumPy's default)."""
    at = (len(ordered) - 1) * p / 100
    low = floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def outliers(values: Sequence[float]) -> list[tuple[int, float]]:
    """Index and modified z-score, 0.6745 (x - median) / MAD, of values beyond 3.5 (Iglewicz and Hoaglin 1993). Of seconds give the logarithms.

    Where more than half are alike (MAD 0) the mean absolute deviation stands in, as they advise; none where all are alike.
    """
    if len(values) < FEWEST:
        return []
    centre = median(values)
    distances = [abs(value - centre) for value in values]
    spread = median(distances) / 0.6745 or 1.253314 * sum(distances) / len(distances)
    if spread <= 1e-12 * max(1.0, abs(centre)):
        return []
    return [(i, (value - centre) / spread) for i, value in enumerate(values) if abs(value - centre) > OUTLIER * spread]


class Shift(NamedTuple):
    """`at`: the first value of the new time; `before` and `after` are medians, of 0 and 1 means."""

    at: int
    before: float
    after: float
    p: float


def shift(values: Sequence[float]) -> Shift | None:
    """Where a series in time order changed its level, if it surely did (p <= 0.01): Pettitt's test (1979), by ranks, corrected for ties."""
    n = len(values)
    if n < 2 * FEWEST:
        return None
    ranks, ties = _ranks(values)
    if ties <= 0:
        return None
    total, best, at = 0.0, 0.0, 0
    for i in range(n - 1):
        total += ranks[i]
        strength = abs(2 * total - (i + 1) * (n + 1))
        if strength > best:
            best, at = strength, i + 1
    p = min(1.0, 2 * exp(-6 * best * best / ((n**3 + n**2) * ties)))
    if p > SURE:
        return None
    binary = set(values) <= {0.0, 1.0}
    level = (lambda part: sum(part) / len(part)) if binary else median
    return Shift(at, level(values[:at]), level(values[at:]), p)


def _ranks(values: Sequence[float]) -> tuple[list[float], float]:
    """Mid-ranks from 1 on, and the share of variance that ties leave."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    lost, passed = 0, 0
    for _, group in groupby(order, key=values.__getitem__):
        alike = list(group)
        for i in alike:
            ranks[i] = passed + (len(alike) + 1) / 2
        passed += len(alike)
        lost += len(alike) ** 3 - len(alike)
    n = len(values)
    return ranks, 1 - lost / (n**3 - n)


class Trend(NamedTuple):
    """`slope` in units a second; `p`: how probably chance alone gives as much. `sure` where that is below 0.01."""

    slope: float
    p: float

    @property
    def sure(self) -> bool:
        return self.p <= SURE


def trend(times: Sequence[float], values: Sequence[float]) -> Trend | None:
    """The median of all pairs' slopes (Theil 1950, Sen 1968), judged by Mann's and Kendall's test; None of fewer than eight values."""
    step = max(1, len(values) // POINTS)
    times, values = times[::step], values[::step]
    n = len(values)
    if n < FEWEST:
        return None
    slopes: list[float] = []
    sign = 0
    for i in range(n - 1):
        for j in range(i + 1, n):
            change = values[j] - values[i]
            sign += (change > 0) - (change < 0)
            if times[j] > times[i]:
                slopes.append(change / (times[j] - times[i]))
    _, left = _ranks(values)
    if not slopes or left <= 0:
        return Trend(0.0, 1.0)
    tied = [len(list(group)) for _, group in groupby(sorted(values))]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in tied)) / 18
    z = 0.0 if sign == 0 or variance <= 0 else (sign - (1 if sign > 0 else -1)) / sqrt(variance)
    return Trend(median(slopes), 2 * (1 - NormalDist().cdf(abs(z))))


def logarithms(seconds: Sequence[float]) -> list[float]:
    """Run times spread by factors, not by differences; nothing counts as less than 1 ns."""
    return [log(max(value, 1e-9)) for value in seconds]
