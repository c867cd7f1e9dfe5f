"""Candidates for a faster kernel: what the tuner searches, and the known transformations of its source."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from openruntime.ai.agents.optimizer.findings import Measured
from openruntime.ai.agents.optimizer.source import Unreadable, read
from openruntime.ai.agents.optimizer.vectors import blocked, strips, tiled
from openruntime.contracts.tunables import NEAR

FAST = "-cl-fast-relaxed-math"
FIELDS = ("language", "inputs", "outputs", "scalars", "grid", "local", "options", "reference")
CONSTANTS = {
    "lanes": ("LANES = 16, 8", "WG = 1, 16"), "block": ("LANES = 16, 8", "ROWS = 8, 4", "WG = 1, 4"), "tile": ("TILE = 8, 16, 4", "WG = 1, 8"),
    "strips": ("LANES = 16, 8", "CHAINS = 1, 2, 4", "WG = 1, 4"), "group": ("WG = 64, 1, 8, 16, 256",),
}  # fmt: skip

Document = dict[str, Any]


class Draft(msgspec.Struct):
    """A candidate before it is tried. `changes`: fields of the kernel that are other than its own."""

    what: str
    changes: Document
    by: str = "known"


def known(kernel: Document, left_out: list[str]) -> list[Draft]:
    """The tuner's and every known transformation that applies; why others do not goes to `left_out`."""
    drafts = []
    source, grid = kernel["source"], kernel["grid"]
    if "tune:" in source:
        drafts.append(Draft("the constants that it leaves open, tuned", {}, "tuner"))
    if kernel["language"] != "opencl":
        left_out.append(f"rewriting the source: it is in {kernel['language']}, and OpenCL C is what is read")
        return drafts
    one = ["1"] * (len(grid) - 1)
    if not kernel["local"] and "local" not in source:
        changes = {"source": _with_constants(source, "group"), "local": ["WG", *one]}
        drafts.append(Draft("work-groups of a size that is tuned", changes, "tuner"))
    try:
        function = read(source)
    except Unreadable as error:
        left_out.append(f"rewriting the source: {error}")
        return drafts
    if kernel["local"]:
        left_out.append("rewriting the source: it chooses its own work-groups")
        return drafts
    tries: list[tuple[str, str, Callable[[], tuple[str, list[int | str]]]]] = [
        (f"a block of vectors: LANES along dimension 0, ROWS along {row}", "block", lambda row=row: blocked(function, grid, row=row)[:2])  # type: ignore[misc]
        for row in range(1, len(grid))
    ]
    tries += [
        ("one vector for LANES work-items", "lanes", lambda: blocked(function, grid, row=None)[:2]),
        ("tiles of TILE by TILE elements", "tile", lambda: tiled(function, grid)[:2]),
        ("inner loops in strips of CHAINS vectors of LANES", "strips", lambda: (strips(function), list(grid))),
    ]
    for what, kind, make in tries:
        try:
            made, sides = make()
            drafts.append(Draft(what, {"source": _with_constants(made, kind), "grid": sides, "local": ["WG", *one]}))
        except Unreadable as error:
            left_out.append(f"{what}: {error}")
        except RecursionError:
            left_out.append(f"{what}: its expressions are too long")
    return drafts


def fields(kernel: Mapping[str, Any]) -> Document:
    return {name: kernel[name] for name in FIELDS if kernel.get(name) is not None}


def renamed(document: Document, name: str, new: str) -> Document:
    """The entry point is called as the kernel is."""
    return {**document, "name": new, "source": re.sub(rf"\b{re.escape(name)}\b", new, document["source"])}


def _with_constants(source: str, kind: str) -> str:
    return "".join(f"// tune: {line}\n" for line in CONSTANTS[kind]) + source


def settled(source: str, values: Mapping[str, int]) -> str:
    """Each constant with one value: that, or its default."""

    def one(line: re.Match[str]) -> str:
        return f"{line[1]}// tune: {line[2]} = {values.get(line[2], line[3].split(',')[0].strip())}"

    return _LINE.sub(one, source)


def first(source: str, values: Mapping[str, int]) -> str:
    """Each constant with all its values, the best first, which is what runs until it is tuned again."""

    def sorted_(line: re.Match[str]) -> str:
        known = [part.strip() for part in line[3].split(",")]
        best = str(values.get(line[2], known[0]))
        return f"{line[1]}// tune: {line[2]} = {', '.join([best, *(value for value in known if value != best)])}"

    return _LINE.sub(sorted_, source)


_LINE = re.compile(r"^([ \t]*)//[ \t]*tune:[ \t]*(\w+)[ \t]*=[ \t]*([\d, \t]+)$", re.MULTILINE)


def current(kernel: Mapping[str, Any], sizes: Mapping[str, int] | None) -> Mapping[str, int]:
    """The values that it runs with now for such sizes: what an earlier tuning found, or none."""
    near: list[tuple[int, Mapping[str, int]]] = []
    for entry in kernel.get("tuned") or []:
        apart = [abs(size.bit_length() - entry["sizes"].get(name, 0).bit_length()) for name, size in (sizes or entry["sizes"]).items()]
        if max(apart, default=0) <= NEAR:
            near.append((sum(apart), entry["values"]))
    return min(near, key=lambda pair: pair[0])[1] if near else {}


def measured_of(entry: Mapping[str, Any], report: Mapping[str, Any]) -> Measured:
    low, high = entry["spread"]
    return Measured(entry["median"], (low, high), entry["runs"], f"{report['device']}/{report['backend']}", [report["task_id"]])


def stands(value: Any) -> bool:
    """Whether it stands for an input or a scalar of the kernel."""
    return isinstance(value, Mapping) and value.keys() <= {"input", "scalar"} and bool(value)
