import itertools

import numpy as np
import pytest

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations import dtypes

NAMES = [name for name in ITEMSIZE if name != "bfloat16"]


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NAMES, NAMES)))
def test_promotion_is_numpys(a, b):
    assert dtypes.promote(a, b) == np.result_type(np.dtype(a), np.dtype(b)).name


@pytest.mark.parametrize("value", [True, 1, -1, 300, 2**40, 2**63, 1.5, 1e300, float("nan"), 1j], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_python_scalars_are_as_weak_as_in_numpy(name, value):
    with np.errstate(all="ignore"):
        try:
            wanted = (np.ones(1, name) + value).dtype.name
        except OverflowError:
            with pytest.raises(OverflowError, match="does not fit"):
                dtypes.promote_weak(name, value)
            return
    assert dtypes.promote_weak(name, value) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_functions_compute_in_numpys_dtype(name):
    assert dtypes.floating(name) == np.sin(np.ones(1, name)).dtype.name
    assert dtypes.inexact(name) == np.mean(np.ones(1, name)).dtype.name
    assert dtypes.real(name) == np.abs(np.ones(1, name)).dtype.name
    assert dtypes.is_complex(name) == (np.dtype(name).kind == "c")
    assert dtypes.is_integer(name) == (np.dtype(name).kind in "iu")
    assert dtypes.is_floating(name) == (np.dtype(name).kind in "fc")


@pytest.mark.parametrize("value", [True, 3, -3, 2**63, 1.5, 1j], ids=str)
def test_a_scalar_alone(value):
    assert dtypes.weak(value) == np.asarray(value).dtype.name


def test_bfloat16_keeps_its_range_beside_others():
    others = {"bool": "bfloat16", "int8": "bfloat16", "int16": "float32", "int64": "float64", "float16": "float32", "float32": "float32",
              "float64": "float64", "complex64": "complex64", "bfloat16": "bfloat16"}  # fmt: skip
    for other, wanted in others.items():
        assert dtypes.promote("bfloat16", other) == dtypes.promote(other, "bfloat16") == wanted
