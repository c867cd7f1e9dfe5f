import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import Spec
from openruntime.operations import shapes

some_shape = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4).map(tuple)


@given(a=some_shape, b=some_shape, c=some_shape)
def test_broadcasts_as_numpy(a, b, c):
    named = [("a", a), ("b", b), ("c", c)]
    try:
        wanted = np.broadcast_shapes(a, b, c)
    except ValueError:
        with pytest.raises(InvalidParameter) as caught:
            shapes.broadcast("add", named)
        assert caught.value.field in ("b", "c")
    else:
        assert shapes.broadcast("add", named) == wanted


def test_axes():
    assert shapes.axis_of("sum", "axis", -1, (2, 3)) == 1
    assert shapes.axes_of("sum", "axis", None, (2, 3)) == (0, 1)
    assert shapes.axes_of("sum", "axis", (1, -2), (2, 3)) == (1, 0)
    assert shapes.reduced((2, 3, 4), (0, 2)) == (3,)
    assert shapes.reduced((2, 3, 4), (0, 2), keepdims=True) == (1, 3, 1)
    assert shapes.replaced((2, 3, 4), 1, 7) == (2, 7, 4)
    with pytest.raises(InvalidParameter, match="has the axes -2 to 1"):
        shapes.axis_of("sum", "axis", 2, (2, 3))
    with pytest.raises(InvalidParameter, match="single number"):
        shapes.axis_of("sum", "axis", 0, ())
    with pytest.raises(InvalidParameter, match="twice"):
        shapes.axes_of("sum", "axis", (0, -2), (2, 3))


def test_ranks_and_emptiness():
    with pytest.raises(InvalidParameter, match="2 to 3 dimensions"):
        shapes.rank_of("f", "x", Spec("int8", (1,)), 2, 3)
    with pytest.raises(InvalidParameter, match="at least 2"):
        shapes.rank_of("f", "x", Spec("int8", ()), 2)
    with pytest.raises(InvalidParameter, match="no elements along"):
        shapes.some("f", "x", Spec("int8", (0, 3)), (0,))
    shapes.some("f", "x", Spec("int8", (0, 3)), (1,))
