"""How near `device="auto"` comes to somebody who always knows the best backend, beside every backend alone and simpler rules.

    python -m benchmarks.placement            [--rounds 15] [--tasks 1000]   measure, and write benchmarks/results/placement.json
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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.placement_cases import Case, cases
from benchmarks.placement_rules import Runs, Table, chance, dmda, interval, noise, ratios, single
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
MIXED, AT_ONCE = 300, 8  # tasks of the mixed stream, and how many of them are under way at a time


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


# -- what the runtime chooses --------------------------------------------------------------------------------------------------


async def choose(made: Runtime, asked: Sequence[Case], table: Table) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """One task of each case in a random order, free to run anywhere: where it went, and what it really took. Nothing is tried or learned by it."""
    picks: dict[int, dict[str, float]] = {}
    actual, compiling = {}, 0.0
    learned, placement = made.cost.dump(), made.executor._placement
    allowance = placement._allowance
    for number in random.Random(len(asked)).sample(range(len(asked)), len(asked)):
        if not table[number]:
            continue
        placement._allowance = 0.0
        task = await run(made, asked[number])
        place = f"{task.device}/{task.backend}"
        seconds, compiled = spent(task)
        actual[number], compiling = seconds, compiling + compiled
        if place in table[number]:
            picks[number] = {place: 1.0}
    made.cost.load(learned)
    placement._allowance = allowance
    as_run = ratios(actual, table)
    return picks, {"as run, total": as_run["total"], "as run, geometric": as_run["geometric"], "compiling": compiling}


async def stream(made: Runtime, asked: Sequence[Case], table: Table, count: int, seed: int) -> dict[str, float]:
    """A random stream, one at a time: what it took over the oracle's medians, and of that what trying and compiling took."""
    rng = random.Random(seed)
    told = dict.fromkeys(("seconds", "oracle", "tried", "tried, seconds beyond the oracle", "compiling"), 0.0)
    for _ in range(count):
        number = rng.choice([n for n, found in table.items() if found])
        best = min(runs.median for runs in table[number].values())
        task = await run(made, asked[number])
        seconds, compiled = spent(task)
        told["seconds"] += seconds
        told["oracle"] += best
        told["compiling"] += compiled
        if task.placement and "not tried" in task.placement["reason"]:
            told["tried"] += 1
            told["tried, seconds beyond the oracle"] += seconds - best
    return told | {"over the oracle": told["seconds"] / told["oracle"]}


async def mixed(made: Runtime, asked: Sequence[Case], table: Table, where: Callable[[int], str | None]) -> float:
    """Seconds until a stream of which several are under way at a time has ended, each placed by `where`: waiting for each other is part of it."""
    rng = random.Random(7)
    numbers = rng.choices([n for n, found in table.items() if found], k=MIXED)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await run(made, asked[number], where(number))

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in numbers))
    return time.perf_counter() - began


async def compared(made: Runtime, asked: Sequence[Case], table: Table, alone: Sequence[str], rounds: int = 3) -> dict[str, list[float]]:
    """The mixed stream under each rule that can be said by a task's preference, in turns."""
    rng = random.Random(11)
    oracle = {n: min(found, key=lambda p: found[p].median) for n, found in table.items() if found}
    rules: dict[str, Callable[[int], str | None]] = {"auto": lambda number: None, "oracle of lone tasks": oracle.__getitem__}
    for place in alone:
        rules[place.partition("/")[2] + " alone"] = {n: next(iter(picks)) for n, picks in single(table, place).items()}.__getitem__
    rules["random"] = lambda number: rng.choice(list(table[number]))
    told: dict[str, list[float]] = {name: [] for name in rules}
    for _ in range(rounds):
        for name, where in rules.items():
            if not told[name] or told[name][0] < 4 * told["auto"][0]:
                told[name].append(await mixed(made, asked, table, where))
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
        | {"random": interval(chance(table), table)},
        "dmda (StarPU's rule, replayed)": dmda(table, arguments.tasks), "auto": {},
    }  # fmt: skip
    for strategy in ("least_loaded", "round_robin"):
        async with runtime(arguments.scratch, threads=arguments.threads, strategy=strategy) as made:
            await warm_up(made)
            picks, told = await choose(made, asked, table)
            document["rules"][f"strategy {strategy}, uncalibrated"] = interval(picks, table) | told
    async with runtime(arguments.scratch, threads=arguments.threads) as made:
        document["calibration seconds"] = await calibrate(made)
        document["starts"] = {place: made.cost.start(*place.split("/")) for place in places(made)}
        await warm_up(made)
        done = 0
        picks, told = await choose(made, asked, table)
        document["auto"]["cold"] = interval(picks, table) | told
        for number, checkpoint in enumerate(point for point in CHECKPOINTS if point <= arguments.tasks):
            learned = await stream(made, asked, table, checkpoint - done, number)
            done = checkpoint
            picks, told = await choose(made, asked, table)
            document["auto"][f"after {checkpoint}"] = interval(picks, table) | told | {"stream": learned}
            print(checkpoint, {k: v for k, v in document["auto"][f"after {checkpoint}"].items() if k in ("total", "geometric")}, flush=True)
        document["mixed stream, seconds"] = await compared(made, asked, table, alone)
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
    for name, found in document["auto"].items():
        if learned := found.get("stream"):
            beyond, took = learned["tried, seconds beyond the oracle"], f"compiling {learned['compiling']:.2f} s, of {learned['seconds']:.2f} s"
            print(f"stream until {name}: {learned['over the oracle']:.2f} of the oracle; {learned['tried']:.0f} tried for {beyond:.2f} s, {took}")
    for name, seconds in document["mixed stream, seconds"].items():
        print(f"{MIXED} tasks, {AT_ONCE} at a time, {name:24}{median(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["judge", "profile", "decision"], default="judge")
    parser.add_argument("--rounds", type=int, default=15)
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
