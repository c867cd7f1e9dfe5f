"""What a kernel should have computed, in float64, and how far from it an honest one may be."""

from collections.abc import Coroutine, Mapping
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from openruntime.backends.array_backend import host_array
from openruntime.backends.cpu import NumpyBackend
from openruntime.backends.namespace import xp
from openruntime.backends.verification.noise import factors, noisy
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed
from openruntime.contracts.kernels import KernelSpec, Number
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Call, Result
from openruntime.operations.dtypes import name_of
from openruntime.operations.kernel_reference import ReferenceCall

# How many roundings an output may be off, for each of its dtypes. A library's functions are allowed up to 16 (OpenCL 3.0, section 7.4);
# half precisions are computed wider and rounded once.
ROUNDINGS = {"float64": 16.0, "float32": 16.0, "float16": 4.0, "complex128": 16.0, "complex64": 16.0}
GROWTH = 4.0  # roundings more for each root of the length that is added up: random walks, with room for an unlucky order
PROBES = 6
_WIDER = {"float16": np.float64, "float32": np.float64, "complex64": np.complex128}


class Expected(NamedTuple):
    """An output: `value` in float64 (complex128; integers as they are), `tolerance` for each element (None: exact), and `native`, what the
    same operation gives in the dtypes that the kernel has: where those overflow and float64 does not, either is right."""

    value: "np.ndarray[Any, Any]"
    tolerance: "np.ndarray[Any, Any] | None"
    native: "np.ndarray[Any, Any]"


class Reference:
    """Runs in another process than the kernel does, on NumPy."""

    def __init__(self, spec: KernelSpec) -> None:
        """Raises `UnknownOperation`, `InvalidParameter` where the reference does not go with the kernel."""
        self._spec = spec
        self._backend = NumpyBackend()
        self._bound = ReferenceCall(spec, self._backend.catalogue)
        self._operation = self._bound.operation
        self.outputs, self.fits = self._bound.outputs, self._bound.fits
        self._given = spec.reference.parameters if spec.reference is not None else {}
        formula = self._given.get("formula")
        self.told = f"{self._operation.name}{f' {formula!r}' if formula else ''}"

    def call(self, arrays: Mapping[str, Any], scalars: Mapping[str, Number]) -> tuple[dict[str, Any], Call]:
        """The operation's parameters, arrays as `Array`, and what binding them says. Raises `InvalidParameter`."""
        given: dict[str, Any] = {name: array if isinstance(array, Spec) else _packed(array) for name, array in arrays.items()}
        return self._bound.bind({**given, **scalars})

    def flops(self, shapes: Mapping[str, tuple[int, ...]], scalars: Mapping[str, Number]) -> float:
        """What it takes for inputs of these shapes. Raises what the operation refuses them with."""
        dtypes = {argument.name: argument.dtype for argument in self._spec.inputs}
        _, call = self.call({name: Spec(dtypes[name], shape) for name, shape in shapes.items()}, scalars)
        return call.estimate.flops

    def expect(self, arrays: Mapping[str, "np.ndarray[Any, Any]"], scalars: Mapping[str, Number], seed: int) -> dict[str, Expected]:
        """Raises what the operation refuses the case with."""
        wide = {name: _widened(array) for name, array in arrays.items()}
        values, call = self._evaluate(wide, scalars)
        natives, _ = self._evaluate(arrays, scalars)
        elementwise = self._operation.name == "expression"
        rng = np.random.default_rng(seed)
        scales: dict[float, dict[str, Any]] = {}
        expected = {}
        for output in self._spec.outputs:
            value, native = (found[self.outputs[output.name]] for found in (values, natives))
            if output.dtype not in ROUNDINGS:
                expected[output.name] = Expected(value, None, native)
                continue
            unit = _unit(output.dtype)
            if unit not in scales:
                scales[unit] = self._moved(wide, scalars, values, unit, rng)
            longest = (
                1.0 if elementwise else max([call.estimate.flops / max(1, value.size), *(side for array in arrays.values() for side in array.shape)])
            )
            roundings = ROUNDINGS[output.dtype] + GROWTH * sqrt(longest)
            with np.errstate(all="ignore"):
                size = np.nan_to_num(np.abs(value), nan=0.0, posinf=0.0)
                tolerance = roundings * (unit * size + scales[unit][self.outputs[output.name]]) + _least(output.dtype)
            expected[output.name] = Expected(value, tolerance, native)
        return expected

    def _moved(
        self, wide: Mapping[str, Any], scalars: Mapping[str, Number], values: Mapping[str, Any], unit: float, rng: np.random.Generator
    ) -> dict[str, Any]:
        """How far each output moves when inputs and steps are off by one rounding at random: the root of the mean square of some tries."""
        squares = {name: np.zeros(value.shape) for name, value in values.items()}
        for _ in range(PROBES):
            shaken = {
                name: noisy(np.asarray(array * factors(array.shape, unit, rng)), unit, rng) if array.dtype.kind in "fc" else array
                for name, array in wide.items()
            }
            found = self._stepped(shaken, scalars)
            with np.errstate(all="ignore"):
                for name, value in values.items():
                    if value.dtype.kind in "fc":
                        apart = np.abs(np.asarray(found[name]).view(np.ndarray) - value)
                        squares[name] += np.nan_to_num(apart, nan=0.0, posinf=0.0) ** 2
        return {name: np.sqrt(total / PROBES) for name, total in squares.items()}

    def _stepped(self, arrays: Mapping[str, Any], scalars: Mapping[str, Number]) -> dict[str, Any]:
        """The operation as it is written, step by step, on arrays as they are: not what its backend has instead."""
        parameters, call = self.call({name: np.asarray(array).view(np.ndarray) for name, array in arrays.items()}, scalars)
        arguments: dict[str, Any] = {name: _argument(call.parameters.get(name, value)) for name, value in parameters.items()}
        for name, value in self._given.items():
            if isinstance(value, dict) and value.keys() == {"input"}:
                arguments[name] = arrays[value["input"]]
        for name in arrays:
            if name in arguments and name not in self._given:
                arguments[name] = arrays[name]
        if "steps" in self._operation.takes:
            arguments["steps"] = _no_steps
        try:
            with np.errstate(all="ignore"):
                found = self._operation.function(**arguments, xp=xp)
        except OpenRuntimeError:
            raise
        except Exception as error:  # a library's own, for numbers that are a little off
            raise OperationFailed(f"{self._operation.name} failed: {error}") from error
        return found if isinstance(found, dict) else {"output": found}

    def _evaluate(self, arrays: Mapping[str, Any], scalars: Mapping[str, Number]) -> tuple[dict[str, Any], Call]:
        _, call = self.call({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}, scalars)
        with np.errstate(all="ignore"):
            result = _now(self._backend.execute(self._operation.name, call.parameters))
        return {name: host_array(array) for name, array in result.outputs.items()}, call


def _argument(value: Any) -> Any:
    """A checked parameter as the operation's function takes it: an array that stands in the reference itself as NumPy's."""
    if isinstance(value, Array):
        return host_array(value)
    return tuple(map(_argument, value)) if isinstance(value, list) else value


def _now(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    raise RuntimeError("the backend waited for something")


def _packed(array: Any) -> Array:
    return Array(name_of(array), array.shape, array.reshape(-1).view(np.uint8).data if array.size else b"")


def _widened(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return array.astype(_WIDER.get(array.dtype.name, array.dtype))


def _unit(dtype: str) -> float:
    return float(np.finfo(dtype).eps)


def _least(dtype: str) -> float:
    """The smallest normal number: what is below may be flushed to zero, as OpenCL, CUDA and Metal allow."""
    return float(np.finfo(dtype).tiny)


def _no_steps(done: int, total: int, message: str | None = None) -> None:
    """A reference is not stopped between its steps: its sizes are bounded."""
