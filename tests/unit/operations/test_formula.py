"""Formulas against NumPy's own evaluation of the same text (`eval` here, in the test only)."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openruntime.backends import fused
from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError
from openruntime.contracts.payload import Spec
from openruntime.operations.expression import expression
from openruntime.operations.formula import parse, program, signature
from openruntime.testing.cases import close, numpy_array, payload

ARRAYS = {
    "x": np.linspace(-2, 2, 12, dtype="float32").reshape(3, 4),
    "y": np.linspace(0.1, 0.9, 4),
    "i": np.arange(1, 13, dtype="int32").reshape(3, 4),
    "u": np.arange(1, 5, dtype="uint8"),
    "b": np.array([[True], [False], [True]]),
}
FUNCTIONS = ("sin", "cos", "exp", "sqrt", "abs", "floor", "where", "maximum", "minimum", "hypot", "isnan", "tanh")
NAMESPACE = {name: getattr(np, name) for name in FUNCTIONS}
BACKEND = NumpyBackend()

leaves = st.sampled_from([*ARRAYS, "2", "0.5", "3"])


def _grow(inner):
    arithmetic = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    compared = st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    unary = st.tuples(st.sampled_from(["sin", "cos", "exp", "sqrt", "abs", "floor", "tanh", "isnan", "-"]), inner).map(lambda t: f"{t[0]}({t[1]})")
    binary = st.tuples(st.sampled_from(["maximum", "minimum", "hypot"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
    chosen = st.tuples(compared, inner, inner).map(lambda t: f"where({t[0]}, {t[1]}, {t[2]})")
    return arithmetic | compared | unary | binary | chosen


formulas = st.recursive(leaves, _grow, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(formula=formulas)
def test_random_formulas_are_numpys(formula):
    named = {name: array for name, array in ARRAYS.items() if _uses(parse(formula), name)}
    try:
        call = expression.bind({"formula": formula, **{name: payload(array) for name, array in named.items()}})
    except InvalidParameter:
        return  # stricter than NumPy on purpose, as with booleans; that what is accepted is right is the point here
    if _folds(parse(formula)):
        return  # functions of constants alone stay weak here, and are float64 in NumPy
    with np.errstate(all="ignore"):
        try:
            wanted = np.asarray(eval(formula, {"__builtins__": {}, **NAMESPACE}, ARRAYS))
        except (OverflowError, TypeError, ValueError, ZeroDivisionError):
            return
        try:
            found = numpy_array(asyncio.run(BACKEND.execute("expression", call.parameters)).outputs["output"])
        except OpenRuntimeError as error:
            pytest.fail(error.message)
    if wanted.dtype == "int8":
        return  # NumPy's operator squares booleans to int8; its function `power` gives int64, and so do formulas
    assert call.outputs["output"] == Spec(wanted.dtype.name, wanted.shape)
    assert found.dtype == wanted.dtype
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found.astype("f8"), wanted.astype("f8"), rtol=5e-2 if wanted.dtype == "float16" else 1e-4, atol=1e-3)
    elif wanted.dtype.kind != "b":
        np.testing.assert_array_equal(found, wanted)


def _uses(node, name) -> bool:
    return any(arg == name if isinstance(arg, str) else hasattr(arg, "args") and _uses(arg, name) for arg in node.args)


def _folds(node) -> bool:
    """Whether a function or operator stands over constants alone somewhere."""
    inner = [arg for arg in node.args if hasattr(arg, "args")]
    return bool(node.function) and (all(not _named(arg) for arg in inner) or any(_folds(arg) for arg in inner))


def _named(node) -> bool:
    return any(isinstance(arg, str) or (hasattr(arg, "args") and _named(arg)) for arg in node.args)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40) | st.text("xyab()+-*/%<>=&|~., 0123456789^!@:'\"\\[]{}\n", max_size=30))
def test_any_text_is_a_formula_or_a_refusal(text):
    try:
        found = program(text, signature({"x": ARRAYS["x"]}))
    except InvalidParameter as error:
        field = error.field
    else:
        field = found.inputs[0]
    assert field in ("formula", "x")


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("x.real", "without a prefix"),
        ("x[0]", "indexing"),
        ("__import__('os').system('true')", "without a prefix"),
        ("open('/etc/passwd')", "no function 'open'"),
        ("x and x", "use & and |"),
        ("not x", "use ~"),
        ("x if x else x", "where(condition, a, b)"),
        ("x @ x", "matmul"),
        ("lambda: x", "only elementwise"),
        ("'x'", "only elementwise"),
        ("(y := x)", "only elementwise"),
        ("[x for x in x]", "only elementwise"),
        ("sin(x=x)", "by position"),
        ("sin(x, x)", "takes 1 argument, and was given 2"),
        ("arcsin(x)", "did you mean asin"),
        ("xx", "`xx` is not given, did you mean x?; given: x (and the constants pi, e, inf, nan)"),
        ("z * x", "`z` is not given; given: x (and the constants pi, e, inf, nan)"),
        ("x ^ 2.0", "a power is written **, such as x**2"),
        ("sin", "sin(...) is a function"),
        ("x +", "not a formula"),
        ("x + 99999999999999999999", "beyond 64 bits"),
        ("9**9**9 * x", "beyond 64 bits"),
        ("1 << 9999 + x", ""),
        ("x / (2 - 2) + 1/0", "division by zero"),
        ("x" * 5000, "more than 4000"),
        ("-" * 200 + "x", "nested more than 150"),
        ("~x", "compare first"),
    ],
)
def test_refusals_say_what_would_be_right(formula, words):
    with pytest.raises(InvalidParameter) as caught:
        program(formula, signature({"x": ARRAYS["x"]}))
    assert caught.value.field == "formula"
    assert words in caught.value.message


def test_of_many_names_some_are_listed():
    types = signature({f"a{i}": ARRAYS["x"] for i in range(20)})
    with pytest.raises(InvalidParameter, match=r"`q` is not given; given: a0, a1, a2, a3, a4, a5, a6, a7, \.\.\. "):
        program("q", types)
    with pytest.raises(InvalidParameter, match=r"`z` is not given; given: nothing "):
        program("2 * z", ())


def test_equal_parts_are_computed_once():
    found = program("sin(x)*sin(x) + sin(x)", signature({"x": ARRAYS["x"]}))
    assert [step.function for step in found.steps] == ["sin", "multiply", "add"]


def test_types_are_written_out():
    found = program("(i > 3) * x", signature({"x": ARRAYS["x"], "i": ARRAYS["i"]}))
    assert [(step.function, step.common, step.dtype) for step in found.steps] == [
        ("greater", "int32", "bool"),
        ("cast", "float32", "float32"),
        ("multiply", "float32", "float32"),
    ]


@pytest.mark.parametrize("shape", [(fused.BLOCK,), (fused.BLOCK + 1,), (3 * fused.BLOCK - 7,), (5, fused.BLOCK // 2), (fused.BLOCK, 3)])
@pytest.mark.parametrize("formula", ["2*x + 1", "where(x > 0.5, x*y, -x) + y", "x", "floor(x*10) // 3 + real(x)", "imag(x) + round(y)"])
def test_blocks_join_without_a_seam(shape, formula):
    x = np.random.default_rng(1).random(shape)
    y = np.random.default_rng(2).random(shape[-1:])
    arrays = {"x": x, "y": y} if "y" in formula else {"x": x}
    wanted = eval(formula, {"__builtins__": {}, **NAMESPACE, "real": np.real, "imag": np.imag, "round": np.round}, arrays)
    close(fused.expression(formula, empty=np.empty, **arrays), wanted)
