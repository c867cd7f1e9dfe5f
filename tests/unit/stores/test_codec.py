import array
from time import monotonic

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Reference
from openruntime.contracts.records import Task, Timings
from openruntime.stores.codec import pack, row, task_of, unpack
from openruntime.testing.store_tasks import end, new_array, new_task, run, same

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.builds(lambda data: Array("uint8", (len(data),), data), st.binary())
    | st.builds(Reference, task=st.text(), output=st.none() | st.text())
)  # fmt: skip
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))


@given(st.dictionaries(st.text(), values))
def test_values_come_back_as_they_were(parameters: dict[str, object]) -> None:
    packed, blobs = pack(parameters)
    assert same(unpack(packed), parameters)
    assert blobs == []


def test_a_map_that_looks_like_an_array_stays_a_map() -> None:
    parameters = {"x": {"dtype": "uint8", "shape": [1], "data": b"1", "blob": None}}
    assert unpack(pack(parameters)[0]) == parameters


def test_typed_views_are_stored_as_bytes() -> None:
    view = memoryview(array.array("f", [1.0, 2.0, 3.0]))
    found = unpack(pack({"x": Array("float32", (3,), view)})[0])["x"]
    assert bytes(found.view) == view.tobytes()


def test_an_array_in_a_blob_goes_without_its_bytes() -> None:
    packed, blobs = pack({"x": [Array("uint8", (3,), b"abc", "digest")]})
    assert blobs == ["digest"]
    assert b"abc" not in packed
    assert unpack(packed)["x"][0].data is None


def test_an_array_without_bytes_or_blob_is_refused() -> None:
    with pytest.raises(ValueError, match="load them first"):
        pack({"x": Array("uint8", (3,))})


def test_every_field_of_a_record_comes_back() -> None:
    task = new_task(needs=("a",), tags=("t",), deadline=5.0, idempotency="k", fingerprint="f", traceparent="00-a-b-01")
    run(task)
    end(task, TaskStatus.FAILED)
    task.outputs = {"output": new_array(5)}
    task.placement = {"reason": "only one", "candidates": []}
    task.timings = Timings(claimed=3.25)
    columns = row(task)
    found = task_of(columns[10], outputs=columns[11])
    assert 0 <= monotonic() - found.arrived < 60, "by the clock of this process"
    for name in sorted({*Task.__struct_fields__} - {"arrived"}):
        left, right = getattr(task, name), getattr(found, name)
        if name == "call":
            left = msgspec.structs.replace(left, parameters={})  # an ended task keeps no inputs
        assert same(left, right), name
