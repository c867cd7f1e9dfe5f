"""NumPy in, NumPy out."""

import numpy as np
import pytest

from openruntime.client.arrays import Outputs, TensorHandle, from_wire, outputs, split, to_wire
from openruntime.contracts import safetensors
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import ITEMSIZE, Array


@pytest.mark.parametrize("dtype", [name for name in ITEMSIZE if name != "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back_as_it_was(dtype: str, shape: tuple[int, ...]) -> None:
    given = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    body = b"".join(safetensors.encode({"output": to_wire(given, "x")}))
    got = outputs(bytearray(body))
    assert got.dtype == given.dtype
    assert got.shape == given.shape
    np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize(
    "view", [np.arange(12.0).reshape(3, 4).T, np.arange(12.0)[::-2], np.asfortranarray(np.ones((3, 2))), np.arange(3, dtype=">i4")]
)
def test_any_memory_layout_travels(view: np.ndarray) -> None:
    np.testing.assert_array_equal(from_wire(to_wire(view, "x")), view)


def test_a_contiguous_array_is_not_copied() -> None:
    given = np.zeros(4)
    wire = to_wire(given, "x")
    given[0] = 7
    assert from_wire(wire)[0] == 7


def test_an_answer_can_be_written_to() -> None:
    got = outputs(bytearray(b"".join(safetensors.encode({"output": to_wire(np.zeros(3), "x")}))))
    got += 1
    assert got.tolist() == [1, 1, 1]


def test_bfloat16_widens_exactly() -> None:
    half = np.array([1.5, -2.0, 3.140625], dtype=np.float32)
    bits = (half.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(from_wire(Array("bfloat16", (3,), bits.tobytes())), half)


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), np.array(["2020-01-01"], dtype="M8[D]"), np.zeros(2, np.longdouble)])
def test_what_cannot_travel_is_refused_by_name(value: np.ndarray) -> None:
    with pytest.raises(InvalidParameter, match="`weights`") as caught:
        split({"weights": value})
    assert caught.value.field == "weights"


def test_numbers_stay_json_and_arrays_become_bytes() -> None:
    plain, arrays = split({"a": np.float32(2), "b": 2.5, "c": 3, "d": True, "e": [1, [2]], "f": float("nan"), "g": -float("inf"), "h": 1j, "i": None})
    assert arrays.keys() == {"a"}
    assert arrays["a"].shape == ()
    assert plain == {"b": 2.5, "c": 3, "d": True, "e": [1, [2]], "f": "NaN", "g": "-Infinity", "h": {"real": 0.0, "imag": 1.0}, "i": None}


def test_a_handle_is_a_reference() -> None:
    assert split({"a": TensorHandle("t1", "float32", (2,), 8)})[0] == {"a": {"tensor": "t1"}}


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="`x` is a set"):
        split({"x": {1, 2}})


def test_outputs_are_read_as_attributes_even_where_dict_has_a_method() -> None:
    found = Outputs(values=[1], labels=[2])
    assert found.values == [1]
    assert found.labels == [2]
    assert found["values"] == [1]
    assert list(found) == ["values", "labels"]
    with pytest.raises(AttributeError):
        _ = found.nothing
