"""Kernels written short: `kernel(source, "x: float32[n]", "y: float32[n]", ...)` is what `POST /kernels` takes."""

import re
from typing import Any

_ARRAY = re.compile(r"(\w+): (\w+)\[(.*)\]")
_ENTRY = re.compile(r"kernel\s+(?:__attribute__\S+\s+)?void\s+(\w+)\s*\(")


def arrays(text: str) -> list[dict[str, Any]]:
    """`a: float32[m, k]; b: float32[k]`."""
    found = []
    for part in filter(None, text.split("; ")):
        match = _ARRAY.fullmatch(part)
        assert match is not None, part
        sizes = [size.strip() for size in match[3].split(",")] if match[3] else []
        found.append({"name": match[1], "dtype": match[2], "shape": [int(size) if size.isdigit() else size for size in sizes]})
    return found


def _sides(sides: str | tuple[Any, ...]) -> list[Any]:
    return [sides] if isinstance(sides, str) else list(sides)


def kernel(
    source: str, inputs: str, outputs: str, *, grid: str | tuple[Any, ...] = "n", local: tuple[Any, ...] = (), scalars: str = "n: int32",
    reference: str | dict[str, Any], domain: dict[str, Any] | None = None, options: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`reference`: a formula, or `{"operation": ..., "parameters": {...}}`. The name is the entry point's."""
    entry = _ENTRY.search(source)
    assert entry is not None, source
    named = {"operation": "expression", "parameters": {"formula": reference}} if isinstance(reference, str) else reference
    return {
        "name": entry[1], "language": "opencl", "source": source.strip() + "\n", "inputs": arrays(inputs), "outputs": arrays(outputs),
        "scalars": [dict(zip(("name", "dtype"), part.split(": "), strict=True)) for part in filter(None, scalars.split("; "))],
        "grid": _sides(grid), "reference": named | ({"domain": domain} if domain else {}),
    } | ({"local": list(local)} if local else {}) | ({"options": options} if options else {})  # fmt: skip
