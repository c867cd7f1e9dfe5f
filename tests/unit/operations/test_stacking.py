"""What the rules say of calls by their shapes alone; that stacked calls are right is the conformance suite's."""

import pytest

from openruntime.contracts.payload import Array
from openruntime.operations import Array as AnArray
from openruntime.operations import Namespace, Steps, operation
from openruntime.operations.catalogue import FAMILIES, OperationCatalogue
from openruntime.operations.stacking import apart, each

catalogue = OperationCatalogue()


def floats(*shape: int) -> Array:
    return Array("float64", shape)


def stacked(name: str, **parameters: object) -> tuple[dict[str, tuple[int, ...]], dict[str, object]]:
    found = catalogue.get(name).stacking(parameters)
    assert found is not None
    return found.arrays, found.values


def test_ones_make_ranks_equal() -> None:
    assert apart((3, 4)) == (1, 3, 4)
    assert apart((4,), 3) == (1, 1, 1, 4)
    assert apart(()) == (1,)
    assert stacked("expression", formula="x + y * 2", x=floats(3, 1), y=floats(4)) == ({"x": (1, 3, 1), "y": (1, 1, 4)}, {})


def test_vectors_become_the_rows_and_columns_that_they_count_as() -> None:
    assert stacked("matmul", a=floats(4), b=floats(4)) == ({"a": (1, 1, 4), "b": (1, 4, 1)}, {})
    assert stacked("matmul", a=floats(7, 3, 4), b=floats(4, 5)) == ({"a": (1, 7, 3, 4), "b": (1, 1, 4, 5)}, {})
    assert stacked("solve", a=floats(3, 3), b=floats(3)) == ({"a": (1, 3, 3), "b": (1, 3, 1)}, {})


def test_axes_are_counted_from_the_last() -> None:
    assert stacked("sum", x=floats(2, 3), axis=0) == ({"x": (1, 2, 3)}, {"axis": -2})
    assert stacked("sum", x=floats(2, 3, 4), axis=(0, -1)) == ({"x": (1, 2, 3, 4)}, {"axis": (-3, -1)})
    assert stacked("sum", x=floats(2, 3)) == ({"x": (1, 6)}, {"axis": -1})
    assert stacked("fft2", x=floats(4, 5, 6), axes=(0, 1)) == ({"x": (1, 4, 5, 6)}, {"axes": (-3, -2)})


def test_weights_are_the_same_for_all() -> None:
    assert stacked("linear", x=floats(5), weight=floats(2, 5), bias=floats(2)) == ({"x": (1, 5)}, {})
    assert stacked("conv2d", x=floats(2, 3, 8, 8), weight=floats(4, 3, 3, 3)) == ({"x": (2, 3, 8, 8)}, {})


@pytest.mark.parametrize(("name", "parameters"), [
    ("quantile", {"x": floats(5), "q": floats(2)}),  # several shares make a first axis of their own
    ("softmax", {"x": floats(0, 3)}),
    ("unique", {"x": floats(5)}),
    ("kmeans", {"x": floats(5, 2), "k": 2}),
    ("uniform", {"shape": [3], "seed": 1}),
    ("expression", {"formula": "x + 1", "x": 3.0}),
])  # fmt: skip
def test_what_runs_by_itself(name: str, parameters: dict[str, object]) -> None:
    assert catalogue.get(name).stacking(parameters) is None


def test_one_that_reports_steps_runs_by_itself_whatever_it_declares() -> None:
    @operation(batch=each)
    def slow(x: AnArray, *, xp: Namespace, steps: Steps) -> AnArray:
        """Slow."""
        return x

    assert slow.stacking({"x": floats(3)}) is None


def test_the_operations_that_small_tasks_are_made_of_can_be_joined() -> None:
    able = {name for names in FAMILIES.values() for name in names if catalogue.get(name).batch is not None}
    assert able >= {"expression", "matmul", "solve", "inv", "svd", "fft", "sum", "mean", "softmax", "layer_norm", "linear", "attention", "sort"}
