"""WebGPU's kernels, on whatever shows a device here: Mesa's software Vulkan where there is no card."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from openruntime.contracts.errors import NoSuchDevice, Unavailable
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.registry import BACKENDS
from openruntime.operations.formula import FUNCTIONS
from openruntime.testing.backend_suite import BackendSuite
from openruntime.testing.cases import numpy_array, payload

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
