"""What every backend must answer, one module a family of operations, each with its `CASES: list[Case]`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from openruntime.contracts.payload import Array
from openruntime.operations.catalogue import FAMILIES

PRECISION = {"bfloat16": 3.2e-2, "float16": 4e-3, "float32": 2e-5, "complex64": 2e-5, "float64": 1e-10, "complex128": 1e-10}


@dataclass(frozen=True)
class Case:
    """One call and what must come of it: exactly one of `expected`, `verify`, `refused` and `fails`.

    `parameters`: NumPy arrays and plain JSON. `expected`: the output, a dict of outputs, or a function of the parameters that
    returns either (the NumPy reference). `verify`: called with `outputs` (NumPy arrays by name) and the parameters, asserts what
    holds of answers that are not unique. `refused`: the parameter that the refusal before queueing must name. `fails`: words of
    the sentence with which the task must fail. `precision`: largest error, relative to the largest expected number; by default
    a few roundings of the output's dtype.
    """

    operation: str
    parameters: dict[str, Any]
    expected: Any = None
    verify: Callable[..., None] | None = field(default=None, compare=False)
    refused: str | None = None
    fails: str | None = None
    precision: float | None = None
    note: str = ""

    def __str__(self) -> str:
        shown = (f"{name}={_shown(value)}" for name, value in self.parameters.items())
        return f"{self.operation}({', '.join(shown)}){' ' + self.note if self.note else ''}"

    def check(self, outputs: Mapping[str, Any]) -> None:
        """Raises `AssertionError` unless the outputs are as wanted."""
        if self.verify is not None:
            self.verify(outputs, **self.parameters)
            return
        with np.errstate(all="ignore"):
            wanted = self.expected(**self.parameters) if callable(self.expected) else self.expected
        if not isinstance(wanted, Mapping):
            wanted = {"output": wanted}
        assert outputs.keys() == wanted.keys()
        for name, value in wanted.items():
            close(outputs[name], value, self.precision, name)


def close(found: Any, wanted: Any, precision: float | None = None, name: str = "output") -> None:
    """Raises `AssertionError` unless `found` has the shape and, within `precision` of the largest finite number, the values wanted."""
    dtype = _dtype(found)
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, f"{name} has shape {found.shape}, wanted {wanted.shape}"
    if found.dtype.kind in "biu" and wanted.dtype.kind in "biu":
        np.testing.assert_array_equal(found, wanted, err_msg=name)
        return
    precision = PRECISION.get(dtype, 1e-10) if precision is None else precision
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = float(finite.max()) if finite.size else 0.0
    wide = "complex128" if found.dtype.kind == "c" else "float64"
    np.testing.assert_allclose(found.astype(wide), wanted.astype(wide), rtol=precision, atol=precision * scale, equal_nan=True, err_msg=name)


def cases(family: str | None = None) -> list[Case]:
    """All cases, or those of one family. A family without a module of cases has none."""
    found: list[Case] = []
    for name in [family] if family else FAMILIES:
        if find_spec(f"{__name__}.{name}") is not None:
            found += import_module(f"{__name__}.{name}").CASES
    return found


class Brain(np.ndarray[Any, Any]):
    """float32 numbers that bfloat16 can hold, and that travel as bfloat16."""


def in_bfloat16(case: Case) -> Case | None:
    """The case with bfloat16 in place of float16; None where it has no float16."""

    def brain(value: Any) -> Any:
        if isinstance(value, list):
            return [brain(item) for item in value]
        if not (isinstance(value, np.ndarray) and value.dtype == "float16"):
            return value
        bits = value.astype("float32").view("uint32")
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("float32").view(Brain)  # rounded to the nearest, ties to even

    parameters = {name: brain(value) for name, value in case.parameters.items()}
    lists = [value if isinstance(value, list) else [value] for value in parameters.values()]
    if not any(isinstance(item, Brain) for listed in lists for item in listed):
        return None
    rougher = PRECISION["bfloat16"] / PRECISION["float16"]
    return replace(case, parameters=parameters, precision=case.precision and rougher * case.precision, note=f"{case.note} in bfloat16".strip())


def payload(array: Any) -> Array:
    """A NumPy array as it travels, laid into the middle of a read-only buffer, as in shared memory."""
    name = _dtype(array)
    array = np.asarray(array)
    if name == "bfloat16":
        array = (array.view("uint32") >> 16).astype("uint16")
    body = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return Array(name, array.shape, memoryview(bytes(64) + body + bytes(64))[64 : 64 + len(body)])


def numpy_array(array: Array) -> Any:
    """The reverse of `payload`."""
    if array.dtype == "bfloat16":
        return (np.frombuffer(array.view, "<u2").astype("uint32") << 16).view("float32").reshape(array.shape).view(Brain)
    return np.frombuffer(array.view, array.dtype).reshape(array.shape) if array.size else np.empty(array.shape, array.dtype)


def _dtype(array: Any) -> str:
    return "bfloat16" if isinstance(array, Brain) else str(np.asarray(array).dtype.name)


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"{_dtype(value)}{list(value.shape)}".replace(" ", "")
    if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)[:60]
