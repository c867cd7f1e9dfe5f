"""What somebody else would choose, from the samples of `benchmarks/placement.py`: the oracle, one backend for everything, chance, StarPU's rule."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from statistics import mean, median
from typing import Any

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
