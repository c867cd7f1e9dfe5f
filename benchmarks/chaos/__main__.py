"""Kill, stop, cut off, fill up and move clocks at random while tasks of every kind come in; count what is lost."""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.clients import Crowd, settle
from benchmarks.chaos.faults import FAULTS, REDIS, Fault, happen
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.stage import MIB, Stage
from benchmarks.report import machine, versions
from benchmarks.store import recovery

ROOT = Path(__file__).parents[2]
SETTLE = 120.0  # seconds that acknowledged tasks have to end after the last fault
BAD = ("lost", "wrong", "committed_twice", "cancels_forgotten", "orphans", "stack_traces")
COUNTS = ("answered", "unanswered", "sent_again", "more_than_once", "ran_again", "poisoned", *BAD)
NAMESPACES = "network namespaces: the proxy in front of the gateways cuts them off instead, for any user and on every system"


def run(scratch: Path, *, seed: int, faults: int, seconds: float, store: str = "sqlite", gateways: int = 1, only: tuple[str, ...] = (),
        quiet: float = 1.0, size: int = 1024 * MIB, settle_within: float = SETTLE) -> dict[str, Any]:  # fmt: skip
    """One run: `faults` of the kinds in turn of a shuffled order, each followed by up to `quiet` seconds of peace, for at most `seconds`.

    `scratch` is an empty directory on a real disk. Raises `RuntimeError` when the service does not come back."""
    before = machine()["load_before"]
    dice, ledger = random.Random(seed), Ledger(lingers=store == "sqlite")
    stage = Stage(scratch, store=store, gateways=gateways, size=size, clock=not only or "clock" in only)
    happened: list[Fault] = []
    try:
        missing = dict(stage.missing)
        if stage.redis_proxy is None:
            missing |= dict.fromkeys(REDIS, "runs with --store redis://")
        kinds = [kind for kind in only or FAULTS if kind not in missing]
        order: list[str] = []
        crowd = Crowd(stage.proxy.port, ledger, seed)
        begun = time.monotonic()
        try:
            _wait_for_answers(ledger)
            while len(happened) < faults and time.monotonic() < begun + seconds:
                if not order:
                    order = dice.sample(kinds, len(kinds))
                happened.append(happen(order.pop(), stage, ledger, dice))
                time.sleep(dice.uniform(0, quiet))
        finally:
            lasted = time.monotonic() - begun
            crowd.stop()
        settle(stage.proxy.port, ledger, settle_within)
    finally:
        stage.close()
    traces = stage.stack_traces()
    counts = {name: ledger.counts[name] for name in COUNTS} | {"orphans": stage.orphans, "stack_traces": len(traces)}
    return {
        "seed": seed, "store": store.partition("://")[0], "gateways": gateways, "seconds": round(lasted, 1), "load_before": before,
        "file_system": stage.volume.kind,
        "acknowledged": len(ledger.promises), **counts, "refused": dict(sorted(ledger.refused.items())), "kinds": dict(ledger.kinds),
        "not_run": {**missing, "namespaces": NAMESPACES}, "examples": ledger.wrongs + traces[:5],
        "faults": [{name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(fault).items() if name != "at"}
                   for fault in happened],
    }  # fmt: skip


def _wait_for_answers(ledger: Ledger) -> None:
    until = time.monotonic() + 30
    while len(ledger.accepted) < 20 or len(ledger.computed) < 20:
        if time.monotonic() > until:
            raise RuntimeError("the clients had no answers before the first fault")
        time.sleep(0.05)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All runs together; every figure from all their samples."""
    faults = [fault for one in runs for fault in one["faults"]]
    by_kind = {}
    for kind in FAULTS:
        mine = [fault for fault in faults if fault["kind"] == kind]
        if mine:
            recoveries = [fault["recovery"] for fault in mine]
            by_kind[kind] = {
                "faults": len(mine), "recovery_p50": quantile(recoveries, 0.5), "recovery_p99": quantile(recoveries, 0.99),
                "longest_pause": max(fault["pause"] for fault in mine),
            }  # fmt: skip
    replaced = [fault["replaced"] for fault in faults if fault["replaced"] is not None]
    totals = {name: sum(one[name] for one in runs) for name in ("acknowledged", *COUNTS)}
    refused: Counter[str] = Counter()
    for one in runs:
        refused.update({str(status): count for status, count in one["refused"].items()})
    return {
        "runs": len(runs), "faults": len(faults), **totals, "refused": dict(refused), "by_kind": by_kind,
        "worker_replaced": {"samples": len(replaced), "p50": quantile(replaced, 0.5), "p99": quantile(replaced, 0.99)},
    }  # fmt: skip


def quantile(values: list[float], share: float) -> float | None:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))], 4) if ordered else None


def show(report: dict[str, Any]) -> None:
    console, total = Console(width=120), report["total"]
    table = Table("fault", "times", "recovery p50 s", "recovery p99 s", "longest pause s", title="Faults (recovery: until both an "
                  "acknowledgement and a computed result were had again; pause: longest time without a computed result)")  # fmt: skip
    for kind, row in total["by_kind"].items():
        table.add_row(kind, str(row["faults"]), *(f"{row[name]:.3f}" for name in ("recovery_p50", "recovery_p99", "longest_pause")))
    console.print(table)
    counts = Table("", "count", title=f"{total['runs']} run(s), {total['faults']} faults")
    for name in ("acknowledged", *COUNTS):
        counts.add_row(name.replace("_", " "), f"{total[name]:,}")
    for status, count in sorted(total["refused"].items()):
        counts.add_row(f"answered {status}, sent again", f"{count:,}")
    replaced = total["worker_replaced"]
    if replaced["samples"]:
        counts.add_row("killed worker replaced, p50 / p99 s", f"{replaced['p50']:.3f} / {replaced['p99']:.3f} ({replaced['samples']})")
    if pending := report.get("pending"):
        counts.add_row(f"{pending['pending']:,} pending tasks recovered, s", f"{pending['seconds']:.3f}")
    console.print(counts)
    for kind, why in (report["runs"][-1]["not_run"] if report["runs"] else {}).items():
        console.print(f"not run here: {kind} ({why})")
    for one in report["runs"]:
        for example in one["examples"]:
            console.print(f"seed {one['seed']}: {example}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the faults, their order and the tasks; the moments remain the machine's")
    parser.add_argument("--faults", type=int, default=60, help="0 for none, as with --pending")
    parser.add_argument("--seconds", type=float, default=480.0, help="no new fault after so many seconds")
    parser.add_argument("--store", default="sqlite", help="sqlite, or redis://127.0.0.1:PORT (started here if nothing listens there)")
    parser.add_argument("--gateways", type=int, default=1, help="several need the Redis store")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=[], metavar="KIND", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--pending", type=int, default=0, help="measure also how long so many pending tasks take to be recovered")
    parser.add_argument("--out", type=Path, help="write JSON there")
    parser.add_argument("--append", action="store_true", help="add this run to those in --out; the table shows all")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build", help="where the servers keep their data: a real disk")
    arguments = parser.parse_args()
    if arguments.gateways > 1 and not arguments.store.startswith("redis://"):
        parser.error("several gateways need --store redis://…")
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "runs": []}
    if arguments.append and arguments.out and arguments.out.exists():
        report |= {name: value for name, value in json.loads(arguments.out.read_text()).items() if name in ("runs", "pending")}
    if arguments.faults:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            one = run(
                Path(folder), seed=arguments.seed, faults=arguments.faults, seconds=arguments.seconds, store=arguments.store,
                gateways=arguments.gateways, only=tuple(arguments.only), size=4096 * MIB,
            )  # fmt: skip
        report["runs"].append(one)
    if arguments.pending:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            report["pending"] = asyncio.run(recovery(Path(folder), arguments.pending))
    report["total"] = summary(report["runs"])
    show(report)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if any(report["total"][name] for name in BAD):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
