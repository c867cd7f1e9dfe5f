"""Twelve kernels, as one writes them first and with tunable constants, beside NumPy or SciPy: `python -m benchmarks.kernels`.

The naive kernels under `kernel_sources/naive/` were written, and are committed, before anything was tuned against them. Every candidate is verified
before it is timed, its answers are compared while it is, and what won is verified three times more, on other data each time, before it counts.
Medians of interleaved runs, seconds on the device without copies. The library's routine runs in this process on the same sizes. Some minutes.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from math import exp, log
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import openruntime
from benchmarks.report import machine, versions
from openruntime.ai.agents.optimizer.candidates import first

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "benchmarks/kernel_sources"
RUNS = 11
AGAIN = 3  # verifications of each winner, each with a seed of its own
FINITE = {"finite": True}
Arrays = dict[str, np.ndarray[Any, Any]]


class Work(NamedTuple):
    """`grid` and `local` of the naive kernel and of the tuned one; `routine` is the library's, named by `library`."""

    inputs: list[str]
    outputs: list[str]
    scalars: list[str]
    naive: tuple[list[int | str], list[int | str]]
    tuned: tuple[list[int | str], list[int | str]]
    reference: dict[str, Any]
    sizes: dict[str, int]
    library: str
    routine: Callable[..., Any]


def _conv2d(x: Any, weight: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2))
    return np.tensordot(weight, windows, axes=((1, 2, 3), (0, 3, 4)))


def _layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(1e-5)) * weight + bias


def _softmax(x: Any) -> Any:
    from scipy.special import softmax

    return softmax(x, axis=1)


def _heat2d(u: Any) -> Any:
    v = u.copy()
    v[1:-1, 1:-1] = np.float32(0.2) * (u[1:-1, 1:-1] + u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])
    return v


def _nbody(positions: Any, velocities: Any, masses: Any) -> Any:
    away = positions[None] - positions[:, None]
    square = (away * away).sum(axis=2) + np.float32(0.25)
    pull = ((masses / (square * np.sqrt(square)))[:, :, None] * away).sum(axis=1)
    return positions + velocities + np.float32(0.5) * pull


MATRIX = ["m: int32", "n: int32"]
ROWS: tuple[list[int | str], list[int | str]] = (["m"], ["WG"])
LINE: tuple[list[int | str], list[int | str]] = (["ceildiv(n, VEC)"], ["WG"])
WORKS: dict[str, Work] = {
    "saxpy": Work(
        ["x: float32[n]", "y: float32[n]"], ["z: float32[n]"], ["a: float32", "n: int32"], (["n"], []), LINE,
        {"operation": "expression", "parameters": {"formula": "a*x + y"}}, {"n": 1 << 22}, "NumPy a*x + y", lambda x, y, a: a * x + y,
    ),
    "expression": Work(
        ["x: float32[n]"], ["y: float32[n]"], ["n: int32"], (["n"], []), LINE,
        {"operation": "expression", "parameters": {"formula": "sin(x)*exp(-x*x) + sqrt(abs(x))"}}, {"n": 1 << 20}, "NumPy, step by step",
        lambda x: np.sin(x) * np.exp(-x * x) + np.sqrt(np.abs(x)),
    ),
    "transpose": Work(
        ["x: float32[m, n]"], ["y: float32[n, m]"], MATRIX, (["n", "m"], []), (["ceildiv(n, TILE)", "ceildiv(m, TILE)"], ["WG", "1"]),
        {"operation": "einsum", "parameters": {"subscripts": "ij->ji", "a": {"input": "x"}}}, {"m": 2048, "n": 2048}, "NumPy ascontiguousarray(x.T)",
        lambda x: np.ascontiguousarray(x.T),
    ),
    "matmul": Work(
        ["a: float32[m, k]", "b: float32[k, n]"], ["c: float32[m, n]"], ["m: int32", "k: int32", "n: int32"], (["n", "m"], []),
        (["ceildiv(n, 16*VECTORS)", "ceildiv(m, ROWS)"], ["WG", "1"]), {"operation": "matmul"}, {"m": 512, "k": 512, "n": 512}, "NumPy (OpenBLAS)",
        lambda a, b: a @ b,
    ),
    "conv2d": Work(
        ["x: float32[1, c, h, w]", "weight: float32[o, c, 3, 3]"], ["y: float32[1, o, h - 2, w - 2]"],
        ["c: int32", "h: int32", "o: int32", "w: int32"], (["w - 2", "h - 2", "o"], []),
        (["ceildiv(w - 2, 16)", "h - 2", "ceildiv(o, OUTS)"], ["1", "WG", "1"]), {"operation": "conv2d"},
        {"c": 16, "h": 130, "o": 16, "w": 130}, "NumPy, windows and tensordot", _conv2d,
    ),
    "softmax": Work(
        ["x: float32[m, n]"], ["y: float32[m, n]"], MATRIX, (["m"], []), ROWS, {"operation": "softmax"}, {"m": 1024, "n": 1024}, "SciPy softmax",
        _softmax,
    ),
    "layer_norm": Work(
        ["x: float32[m, n]", "weight: float32[n]", "bias: float32[n]"], ["y: float32[m, n]"], MATRIX, (["m"], []), ROWS,
        {"operation": "layer_norm"}, {"m": 1024, "n": 1024}, "NumPy, step by step", _layer_norm,
    ),
    "row_sum": Work(
        ["x: float32[m, n]"], ["y: float32[m]"], MATRIX, (["m"], []), ROWS, {"operation": "sum", "parameters": {"axis": 1}},
        {"m": 1024, "n": 4096}, "NumPy sum", lambda x: x.sum(axis=1),
    ),
    "scan": Work(
        ["x: float32[m, n]"], ["y: float32[m, n]"], MATRIX, (["m"], []), ROWS, {"operation": "cumulative_sum", "parameters": {"axis": 1}},
        {"m": 1024, "n": 1024}, "NumPy cumsum", lambda x: np.cumsum(x, axis=1),
    ),
    "heat2d": Work(
        ["u: float32[m, n]"], ["v: float32[m, n]"], MATRIX, (["n", "m"], []), (["ceildiv(n, 16)", "ceildiv(m, ROWS)"], ["WG", "1"]),
        {"operation": "heat2d", "parameters": {"grid": {"input": "u"}, "iterations": 1}}, {"m": 1024, "n": 1024}, "NumPy, step by step", _heat2d,
    ),
    "nbody": Work(
        ["positions: float32[n, 3]", "velocities: float32[n, 3]", "masses: float32[n]"], ["moved: float32[n, 3]"], ["n: int32"], (["n"], []),
        LINE,
        {
            "operation": "nbody", "parameters": {"dt": 1.0, "iterations": 1, "softening": 0.5}, "outputs": {"moved": "positions"},
            "domain": {"positions": FINITE, "velocities": FINITE, "masses": {"low": 0.1, "high": 2.0}},
        },
        {"n": 2048}, "NumPy, all pairs at once", _nbody,
    ),
    "histogram": Work(
        ["x: uint8[n]"], ["counts: int32[256]"], ["n: int32"], ([256], [256]), (["LANES"], ["LANES"]),
        {"operation": "histogram", "parameters": {"bins": 256, "range": [0, 256]}}, {"n": 1 << 22}, "NumPy bincount",
        lambda x: np.bincount(x, minlength=256),
    ),
}  # fmt: skip


def register(runtime: Any, name: str, kind: str, values: Mapping[str, int] = MappingProxyType({})) -> str:
    """The registered kernel's name. `values`: defaults of what it leaves open."""
    work, own = WORKS[name], f"{name}_{kind}"
    grid, local = work.naive if kind == "naive" else work.tuned
    source = first((SOURCES / kind / f"{name}.cl").read_text(), values)
    runtime.kernels.add(
        own, language="opencl", source=source, inputs=work.inputs, outputs=work.outputs, scalars=work.scalars, grid=grid, local=local,
        reference=work.reference,
    )  # fmt: skip
    return own


def library(work: Work) -> float:
    """Seconds of the library's routine: the median, after a first run."""
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {}
    for text in work.inputs:
        array, _, rest = text.partition(": ")
        dtype, _, shape = rest.rstrip("]").partition("[")
        sizes = [work.sizes[size] if size in work.sizes else int(size) for size in shape.split(", ")]
        given[array] = rng.integers(0, 256, sizes, np.uint8) if dtype == "uint8" else np.abs(rng.standard_normal(sizes, np.float32))
    if "a: float32" in work.scalars:
        given["a"] = np.float32(1.5)
    work.routine(**given)
    took = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work.routine(**given)
        took.append(time.perf_counter() - start)
    return median(took)


def measure(runtime: Any, name: str) -> dict[str, Any]:
    naive, tuned = register(runtime, name, "naive"), register(runtime, name, "tuned")
    found = runtime.kernels.tune(tuned, baseline=naive, sizes=WORKS[name].sizes, rounds=RUNS)
    work = WORKS[name]
    register(runtime, name, "tuned", found["winner"] or {})
    verdicts = [runtime.kernels.verify(tuned, sizes=[work.sizes]) for _ in range(AGAIN)]
    best = next((candidate for candidate in found["candidates"] if candidate["values"] == found["winner"]), None)
    seconds = best["measured"]["median"] if best else found["baseline"]["median"]
    spread = best["measured"]["spread"] if best else found["baseline"]["spread"]
    return {
        "kernel": name, "sizes": work.sizes, "naive": found["baseline"]["median"], "naive_spread": found["baseline"]["spread"],
        "naive_sha256": found["baseline"]["sha256"], "tuned": seconds, "tuned_spread": spread, "gain": found["baseline"]["median"] / seconds,
        "gain_spread": found["gain_spread"] if best else [1.0, 1.0], "values": found["winner"], "tried": found["tried"],
        "rejected": found["rejected"], "verified": all(verdict["ok"] for verdict in verdicts), "verdicts": [v["verdict"] for v in verdicts],
        "seeds": [found["seed"], *(verdict["seed"] for verdict in verdicts)], "library": work.library, "library_seconds": library(work),
        "device": found["identity"], "load": [round(load, 1) for load in os.getloadavg()],
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("kernel", "sizes", "naive ms", "tuned ms", "gain", "quartiles", "values", "library ms", "library", "right")
    for row in rows:
        table.add_row(
            row["kernel"], " ".join(f"{name}={size}" for name, size in row["sizes"].items()), f"{row['naive'] * 1e3:.3g}",
            f"{row['tuned'] * 1e3:.3g}",
            f"{row['gain']:.2f}", "{:.2f} to {:.2f}".format(*row["gain_spread"]),
            " ".join(f"{name}={value}" for name, value in (row["values"] or {}).items()) or "defaults", f"{row['library_seconds'] * 1e3:.3g}",
            row["library"], "yes" if row["verified"] else "NO",
        )  # fmt: skip
    Console(width=200).print(table)


def mean_gain(rows: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """Geometric, and those of the quartiles. What is not right gains nothing."""
    gains = [(row["gain"], *row["gain_spread"]) if row["verified"] else (1.0, 1.0, 1.0) for row in rows]
    middle, low, high = (exp(sum(map(log, column)) / len(rows)) for column in zip(*gains, strict=True))
    return middle, [low, high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", choices=[*WORKS, []], help="which; all unless named")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/kernels.json")
    arguments = parser.parse_args()
    rows, begun, about = [], time.monotonic(), machine()
    with openruntime.connect() as runtime:
        for name in arguments.kernels or WORKS:
            rows.append(measure(runtime, name))
            print(f"{name}: {rows[-1]['gain']:.2f} times, after {time.monotonic() - begun:.0f} s", flush=True)
    about["load_after"] = [round(value, 2) for value in os.getloadavg()]
    show(rows)
    wrong = sum(not row["verified"] for row in rows)
    gain, quartiles = mean_gain(rows)
    told = f"geometric mean of the gains: {gain:.2f} (of their quartiles: {quartiles[0]:.2f} to {quartiles[1]:.2f})"
    print(f"{told}; winners that are not right: {wrong}; rejected candidates: {sum(row['rejected'] for row in rows)}")
    print(f"load before {about['load_before']}, after {about['load_after']}; {time.monotonic() - begun:.0f} s")
    if not arguments.kernels:
        report = {
            "machine": about, "versions": versions(), "seconds": time.monotonic() - begun, "geometric_mean_gain": gain,
            "geometric_mean_of_quartiles": quartiles, "wrong": wrong, "kernels": rows,
        }  # fmt: skip
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
