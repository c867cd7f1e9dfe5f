"""Finds in what a kernel left behind where it is wrong, and says so in numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from openruntime.backends.verification.reference import Expected
from openruntime.contracts.kernels import KernelSpec
from openruntime.contracts.payload import ITEMSIZE

FINDINGS = {
    "wrong": "an element is further from the reference than the tolerance",
    "unwritten": "an element still holds what stood there before",
    "nondeterministic": "two runs on the same inputs differ",
    "guard": "bytes before or after an array changed",
    "input_changed": "an input changed",
    "out_of_bounds": "it touched the page behind an array, or the one before",
    "crashed": "its process died",
    "timeout": "it did not end in time",
    "refused": "the device refused to run it",
    "untested": "too few cases could be tried",
}
Finding = dict[str, Any]
WORST = 1e9  # an error of so many tolerances is as wrong as can be


class Run(NamedTuple):
    """Once through: every array's memory before and after, inputs first, each with `guard` bytes on either side."""

    before: list[bytes]
    after: list[bytes]
    guard: int


def findings(
    spec: KernelSpec, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Expected], runs: Sequence[Run]
) -> tuple[list[Finding], float]:  # fmt: skip
    """All that is wrong with these runs of one case, one entry a kind and array; and the worst error as a part of its tolerance."""
    found = touched(spec, runs)
    worst = 0.0
    for number, output in enumerate(spec.outputs, len(spec.inputs)):
        pairs = [(_values(run.before[number], run.guard, output.dtype), _values(run.after[number], run.guard, output.dtype)) for run in runs]
        shape = shapes[output.name]
        kept = np.logical_and.reduce([_same_bits(before, after) for before, after in pairs])
        if kept.any():
            found.append(_told("unwritten", output.name, kept, shape, "{count} of {size} elements hold what stood there before the run"))
        differs = np.logical_or.reduce([~_same_bits(pairs[0][1], after) for _, after in pairs[1:]] or [np.zeros(kept.shape, bool)])
        if (differs & ~kept).any():
            first = int(np.flatnonzero(differs & ~kept)[0])
            other = next(after[first] for _, after in pairs[1:] if not _same_bits(pairs[0][1], after)[first])
            what = f"{{count}} of {{size}} elements differ between runs on the same inputs: {_plain(pairs[0][1][first])} and {_plain(other)}"
            found.append(_told("nondeterministic", output.name, differs & ~kept, shape, what))
        for _, after in pairs[:2]:
            wrong, error = _wrong(after, expected[output.name])
            worst = max(worst, error)
            if (wrong & ~kept).any():
                found.append(_described(output.name, after, expected[output.name], wrong & ~kept, shape))
                break
    return found, worst


def touched(spec: KernelSpec, runs: Sequence[Run]) -> list[Finding]:
    """What these runs changed that was not theirs to change."""
    found: list[Finding] = []
    for number, argument in enumerate((*spec.inputs, *spec.outputs)):
        found += _strays(argument.name, number, runs)
    for number, argument in enumerate(spec.inputs):
        found += _changed(argument.name, number, runs, ITEMSIZE[argument.dtype])
    return found


def _strays(name: str, number: int, runs: Sequence[Run]) -> Iterator[Finding]:
    for run in runs:
        before, after, guard = run.before[number], run.after[number], run.guard
        for part, where in ((slice(0, guard), "before the beginning"), (slice(len(before) - guard, None), "after the end")):
            old, new = np.frombuffer(before, np.uint8)[part], np.frombuffer(after, np.uint8)[part]
            places = np.flatnonzero(old != new)
            if places.size:
                away = int(guard - places[-1]) if part.start == 0 else int(places[0]) + 1
                yield {"finding": "guard", "array": name, "count": int(places.size), "message": f"it wrote {away} bytes {where} of `{name}`"}
                return


def _changed(name: str, number: int, runs: Sequence[Run], itemsize: int) -> Iterator[Finding]:
    for run in runs:
        old, new = (np.frombuffer(memory, np.uint8)[run.guard : len(memory) - run.guard] for memory in (run.before[number], run.after[number]))
        if not np.array_equal(old, new):
            first = int(np.flatnonzero(old != new)[0]) // itemsize
            yield {"finding": "input_changed", "array": name, "message": f"it wrote into its input `{name}`, first at element {first}"}
            return


def _values(memory: bytes, guard: int, dtype: str) -> "np.ndarray[Any, Any]":
    inside = memory[guard : len(memory) - guard]
    return np.frombuffer(inside, np.uint8 if dtype == "bool" else dtype)


def _same_bits(a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    width = a.dtype.itemsize
    same = a.view(np.uint8).reshape(-1, width) == b.view(np.uint8).reshape(-1, width)
    return np.asarray(same.all(axis=1))


def _wrong(got: "np.ndarray[Any, Any]", expected: Expected) -> tuple["np.ndarray[Any, Any]", float]:
    """Where it is wrong, and the worst error of finite elements over its tolerance."""
    value, native = expected.value.reshape(-1), expected.native.reshape(-1)
    if expected.tolerance is None:
        plain = got != 0 if value.dtype == np.bool_ else got
        return np.asarray(plain != value), 0.0
    parts = [np.real, np.imag] if got.dtype.kind == "c" else [lambda x: x]
    wrong, worst = np.zeros(got.shape, bool), 0.0
    for part in parts:
        off, error = _apart(part(got), part(value), part(native), expected.tolerance.reshape(-1))
        wrong |= off
        worst = max(worst, error)
    return wrong, worst


def _apart(
    got: "np.ndarray[Any, Any]", value: "np.ndarray[Any, Any]", native: "np.ndarray[Any, Any]", tolerance: "np.ndarray[Any, Any]"
) -> tuple["np.ndarray[Any, Any]", float]:
    with np.errstate(all="ignore"):
        narrow = value.astype(got.dtype).astype(np.float64)  # what overflows in the kernel's dtype is infinite there
        own, there = got.astype(np.float64), native.astype(np.float64)
        right = _close(own, narrow, tolerance)
        edge = float(np.finfo(got.dtype).max)
        right |= np.isinf(own) & (np.sign(own) == np.sign(value)) & (np.abs(value) + tolerance >= edge)
        near_edge = np.isinf(narrow) & (np.abs(own) <= edge) & (np.abs(own) + tolerance >= edge) & (np.sign(own) == np.sign(value))
        right |= near_edge
        unsure = ~_close(there, narrow, tolerance)  # float32 itself cannot do better: an overflow on the way
        right |= unsure & _close(own, there, tolerance)
        ratio = np.abs(own - narrow) / tolerance
    finite = np.isfinite(ratio) & ~unsure
    return ~right, min(float(ratio[finite].max()), WORST) if finite.any() else 0.0


def _close(a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]", tolerance: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    near = np.abs(a - b) <= tolerance
    return np.asarray(near | (a == b) | (np.isnan(a) & np.isnan(b)))


def _described(name: str, got: "np.ndarray[Any, Any]", expected: Expected, wrong: "np.ndarray[Any, Any]", shape: tuple[int, ...]) -> Finding:
    first = int(np.flatnonzero(wrong)[0])
    value = expected.value.reshape(-1)[first]
    found = _told(
        "wrong", name, wrong, shape, f"{{count}} of {{size}} elements are wrong; the first is {_plain(got[first])} and should be {_plain(value)}"
    )
    found |= {"got": _plain(got[first]), "expected": _plain(value)}
    if expected.tolerance is not None:
        found["tolerance"] = float(expected.tolerance.reshape(-1)[first])
    return found


def _told(finding: str, name: str, where: "np.ndarray[Any, Any]", shape: tuple[int, ...], message: str) -> Finding:
    count, first = int(where.sum()), int(np.flatnonzero(where)[0])
    index = [int(place) for place in np.unravel_index(first, shape)] if shape else []
    told = message.format(count=count, size=where.size)
    return {"finding": finding, "array": name, "index": index, "count": count, "message": f"`{name}`{index or ''}: {told}"}


def _plain(value: Any) -> Any:
    """A number for JSON: what JSON has no number for is a string."""
    item = value.item()
    if isinstance(item, complex):
        return str(item)
    if isinstance(item, float) and not np.isfinite(item):
        return "NaN" if item != item else "Infinity" if item > 0 else "-Infinity"
    return item
