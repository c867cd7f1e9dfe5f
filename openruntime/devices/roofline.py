"""What a device can do at best, and how near to that a result came.

The roofline of Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009: a call takes at
least its FLOPs over the device's FLOP/s, and at least its bytes over the device's bytes/s. The ceilings are the most that was seen of
two calls whose work is known exactly: `matmul` for arithmetic, dtype by dtype, a large `expression` for memory.
"""

from typing import Any

import msgspec

from openruntime.contracts.records import Call

ARITHMETIC, MEMORY = "matmul", "expression"
LARGE = 48 << 20  # bytes: what no cache holds
HEAVY = 1e8  # FLOPs: a lighter product, however long it took, spent its time on being called
MEASURABLE = 1e-3  # seconds: a shorter call tells nothing of a ceiling
SHORT = 50e-6  # seconds: the rates of a shorter call are those of calling
PARTS = {"complex64": "float32", "complex128": "float64"}  # whose arithmetic is theirs
NOT_MEASURED = "the ceilings of {} are not measured yet; `openruntime bench` does that at once"


class Peak(msgspec.Struct, frozen=True):
    """A rate in FLOP/s or bytes/s, and the backend that reached it."""

    rate: float
    backend: str


class Ceilings(msgspec.Struct):
    """Of one device; `flops` by dtype."""

    flops: dict[str, Peak] = {}
    bandwidth: Peak | None = None


class Roofline:
    """The ceilings of each device, raised by whatever reaches higher."""

    def __init__(self) -> None:
        self._ceilings: dict[str, Ceilings] = {}

    def observe(self, call: Call, device: str, backend: str, seconds: float) -> None:
        """A call that computed for so long."""
        if seconds < MEASURABLE or (call.operation != ARITHMETIC and call.operation != MEMORY):
            return
        found = self._ceilings.get(device) or self._ceilings.setdefault(device, Ceilings())
        if call.operation == ARITHMETIC:
            if call.estimate.flops < HEAVY or call.others:
                return
            dtype, rate = PARTS.get(call.dtype, call.dtype), call.estimate.flops / seconds
            if dtype not in found.flops or found.flops[dtype].rate < rate:
                found.flops[dtype] = Peak(rate, backend)
        elif call.estimate.bytes >= LARGE:
            rate = call.estimate.bytes / seconds
            if found.bandwidth is None or found.bandwidth.rate < rate:
                found.bandwidth = Peak(rate, backend)

    def describe(self, device: str) -> dict[str, Any]:
        """`flops` and `bandwidth` (the highest; FLOP/s, bytes/s), each null with the `reason`; `dtypes` and `backends` that reached them."""
        found = self._ceilings.get(device, Ceilings())
        missing = " and ".join(what for what, there in (("arithmetic", found.flops), ("memory", found.bandwidth)) if not there)
        return {
            "flops": max((peak.rate for peak in found.flops.values()), default=None),
            "bandwidth": found.bandwidth.rate if found.bandwidth else None,
            "dtypes": {dtype: peak.rate for dtype, peak in found.flops.items()},
            "backends": {dtype: peak.backend for dtype, peak in found.flops.items()}
            | ({"bandwidth": found.bandwidth.backend} if found.bandwidth else {}),
            "reason": NOT_MEASURED.format(f"{device}'s {missing}") if missing else None,
        }

    def judge(self, call: Call, device: str | None, seconds: float | None) -> dict[str, Any]:
        """FLOPs and bytes of a call that computed for so long, its rates in 1e9/s, and its share of what `bound` it allows; null with `reason`."""
        flops, moved = call.estimate.flops, call.estimate.bytes
        told: dict[str, Any] = {"flops": flops, "bytes": moved, "gflops": None, "gbytes": None, "fraction": None, "bound": None, "reason": None}
        if call.requires:
            told["flops"] = None
        if not seconds or device is None:
            return told | {"reason": "nothing was computed"}
        told["gflops"], told["gbytes"] = None if call.requires else flops / seconds / 1e9, moved / seconds / 1e9
        if seconds < SHORT:
            return told | {"reason": f"it took less than {SHORT * 1e6:.0f} µs, which is what calling takes"}
        found = self._ceilings.get(device)
        if found is None or found.bandwidth is None:
            return told | {"reason": NOT_MEASURED.format(device)}
        peak = found.flops.get(PARTS.get(call.dtype, call.dtype))
        arithmetic = flops / peak.rate if peak is not None else 0.0
        memory = moved / found.bandwidth.rate
        told["fraction"] = max(arithmetic, memory) / seconds
        told["bound"] = "arithmetic" if arithmetic > memory else "memory"
        if call.requires:
            told["reason"] = "of memory alone: how much a kernel computes is not known"
        elif peak is None and flops:
            told["reason"] = f"of memory alone: no ceiling of arithmetic on {call.dtype or 'this dtype'} is measured"
        elif told["fraction"] > 1:
            told["reason"] = "beyond the ceiling of memory: its data lay in a cache" if told["bound"] == "memory" else "its estimate counts too much"
        return told

    def dump(self) -> dict[str, Any]:
        """All of it, as plain values for `load`."""
        found: dict[str, Any] = msgspec.to_builtins(self._ceilings)
        return found

    def load(self, saved: Any) -> None:
        """Take what `dump` gave. Raises `ValueError` for anything else."""
        try:
            self._ceilings = msgspec.convert(saved, dict[str, Ceilings])
        except msgspec.ValidationError as error:
            raise ValueError(f"these are no saved ceilings: {error}") from error
