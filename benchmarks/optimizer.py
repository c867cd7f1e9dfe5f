"""The optimizer over the twelve kernels of `benchmarks.kernels`, without a model: `python -m benchmarks.optimizer`.

Of each it is given the naive kernel, and besides, as a candidate, the one written with tunable constants. `tuner` is what tuning that one alone gives
in the same run, over the same locked baseline: in fresh rounds where it got them, else in the search. `own` is the best that the optimizer made of
the naive source itself. A claim is false where a last measurement, in a process of its own with inputs that no earlier one had, does not agree: the
winner is not verified there, is not faster, or is so much less faster that the two ranges do not meet.

What is measured is written after each kernel; `--resume` does those that are not there yet, and `--seconds` begins none after so many.
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
    begun, before = time.monotonic(), _load()
    client = SdkClient(runtime.connection)
    found = await optimize_kernel(KernelOptimizer(Bench(client), naive, work.sizes), drafts=[_by_hand(name, work)], keep="new")
    seconds = time.monotonic() - begun
    best, hand = found.best, found.candidates[0]
    claim = best.confirmed if best else None
    own = [c for c in found.candidates[1:] if c.verified and c.gain is not None and not c.what.startswith(HAND)]
    achieved = best.measured.achieved if best and best.measured else {}
    row: dict[str, Any] = {
        "kernel": name, "sizes": work.sizes, "baseline": found.baseline and found.baseline.median, "locked": found.locked, "gain": found.gain,
        "interval": _interval(claim), "winner": best.what if best else None, "values": best.values if best else None,
        **_tuners(hand, found.gain),
        "own": max((c.gain.value for c in own if c.gain), default=1.0), "own_what": max(own, key=_searched).what if own else None,
        "fraction": achieved.get("fraction"), "fraction_why": _why(best is not None, achieved, found.left_out),
        "control": _interval(found.control), "tried": len(found.candidates), "rejected": sum(not c.verified for c in found.candidates),
        "tasks": client.tasks, "seconds": round(seconds, 1), "report": summary(found),
    }  # fmt: skip
    row["checked"], row["false_claim"] = await _checked(runtime, naive, found.registered, work, claim)
    row["load"] = [before, _load()]
    return row


def _load() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def _why(won: bool, achieved: dict[str, Any], left_out: list[str]) -> str | None:
    """Why the winner's fraction of the roofline is not known."""
    if not won or achieved.get("fraction") is not None:
        return None if won else "nothing won"
    return achieved.get("reason") or next((line for line in left_out if "roofline" in line), "no ceiling was measured")


def _tuners(hand: Candidate, gain: float) -> dict[str, Any]:
    """What tuning alone gave in this run, and `over` it what is claimed; None where that was no right kernel, with the `tuner_reason`."""
    given = (hand.confirmed or hand.gain) if hand.verified else None
    return {
        "tuner": given.value if given else None, "tuner_interval": _interval(given), "tuner_confirmed": bool(given and hand.confirmed),
        "tuner_reason": hand.reason, "over_tuner": gain / max(given.value, 1.0) if given else None,
    }  # fmt: skip


def _searched(candidate: Candidate) -> float:
    return candidate.gain.value if candidate.gain else 0.0


def _by_hand(name: str, work: Work) -> Draft:
    source = (SOURCES / "tuned" / f"{name}.cl").read_text().replace(f"{name}_tuned", f"{name}_naive")
    return Draft(HAND, {"source": source, "grid": work.tuned[0], "local": work.tuned[1]}, "tuner")


async def _checked(
    runtime: openruntime.AsyncRuntime, naive: str, registered: dict[str, Any] | None, work: Work, claim: Ratio | None
) -> tuple[list[float] | None, bool]:
    """What was registered, against the naive kernel once more: the gain and its range, and whether what was claimed is false."""
    if registered is None or claim is None:
        return None, False
    verdict = await runtime.kernels.verify(registered["name"], sizes=[work.sizes])
    report = await runtime.kernels.tune(registered["name"], baseline=naive, sizes=work.sizes, rounds=ROUNDS, seed=SEED)
    best = next((candidate for candidate in report["candidates"] if candidate.get("measured")), None)
    if best is None or not verdict["ok"]:
        return None, True
    again = Ratio(best["gain"], *best["gain_spread"])
    return _interval(again), false_claim(claim, again)


def false_claim(claim: Ratio, again: Ratio) -> bool:
    """Whether the gain is none when it is measured again, or surely less than was claimed at least."""
    return again.value <= 1.0 or again.high < claim.low


def _interval(gain: Ratio | None) -> list[float] | None:
    return None if gain is None else [gain.value, gain.low, gain.high]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("kernel", "baseline ms", "gain", "range", "tuner", "over it", "own", "roofline", "rejected", "checked again", "s", "load", "winner")
    for row in rows:
        interval = "" if row["interval"] is None else "{1:.2f} to {2:.2f}".format(*row["interval"])
        checked = "" if row["checked"] is None else "{:.2f} ({:.2f} to {:.2f})".format(*row["checked"])
        fraction = f"{row['fraction']:.0%}" if row["fraction"] is not None else f"not known: {row['fraction_why']:.30}"
        tuner = f"{row['tuner']:.2f}{'' if row['tuner_confirmed'] else ' searched'}" if row["tuner"] else f"out: {row['tuner_reason']:.30}"
        table.add_row(
            row["kernel"], f"{row['baseline'] * 1e3:.3g}" if row["baseline"] else "", f"{row['gain']:.2f}", interval, tuner,
            f"{row['over_tuner']:.2f}" if row["over_tuner"] else "", f"{row['own']:.2f}", fraction, f"{row['rejected']} of {row['tried']}",
            f"{checked}{' FALSE' if row['false_claim'] else ''}", f"{row['seconds']:.0f}", "{:.1f}, {:.1f}".format(*row["load"]), row["winner"] or "",
        )  # fmt: skip
    Console(width=220).print(table)


def mean(gains: list[float]) -> float | None:
    """Geometric; None of nothing."""
    return exp(sum(map(log, gains)) / len(gains)) if gains else None


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """False claims; kernels where less is claimed than tuning alone gave in the same run, where that was right; the gains together."""
    tuned = [row for row in rows if row["over_tuner"] is not None]
    return {
        "false_claims": sum(row["false_claim"] for row in rows), "behind_the_tuner": [row["kernel"] for row in tuned if row["over_tuner"] < NOISE],
        "mean_gain": mean([row["gain"] for row in rows]), "mean_over_tuner": mean([row["over_tuner"] for row in tuned]),
        "mean_tuner": mean([max(row["tuner"], 1.0) for row in tuned]), "mean_own": mean([max(row["own"], 1.0) for row in rows]),
        "missing": [name for name in WORKS if name not in {row["kernel"] for row in rows}],
    }  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", choices=[*WORKS, []], help="which; all unless named")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--resume", action="store_true", help="keep what the file of results holds, and do the rest")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no kernel after so many")
    arguments = parser.parse_args()
    rows = [row for row in json.loads(arguments.out.read_text())["kernels"] if "over_tuner" in row] if arguments.resume else []
    out = None if arguments.kernels and arguments.out == OUT and not arguments.resume else arguments.out
    begun = time.monotonic()
    async with openruntime.connect_async() as runtime:
        for name in arguments.kernels or WORKS:
            if time.monotonic() - begun > arguments.seconds:
                break
            if name not in {row["kernel"] for row in rows}:
                rows.append(await measure(runtime, name))
                print(f"{name}: {rows[-1]['gain']:.2f} times in {rows[-1]['seconds']:.0f} s", flush=True)
                write(rows, out)
    show(rows)
    print(json.dumps(judged(rows)))


def write(rows: list[dict[str, Any]], out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "versions": versions(), **judged(rows), "kernels": rows}, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
