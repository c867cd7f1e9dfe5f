"""The plugin as OpenRuntime finds it: by its name, through its entry point, on the NumPy backend."""

import asyncio

import numpy as np
import pytest

from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.payload import Spec
from openruntime.errors import InvalidParameter
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.testing.cases import numpy_array, payload

PARIS, NEW_YORK, POLE = [48.8566, 2.3522], [40.7128, -74.0060], [90.0, 0.0]


@pytest.fixture(scope="module")
def catalogue() -> OperationCatalogue:
    return OperationCatalogue()


def distances(catalogue: OperationCatalogue, start: object, end: object, dtype: str = "float64") -> np.ndarray:
    call = catalogue.bind("haversine", {"start": payload(np.array(start, dtype)), "end": payload(np.array(end, dtype))})
    found = asyncio.run(NumpyBackend().execute(call.operation, call.parameters)).outputs["output"]
    assert found.spec == call.outputs["output"]
    return numpy_array(found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_known_distances(catalogue: OperationCatalogue, dtype: str) -> None:
    found = distances(catalogue, [PARIS, PARIS, [0.0, 0.0]], [NEW_YORK, POLE, [0.0, 180.0]], dtype)
    np.testing.assert_allclose(found, [5_837e3, np.pi / 180 * (90 - 48.8566) * 6_371_008.8, np.pi * 6_371_008.8], rtol=1e-3)


def test_a_point_is_no_distance_from_itself_and_nan_stays_nan(catalogue: OperationCatalogue) -> None:
    found = distances(catalogue, [PARIS, [np.nan, 0.0]], [PARIS, PARIS])
    np.testing.assert_array_equal(found, [0.0, np.nan])


def test_no_points_give_no_distances(catalogue: OperationCatalogue) -> None:
    assert distances(catalogue, np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("field", "start", "end"),
    [
        ("start", Spec("float64", (3,)), Spec("float64", (2,))),
        ("start", Spec("int64", (2,)), Spec("float64", (2,))),
        ("end", Spec("float64", (2,)), Spec("float64", (4, 2))),
        ("end", Spec("float64", (2,)), Spec("float32", (2,))),
    ],
)
def test_what_does_not_fit_is_refused_by_name(catalogue: OperationCatalogue, field: str, start: Spec, end: Spec) -> None:
    with pytest.raises(InvalidParameter) as caught:
        catalogue.bind("haversine", {"start": start, "end": end})
    assert caught.value.field == field
