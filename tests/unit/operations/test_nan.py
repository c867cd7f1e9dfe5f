"""Every operation of arrays says what it does with NaN, and does that."""

import asyncio
from typing import Any

import numpy as np
import pytest

from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.errors import InvalidParameter, OperationFailed
from openruntime.operations.catalogue import FAMILIES, OperationCatalogue
from openruntime.testing.cases import Case, numpy_array, payload

CATALOGUE = OperationCatalogue()
BACKEND = NumpyBackend()
NAN = np.nan
X = np.array([2.0, NAN, 1.0, NAN, 2.0])
MATRIX = np.array([[1.0, NAN], [2.0, 3.0]])
APART = np.array([[NAN, 0.0], [0.0, 1.0]])
ONES = np.ones((3, 2))
MANY = np.where(np.arange(100) % 40 == 7, NAN, np.arange(100.0))  # long enough for the routine that sorts only what it must
ROWS = np.array([[0.0, 1.0], [NAN, 0.0], [2.0, 2.0]])
OPTION = {"spot": 1.0, "strike": 1.0, "time": 1.0, "rate": 0.1, "volatility": 0.2, "dividend": 0.0}


def holed(*shape: int, at: tuple[int, ...]) -> Any:
    found = np.ones(shape)
    found[at] = NAN
    return found


def nan_where(mask: Any) -> Any:
    """Verifies that the output is NaN there, and nowhere else."""

    def verify(outputs: Any, **_: Any) -> None:
        np.testing.assert_array_equal(np.isnan(outputs["output"]), mask)

    return verify


def all_nan(outputs: Any, **_: Any) -> None:
    for name, value in outputs.items():
        assert np.isnan(value).all(), name


def spread(operation: str, mask: Any, **parameters: Any) -> Case:
    return Case(operation, parameters, verify=nan_where(mask))


def fails(operation: str, field: str, **parameters: Any) -> Case:
    return Case(operation, parameters, fails=f"`{field}` holds NaN or infinity")


def window(rows: slice, columns: slice, *shape: int) -> Any:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


AROUND = window(slice(1, 4), slice(1, 4), 6, 6)
BESIDE = AROUND & (np.arange(36).reshape(6, 6) != 14)
HOLED = holed(6, 6, at=(2, 2))

CASES = [
    Case("expression", {"formula": "where(x > 1, x, maximum(x, 0))", "x": X}, X),
    spread("matmul", [[True, True], [False, False]], a=MATRIX, b=np.eye(2)),
    spread("matmul", [[False, True], [False, True]], a=np.ones((2, 2)), b=MATRIX),
    spread("einsum", [True, False], subscripts="ij->i", a=MATRIX), spread("einsum", [False, False], subscripts="ii->i", a=MATRIX),
    *(Case("norm", {"x": X, "ord": order}, verify=all_nan) for order in (None, 1, 3, -1, 0.5, "inf", "-inf")),
    *(Case("norm", {"x": MATRIX, "axis": [0, 1], "ord": order}, verify=all_nan) for order in (None, "fro", 1, -1, "inf", "-inf")),
    Case("norm", {"x": np.array([0.0, NAN, 2.0]), "ord": 0}, np.float64(2)),
    *(fails("norm", "x", x=MATRIX, axis=[0, 1], ord=order) for order in ("nuc", 2, -2)),
    Case("solve", {"a": MATRIX, "b": np.ones(2)}, verify=all_nan), Case("solve", {"a": np.eye(2) + 1, "b": np.array([1.0, NAN])}, verify=all_nan),
    spread("solve", [True, False], a=APART, b=np.ones(2)),
    Case("inv", {"x": MATRIX}, verify=all_nan), Case("det", {"x": MATRIX}, verify=all_nan),
    Case("det", {"x": np.array([[[0.0, 0.0], [0.0, NAN]], np.eye(2)])}, np.array([NAN, 1.0]), note="after a zero pivot"),
    fails("lstsq", "a", a=MATRIX, b=np.ones(2)), fails("lstsq", "b", a=np.eye(2), b=np.array([1.0, NAN])),
    *(fails(name, "x", x=x) for name in ("qr", "svd", "eigh") for x in (MATRIX, APART)),
    *(fails("cholesky", "x", x=holed(2, 2, at=(1, 0)) + np.eye(2), upper=upper) for upper in (False, True)),
    Case("cholesky", {"x": np.array([[4.0, NAN], [0.0, 9.0]]), "upper": True}, np.array([[2.0, 0.0], [0.0, 3.0]])),
    *(Case(name, {"x": X[:4]}, verify=all_nan) for name in ("fft", "ifft", "rfft")),
    *(Case(name, {"x": HOLED}, verify=all_nan) for name in ("fft2", "ifft2")),
    spread("irfft", [True, False, True, False], x=np.array([1, NAN, 1], "complex128")),
    spread("convolve", [False, True, True, False], a=np.array([1.0, NAN, 1.0]), b=np.ones(2)),
    Case("convolve", {"a": holed(80, at=(5,)), "b": np.ones(40)}, verify=all_nan, note="by transforms"),
    *(Case(name, {"x": X}, verify=all_nan) for name in ("sum", "mean", "std", "var", "min", "max")),
    *(Case(name, {"x": X}, np.int64(1)) for name in ("argmin", "argmax")),
    Case("quantile", {"x": MATRIX, "q": 0.5, "axis": 1}, np.array([NAN, 2.5])), Case("quantile", {"x": X, "q": "NaN"}, refused="q"),
    Case("histogram", {"x": X}, fails="NaN"),
    Case("histogram", {"x": X, "bins": 2, "range": [0, 4]}, {"counts": np.array([1, 2]), "edges": np.array([0.0, 2.0, 4.0])}),
    Case("cumulative_sum", {"x": X}, np.array([2.0, NAN, NAN, NAN, NAN])),
    Case("sort", {"x": X}, np.array([1.0, 2.0, 2.0, NAN, NAN])), Case("sort", {"x": X, "descending": True}, np.array([NAN, NAN, 2.0, 2.0, 1.0])),
    Case("argsort", {"x": X}, np.array([2, 0, 4, 1, 3])), Case("argsort", {"x": X, "descending": True}, np.array([1, 3, 0, 4, 2])),
    Case("top_k", {"x": X, "k": 3}, {"values": np.array([NAN, NAN, 2.0]), "indices": np.array([1, 3, 0])}),
    Case("top_k", {"x": X, "k": 4, "largest": False}, {"values": np.array([1.0, 2.0, 2.0, NAN]), "indices": np.array([2, 0, 4, 1])}),
    Case("top_k", {"x": MANY, "k": 4}, {"values": np.array([NAN, NAN, NAN, 99.0]), "indices": np.array([7, 47, 87, 99])}),
    Case("top_k", {"x": MANY, "k": 3, "largest": False}, {"values": np.arange(3.0), "indices": np.arange(3)}),
    Case("unique", {"x": X}, {"values": np.array([1.0, 2.0, NAN, NAN]), "counts": np.array([1, 2, 1, 1])}),
    spread("linear", [[True, True], [False, False]], x=MATRIX, weight=np.ones((2, 2))),
    spread("linear", [[True, False], [True, False]], x=np.ones((2, 2)), weight=MATRIX),
    spread("linear", [[True, False], [True, False]], x=np.ones((2, 2)), weight=np.eye(2), bias=np.array([NAN, 0.0])),
    spread("conv2d", AROUND[None, None, :4, :4], x=holed(1, 1, 6, 6, at=(0, 0, 3, 3)), weight=np.zeros((1, 1, 3, 3))),
    spread("conv2d", np.array([True, False])[None, :, None, None] & np.ones((1, 2, 2, 2), bool),
           x=np.ones((1, 1, 3, 3)), weight=holed(2, 1, 2, 2, at=(0, 0, 1, 1))),
    spread("softmax", [[True, True], [False, False]], x=MATRIX), spread("layer_norm", [[True, True], [False, False]], x=MATRIX),
    spread("attention", [[False] * 2, [True] * 2, [False] * 2], q=ROWS, k=ONES, v=ONES),
    spread("attention", np.ones((3, 2), bool), q=ONES, k=ROWS, v=ONES),
    spread("attention", [[False] * 2, [True] * 2, [True] * 2], q=ONES, k=ROWS, v=ONES, causal=True),
    spread("attention", [[True, False]] * 3, q=ONES, k=ONES, v=ROWS),
    fails("kmeans", "x", x=ROWS, k=2), fails("pca", "x", x=ROWS, components=1),
    fails("knn", "x", x=ROWS, queries=ONES, k=1), fails("knn", "queries", x=ONES, queries=ROWS, k=1),
    spread("gaussian_blur", AROUND, image=HOLED, sigma=0.3), spread("sharpen", AROUND, image=HOLED, sigma=0.3), spread("sobel", BESIDE, image=HOLED),
    spread("resize", window(slice(1, 2), slice(4, 6), 3, 12), image=HOLED, height=3, width=12, method="area"),
    spread("resize", window(slice(0, 2), slice(3, 7), 3, 12), image=HOLED, height=3, width=12),
    spread("resize", window(slice(4, 6), slice(2, 3), 12, 6), image=HOLED, height=12, width=6, method="nearest"),
    Case("heat2d", {"grid": HOLED, "iterations": 1},
         verify=nan_where(np.abs(np.arange(6) - 2)[:, None] + np.abs(np.arange(6) - 2) <= 1)),
    *(Case("nbody", {"positions": np.arange(6.0).reshape(3, 2), "velocities": ONES, "masses": np.ones(3), "iterations": 2} | {name: given},
           verify=lambda outputs, **_: all_nan({name: outputs[name] for name in ("positions", "velocities")}), note=f"{name} holed")
      for name, given in (("positions", ROWS), ("velocities", ROWS), ("masses", ROWS[:, 0]))),
    *(Case("black_scholes", OPTION | {name: np.array([NAN])} | {"time": time}, verify=all_nan, note=f"{name} is NaN")
      for name in OPTION if name != "time" for time in (1.0, 0.0)),
    Case("black_scholes", OPTION | {"time": np.array([NAN])}, verify=all_nan),
    Case("concat", {"arrays": [MATRIX, ONES]}, verify=nan_where(np.isnan(np.concat([MATRIX, ONES])))),
    Case("stack", {"arrays": [MATRIX, MATRIX]}, verify=nan_where(np.isnan(np.stack([MATRIX, MATRIX])))),
]  # fmt: skip


def _given(value: object) -> object:
    return payload(value) if isinstance(value, np.ndarray) else [_given(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_does_with_nan_what_it_says(case: Case) -> None:
    given = {name: _given(value) for name, value in case.parameters.items()}
    if case.refused:
        with pytest.raises(InvalidParameter, match=case.refused):
            CATALOGUE.bind(case.operation, given)
        return
    call = CATALOGUE.bind(case.operation, given)
    if case.fails:
        with pytest.raises(OperationFailed, match=case.fails):
            asyncio.run(BACKEND.execute(case.operation, dict(call.parameters)))
        return
    outputs = asyncio.run(BACKEND.execute(case.operation, dict(call.parameters))).outputs
    case.check({name: numpy_array(output) for name, output in outputs.items()})


@pytest.mark.parametrize("name", [name for names in FAMILIES.values() for name in names])
def test_says_what_it_does_with_nan(name: str) -> None:
    takes_arrays = any(parameter.kind != "scalar" for parameter in (*CATALOGUE.get(name).parameters.values(), CATALOGUE.get(name).rest) if parameter)
    assert takes_arrays == ("NaN" in CATALOGUE.describe(name)["doc"])
    assert takes_arrays == any(case.operation == name for case in CASES)
