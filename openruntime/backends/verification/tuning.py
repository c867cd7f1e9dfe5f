"""Searches the best values of what a kernel leaves open: every candidate is compiled, verified, and only then timed against a fixed baseline."""

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

import numpy as np

from openruntime.backends.fences import GUARD
from openruntime.backends.verification.cases import MOST_ASKED, NORMAL, Case, bytes_of, input_shapes, inputs, scalars
from openruntime.backends.verification.judge import Judge
from openruntime.backends.verification.stage import Died, Stage
from openruntime.contracts.errors import CompileError, InvalidParameter, OpenRuntimeError, OperationFailed
from openruntime.contracts.interfaces import Steps
from openruntime.contracts.kernels import KernelSpec, Number, Tuned, encoded
from openruntime.contracts.payload import Spec
from openruntime.contracts.tunables import combinations, settled, tunables

EXHAUSTIVE = 48  # combinations; of more, one constant at a time is varied
QUICK = 3  # runs that decide who is measured in earnest
FINALISTS = 4
WORTH = 1.02  # times faster than the baseline, or the defaults stay
DEFAULTS = {1: (1 << 20,), 2: (1024, 1024), 3: (512, 512, 512)}  # sizes by the number of symbols
DEFAULT_OF_MORE = (64,)
SEARCHING = 0.8  # of the time it may take; the rest is for measuring the best
BASELINE = 0  # its key on the stage

Values = dict[str, int]


class Tuner:
    """For one kernel at one class of sizes. `baseline`: what gains are told against, with the same signature; the kernel's defaults unless given."""

    def __init__(
        self, spec: KernelSpec, stage: Stage, *, baseline: KernelSpec | None = None, sizes: Mapping[str, int] | None = None, seed: int = 0,
        rounds: int = 15, launch: float = 10.0, limit: float = 300.0,
    ) -> None:  # fmt: skip
        """Raises `InvalidParameter` where nothing is left open, the sizes do not fit, or the baseline takes something else."""
        self._spec = spec
        self._stage = stage
        self._space = tunables(spec)
        if not self._space and baseline is None:
            raise InvalidParameter(
                f"{spec.name} leaves nothing open: a line such as '// tune: TILE = 8, 16, 32' in its source names a constant and its values",
                field="source",
            )
        self._baseline = settled(baseline or spec)
        self._need_alike(self._baseline)
        self._sizes = self._checked(sizes)
        self._rounds = rounds
        self._launch = launch
        self._limit = limit
        self._judge = Judge(settled(spec), stage, seed=seed, launch=launch, limit=limit)
        self._keys: dict[tuple[int, ...], int] = {}
        self._specs: dict[int, KernelSpec] = {}
        self._candidates: list[dict[str, Any]] = []
        self._memory, self._numbers, self._scalars = self._case(np.random.default_rng([seed, 4]))

    def _need_alike(self, baseline: KernelSpec) -> None:
        for part in ("inputs", "outputs", "scalars"):
            if getattr(baseline, part) != getattr(self._spec, part):
                raise InvalidParameter(f"`baseline`: {baseline.name} has other {part} than {self._spec.name}", field="baseline")
        if baseline.language != self._spec.language:
            raise InvalidParameter(f"`baseline`: {baseline.name} is in {baseline.language}, not {self._spec.language}", field="baseline")

    def _checked(self, sizes: Mapping[str, int] | None) -> dict[str, int]:
        symbols = sorted(self._spec.symbols)
        if sizes is None:
            usual = DEFAULTS.get(len(symbols), DEFAULT_OF_MORE)
            return {symbol: usual[i % len(usual)] for i, symbol in enumerate(symbols)}
        return asked(self._spec, sizes, "sizes")

    def tune(self, steps: Steps) -> dict[str, Any]:
        """The report; `winner` is what to keep, None where the defaults are as good.

        Raises `CompileError`, and `OperationFailed` where the baseline itself is wrong."""
        begun = time.monotonic()
        if not self._stage.alive:
            self._stage.start()
        fixed = encoded(self._baseline)
        verdict = self._judge.verify(_silent, [self._sizes], self._baseline, BASELINE)
        if not verdict["ok"]:
            raise OperationFailed(f"the baseline {self._baseline.name} is not verified, so no gain over it would mean anything: {verdict['verdict']}")
        self._specs[BASELINE] = self._baseline
        quick = self._quick(BASELINE)
        total = min(combinations(self._space), EXHAUSTIVE)

        def measured(values: Values) -> float | None:
            """Seconds; None for what is not right, and for all once the time is over."""
            key = self._keys.get(tuple(values.values()))
            if key is None:
                if time.monotonic() - begun > self._limit * SEARCHING:
                    return None
                key = self._keys[tuple(values.values())] = len(self._keys) + 1
                steps(min(key - 1, total), total + 1, _told(values))
                self._try(key, values)
            seconds: float | None = self._candidates[key - 1]["seconds"]
            return seconds

        _search(self._space, measured)
        steps(total, total + 1, "measuring the best again, in turns with the baseline")
        finalists = sorted((c for c in self._candidates if c["seconds"] is not None), key=lambda c: c["seconds"])[:FINALISTS]
        times = self._interleaved([BASELINE, *(candidate["key"] for candidate in finalists)])
        return self._report(fixed, quick, finalists, times, time.monotonic() - begun)

    def _try(self, key: int, values: Values) -> None:
        """Compile, verify, time."""
        spec = settled(self._spec, values)
        entry: dict[str, Any] = {"values": values, "key": key, "seconds": None, "ok": False, "reason": None}
        self._candidates.append(entry)
        try:
            verdict = self._judge.verify(_silent, [self._sizes], spec, key, thorough=False)
            entry["ok"], entry["reason"] = verdict["ok"], None if verdict["ok"] else verdict["verdict"]
            self._specs[key] = spec
            if verdict["ok"]:
                entry["seconds"] = self._quick(key)
        except CompileError as error:
            entry["reason"] = error.message
        except (OpenRuntimeError, Died) as error:
            entry["ok"], entry["reason"] = False, error.message
        if not self._stage.alive:
            self._again()

    def _again(self) -> None:
        """Another process for those that are left."""
        self._stage.start()
        for key, spec in self._specs.items():
            self._stage.build(key, encoded(spec))

    def _case(self, rng: np.random.Generator) -> tuple[list[bytes], dict[str, Number], list[Number]]:
        """What is timed: the arrays' memory, the numbers that are no sizes, and all scalars in their order."""
        case = Case(self._sizes, NORMAL)
        arrays, numbers = inputs(self._spec, case, rng), scalars(self._spec, case, rng)
        binding = self._baseline.bind({name: Spec(str(array.dtype.name), array.shape) for name, array in arrays.items()}, numbers)
        memory = [bytes(GUARD) + array.tobytes() + bytes(GUARD) for array in arrays.values()]
        memory += [bytes(output.nbytes + 2 * GUARD) for output in binding.outputs.values()]
        return memory, numbers, list(binding.scalars.values())

    def _run(self, key: int) -> float:
        """Seconds of one run on the memory that is loaded."""
        spec = self._specs[key]
        shapes = dict(zip((a.name for a in spec.inputs), input_shapes(spec, self._sizes), strict=True))
        binding = spec.bind({a.name: Spec(a.dtype, shapes[a.name]) for a in spec.inputs}, self._numbers)
        return self._stage.run(key, self._scalars, binding.grid, binding.local, self._launch, answer=False)[0]

    def _quick(self, key: int) -> float:
        self._stage.memory(self._memory, GUARD)  # verification had its own arrays there
        self._run(key)  # warms up: a driver may compile at the first launch
        return median(self._run(key) for _ in range(QUICK))

    def _interleaved(self, keys: Sequence[int]) -> dict[int, list[float]]:
        """Runs in turns, each round beginning with another, so that what slows the machine slows all alike."""
        times: dict[int, list[float]] = {key: [] for key in keys}
        self._stage.memory(self._memory, GUARD)
        for key in keys:
            self._run(key)
        for number in range(self._rounds):
            for place in range(len(keys)):
                key = keys[(number + place) % len(keys)]
                times[key].append(self._run(key))
        return times

    def _report(self, fixed: bytes, quick: float, finalists: list[dict[str, Any]], times: dict[int, list[float]], seconds: float) -> dict[str, Any]:
        base = _spread(times[BASELINE])
        for candidate in finalists:
            candidate["measured"] = _spread(times[candidate["key"]])
            pairs = [b / c for b, c in zip(times[BASELINE], times[candidate["key"]], strict=True) if c > 0]
            candidate["gain"] = base["median"] / candidate["measured"]["median"]
            candidate["gain_spread"] = _quartiles(pairs)
        best = min(finalists, key=lambda candidate: candidate["measured"]["median"], default=None)
        worth = best is not None and best["gain"] >= WORTH and best["values"]
        for candidate in self._candidates:
            candidate.pop("key")
        kept = best["values"] if worth and best else None
        wrong = sum(not candidate["ok"] for candidate in self._candidates)
        winner = None if kept is None else Tuned(self._stage.identity, self._sizes, kept)
        return {
            "kernel": self._spec.name, "sizes": self._sizes, "seconds": seconds, "identity": self._stage.identity.replace("\n", ", "),
            "baseline": {"kernel": self._baseline.name, "sha256": hashlib.sha256(fixed).hexdigest(), "quick": quick, **base},
            "candidates": sorted(self._candidates, key=lambda c: (c["seconds"] is None, c["seconds"])),
            "tried": len(self._candidates), "rejected": wrong, "winner": kept, "gain": best["gain"] if best else None,
            "gain_spread": best["gain_spread"] if best else None,
            "tuned": None if winner is None else {"identity": winner.identity, "sizes": winner.sizes, "values": winner.values},
        }  # fmt: skip


def asked(spec: KernelSpec, sizes: Mapping[str, int], field: str) -> dict[str, int]:
    """Sizes that somebody gave, checked. Raises `InvalidParameter`."""
    if (size := bytes_of(spec, sizes)) > MOST_ASKED:
        raise InvalidParameter(f"`{field}`: its arrays would have {size} bytes, more than {MOST_ASKED}", field=field)
    return dict(sizes)


def _search(space: Mapping[str, Sequence[int]], measured: Callable[[Values], float | None]) -> None:
    """Every combination where they are few; else from the defaults on one constant at a time, over and over until nothing is better."""
    if combinations(space) <= EXHAUSTIVE:
        for chosen in itertools.product(*space.values()):
            measured(dict(zip(space, chosen, strict=True)))
        return
    best = {name: values[0] for name, values in space.items()}
    fastest, improved = measured(best), True
    while improved:
        improved = False
        for name, values in space.items():
            for value in values:
                found = measured(candidate := {**best, name: value})
                if found is not None and (fastest is None or found < fastest):
                    best, fastest, improved = candidate, found, True


def _spread(times: Sequence[float]) -> dict[str, Any]:
    return {"median": median(times), "spread": _quartiles(times), "runs": len(times)}


def _quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [*values, *values]
    low, _, high = quantiles(values, n=4)
    return [low, high]


def _told(values: Values) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "as it is"


def _silent(done: int, total: int, message: str | None = None) -> None:
    """Verification's own progress is not shown while tuning."""
