"""Verifies a kernel: runs it in another process on many cases, compares each with the reference, and says what is wrong where."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from openruntime.backends.verification import comparison
from openruntime.backends.verification.cases import Case, fitting, inputs, plan, poisons, scalars
from openruntime.backends.verification.comparison import Finding
from openruntime.backends.verification.reference import Expected, Reference
from openruntime.backends.verification.stage import Died, Stage
from openruntime.contracts.errors import InvalidParameter, OperationFailed, OutOfMemory
from openruntime.contracts.interfaces import Steps
from openruntime.contracts.kernels import Binding, KernelSpec, encoded
from openruntime.contracts.payload import Spec

ALIGNED = 256  # bytes that arrays are aligned to; one of whole multiples can end where its page ends
# where arrays lie, other in each run: bytes between known ones on either side, and by how much further from the end of a page
PLACES = ((512, 0), (1024, 256), (2560, 0), (4096, 256))
EDGES: dict[str, int | None] = {"behind the end": 0, "before the beginning": None}  # where a fence is next to the arrays
LEAST_CASES = 6  # that were compared: fewer say nothing
LEAST_SIZES = 3

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Judge:
    """For one kernel. `seed` of all that is random, drawn unless given, so that no kernel can know its inputs; `launch`: seconds that one run may
    take, and `compiling` more at the first of each size, for drivers compile then; `limit`: all of it."""

    def __init__(
        self, spec: KernelSpec, stage: Stage, *, seed: int | None = None, launch: float = 5.0, compiling: float = 10.0, limit: float = 120.0
    ) -> None:  # fmt: skip
        """Raises `InvalidParameter`, `UnknownOperation` where the kernel has no reference that goes with it."""
        self._spec = spec
        self._stage = stage
        self.seed = secrets.randbits(32) if seed is None else seed
        self._launch = launch
        self._compiling = compiling
        self._limit = limit
        self.reference = Reference(spec)
        self._references: dict[int, tuple[Arrays, dict[str, Any], dict[str, Expected]]] = {}

    def verify(
        self, steps: Steps, more: Sequence[Mapping[str, int]] = (), spec: KernelSpec | None = None, key: int = 0, *, thorough: bool = True
    ) -> dict[str, Any]:
        """The report. `more`: sizes to try besides; `spec`: a variant of the kernel with the same signature, compiled as `key` of the stage;
        without `thorough` it ends with the first case that fails.

        Raises `CompileError`; whatever the kernel does is in the report."""
        spec = spec or self._spec
        begun = time.monotonic()
        if not self._stage.alive:
            self._stage.start()
        built = self._stage.build(key, encoded(spec))
        report: dict[str, Any] = {
            "ok": False, "kernel": spec.name, "seed": self.seed, "reference": self.reference.told, "cases": [], "refused": [],
            "not_tried": self._not_tried(), "compile": {"seconds": built.seconds, "cached": built.cached},
        }  # fmt: skip
        cases = plan(spec, more)
        ended = None
        for number, case in enumerate(cases):
            steps(number, len(cases), f"{_sizes(case)} {case.data}")
            if time.monotonic() - begun > self._limit:
                ended = f"{number} of {len(cases)} cases were tried in the {self._limit:g} s that verification may take"
                break
            try:
                case, tried = self._try(number, case, spec, key)
            except (InvalidParameter, OperationFailed) as error:
                report["refused"].append({"sizes": case.sizes, "data": case.data, "reason": error.message})
                continue
            report["cases"].append(tried)
            if not self._stage.alive or not (thorough or tried["ok"]):
                break  # where the process is gone, the next one would go the same way
        report["seconds"] = time.monotonic() - begun
        return _concluded(report, ended)

    def _not_tried(self) -> list[str]:
        domains = self._spec.reference.domain if self._spec.reference else {}
        told = [f"numbers outside of {domain.low} to {domain.high} in `{name}`: its domain" for name, domain in domains.items() if domain.bounded]
        told += [f"NaN and infinities in `{name}`: its domain" for name, domain in domains.items() if domain.finite and not domain.bounded]
        if not self._stage.in_place:
            told.append("reading outside of arrays: the device works in memory of its own")
        return told

    def _fitting(self, number: int, case: Case) -> Case:
        numbers = scalars(self._spec, case, np.random.default_rng([self.seed, number, 2]))
        return fitting(self._spec, case, lambda shapes: self.reference.flops(shapes, numbers))

    def _prepared(self, number: int, case: Case) -> tuple[Arrays, dict[str, Any], dict[str, Expected]]:
        """The same for every variant of the kernel; made once. Raises what the reference refuses the case with."""
        if number not in self._references:
            rng = np.random.default_rng([self.seed, number])
            arrays, numbers = inputs(self._spec, case, rng), scalars(self._spec, case, np.random.default_rng([self.seed, number, 2]))
            self._references[number] = arrays, numbers, self.reference.expect(arrays, numbers, self.seed)
        return self._references[number]

    def _try(self, number: int, case: Case, spec: KernelSpec, key: int) -> tuple[Case, dict[str, Any]]:
        case = self._fitting(number, case)
        arrays, numbers, expected = self._prepared(number, case)
        binding = spec.bind({name: Spec(_dtype(array), array.shape) for name, array in arrays.items()}, numbers)
        shapes = {name: output.shape for name, output in binding.outputs.items()}
        self.reference.fits({self.reference.outputs[name]: found.value.shape for name, found in expected.items()}, shapes)
        tried: dict[str, Any] = {"sizes": case.sizes, "data": case.data, "findings": [], "worst": 0.0, "ok": True}
        if 0 not in binding.grid:
            tried["findings"], tried["worst"] = self._compared(number, case, spec, key, arrays, binding, shapes, expected)
        tried["ok"] = not tried["findings"]
        return case, tried

    def _compared(
        self, number: int, case: Case, spec: KernelSpec, key: int, arrays: Arrays, binding: Binding, shapes: Mapping[str, tuple[int, ...]],
        expected: Mapping[str, Expected],
    ) -> tuple[list[Finding], float]:  # fmt: skip
        rng = np.random.default_rng([self.seed, number, 1])
        fills = [poisons(rng, output.dtype, output.nbytes) for output in binding.outputs.values()]
        runs: list[comparison.Run] = []
        try:
            for turn in range(case.rounds):
                guard, shift = PLACES[(number + turn) % len(PLACES)]
                before = laid([array.tobytes() for array in arrays.values()], fills, rng, guard)
                spare = 0.0 if runs else self._compiling
                runs.append(comparison.Run(before, self._ran(key, binding, before, guard, shift, spare), guard))
        except Died as error:
            return [{"finding": error.finding, "message": error.message}], 0.0
        except (OperationFailed, OutOfMemory) as error:
            return [{"finding": "refused", "message": error.message}], 0.0
        found, worst = comparison.findings(spec, shapes, expected, runs)
        if (case.whole or case.asked) and self._stage.in_place and not found:
            first = runs[0]
            found = self._at_the_edges(key, binding, [memory[first.guard : -first.guard] for memory in first.before])
        return found, worst

    def _at_the_edges(self, key: int, binding: Binding, arrays: list[bytes]) -> list[Finding]:
        """Twice more, with each array ending where its pages end and beginning where they begin: touching one byte more ends the process."""
        for where, shift in EDGES.items():
            try:
                self._ran(key, binding, arrays, 0, shift, answer=False)
            except Died as error:
                if error.finding == "crashed":
                    sizes = [len(array) for array in arrays if shift is None or len(array) % ALIGNED == 0]
                    return [{"finding": "out_of_bounds", "message": f"it read or wrote {where} of an array of {sizes} bytes ({error.message})"}]
                return [{"finding": error.finding, "message": error.message}]
        return []

    def _ran(
        self, key: int, binding: Binding, arrays: list[bytes], guard: int, shift: int | None = 0, spare: float = 0.0, *, answer: bool = True
    ) -> list[bytes]:  # fmt: skip
        self._stage.memory(arrays, guard, shift)
        return self._stage.run(key, list(binding.scalars.values()), binding.grid, binding.local, self._launch + spare, answer=answer)[1]


def _concluded(report: dict[str, Any], ended: str | None) -> dict[str, Any]:
    """The verdict: a sentence, and whether it is verified."""
    cases, bad = report["cases"], [case for case in report["cases"] if not case["ok"]]
    compared = [case for case in cases if all(case["sizes"].values())]
    distinct = {tuple(case["sizes"].items()) for case in compared}
    findings = [found for case in bad for found in case["findings"]]
    open_sizes = any(case["sizes"] for case in [*cases, *report["refused"]])
    few = len(compared) < LEAST_CASES or len(distinct) < LEAST_SIZES if open_sizes else not compared
    if not bad and (ended or few):
        reasons = "; ".join(dict.fromkeys(entry["reason"] for entry in report["refused"]))
        told = ended or f"only {len(compared)} cases of {len(distinct)} sizes could be compared{f': {reasons}' if reasons else ''}"
        findings = [{"finding": "untested", "message": told}]
    report["findings"] = sorted({found["finding"] for found in findings})
    report["ok"] = not findings
    report["worst"] = max((case["worst"] for case in cases), default=0.0)
    if bad:
        first = bad[0]
        where = f" ({_told(first['sizes'])}, {first['data']} data)" if first["sizes"] else f" ({first['data']} data)"
        report["verdict"] = f"rejected: {len(bad)} of {len(cases)} cases fail; the first{where}: {first['findings'][0]['message']}"
    elif findings:
        report["verdict"] = f"not verified: {findings[0]['message']}"
    else:
        report["verdict"] = f"verified: {len(cases)} cases of {len(distinct)} sizes agree with {report['reference']}"
    return report


def laid(inputs: Sequence[bytes], fills: Sequence[Iterator[bytes]], rng: np.random.Generator, guard: int) -> list[bytes]:
    """What a run starts on: outputs and guards hold something else each time, so that an answer that depends on them differs."""
    around = [rng.standard_normal(guard // 2).astype(np.float32).tobytes() for _ in (*inputs, *fills)]
    contents = [*inputs, *map(next, fills)]
    return [numbers[:guard] + data + numbers[guard:] for numbers, data in zip(around, contents, strict=True)]


def _dtype(array: "np.ndarray[Any, Any]") -> str:
    return str(array.dtype.name)


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def _sizes(case: Case) -> str:
    return "×".join(map(str, case.sizes.values()))
