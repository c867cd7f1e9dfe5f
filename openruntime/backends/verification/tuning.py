"""Searches the best values of what a kernel leaves open: every candidate is compiled, verified, and only then timed against a fixed baseline."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

import numpy as np

from openruntime.backends.fences import GUARD
from openruntime.backends.verification import comparison
from openruntime.backends.verification.cases import MOST_ASKED, NORMAL, Case, bytes_of, inputs, poisons, scalars
from openruntime.backends.verification.comparison import Run
from openruntime.backends.verification.judge import Judge, laid
from openruntime.backends.verification.reference import Expected
from openruntime.backends.verification.stage import Stage
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, OperationFailed
from openruntime.contracts.interfaces import Steps
from openruntime.contracts.kernels import Binding, KernelSpec, Tuned, encoded
from openruntime.contracts.payload import Spec
from openruntime.contracts.tunables import combinations, settled, tunables

EXHAUSTIVE = 48  # combinations; of more, one constant at a time is varied
LEAST_ROUNDS = 3  # of the last measurement, however long they take
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
        self, spec: KernelSpec, stage: Stage, *, baseline: KernelSpec | None = None, sizes: Mapping[str, int] | None = None,
        seed: int | None = None, rounds: int = 15, launch: float = 10.0, limit: float = 300.0,
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
        self._specs = {BASELINE: self._baseline}
        self._candidates: list[dict[str, Any]] = []
        self._rng = np.random.default_rng([self._judge.seed, 4])
        case = Case(self._sizes, NORMAL)
        self._arrays, self._numbers = inputs(spec, case, self._rng), scalars(spec, case, self._rng)
        self._inputs = [array.tobytes() for array in self._arrays.values()]
        outputs = self._bound(BASELINE).outputs
        self._shapes = {name: output.shape for name, output in outputs.items()}
        self._fills = [poisons(self._rng, output.dtype, output.nbytes) for output in outputs.values()]

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
        times = self._interleaved(begun + self._limit)
        finalists = [candidate for candidate in self._candidates if candidate["key"] in times]
        return self._report(fixed, quick, finalists, times, time.monotonic() - begun)

    def _try(self, key: int, values: Values) -> None:
        """Compile, verify, time."""
        spec = settled(self._spec, values)
        entry: dict[str, Any] = {"values": values, "key": key, "seconds": None, "ok": False, "reason": None}
        self._candidates.append(entry)
        with self._rejecting(entry):
            verdict = self._judge.verify(_silent, [self._sizes], spec, key, thorough=False)
            entry["ok"], entry["reason"] = verdict["ok"], None if verdict["ok"] else verdict["verdict"]
            self._specs[key] = spec
            if verdict["ok"]:
                entry["seconds"] = self._quick(key)

    @contextmanager
    def _rejecting(self, entry: dict[str, Any]) -> Iterator[None]:
        """What goes wrong in here is a reason against the candidate; where it took the process with it, there is another for those that are left."""
        try:
            yield
        except OpenRuntimeError as error:
            entry["ok"], entry["reason"], entry["seconds"] = False, error.message, None
        if not self._stage.alive:
            self._stage.start()
            for key, spec in self._specs.items():
                self._stage.build(key, encoded(spec))

    def _bound(self, key: int) -> Binding:
        return self._specs[key].bind({name: Spec(str(array.dtype.name), array.shape) for name, array in self._arrays.items()}, self._numbers)

    def _lay(self) -> list[bytes]:
        """Fresh memory: a kernel cannot tell it from what it was verified on, nor find an answer there."""
        memory = laid(self._inputs, self._fills, self._rng, GUARD)
        self._stage.memory(memory, GUARD)
        return memory

    def _run(self, key: int, *, answer: bool = False) -> tuple[float, list[bytes]]:
        """Seconds of one run on the memory that is loaded, and what it left there."""
        binding = self._bound(key)
        return self._stage.run(key, list(binding.scalars.values()), binding.grid, binding.local, self._launch, answer=answer)

    def _quick(self, key: int) -> float:
        """Decides only who is measured in earnest: nobody looks at the answers."""
        self._lay()
        self._run(key)  # warms up: a driver may compile at the first launch
        return median(self._run(key)[0] for _ in range(QUICK))

    def _fresh(self, key: int) -> tuple[float, Run]:
        before = self._lay()
        seconds, after = self._run(key, answer=True)
        return seconds, Run(before, after, GUARD)

    def _warmed(self, key: int, expected: Mapping[str, Expected]) -> bytes:
        """The digest of its answer, which agrees with the reference's. Raises `OperationFailed`."""
        runs = [self._fresh(key)[1] for _ in range(2)]
        found, _ = comparison.findings(self._spec, self._shapes, expected, runs)
        if found:
            raise OperationFailed(f"rejected when it was to be timed: {found[0]['message']}")
        return self._answer(runs[0])

    def _timed(self, key: int, right: bytes) -> float:
        """Seconds of one run whose answer is the `right` one. Raises `OperationFailed`."""
        seconds, run = self._fresh(key)
        found = comparison.touched(self._spec, [run])
        if found or self._answer(run) != right:
            raise OperationFailed(f"rejected while it was timed: {found[0]['message'] if found else 'it answered something else than before'}")
        return seconds

    def _answer(self, run: Run) -> bytes:
        outputs = run.after[len(self._inputs) :]
        return b"".join(hashlib.sha256(memoryview(output)[GUARD : len(output) - GUARD]).digest() for output in outputs)

    def _interleaved(self, end: float) -> dict[int, list[float]]:
        """The seconds of the baseline and of the fastest that still answer right, by their keys: runs in turns, each round beginning with another,
        so that what slows the machine slows all alike. After `end` it stops early."""
        expected = self._judge.reference.expect(self._arrays, self._numbers, self._judge.seed)
        right = {BASELINE: self._warmed(BASELINE, expected)}
        entries = {candidate["key"]: candidate for candidate in self._candidates}
        for candidate in sorted((c for c in self._candidates if c["seconds"] is not None), key=lambda c: c["seconds"]):
            with self._rejecting(candidate):
                right[candidate["key"]] = self._warmed(candidate["key"], expected)
            if len(right) > FINALISTS:
                break
        times: dict[int, list[float]] = {key: [] for key in right}
        for number in range(self._rounds):
            if number >= LEAST_ROUNDS and time.monotonic() > end:
                break
            keys = list(times)
            for place in range(len(keys)):
                key = keys[(number + place) % len(keys)]
                if key == BASELINE:
                    times[key].append(self._timed(key, right[key]))
                    continue
                with self._rejecting(entries[key]):
                    times[key].append(self._timed(key, right[key]))
                if not entries[key]["ok"]:
                    del times[key]
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
            "kernel": self._spec.name, "sizes": self._sizes, "seed": self._judge.seed, "seconds": seconds,
            "identity": self._stage.identity.replace("\n", ", "),
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
