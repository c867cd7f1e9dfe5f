from typing import Annotated, Any, Literal

import msgspec
import pytest

from openruntime.contracts.errors import InvalidParameter, TooLarge
from openruntime.contracts.payload import Array as Payload
from openruntime.contracts.payload import Spec
from openruntime.operations.definition import Array, Estimate, Namespace, Number, Steps, operation

X = Payload("float32", (2, 3), bytes(24))


@operation(version=3, outputs=("output",))
def sample(
    x: Array,
    weight: Array | None = None,
    scale: Number = 1.0,
    *,
    count: Annotated[int, msgspec.Meta(ge=1)] = 4,
    mode: Literal["fast", "exact"] = "fast",
    shape: tuple[int, ...] | None = None,
    share: float = 0.5,
    flag: bool = False,
    xp: Namespace,
    steps: Steps,
) -> Array:
    """First line.

    More of it.
    """
    return x


@operation
def shifted_(x: Array, *, xp: Namespace) -> Array:
    """One added."""
    return x + 1


def test_describes_itself_by_its_signature():
    found = sample.describe()
    assert {key: found[key] for key in ("name", "version", "summary", "outputs", "steps", "cacheable")} == {
        "name": "sample", "version": 3, "summary": "First line.", "outputs": ["output"], "steps": True, "cacheable": True,
    }  # fmt: skip
    schema = found["parameters"]
    assert list(schema["properties"]) == ["x", "weight", "scale", "count", "mode", "shape", "share", "flag"]
    assert schema["required"] == ["x"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["count"] == {"type": "integer", "minimum": 1, "default": 4}
    assert schema["properties"]["mode"]["enum"] == ["exact", "fast"]
    assert {"type": "number"} in schema["properties"]["scale"]["anyOf"]
    assert {"type": "number"} not in schema["properties"]["x"]["anyOf"]
    msgspec.json.encode(found)


def test_binds_and_leaves_defaults_out():
    call = sample.bind({"flag": False, "count": 4, "share": 1, "shape": [2, 3], "weight": None, "x": X, "scale": 2})
    assert call.parameters == {"x": X, "scale": 2, "shape": [2, 3], "share": 1.0}
    assert list(call.parameters) == ["x", "scale", "shape", "share"]
    assert call.outputs == {"output": Spec("float32", (2, 3))}
    assert (call.version, call.dtype, call.elements) == (3, "float32", 12)
    assert call.estimate == Estimate(6.0, 48.0, 48)
    assert isinstance(call.parameters["share"], float)


def test_nested_lists_become_arrays():
    call = sample.bind({"x": [[1, 2], [3, 4]], "scale": [0.5, 1.0], "weight": [True]})
    assert call.parameters["x"].spec == Spec("int64", (2, 2))
    assert call.parameters["scale"].spec == Spec("float64", (2,))
    assert call.parameters["weight"].spec == Spec("bool", (1,))


def test_an_array_that_does_not_exist_yet_binds_by_its_spec():
    assert sample.bind({"x": Spec("int8", (5,))}).outputs == {"output": Spec("int8", (5,))}


@pytest.mark.parametrize(
    ("parameters", "field", "words"),
    [
        ({}, "x", "needs the parameter `x`: an array"),
        ({"x": X, "cuont": 3}, "cuont", "did you mean count"),
        ({"x": X, "zzz": 3}, "zzz", "has no parameter `zzz`"),
        ({"x": X, "xp": 3}, "xp", "has no parameter `xp`"),
        ({"x": 3}, "x", "must be an array, and is the number 3; for an array of one element write [3]"),
        ({"x": True}, "x", "is the boolean true"),
        ({"x": None}, "x", "is null"),
        ({"x": "abc"}, "x", "is the string 'abc'"),
        ({"x": {"tensr": "1"}}, "x", 'only as {"tensor": id}'),
        ({"x": [[1], [2, 3]]}, "x", "x"),
        ({"x": X, "scale": "one"}, "scale", "must be an array or a number, and is the string 'one'"),
        ({"x": X, "count": X}, "count", "must be a plain JSON value (integer >= 1), and is an array of dtype float32 and shape [2, 3]"),
        ({"x": X, "count": 0}, "count", "expected int >= 1"),
        ({"x": X, "count": True}, "count", "expected int, got bool"),
        ({"x": X, "count": 1.5}, "count", "expected int, got float"),
        ({"x": X, "count": None}, "count", "expected int, got null"),
        ({"x": X, "count": 10**30}, "count", "count"),
        ({"x": X, "mode": "slow"}, "mode", 'it takes one of "exact", "fast"'),
        ({"x": X, "shape": [1, "2"]}, "shape", "expected int, got str (it takes a list of integers or null)"),
        ({"x": X, "shape": [10**30]}, "shape", "shape"),
        ({"x": X, "share": "half"}, "share", "expected float, got str"),
        ({"x": X, "scale": 10**30}, "scale", "beyond 64 bits"),
        ({"x": Payload("float33", (1,), b"")}, "x", "float33"),
    ],
)
def test_refuses_and_says_what_would_be_right(parameters, field, words):
    with pytest.raises(InvalidParameter) as caught:
        sample.bind(parameters)
    assert caught.value.field == field
    assert words in caught.value.message


def test_a_number_keeps_its_kind_and_may_be_written_as_text_where_json_has_none():
    assert sample.bind({"x": X, "scale": True}).parameters["scale"] is True
    assert sample.bind({"x": X, "scale": 2}).parameters["scale"] == 2
    assert sample.bind({"x": X, "scale": "-Infinity"}).parameters["scale"] == float("-inf")
    assert "scale" not in sample.bind({"x": X, "scale": 1.0}).parameters
    assert "scale" in sample.bind({"x": X, "scale": 1}).parameters  # an integer promotes differently from the default


def test_estimates_are_completed_and_sizes_bounded():
    @operation(check=lambda x, n: Spec("float64", (n,)), estimate=lambda x, n: Estimate(flops=7))
    def grow(x: Array, n: int, *, xp: Namespace) -> Array:
        """Grows."""

    assert grow.bind({"x": X, "n": 10}).estimate == Estimate(7.0, 24.0 + 80, 24 + 80)
    with pytest.raises(TooLarge, match="no machine"):
        grow.bind({"x": X, "n": 2**62})


def test_free_names_and_those_the_runtime_keeps():
    @operation(check=lambda **arrays: Spec("float64", ()))
    def gather(*, xp: Namespace, **arrays: Number) -> Any:
        """Any names."""

    call = gather.bind({"b": X, "a": 2, "c": [1.0]})
    assert list(call.parameters) == ["b", "c", "a"]
    for name in ("xp", "steps", "allocate", "empty"):
        with pytest.raises(InvalidParameter, match="uses itself"):
            gather.bind({name: X})
    with pytest.raises(InvalidParameter, match="no names with a dot") as caught:
        gather.bind({"x.0": X})
    assert caught.value.field == "x.0"
    with pytest.raises(InvalidParameter, match="safetensors"):
        _ = gather.first_array
    assert gather.describe()["parameters"]["additionalProperties"]["x-kind"] == "number"


def test_is_still_a_function_and_loses_a_trailing_underscore():
    assert shifted_(2, xp=None) == 3
    assert (shifted_.name, shifted_.first_array, shifted_.family) == ("shifted", "x", "test_operation")


def test_a_parameter_without_annotation_is_a_defect_of_the_operation():
    def bare(x, *, xp: Namespace): ...

    with pytest.raises(TypeError, match="needs a name and an annotation"):
        operation(bare)


@pytest.mark.parametrize(("declared", "words"), [(None, "returned a NoneType"), ({"mean": Spec("int8", (1,))}, "returned mean")])
def test_a_check_that_names_other_outputs_is_a_defect(declared, words):
    @operation(check=lambda x: declared)
    def odd(x: Array, *, xp: Namespace) -> Array:
        """Odd."""
        return x

    with pytest.raises(TypeError, match=rf"`check` of odd must return a Spec of each output \(output\), and {words}"):
        odd.bind({"x": [1, 2]})


def test_a_list_of_arrays_is_checked_item_by_item():
    @operation(check=lambda xs, n: xs[0])
    def pile(xs: list[Array], n: int = 1, *, xp: Namespace) -> Array:
        """Piles."""

    call = pile.bind({"n": 2, "xs": [X, [1, 2]]})
    assert list(call.parameters) == ["xs", "n"]
    assert [item.spec for item in call.parameters["xs"]] == [X.spec, Spec("int64", (2,))]
    assert (call.elements, call.estimate.bytes) == (6 + 2 + 6, 24 + 16 + 24)
    assert pile.bind({"xs.1": [1, 2], "n": 2, "xs.0": X}).elements == call.elements
    assert pile.describe()["parameters"]["properties"]["xs"]["x-kind"] == "arrays"
    for wrong, field in (({"xs": []}, "xs"), ({"xs": X}, "xs"), ({"xs": [X, 3]}, "xs.1"), ({}, "xs"), ({"xs.1": X}, "xs.0"), ({"n.0": X}, "n.0")):
        with pytest.raises(InvalidParameter) as caught:
            pile.bind(wrong)
        assert caught.value.field == field
    with pytest.raises(InvalidParameter, match="safetensors"):
        _ = pile.first_array


def test_lists_of_arrays_need_names():
    def loose(*, xp: Namespace, **xs: list[Array]): ...

    with pytest.raises(TypeError, match="names of their own"):
        operation(loose)


def test_what_no_operation_declares_is_refused_with_the_nearest_name():
    def doubled(x: Array, *, xp: Namespace) -> Array:
        return 2 * x

    with pytest.raises(TypeError, match="operation doubled cannot declare `estimat`; did you mean estimate"):
        operation(estimat=lambda x: Estimate(1.0))(doubled)  # type: ignore[call-overload]
