"""What a kernel worker hosts: a runner of one language, and the memory around kernels that keeps a stray one from harming others."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from time import perf_counter
from typing import Any, ClassVar

import msgspec
import numpy as np

from openruntime.backends.fences import GUARD, Fenced
from openruntime.contracts.errors import CompileError, OperationFailed, OutOfMemory
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.kernels import COMPILE, PROGRAM, TUNE, VERIFY, Compiled, KernelRunner, KernelSpec, Report, decoded, requirement
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Result
from openruntime.contracts.tunables import settled, winner

KEPT = 64  # compiled kernels that a worker holds
INLINE = 65_536  # bytes up to which an output is not worth a buffer of its own
LONGEST_LOG = 60_000  # characters: what a report travels with
MOST_LINES = 100


class KernelBackend(ComputeBackend):
    """Compiles and runs kernels of `runner_class`'s language. Its jobs carry the kernel beside their parameters, under `PROGRAM`."""

    runner_class: ClassVar[type[KernelRunner]]

    def __init__(self, *, device: str = "cpu:0", threads: int = 1, index: int = 0, memory: int = 0) -> None:
        self.device = device
        self._started_with = (device, threads, index)
        self.runner = self.runner_class(device=device, threads=threads, index=index)
        self._compiled: OrderedDict[tuple[Any, ...], Compiled] = OrderedDict()

    def get_capabilities(self) -> list[str]:
        return [requirement(self.runner_class.language)]

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        """Run the kernel; where `operation` is `COMPILE`, `VERIFY` or `TUNE`, do that, and answer a report.

        Raises `CompileError`, `OutOfMemory`, and `OperationFailed` where the device refuses it or it wrote beyond its arrays."""
        spec = decoded(params[PROGRAM])
        if operation in (VERIFY, TUNE):
            from openruntime.backends.verification.trials import trial  # with all operations: they are the references

            return _reported(trial(operation, spec, self.name, self._started_with, params))
        if operation == COMPILE:
            return self._report(settled(spec))
        spec = self._chosen(spec, params)
        compiled, spent = self.compile(spec)
        try:
            return self._run(spec, compiled, params, spent)
        except MemoryError as error:
            raise OutOfMemory(f"{operation} ran out of memory on {self.device}{f': {error}' if str(error) else ''}") from error

    def _chosen(self, spec: KernelSpec, params: Mapping[str, Any]) -> KernelSpec:
        """The kernel with what it leaves open as tuning found best here for arrays of this size, else by default."""
        if spec.tuned:
            numbers = {scalar.name: params[scalar.name] for scalar in spec.scalars if scalar.name in params}
            symbols = settled(spec).bind({argument.name: params[argument.name] for argument in spec.inputs}, numbers).symbols
            best = winner(spec, self.runner.identity, symbols)
            if best is not None:
                return settled(spec, best.values)
        return settled(spec)

    def compile(self, spec: KernelSpec) -> tuple[Compiled, float]:
        """The kernel, and the seconds that this took now. Raises `CompileError`."""
        key = (spec.source, spec.options, spec.name, spec.inputs, spec.outputs, spec.scalars)
        found = self._compiled.get(key)
        if found is not None:
            self._compiled.move_to_end(key)
            return found, 0.0
        started = perf_counter()
        found = self._compiled[key] = self.runner.compile(spec)
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return found, perf_counter() - started

    def _report(self, spec: KernelSpec) -> Result:
        self._compiled.clear()  # what the disk has is asked for, not what this worker happens to hold
        started = perf_counter()
        try:
            compiled, seconds = self.compile(spec)
            report = Report(True, compiled.log[:LONGEST_LOG], (), compiled.cached, seconds)
        except CompileError as error:
            seconds = perf_counter() - started
            report = Report(
                False,
                (error.log or error.message)[:LONGEST_LOG],
                tuple(map(dict, error.lines))[:MOST_LINES],
                False,
                seconds,
                error.message,
                error.field,
            )
        return _reported(msgspec.to_builtins(report), seconds)

    def _run(self, spec: KernelSpec, compiled: Compiled, params: Mapping[str, Any], spent: float) -> Result:
        given = {argument.name: params[argument.name] for argument in spec.inputs}
        binding = spec.bind(given, {scalar.name: params[scalar.name] for scalar in spec.scalars if scalar.name in params})
        if 0 in binding.grid:  # then every output is empty
            return Result({name: Array(output.dtype, output.shape, b"") for name, output in binding.outputs.items()}, 0.0, 0.0, spent)
        started = perf_counter()
        with ExitStack() as held:
            inputs = [held.enter_context(closing(Fenced(array.nbytes))) for array in given.values()]
            for memory, array in zip(inputs, given.values(), strict=True):
                memory.array[:] = array.view
            outputs = [held.enter_context(closing(Fenced(output.nbytes))) for output in binding.outputs.values()]
            copied = perf_counter() - started
            seconds = self.runner.run(
                compiled, [memory.view for memory in inputs], [memory.view for memory in outputs], list(binding.scalars.values()), binding.grid,
                binding.local, guard=GUARD,
            )  # fmt: skip
            self._check(spec, [*given, *binding.outputs], [*inputs, *outputs])
            started = perf_counter()
            allocate = params.get("allocate")
            results = {name: _kept(memory, output, allocate) for memory, (name, output) in zip(outputs, binding.outputs.items(), strict=True)}
            return Result(results, seconds, copied + perf_counter() - started, spent)

    @staticmethod
    def _check(spec: KernelSpec, names: Sequence[str], memories: Sequence[Fenced]) -> None:
        for name, memory in zip(names, memories, strict=True):
            if (where := memory.breach()) is not None:
                raise OperationFailed(f"{spec.name} wrote outside of `{name}`, {where}: an index is not checked against the array's size")


def _reported(report: Mapping[str, Any], compiling: float = 0.0) -> Result:
    data = msgspec.json.encode(report)
    return Result({"report": Array("uint8", (len(data),), data)}, 0.0, 0.0, compiling)


def _kept(memory: Fenced, spec: Spec, allocate: Callable[[int], memoryview] | None) -> Array:
    """An output out of the kernel's reach."""
    if spec.dtype == "bool":
        array = np.frombuffer(memory.array, np.uint8)
        np.not_equal(array, 0, out=array.view(np.bool_))  # a kernel may say yes with any byte
    if allocate is None or spec.nbytes <= INLINE:
        return Array(spec.dtype, spec.shape, bytes(memory.array))
    place = allocate(spec.nbytes)
    place[:] = memory.array
    return Array(spec.dtype, spec.shape, place)


def uncompiled(spec: KernelSpec, log: str, lines: Iterable[Mapping[str, Any]] = (), *, field: str = "source") -> CompileError:
    """The error of a kernel whose compiler said `log`, and of single `lines` what `CompileError` shows."""
    found = tuple(lines)
    first = next((line for line in found if line["severity"] != "warning"), None)
    told = f"line {first['line']}: {first['message']}" if first else log.strip().partition("\n")[0]
    return CompileError(f"`{field}` of {spec.name} does not compile: {told}", field=field, log=log.strip(), lines=found)
