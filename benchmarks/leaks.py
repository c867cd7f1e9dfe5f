"""Does a server keep what it should have let go? Work comes and goes; memory, descriptors, threads and files are counted.

    python -m benchmarks.leaks [--only tasks|connections|websockets|restarts|failures|kills] [--small]

Each part has a server of its own with small bounds (history, cache), is warmed up until they are reached, and then does its
work in eight rounds. After each the gateway collects its garbage and tells its figures. They must not have risen.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import comings
from benchmarks.report import machine, versions
from benchmarks.servers import Server, openruntime, spawn
from benchmarks.vitals import MIB, Patient, Sample, environment, kinds_grown, names, names_grown, observed

ROOT = Path(__file__).parents[1]
ROUNDS = 8
THREADS = 4 + min(32, (os.cpu_count() or 1) + 4)  # the loop's, the store's writer and two readers, and asyncio's pool, which fills slowly
BOUNDS: dict[str, str | int] = {
    "history_count": 20_000, "cache_bytes": "16MiB", "worker_idle": 3600, "slots": 2, "threads": 1,
    "batch_bytes": "1MiB",  # an allocator keeps as much as the largest batch took, which comes late or never
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """`run(patient, count, dice)` does `count` units of work and returns when they are over. `allowed`: bytes that memory may rise."""

    run: Callable[[Patient, int, Random], None]
    count: int
    small: int
    warm: int
    allowed: int


BLAS = 36 * MIB  # what OpenBLAS takes once in each worker: the second slot's first product may come late
FILL = 40_000  # tasks that fill what is bounded: 20,000 results kept in memory, 20,000 events, tables; and that bring up all workers
PARTS = {
    "tasks": Part(comings.tasks, 200_000, 3_000, 20_000, 8 * MIB),
    "connections": Part(comings.connections, 10_000, 100, 1_000, 4 * MIB),
    "websockets": Part(comings.websockets, 2_000, 30, 400, 3 * MIB),
    "restarts": Part(comings.restarts, 500, 5, 40, 4 * MIB),
    "failures": Part(comings.failures, 1_000, 40, 200, 2 * MIB),
}


@dataclass
class Outcome:
    """Figures before and after the rounds. `rise`: of the gateway's memory between its first and its last rounds, bytes."""

    part: str
    count: int
    seconds: float
    rise: float
    worker_rise: float
    samples: list[Sample]
    problems: list[str]

    def as_dict(self) -> dict[str, Any]:
        rounds = [{name: value for name, value in asdict(sample).items() if name not in ("kinds", "names")} for sample in self.samples]
        return {**asdict(self), "samples": rounds, "rise": round(self.rise), "bytes_a_unit": round(self.rise / self.count, 1)}


def soak(name: str, scratch: Path, *, small: bool = False, seed: int = 0) -> Outcome:
    """One part. `small`: fewer units after a short warm-up; memory is then judged coarsely, for the bounds are not reached."""
    part, dice = PARTS[name], Random(seed)
    count, rounds = (part.small, 2) if small else (part.count, ROUNDS)
    scratch.mkdir(parents=True, exist_ok=True)
    with observed(scratch, **BOUNDS) as patient:
        _run(patient, PARTS["tasks"], 500 if small else FILL, dice)
        _run(patient, part, max(2, part.small // 2) if small else part.warm, dice)
        start = time.monotonic()
        before = patient.quiet(lambda sample: not sample.leased)
        samples = [before]
        for _ in range(rounds):
            _run(patient, part, max(1, count // rounds), dice)
            samples.append(patient.quiet(lambda sample: not _risen(before, sample)))
        seconds = time.monotonic() - start
        litter = patient.litter()
    third = max(1, len(samples) // 3)
    rise, worker_rise = (
        fmean(getattr(sample, kind) for sample in samples[-third:]) - fmean(getattr(sample, kind) for sample in samples[:third])
        for kind in ("memory", "worker_memory")
    )
    problems = _risen(before, samples[-1])
    allowed = 48 * MIB if small else part.allowed
    limits = (("gateway", rise, allowed), ("worker", worker_rise, allowed + BLAS))
    problems += [f"the {who}'s memory rose by {by / MIB:.1f} MiB" for who, by, limit in limits if by > limit]
    if litter:
        problems.append(f"left behind: {litter[:10]}")
    if problems:
        problems.append(f"objects that became more: {kinds_grown(before, samples[-1])}")
        problems.append(f"new descriptors and modules: {names_grown(before, samples[-1])}")
    return Outcome(name, count, seconds, rise, worker_rise, samples, problems)


def _run(patient: Patient, part: Part, count: int, dice: Random) -> None:
    try:
        part.run(patient, count, dice)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"{error}\n{patient.server.log_tail()}") from error


def _risen(before: Sample, after: Sample) -> list[str]:
    """What must come back to where it was."""
    found = []
    for kind in ("descriptors", "threads", "tasks", "leased", "files"):
        was, now = getattr(before, kind), getattr(after, kind)
        if now > (max(was, THREADS) if kind == "threads" else was):
            found.append(f"{kind}: {was} before, {now} after")
    return found


def kills(count: int, scratch: Path, seed: int = 0) -> Outcome:
    """kill -9 of the server while large arrays are under way, `count` times over one data directory; what it leaves is looked for."""
    dice, problems, start = Random(seed), [], time.monotonic()
    temporary, data, before = scratch / "tmp", scratch / "data", names(Path("/dev/shm"))
    temporary.mkdir(parents=True)
    for number in range(count):
        server = spawn(openruntime(log_level="error"), data, scratch / "log", environment(temporary))
        try:
            server.wait_ready("/health/ready")
            drafts = [path.name for path in data.rglob("*draft*")]
            load = comings.large_arrays(server.port)
            time.sleep(dice.uniform(0.3, 1.0))
            problems += _killed(server, load)
        finally:
            server.stop()
        left = [name for name in names(Path("/dev/shm")) - before if "openruntime" in name or name.startswith("or-")]
        if left or drafts or names(temporary):
            problems.append(f"after kill {number}: in shared memory {left}, drafts {drafts}, temporary {sorted(names(temporary))}")
    return Outcome("kills", count, time.monotonic() - start, 0, 0, [], problems)


def _killed(server: Server, load: Callable[[], int]) -> list[str]:
    tree = server.tree()
    holding = sum(_slabs(process) for process in tree)
    server.kill()
    problems = [] if load() and holding else ["nothing was under way, so this kill shows nothing"]
    _, alive = psutil.wait_procs([process for process in tree if process.pid != server.process.pid], timeout=5)
    return problems + [f"process {process.pid} outlived its server and holds {_slabs(process)} slabs" for process in alive]


def _slabs(process: psutil.Process) -> int:
    with suppress(OSError, psutil.NoSuchProcess):
        return sum("memfd:openruntime" in line for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines())
    return 0


def show(outcomes: Sequence[Outcome]) -> None:
    table = Table(
        "part", "units", "s", "gateway MiB", "rise MiB", "bytes a unit", "worker rise", "descriptors", "threads", "tasks", "shared", "verdict"
    )
    for found in outcomes:
        spans = ["-"] * 5
        if found.samples:
            first, last = found.samples[0], found.samples[-1]
            spans = [f"{first.memory / MIB:.0f} → {last.memory / MIB:.0f}"]
            spans += [f"{getattr(first, kind)} → {getattr(last, kind)}" for kind in ("descriptors", "threads", "tasks", "leased")]
        rises = [f"{found.rise / MIB:+.2f}", f"{found.rise / found.count:+.1f}", f"{found.worker_rise / MIB:+.2f}"]
        table.add_row(found.part, f"{found.count:,}", f"{found.seconds:.0f}", spans[0], *rises, *spans[1:], "flat" if not found.problems else "RISES")
    console = Console(width=170)
    console.print(table)
    for found in outcomes:
        for problem in found.problems:
            console.print(f"{found.part}: {problem}", style="bold")


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what a server keeps when work comes and goes. Twelve minutes; --small takes one.")
    parser.add_argument("--only", choices=[*PARTS, "kills"], help="one part")
    parser.add_argument("--small", action="store_true", help="few units of each; memory is judged coarsely")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/leaks.json", help="not written with --only or --small, unless given")
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="openruntime-leaks-") as scratch:
        for name in [arguments.only] if arguments.only else [*PARTS, "kills"]:
            folder = Path(scratch) / name
            if name == "kills":
                outcomes.append(kills(2 if arguments.small else 20, folder, arguments.seed))
            else:
                outcomes.append(soak(name, folder, small=arguments.small, seed=arguments.seed))
            show(outcomes[-1:])
    if not (arguments.only or arguments.small) or arguments.out != parser.get_default("out"):
        report = {"machine": machine(), "versions": versions(), "parts": [found.as_dict() for found in outcomes]}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if any(found.problems for found in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
