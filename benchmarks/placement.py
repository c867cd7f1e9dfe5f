"""How near `device="auto"` comes to somebody who always knows the best backend, beside every backend alone and simpler rules.

    python -m benchmarks.placement            [--rounds 7] [--tasks 1000]   measure, and write benchmarks/results/placement.json
    python -m benchmarks.placement profile    measure other sizes, and write the profile that is shipped
    python -m benchmarks.placement decision   what one decision costs

Everything runs in one real runtime with real workers. The oracle of a case is the (device, backend) with the lowest median of its rounds, in
which the backends take turns; compiling and first calls are told apart. `auto` is then judged by what it chooses: cold (the shipped
profile and the calibration, nothing learned), and after 200 and 1,000 tasks of a random stream, by the medians of what it chose over the oracle's.
"""

import argparse
import asyncio
import json
import random
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.placement_cases import Case, cases
from benchmarks.report import machine, versions
from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.devices.calibration import Calibrator

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "openruntime/devices/profile.json"
LIBRARIES = ("torch", "jax", "mlx", "pyopencl")
LONGEST = 2.0  # seconds: what takes longer once on a backend is not repeated there
CALIBRATE = 120.0  # seconds to wait for the calibration, which gives way to everything else
CHECKPOINTS = (200, 1000)
DRAWS = 200  # of the bootstrap
WARMED = 10  # samples of each kind that StarPU takes before its model counts (STARPU_CALIBRATE_MINIMUM)


@dataclass
class Runs:
    """Of one case on one backend: seconds in the worker without compiling, and what the first call cost more."""

    seconds: list[float] = field(default_factory=list)
    compiles: list[float] = field(default_factory=list)
    first: float = 0.0

    @property
    def median(self) -> float:
        return median(self.seconds)


Table = dict[int, dict[str, Runs]]  # case number -> backend


@asynccontextmanager
async def runtime(scratch: Path, **flags: object) -> AsyncIterator[Runtime]:
    """A fresh one with nothing learned, no cache, every backend found."""
    shutil.rmtree(scratch, ignore_errors=True)
    settings = Settings.load({"store": "memory", "cache": False, "calibrate": False, "worker_idle": 3600.0, "data_dir": str(scratch), **flags})
    async with running(settings) as made:
        while any(backend["status"] == "looking" for backend in made.devices.backends()):
            await made.devices.found()
        yield made


async def run(made: Runtime, case: Case, where: str | None = None) -> Task:
    task = await made.tasks.submit(TaskRequest(operation=case.operation, parameters=case.parameters, device_preference=where), case.arrays)
    assert await made.tasks.wait(task, 120), f"{case} on {where} takes for ever"
    return task


def spent(task: Task) -> tuple[float, float]:
    """Seconds in the worker without compiling, and compiling."""
    t = task.timings
    assert t is not None
    return t.finished - t.started - t.compile, t.compile


def places(made: Runtime) -> list[str]:
    return [f"{device}/{backend}" for device, backend in made.devices.places("any", "matmul")]


async def measure(made: Runtime, asked: Sequence[Case], rounds: int, seed: int = 1) -> Table:
    """Every case on every place, in turns."""
    table: Table = {number: {} for number in range(len(asked))}
    order = random.Random(seed)
    for turn in range(rounds + 1):
        for number, case in enumerate(asked):
            found = table[number]
            todo = places(made) if turn == 0 else list(found)
            order.shuffle(todo)
            for place in todo:
                if turn > 1 and found[place].seconds and max(found[place].seconds) > LONGEST:
                    continue
                try:
                    task = await run(made, case, place)
                except OpenRuntimeError:
                    continue  # it says that it cannot
                if task.status is not TaskStatus.COMPLETED:
                    found.pop(place, None)
                    print(f"  {case} on {place}: {task.failure.message if task.failure else task.status}")
                    continue
                seconds, compiling = spent(task)
                if turn == 0:
                    found[place] = Runs(first=seconds + compiling)
                else:
                    found[place].seconds.append(seconds)
                    found[place].compiles.append(compiling)
        print(f"round {turn} of {rounds}", flush=True)
    for found in table.values():
        for place in [place for place, runs in found.items() if not runs.seconds]:
            del found[place]
        for runs in found.values():
            runs.first = max(0.0, runs.first - runs.median)
    return table


# -- what rules would choose ---------------------------------------------------------------------------------------------------


def ratios(chosen: Mapping[int, float], table: Table) -> dict[str, float]:
    """Total and geometric mean of the chosen seconds over the oracle's."""
    best = {number: min(runs.median for runs in found.values()) for number, found in table.items()}
    return {
        "total": sum(chosen.values()) / sum(best[number] for number in chosen),
        "geometric": exp(mean(log(seconds / best[number]) for number, seconds in chosen.items())),
    }


def interval(picks: Mapping[int, Mapping[str, float]], table: Table) -> dict[str, Any]:
    """`ratios` of what was picked (case -> place -> share), with 5 and 95 per cent of a bootstrap over the runs."""
    drawn = []
    for draw in range(DRAWS):
        rng = random.Random(draw)
        sample: Table = {
            number: {place: Runs([rng.choice(runs.seconds) for _ in runs.seconds]) for place, runs in found.items()}
            for number, found in table.items()
        }
        drawn.append(ratios(_seconds(picks, sample), sample))
    told: dict[str, Any] = ratios(_seconds(picks, table), table)
    for name in ("total", "geometric"):
        values = sorted(row[name] for row in drawn)
        told[f"{name}_interval"] = [values[len(values) // 20], values[-len(values) // 20 - 1]]
    return told


def _seconds(picks: Mapping[int, Mapping[str, float]], table: Table) -> dict[int, float]:
    return {number: sum(share * table[number][place].median for place, share in shares.items()) for number, shares in picks.items()}


def single(table: Table, place: str) -> dict[int, dict[str, float]]:
    """One backend for everything; NumPy where it cannot."""
    fallback = next(iter(next(iter(table.values()))))
    numpy = next((p for p in next(iter(table.values())) if p.endswith("/numpy")), fallback)
    return {number: {place if place in found else numpy: 1.0} for number, found in table.items()}


def chance(table: Table) -> dict[int, dict[str, float]]:
    """Any of them alike: what a random choice is on average, and taking turns among idle ones, which is all that the load tells of them."""
    return {number: dict.fromkeys(found, 1 / len(found)) for number, found in table.items()}


def noise(table: Table) -> dict[str, float]:
    """The oracle against itself: chosen by the odd rounds, judged by the even ones."""
    even: Table = {n: {p: Runs(r.seconds[::2] or r.seconds) for p, r in found.items()} for n, found in table.items()}
    odd = {n: {p: Runs(r.seconds[1::2] or r.seconds) for p, r in found.items()} for n, found in table.items()}
    chosen = {n: even[n][min(found, key=lambda p: found[p].median)].median for n, found in odd.items()}
    return ratios(chosen, even)


def dmda(table: Table, tasks: int, seed: int = 5) -> dict[str, Any]:
    """StarPU's rule, replayed on the samples: a mean of at least ten runs of each codelet, size and worker; until then it takes turns."""
    rng, took, best = random.Random(seed), 0.0, 0.0
    seen: dict[int, dict[str, list[float]]] = {n: {p: [] for p in found} for n, found in table.items()}
    for _ in range(tasks):
        number = rng.choice(list(table))
        known = seen[number]
        place = min(known, key=lambda p: (len(known[p]) >= WARMED, len(known[p]) if len(known[p]) < WARMED else mean(known[p])))
        seconds = rng.choice(table[number][place].seconds)
        known[place].append(seconds)
        took, best = took + seconds, best + min(runs.median for runs in table[number].values())
    picks = {n: {min(known, key=lambda p: mean(known[p]) if known[p] else 0.0): 1.0} for n, known in seen.items()}
    return {"with learning": took / best} | ratios(_seconds(picks, table), table)


# -- what the runtime chooses --------------------------------------------------------------------------------------------------


async def choose(made: Runtime, asked: Sequence[Case], table: Table) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """One task of each case in a random order, free to run anywhere: where it went, and what it really took."""
    picks: dict[int, dict[str, float]] = {}
    actual, compiling = {}, 0.0
    for number in random.Random(len(asked)).sample(range(len(asked)), len(asked)):
        if not table[number]:
            continue
        task = await run(made, asked[number])
        place = f"{task.device}/{task.backend}"
        seconds, compiled = spent(task)
        actual[number], compiling = seconds, compiling + compiled
        if place in table[number]:
            picks[number] = {place: 1.0}
    as_run = ratios(actual, table)
    return picks, {"as run, total": as_run["total"], "as run, geometric": as_run["geometric"], "compiling": compiling}


async def stream(made: Runtime, asked: Sequence[Case], count: int, seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    told = {"seconds": 0.0, "compiling": 0.0, "tried": 0.0}
    for _ in range(count):
        task = await run(made, rng.choice(asked))
        seconds, compiled = spent(task)
        told["seconds"] += seconds
        told["compiling"] += compiled
        told["tried"] += bool(task.placement and "not tried" in task.placement["reason"])
    return told


async def warm_up(made: Runtime) -> None:
    """A worker of each: how long they take to start is told apart."""
    for place in places(made):
        task = await made.tasks.submit(TaskRequest(operation="sum", device_preference=place), {"x": Array("float32", (1,), bytes(4))})
        assert await made.tasks.wait(task, 120)


async def calibrate(made: Runtime) -> float:
    began = time.monotonic()
    found = Calibrator(made.catalogue, made.runtimes, made.cost, made.devices.roofline, made.pool, made.executor.calm)
    await asyncio.wait_for(found.run(), CALIBRATE)
    return time.monotonic() - began


async def judge(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = cases()
    async with runtime(arguments.scratch, threads=arguments.threads) as made:
        await warm_up(made)
        table = await measure(made, asked, arguments.rounds)
    alone = sorted({place for found in table.values() for place in found})
    document: dict[str, Any] = {
        "machine": machine(), "versions": versions(LIBRARIES), "threads": arguments.threads, "cases": len(asked),
        "oracle against itself": noise(table),
        "rules": {place.partition("/")[2] + " alone": interval(single(table, place), table) for place in alone}
        | {"random, or least loaded": interval(chance(table), table)},
        "dmda (StarPU's rule, replayed)": dmda(table, arguments.tasks), "auto": {},
    }  # fmt: skip
    async with runtime(arguments.scratch, threads=arguments.threads) as made:
        document["calibration seconds"] = await calibrate(made)
        document["starts"] = {place: made.cost.start(*place.split("/")) for place in places(made)}
        await warm_up(made)
        done = 0
        picks, told = await choose(made, asked, table)
        document["auto"]["cold"] = interval(picks, table) | told
        for number, checkpoint in enumerate(point for point in CHECKPOINTS if point <= arguments.tasks):
            learned = await stream(made, asked, checkpoint - done, number)
            done = checkpoint
            picks, told = await choose(made, asked, table)
            document["auto"][f"after {checkpoint}"] = interval(picks, table) | told | {"stream": learned}
            print(checkpoint, {k: v for k, v in document["auto"][f"after {checkpoint}"].items() if k in ("total", "geometric")}, flush=True)
    document["chosen after all"] = {str(asked[number]): next(iter(shares)) for number, shares in picks.items()}
    document["table"] = {
        str(case): {place: {"seconds": runs.seconds, "first": runs.first} for place, runs in table[number].items()}
        for number, case in enumerate(asked)
    }
    return document


async def make_profile(arguments: argparse.Namespace) -> None:
    """The fastest of each counts: it had the least in its way."""
    asked = cases(profile=True)
    async with runtime(arguments.scratch, threads=arguments.threads) as made:
        await warm_up(made)
        table = await measure(made, asked, arguments.rounds)
        rows = []
        firsts: dict[tuple[str, str, str], list[float]] = {}
        for number, case in enumerate(asked):
            call = made.catalogue.bind(case.operation, {**case.parameters, **case.arrays})
            for place, runs in table[number].items():
                device, backend = place.split("/")
                platform = device.partition(":")[0]
                rows.append([case.operation, call.dtype, call.estimate.flops + call.estimate.bytes, platform, backend, round(min(runs.seconds), 8)])
                firsts.setdefault((case.operation, platform, backend), []).append(runs.first)
        starts = [[p.partition(":")[0], p.split("/")[1], round(made.cost.start(*p.split("/")), 3)] for p in places(made)]
    document = {
        "machine": machine(), "versions": versions(LIBRARIES), "rows": rows, "starts": starts,
        "firsts": [[*key, round(median(values), 5)] for key, values in firsts.items()],
    }  # fmt: skip
    text = ",\n".join(f' "{name}": {_lines(value)}' for name, value in document.items())
    arguments.out.write_text("{\n" + text + "\n}\n")


def _lines(value: Any) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]" if isinstance(value, list) else json.dumps(value)


async def decision(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of one decision, all backends warm: nothing remembered, a small task where nothing is better than at home, a tiny one."""
    async with runtime(arguments.scratch, threads=arguments.threads) as made:
        await warm_up(made)
        placement, slot = made.executor._placement, made.executor.slots[0]
        told = {}
        for name, predicted in (("whole", 1.0), ("small", 5e-4), ("tiny", 1e-5)):
            call = made.catalogue.bind("matmul", {name: {"float32": [[1.0]]}["float32"] for name in "ab"})
            task = Task("t", call, "local", "any", 5, time.time(), 0.0, predicted=predicted)
            samples = []
            for _ in range(3000):
                placement._last = None
                began = time.perf_counter()
                placement.here(task, slot)
                samples.append(time.perf_counter() - began)
            told[f"{name}, µs"] = median(samples) * 1e6
            told[f"{name}, µs (99%)"] = sorted(samples)[-30] * 1e6
        return told


def show(document: Mapping[str, Any]) -> None:
    print(f"{'':32}{'total':>8} {'geometric':>10}   over the oracle, of {document['cases']} cases")
    rows = {"oracle against itself": document["oracle against itself"], **document["rules"]}
    rows |= {"dmda (replayed)": document["dmda (StarPU's rule, replayed)"]} | {f"auto, {name}": found for name, found in document["auto"].items()}
    for name, found in rows.items():
        spread = f"   {found['total_interval'][0]:.3f} to {found['total_interval'][1]:.3f}" if "total_interval" in found else ""
        print(f"{name:32}{found['total']:8.3f} {found['geometric']:10.3f}{spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["judge", "profile", "decision"], default="judge")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--threads", type=int, help="of each worker; by default every core, which wants a machine that does nothing else")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scratch", type=Path, default=ROOT / "build/placement")
    arguments = parser.parse_args()
    if arguments.what == "profile":
        arguments.out = arguments.out or PROFILE
        asyncio.run(make_profile(arguments))
        return
    if arguments.what == "decision":
        print(json.dumps(asyncio.run(decision(arguments)), indent=1, ensure_ascii=False))
        return
    document = asyncio.run(judge(arguments))
    document["decision"] = asyncio.run(decision(arguments))
    out = arguments.out or ROOT / "benchmarks/results/placement.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    show(document)


if __name__ == "__main__":
    main()
