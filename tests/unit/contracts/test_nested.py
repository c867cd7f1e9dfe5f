"""Nested lists as arrays and back."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openruntime.contracts import nested as codec
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import Array


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (True, "bool", ()),
        (3, "int64", ()),
        (2.5, "float64", ()),
        ("NaN", "float64", ()),
        ([], "float64", (0,)),
        ([[], []], "float64", (2, 0)),
        ([True, False], "bool", (2,)),
        ([1, 2], "int64", (2,)),
        ([1, 2.5], "float64", (2,)),
        ([1, "Infinity"], "float64", (2,)),
        ([[[1], [2]]], "int64", (1, 2, 1)),
        ({"real": [1, 2], "imag": [0.5, "-Infinity"]}, "complex128", (2,)),
        ({"real": 1, "imag": 2}, "complex128", ()),
    ],
)
def test_kinds(value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    found = codec.to_array(value, "x")
    assert (found.dtype, found.shape) == (dtype, shape)
    assert found.view.nbytes == found.nbytes


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        ("text", "'text'"),
        ("nan", "'nan'"),
        ([1, None], "null"),
        ([1, "a"], "'a'"),
        ([True, 1], "mixes"),
        ([True, 1.5], "mixes"),
        ([[1], [2, 3]], "ragged"),
        ([[1], 2], "ragged"),
        ([1, [2]], "ragged"),
        ([{"a": 1}], "dict"),
        ({"real": 1}, "dict"),
        ({"real": [1], "imag": [1, 2]}, "one shape"),
        ({"real": {"real": 1, "imag": 1}, "imag": 1}, "one shape"),
        ([2**63], "int64"),
        ([2**2000, 1.5], "int64"),
    ],
)
def test_refused_with_the_field(value: Any, said: str) -> None:
    with pytest.raises(InvalidParameter, match=said) as caught:
        codec.to_array(value, "x")
    assert caught.value.field == "x"


def test_too_deep() -> None:
    value: Any = 1
    for _ in range(65):
        value = [value]
    with pytest.raises(InvalidParameter, match="64"):
        codec.to_array(value, "x")


@given(hnp.arrays(st.sampled_from(["bool", "int64", "float64", "complex128"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
def test_there_and_back_through_json(x: Any) -> None:
    value = json.loads(json.dumps(codec.from_array(Array(x.dtype.name, x.shape, x.tobytes())), allow_nan=False))
    found = codec.to_array(value, "x")
    # below an empty axis, lists cannot tell the lengths
    assert found.shape == (x.shape if x.size else x.shape[: x.shape.index(0) + 1])
    if x.size:
        assert found.dtype == x.dtype.name
        assert np.array_equal(np.frombuffer(found.view, found.dtype).reshape(x.shape), x, equal_nan=x.dtype != bool)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "complex64"])
def test_narrow_dtypes(dtype: str) -> None:
    x = np.array([[0, 1], [2, 3]]).astype(dtype)
    found = codec.from_array(Array(dtype, x.shape, x.tobytes()))
    assert (found["real"] if dtype == "complex64" else found) == [[0, 1], [2, 3]]


def test_bfloat16() -> None:
    assert codec.from_array(Array("bfloat16", (3,), b"\x80\x3f\x00\xc0\x80\x7f")) == [1.0, -2.0, "Infinity"]
