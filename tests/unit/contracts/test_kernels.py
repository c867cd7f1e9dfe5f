"""A kernel's signature: formulas, what they bind, and refusals that name their field."""

from typing import Any

import pytest

from openruntime.contracts.dimensions import parse
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, TooLarge
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.kernels import decoded, encoded, number
from openruntime.contracts.payload import Spec

SAXPY: dict[str, Any] = {
    "name": "saxpy", "language": "opencl", "source": "__kernel void saxpy() {}",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}, {"name": "y", "dtype": "float32", "shape": ["n"]}],
    "outputs": [{"name": "z", "dtype": "float32", "shape": ["n"]}],
    "scalars": [{"name": "a", "dtype": "float32"}, {"name": "n", "dtype": "int32"}], "grid": ["n"],
}  # fmt: skip


def array(name: str, *shape: int | str, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


@pytest.mark.parametrize(
    ("formula", "value"),
    [(7, 7), ("n", 10), ("2*n + m", 23), ("n // m", 3), ("n % m", 1), ("-(-n // 4)", 3), ("ceildiv(n, 4)", 3), ("min(n, m)", 3), ("max(n, 2*m)", 10),
     ("+n - 1", 9), ("(n)", 10)],
)  # fmt: skip
def test_formulas_of_whole_numbers(formula: int | str, value: int) -> None:
    assert parse(formula, "f").value({"n": 10, "m": 3}, "f") == value


@pytest.mark.parametrize(
    ("formula", "said"),
    [("n / 2", "//"), ("n ** 2", "multiply"), ("n +", "invalid syntax"), ("sin(n)", "no function 'sin'"), ("min(n)", "takes 2 arguments"),
     ("n.x", "prefix"), ("1.5", "no whole number"), ("n if n else 1", "+ - * // %"), ("", "no formula"), ("9" * 30, "62 bits"),
     ("n" * 300, "characters"), (True, "formula such as"), ("(" * 60 + "n" + ")" * 60 + "+1" * 30, "levels deep"),
     ("__import__('os')", "no function"), ("[n]", "+ - * // %"), (1.5, "whole number")],
)  # fmt: skip
def test_what_is_no_formula_is_refused_by_name(formula: Any, said: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        parse(formula, "grid.0")
    assert refusal.value.field == "grid.0"
    assert said in refusal.value.message


def test_formulas_say_what_they_were_given_when_they_have_no_value() -> None:
    with pytest.raises(InvalidParameter, match=r"divides by zero where m = 0, n = 5"):
        parse("n // m", "grid.0").value({"n": 5, "m": 0}, "grid.0")
    with pytest.raises(InvalidParameter, match="62 bits"):
        parse("n * n", "grid.0").value({"n": 1 << 40}, "grid.0")


def test_a_call_binds_sizes_and_leaves_out_numbers_that_are_known() -> None:
    spec = read(SAXPY)
    bound = spec.bind({"x": Spec("float32", (5,)), "y": Spec("float32", (5,))}, {"a": 2})
    assert (bound.symbols, bound.grid, bound.local) == ({"n": 5}, (5,), ())
    assert bound.outputs == {"z": Spec("float32", (5,))}
    assert bound.scalars == {"a": 2.0, "n": 5}
    assert decoded(encoded(spec)) == spec


def test_shapes_may_be_formulas_of_several_inputs() -> None:
    spec = read(
        SAXPY | {"inputs": [array("x", "n", "m"), array("y", "2*n", 3)], "outputs": [array("z", "n + m", "max(n, m)")], "scalars": [],
                 "grid": ["m", "ceildiv(n, 2)"], "local": [4, 1]}
    )  # fmt: skip
    bound = spec.bind({"x": Spec("float32", (3, 8)), "y": Spec("float32", (6, 3))}, {})
    assert (bound.outputs["z"].shape, bound.grid, bound.local) == ((11, 8), (8, 2), (4, 1))
    with pytest.raises(InvalidParameter, match=r"`y` of saxpy has the shape \[5, 3\], where 2\*n must be 6 where n = 3"):
        spec.bind({"x": Spec("float32", (3, 8)), "y": Spec("float32", (5, 3))}, {})


@pytest.mark.parametrize(
    ("arrays", "scalars", "field", "said"),
    [
        ({"y": Spec("float32", (4,))}, {"a": 1}, "y", "n of [n] must be 5, as in `x`"),
        ({"y": Spec("float64", (5,))}, {"a": 1}, "y", "must be float32, and is float64"),
        ({"y": Spec("float32", (5, 1))}, {"a": 1}, "y", "must have the shape [n], and has [5, 1]"),
        ({}, {}, "a", "needs the parameter `a`"),
        ({}, {"a": "two"}, "a", "must be a number"),
        ({}, {"a": True}, "a", "must be a number"),
        ({}, {"a": 1, "n": 4}, "n", "n is 5 by the shapes"),
        ({}, {"a": 1, "n": 1 << 40}, "n", "int32 holds"),
        ({}, {"a": 1, "n": 5.5}, "n", "whole number"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_by_name(arrays: dict[str, Spec], scalars: dict[str, Any], field: str, said: str) -> None:
    given = {"x": Spec("float32", (5,)), "y": Spec("float32", (5,))} | arrays
    with pytest.raises(InvalidParameter) as refusal:
        read(SAXPY).bind(given, scalars)
    assert refusal.value.field == field
    assert said in refusal.value.message
    assert field in refusal.value.message


def test_the_grid_of_a_call_must_launch_something() -> None:
    shifted = read(SAXPY | {"grid": ["n - 4"]})
    for size, said in ((4, "nothing would run"), (2, "n - 4 is -2 where n = 2")):
        with pytest.raises(InvalidParameter, match=r"`grid\.0`") as refusal:
            shifted.bind({"x": Spec("float32", (size,)), "y": Spec("float32", (size,))}, {"a": 1})
        assert said in refusal.value.message
    empty = {"x": Spec("float32", (0,)), "y": Spec("float32", (0,))}
    assert read(SAXPY).bind(empty, {"a": 1}).grid == (0,)  # nothing to run, and nothing that would be left unwritten
    huge = read(SAXPY | {"grid": ["n * n * n"]})
    with pytest.raises(InvalidParameter, match=r"`grid\.0`.*more than 2147483647"):
        huge.bind({"x": Spec("float32", (5000,)), "y": Spec("float32", (5000,))}, {"a": 1})
    wide = read(SAXPY | {"grid": ["n", "n", "n"]})
    with pytest.raises(InvalidParameter, match="`grid` of saxpy"):
        wide.bind({"x": Spec("float32", (20_000,)), "y": Spec("float32", (20_000,))}, {"a": 1})
    vast = read(SAXPY | {"outputs": [array("z", "n * n", "n * n", "n * n")]})
    with pytest.raises(TooLarge):
        vast.bind({"x": Spec("float32", (1 << 12,)), "y": Spec("float32", (1 << 12,))}, {"a": 1})


def test_upper_bounds_of_unfinished_tasks_bind_upper_bounds() -> None:
    bound = read(SAXPY).bind({"x": Spec("float32", (9,), exact=False), "y": Spec("float32", (5,))}, {"a": 1})
    assert bound.outputs["z"] == Spec("float32", (9,), exact=False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "9a"}, "name"), ({"name": "a-b"}, "name"), ({"name": "x" * 65}, "name"), ({"name": 3}, "name"), ({"name": None}, "name"),
        ({"language": "glsl"}, "language"), ({"language": ""}, "language"), ({"source": ""}, "source"), ({"source": " \n"}, "source"),
        ({"source": "a\0b"}, "source"), ({"source": "x" * 262_145}, "source"), ({"source": "\ud800"}, "source"), ({"source": None}, "source"),
        ({"inputs": [array("x", "n", dtype="float33")]}, "inputs.0.dtype"), ({"inputs": [array("x", "n", dtype="bfloat16")]}, "inputs.0.dtype"),
        ({"inputs": [{"name": "x", "dtype": "float32"}]}, "inputs.0.shape"), ({"inputs": [array("x", 1.5)]}, "inputs.0.shape.0"),  # type: ignore[arg-type]
        ({"inputs": [array("x", "n"), array("x", "n")]}, "inputs.1.name"), ({"inputs": [array("steps", "n")]}, "inputs.0.name"),
        ({"inputs": [array("x", "2*n")]}, "inputs.0.shape.0"), ({"inputs": [array("x", -1)]}, "inputs.0.shape.0"), ({"inputs": 3}, "inputs"),
        ({"inputs": [array("n", "n")], "scalars": []}, "inputs"), ({"inputs": [array("x", "n") | {"unit": "m"}]}, "inputs.0.unit"),
        ({"outputs": []}, "outputs"), ({"outputs": [array("z", "m")]}, "outputs.0.shape.0"), ({"outputs": [array("x", "n")]}, "outputs.0.name"),
        ({"outputs": [array("z", "n / 2")]}, "outputs.0.shape.0"), ({"scalars": [{"name": "a", "dtype": "complex64"}]}, "scalars.0.dtype"),
        ({"scalars": [{"name": "n", "dtype": "float32"}]}, "scalars.0.dtype"), ({"scalars": [{"name": "x", "dtype": "float32"}]}, "scalars.0.name"),
        ({"scalars": [{"name": "timeout", "dtype": "float32"}]}, "scalars.0.name"), ({"grid": []}, "grid"), ({"grid": [1, 1, 1, 1]}, "grid"),
        ({"grid": [0]}, "grid.0"), ({"grid": [-3]}, "grid.0"), ({"grid": [1 << 31]}, "grid.0"), ({"grid": [1 << 30, 1 << 30]}, "grid"),
        ({"grid": ["m"]}, "grid.0"), ({"grid": ["n", "n +"]}, "grid.1"), ({"grid": "n"}, "grid"), ({"local": [0]}, "local.0"),
        ({"local": [8, 8]}, "local"), ({"options": [""]}, "options.0"), ({"options": ["-Da", 3]}, "options.1"), ({"options": ["x"] * 65}, "options"),
        ({"options": "'"}, "options"), ({"reference": {"parameters": {}}}, "reference.operation"), ({"reference": 3}, "reference"),
        ({"language": "wgsl", "inputs": [array("x", "n", dtype="float64")]}, "inputs.0.dtype"), ({"sources": "x"}, "sources"),
        ({"language": "metal", "scalars": [{"name": "a", "dtype": "float64"}]}, "scalars.0.dtype"),
    ],
)  # fmt: skip
def test_a_kernel_that_is_not_right_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        read({**SAXPY, **change})
    assert refusal.value.field == field, refusal.value.message
    assert field in refusal.value.message


def test_what_is_no_kernel_at_all_is_refused() -> None:
    for document in ([], "kernel", 3, None):
        with pytest.raises(OpenRuntimeError, match="JSON object"):
            read(document)


def test_short_forms_are_read() -> None:
    spec = read(SAXPY | {"options": "-DA='1 2' -cl-fast-relaxed-math", "reference": "add", "local": None})
    assert spec.options == ("-DA=1 2", "-cl-fast-relaxed-math")
    assert spec.reference is not None
    assert spec.reference.operation == "add"


@pytest.mark.parametrize(
    ("value", "dtype", "found"), [("NaN", "float32", "nan"), ("-Infinity", "float64", "-inf"), (3.0, "int8", "3"), (10**400, "float64", "inf")]
)
def test_numbers_that_json_spells_otherwise(value: Any, dtype: str, found: str) -> None:
    assert str(number(value, dtype, "a", "saxpy")) == found


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"outputs": ["z: float32[n]"]}, '`outputs.0` must be a JSON object such as {"name": "y", "dtype": "float32", "shape": ["n"]}, not a string'),
        ({"outputs": "z"}, '`outputs` must be a list such as [{"name": "y", "dtype": "float32", "shape": ["n"]}], not a string'),
        ({"scalars": ["a"]}, '`scalars.0` must be a JSON object such as {"name": "a", "dtype": "float32"}, not a string'),
        ({"outputs": [{"name": "z", "dtype": "float32", "shape": "n"}]}, '`outputs.0.shape` must be a list such as ["n"], not a string'),
        ({"grid": "n"}, '`grid` must be a list such as ["n"], not a string'),
        ({"grid": [1.5]}, "`grid.0` must be a whole number or a string, not a number"),
        (
            {"reference": 3},
            '`reference` must be a JSON object such as {"operation": "expression", "parameters": {"formula": "2*x"}}, not a whole number',
        ),
        ({"name": 3}, "`name` must be a string, not a whole number"),
    ],
)
def test_what_is_of_the_wrong_kind_is_told_with_an_example(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(SAXPY | wrong)
    assert caught.value.message == says
    assert caught.value.field == says.split("`")[1]
