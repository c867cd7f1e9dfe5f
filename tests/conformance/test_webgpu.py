"""WebGPU's kernels, on whatever shows a device here: Mesa's software Vulkan where there is no card."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from openruntime.contracts.errors import NoSuchDevice, Unavailable, UnsupportedOnDevice
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.registry import BACKENDS
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.formula import FUNCTIONS
from openruntime.testing.backend_suite import BackendSuite
from openruntime.testing.cases import Case, cases, numpy_array, payload

try:
    WebgpuBackend = BACKENDS.load("webgpu")
    WebgpuBackend.probe()
except (Unavailable, NoSuchDevice) as error:
    pytest.skip(f"not run here: {error}", allow_module_level=True)


class TestWebgpu(BackendSuite):
    backend_class: ClassVar[type[ComputeBackend]] = WebgpuBackend


@pytest.fixture(scope="module")
def kernels() -> ComputeBackend:
    found: ComputeBackend = WebgpuBackend()
    return found


_SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1.5, -2.5, 0.5, 1e30, -1e30, 1e-30, 88.0, -88.0, 100.0, -110.0], "float32")
_random = np.random.default_rng(4)
_WIDE = np.concatenate(
    [_SPECIAL, _random.normal(size=200) * 3, _random.uniform(-1, 1, 200), 10 ** _random.uniform(-20, 20, 200), np.arange(-20, 20) / 2]
)
_NAMES = {"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atanh": "arctanh", "atan2": "arctan2",
          "pow": "power", "round": "rint", "conj": "positive", "positive": "positive"}  # fmt: skip
_TURNING = ("sin", "cos", "tan")  # exact for angles up to some thousands
_ABSOLUTE = ("sin(", "cos(", "tan(", "logaddexp")  # near their zeros they are as exact as their argument


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if "f" in function.kinds and function.arity == 1])
def test_functions_of_one_number_are_right_everywhere(name: str, kernels: ComputeBackend) -> None:
    x = _WIDE.astype("float32")
    x = x[~(np.abs(x) > 1000)] if name in _TURNING else x
    _agree(kernels, f"{name}(x)", getattr(np, _NAMES.get(name, name)), x)


@pytest.mark.parametrize("name", [*(n for n, f in FUNCTIONS.items() if "f" in f.kinds and f.arity == 2)])
def test_functions_of_two_numbers_are_right_everywhere(name: str, kernels: ComputeBackend) -> None:
    some = np.concatenate([_SPECIAL, _random.normal(size=30) * 5, np.arange(-6, 6)]).astype("float32")
    x, y = (part.reshape(-1) for part in np.meshgrid(some, some))
    if name in ("floor_divide", "remainder"):  # a quotient of more digits than float32 has leaves nothing of the remainder
        fit = ~(np.abs(x.astype("f8")) > 1e5 * np.abs(y.astype("f8"))) | (y == 0)
        x, y = x[fit], y[fit]
    _agree(kernels, f"{name}(x, y)", getattr(np, _NAMES.get(name, name)), x, y)


def _agree(kernels: ComputeBackend, formula: str, reference: Callable[..., Any], *given: Any) -> None:
    arrays = dict(zip("xy", given, strict=False))
    found = asyncio.run(kernels.execute("expression", {"formula": formula, **{name: payload(array) for name, array in arrays.items()}}))
    with np.errstate(all="ignore"):
        wanted = reference(*given)
        wide = reference(*(array.astype("float64") for array in given))
    answer = numpy_array(found.outputs["output"])
    assert answer.dtype == wanted.dtype
    if wanted.dtype == bool:
        np.testing.assert_array_equal(answer, wanted)
        return
    tiny = np.abs(wide) < 1.2e-38  # a device may take what is smaller than the smallest normal number for 0
    np.testing.assert_allclose(answer[~tiny], wanted[~tiny], rtol=2e-5, atol=1e-6 if formula.startswith(_ABSOLUTE) else 0, equal_nan=True)


_NARROW = {"float64": "float32", "int64": "int32"}


def _narrowed(value: Any) -> Any:
    if isinstance(value, list):
        return [_narrowed(item) for item in value]
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(_NARROW.get(value.dtype.name, value.dtype)) if isinstance(value, np.ndarray | np.generic) else value


def _wide(case: Case) -> bool:
    dtypes = {value.dtype.name for value in case.parameters.values() if isinstance(value, np.ndarray | np.generic)}
    return bool(dtypes & _NARROW.keys()) and dtypes <= {*_NARROW, "float32", "int32", "uint32", "bool"}


@pytest.mark.parametrize("case", [case for case in cases() if case.refused is None and case.fails is None and _wide(case)], ids=str)
def test_cases_of_wide_numbers_hold_with_narrow_ones(case: Case, kernels: ComputeBackend) -> None:
    if case.operation not in kernels.get_capabilities():
        pytest.skip(f"unsupported: {kernels.unsupported[case.operation]}")
    if case.note.startswith("of integers") or "1e8" in str(case.precision) or case.precision == 1e-6:
        pytest.skip("its numbers need more than 32 bits")
    parameters = {name: _narrowed(value) for name, value in case.parameters.items()}
    try:
        call = OperationCatalogue().bind(
            case.operation, {n: payload(v) if isinstance(v, np.ndarray | np.generic) else v for n, v in parameters.items()}
        )
        result = asyncio.run(kernels.execute(call.operation, call.parameters))
    except UnsupportedOnDevice as error:
        pytest.skip(f"unsupported: {error.message}")
    outputs = {name: numpy_array(output) for name, output in result.outputs.items()}
    assert {name: spec.dtype for name, spec in call.outputs.items()} == {name: output.dtype.name for name, output in outputs.items()}
    dataclasses.replace(case, parameters=parameters, precision=5e-5).check(outputs)
