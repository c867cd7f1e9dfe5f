"""The optimizer over the twelve kernels of `benchmarks.kernels`, without a model: `python -m benchmarks.optimizer`.

Of each it is given the naive kernel, and besides, as a candidate, the one written with tunable constants. `tuner` is what tuning that one alone gives
in the same session, over the same locked baseline; `own` is the best that the optimizer made of the naive source itself. A claim is false where a
last measurement, in a process of its own with inputs that no earlier one had, does not agree: the winner is not verified there, or is not faster.
"""

import argparse
import asyncio
import json
import os
import time
from math import exp, log
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import openruntime
from benchmarks.agent_client import SdkClient
from benchmarks.kernels import ROOT, SOURCES, WORKS, Work
from benchmarks.report import machine, versions
from openruntime.ai.agents.experiments import Bench, Ratio
from openruntime.ai.agents.optimizer.candidates import Draft
from openruntime.ai.agents.optimizer.findings import Candidate, summary
from openruntime.ai.agents.optimizer.kernels import KernelOptimizer, optimize_kernel

OUT = ROOT / "benchmarks/results/optimizer.json"
HAND = "the kernel written by hand, its constants tuned"
ROUNDS, SEED = 15, 1000  # of the last measurement
NOISE = 0.9  # of the tuner's gain, that the optimizer's must reach: both are medians of a machine that others use


async def measure(runtime: openruntime.AsyncRuntime, name: str) -> dict[str, Any]:
    work, naive = WORKS[name], f"{name}_naive"
    given: Any = {"language": "opencl", "inputs": work.inputs, "outputs": work.outputs, "scalars": work.scalars, "reference": work.reference}
    grid, local = work.naive
    await runtime.kernels.add(naive, source=(SOURCES / "naive" / f"{name}.cl").read_text(), grid=grid, local=local, **given)
    begun = time.monotonic()
    client = SdkClient(runtime.connection)
    found = await optimize_kernel(KernelOptimizer(Bench(client), naive, work.sizes), drafts=[_by_hand(name, work)], keep="new")
    seconds = time.monotonic() - begun
    best, hand = found.best, found.candidates[0]
    own = [c for c in found.candidates[1:] if c.verified and c.gain is not None and not c.what.startswith(HAND)]
    row: dict[str, Any] = {
        "kernel": name, "sizes": work.sizes, "baseline": found.baseline and found.baseline.median, "locked": found.locked, "gain": found.gain,
        "interval": _interval(best.confirmed if best else None), "winner": best.what if best else None, "values": best.values if best else None,
        "tuner": hand.gain.value if hand.gain and hand.verified else None, "tuner_confirmed": _interval(hand.confirmed), "tuner_reason": hand.reason,
        "own": max((c.gain.value for c in own if c.gain), default=1.0), "own_what": max(own, key=_searched).what if own else None,
        "fraction": best.measured.achieved.get("fraction") if best and best.measured else None,
        "control": _interval(found.control), "tried": len(found.candidates), "rejected": sum(not c.verified for c in found.candidates),
        "tasks": client.tasks, "seconds": round(seconds, 1), "load": [round(load, 1) for load in os.getloadavg()], "report": summary(found),
    }  # fmt: skip
    row["checked"], row["false_claim"] = await _checked(runtime, naive, found.registered, work)
    return row


def _searched(candidate: Candidate) -> float:
    return candidate.gain.value if candidate.gain else 0.0


def _by_hand(name: str, work: Work) -> Draft:
    source = (SOURCES / "tuned" / f"{name}.cl").read_text().replace(f"{name}_tuned", f"{name}_naive")
    return Draft(HAND, {"source": source, "grid": work.tuned[0], "local": work.tuned[1]}, "tuner")


async def _checked(runtime: openruntime.AsyncRuntime, naive: str, registered: dict[str, Any] | None, work: Work) -> tuple[list[float] | None, bool]:
    """What was registered, against the naive kernel once more: quartiles of the gain, and whether what was claimed is false."""
    if registered is None:
        return None, False
    verdict = await runtime.kernels.verify(registered["name"], sizes=[work.sizes])
    report = await runtime.kernels.tune(registered["name"], baseline=naive, sizes=work.sizes, rounds=ROUNDS, seed=SEED)
    best = next((candidate for candidate in report["candidates"] if candidate.get("measured")), None)
    if best is None or not verdict["ok"]:
        return None, True
    return [best["gain"], *best["gain_spread"]], best["gain"] <= 1.0


def _interval(gain: Ratio | None) -> list[float] | None:
    return None if gain is None else [gain.value, gain.low, gain.high]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("kernel", "baseline ms", "gain", "interval", "roofline", "tuner", "own", "rejected", "checked again", "s", "winner")
    for row in rows:
        interval = "" if row["interval"] is None else "{1:.2f} to {2:.2f}".format(*row["interval"])
        checked = "" if row["checked"] is None else f"{row['checked'][0]:.2f}"
        fraction = f"{row['fraction']:.0%}" if row["fraction"] is not None else ""
        tuner = f"{row['tuner']:.2f}" if row["tuner"] else f"out: {row['tuner_reason']:.40}"
        table.add_row(
            row["kernel"], f"{row['baseline'] * 1e3:.3g}" if row["baseline"] else "", f"{row['gain']:.2f}", interval, fraction, tuner,
            f"{row['own']:.2f}", f"{row['rejected']} of {row['tried']}", f"{checked}{' FALSE' if row['false_claim'] else ''}",
            f"{row['seconds']:.0f}", row["winner"] or "",
        )  # fmt: skip
    Console(width=220).print(table)


def mean(gains: list[float]) -> float:
    """Geometric."""
    return exp(sum(map(log, gains)) / len(gains))


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """False claims; kernels where it claims less than the tuner gains, where that was verified and could not be chance in fresh rounds too."""
    sure = [row for row in rows if row["tuner"] and row["tuner_confirmed"] and row["tuner_confirmed"][1] > 1.0]
    behind = [row["kernel"] for row in sure if row["gain"] < NOISE * row["tuner_confirmed"][0]]
    return {
        "false_claims": sum(row["false_claim"] for row in rows), "behind_the_tuner": behind, "mean_gain": mean([row["gain"] for row in rows]),
        "mean_tuner": mean([max(row["tuner"] or 1.0, 1.0) for row in rows]), "mean_own": mean([max(row["own"], 1.0) for row in rows]),
    }  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", choices=[*WORKS, []], help="which; all unless named")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows = []
    async with openruntime.connect_async() as runtime:
        for name in arguments.kernels or WORKS:
            rows.append(await measure(runtime, name))
            print(f"{name}: {rows[-1]['gain']:.2f} times in {rows[-1]['seconds']:.0f} s", flush=True)
    report(rows, None if arguments.kernels and arguments.out == OUT else arguments.out)


def report(rows: list[dict[str, Any]], out: Path | None) -> None:
    show(rows)
    verdict = judged(rows)
    print(json.dumps(verdict))
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "versions": versions(), **verdict, "kernels": rows}, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
