"""What calls took on another machine: where predictions begin before this one was measured.

The profile that is shipped (`profile.json`) was made by `python -m benchmarks.placement profile`. What of it holds elsewhere is how backends
and sizes compare; the cost model scales it to this machine.
"""

from bisect import bisect_left
from functools import lru_cache
from importlib.resources import files
from math import log2
from typing import Any

import msgspec

GENTLE, STEEP = 0.0, 1.3  # powers of two of seconds for one of work, at the least and the most beyond the sizes that were measured
PROPORTIONAL = 1.0


class Row(msgspec.Struct, array_like=True, frozen=True):
    """Median seconds of one call; `work` is its FLOPs and bytes moved together."""

    operation: str
    dtype: str
    work: float
    platform: str
    backend: str
    seconds: float


class First(msgspec.Struct, array_like=True, frozen=True):
    """Seconds that the first call of an operation takes longer: compiling, loading."""

    operation: str
    platform: str
    backend: str
    seconds: float


class Start(msgspec.Struct, array_like=True, frozen=True):
    """Seconds until a worker is up."""

    platform: str
    backend: str
    seconds: float


class Document(msgspec.Struct, frozen=True):
    rows: list[Row] = []
    firsts: list[First] = []
    starts: list[Start] = []
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Profile:
    """Looks seconds up, between sizes on logarithms."""

    def __init__(self, document: Document) -> None:
        self._curves: dict[tuple[str, str, str], dict[str, tuple[list[float], list[float]]]] = {}
        for row in sorted(document.rows, key=lambda row: row.work):
            dtypes = self._curves.setdefault((row.operation, row.platform, row.backend), {})
            powers, seconds = dtypes.setdefault(row.dtype, ([], []))
            powers.append(log2(row.work))
            seconds.append(log2(row.seconds))
        self._firsts = {(row.operation, row.platform, row.backend): row.seconds for row in document.firsts}
        self._starts = {(row.platform, row.backend): row.seconds for row in document.starts}

    def seconds(self, operation: str, dtype: str, work: float, device: str, backend: str) -> float | None:
        """Of a call on such a device; None where the operation was not measured on that backend."""
        dtypes = self._curves.get((operation, device.partition(":")[0], backend))
        if dtypes is None:
            return None
        curve = dtypes.get(dtype) or next(iter(dtypes.values()))
        return float(2.0 ** _along(*curve, log2(work) if work > 1 else 0.0))

    def first(self, operation: str, device: str, backend: str) -> float | None:
        return self._firsts.get((operation, device.partition(":")[0], backend))

    def start(self, device: str, backend: str) -> float | None:
        return self._starts.get((device.partition(":")[0], backend))


def _along(xs: list[float], ys: list[float], x: float) -> float:
    """The line through the points; beyond them its end's slope, kept between what calls can do."""
    if len(xs) == 1:
        return ys[0] + (x - xs[0]) * (PROPORTIONAL if x > xs[0] else PROPORTIONAL / 2)
    right = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    left = right - 1
    slope = (ys[right] - ys[left]) / max(xs[right] - xs[left], 1e-9)
    if x > xs[-1]:
        return ys[-1] + (x - xs[-1]) * min(max(slope, PROPORTIONAL / 2), STEEP)
    if x < xs[0]:
        return ys[0] + (x - xs[0]) * min(max(slope, GENTLE), PROPORTIONAL)
    return ys[left] + (x - xs[left]) * slope


@lru_cache(maxsize=1)
def shipped() -> Profile:
    """The profile in the package."""
    data = files("openruntime.devices").joinpath("profile.json").read_bytes()
    return Profile(msgspec.json.decode(data, type=Document))
