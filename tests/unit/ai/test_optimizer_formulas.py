"""Rewritten formulas compute the same; what cannot be rewritten is left alone."""

import numpy as np
import pytest

from openruntime.ai.agents.optimizer.formulas import composed, rewritings, text, variables
from openruntime.errors import InvalidParameter
from openruntime.operations.formula import parse

FUNCTIONS = {name: getattr(np, name) for name in ("exp", "sin", "cos", "sqrt", "log", "where", "abs")}
VALUES = {"x": np.linspace(0.1, 2.0, 50), "y": np.linspace(3.0, 0.2, 50), "z": np.linspace(-1.5, 4.0, 50)}


def value(formula: str) -> np.ndarray:
    """As NumPy has it."""
    return np.asarray(eval(formula, {"__builtins__": {}}, {**FUNCTIONS, **VALUES}))


@pytest.mark.parametrize(
    "formula",
    [
        "x**3", "x**7 - y**5", "x**-2", "y**0.5", "1 + 2*x + 3*x**2 - 4*x**3", "5*x**4 - x", "x*x*3 + 2*x - 7 + x**5", "exp(-x)*exp(y)/3",
        "x/y/z", "x/z + y/z", "sqrt(x)*sqrt(y)", "(x**3 + 1/x/3) * sin(z)**2", "where(x > 1, x**4, -y**3)",
    ],
)  # fmt: skip
def test_what_is_rewritten_is_the_same(formula: str) -> None:
    found = rewritings(formula)
    assert found
    for rewriting in found:
        np.testing.assert_allclose(value(rewriting.formula), value(formula), rtol=1e-12, err_msg=f"{formula} as {rewriting.formula}")
        assert rewriting.formula != formula
        assert rewriting.what


@pytest.mark.parametrize("formula", ["a*x + y", "sin(x) + 2", "x**2", "x**2.5", "x**40", "x + 1", "2**3"])
def test_what_no_rule_fits_is_left_alone(formula: str) -> None:
    assert rewritings(formula) == []


def test_the_known_rules() -> None:
    assert rewritings("1 + 2*x + 3*x**2")[0].formula == "(((3 * x) + 2) * x) + 1"
    assert rewritings("x**4")[0].formula == "(x * x) * (x * x)"
    assert rewritings("sin(x)**2 + cos(x)**2")[0].formula == "1.0"
    assert rewritings("sin(x)**2 + cos(y)**2") == []
    assert rewritings("exp(x)*exp(y)")[0].formula == "exp((x + y))"


@pytest.mark.parametrize(
    "formula", ["-x**2", "(-x)**2", "x - (y - z)", "x/(y/z)", "~(x > 1)", "(x < y) & (y >= z)", "-(-3.5) + inf*x", "2 - -1e-7*x"]
)
def test_a_formula_is_written_as_it_was_read(formula: str) -> None:
    assert parse(text(parse(formula))) == parse(formula)


def test_formulas_become_one() -> None:
    whole = composed({"t": "x*y", "u": "sin(t) + t", "r": "u/t - z"})
    assert variables(whole) == {"x", "y", "z"}
    t = VALUES["x"] * VALUES["y"]
    np.testing.assert_allclose(value(whole), (np.sin(t) + t) / t - VALUES["z"])


def test_what_is_no_formula_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="formula"):
        rewritings("import os")
