"""Operations as methods."""

import numpy as np
import pytest

import openruntime
from openruntime.cli.stubs import TARGET, source
from openruntime.client.arrays import split
from openruntime.client.operations import arguments, check_names
from openruntime.client.runtime import batch
from openruntime.client.signatures import kind, signature, told
from openruntime.contracts import safetensors
from openruntime.contracts.errors import InvalidParameter
from openruntime.operations.catalogue import FAMILIES, OperationCatalogue

BUILTIN = [name for names in FAMILIES.values() for name in names]

SCHEMA = {"properties": {"x": {"x-kind": "array"}, "k": {"type": "integer"}, "seed": {"type": "integer"}}, "required": ["x", "k"]}


def test_positional_arguments_follow_the_schema() -> None:
    assert arguments("kmeans", SCHEMA, ([1.0], 3), {"seed": 4}) == {"x": [1.0], "k": 3, "seed": 4}


def test_numpy_numbers_are_plain_where_no_array_is_wanted() -> None:
    given = arguments("kmeans", SCHEMA, (np.float32(1), np.int64(3)), {})
    assert isinstance(given["x"], np.float32)
    assert type(given["k"]) is int


def test_a_name_that_is_nearly_an_options_is_corrected() -> None:
    with pytest.raises(InvalidParameter, match="no parameter `priorty`; did you mean priority") as caught:
        check_names("kmeans", SCHEMA, ["x", "priorty"], ["priority", "device"])
    assert caught.value.field == "priorty"
    check_names("expression", SCHEMA | {"additionalProperties": {"x-kind": "number"}}, ["priorty"], ["priority"])


def test_signatures_and_types_are_written_as_python_does() -> None:
    entry = OperationCatalogue().describe("sum")
    assert told(entry) == "sum(x, axis=None, keepdims=False)"
    assert [kind(about) for about in entry["parameters"]["properties"].values()] == ["array", "integer or integers or None", "True or False"]
    assert told(OperationCatalogue().describe("expression")) == "expression(formula, **arrays)"


def test_every_operation_has_a_signature() -> None:
    catalogue = OperationCatalogue()
    for name in BUILTIN:
        schema = catalogue.describe(name)["parameters"]
        assert list(signature(schema).parameters)[: len(schema["properties"])] == list(schema["properties"])


def test_too_many_and_twice_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="at most 3 positional"):
        arguments("kmeans", SCHEMA, (1, 2, 3, 4), {})
    with pytest.raises(InvalidParameter, match="`x` of kmeans is given twice") as caught:
        arguments("kmeans", SCHEMA, (1,), {"x": 2})
    assert caught.value.field == "x"


def test_a_batch_names_arrays_by_request() -> None:
    requests = [({"operation": "a"}, {}), ({"operation": "b"}, split({"x": np.ones(2)})[1])]
    media, body = batch(requests)
    arrays, metadata = safetensors.decode(b"".join(body))
    assert media == "application/x-safetensors"
    assert arrays.keys() == {"1.x"}
    assert metadata["tasks"] == '[{"operation":"a"},{"operation":"b"}]'


def test_the_stub_is_up_to_date() -> None:
    assert TARGET.read_text() == source(), "run python -m openruntime.cli.stubs"


def test_the_package_is_light_and_offers_what_it_says() -> None:
    assert {"connect", "connect_async", "Runtime", "AsyncRuntime", "errors"} == set(openruntime.__all__)
    assert openruntime.Runtime.__name__ == "Runtime"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = openruntime.nothing
