"""What the templates write is right: each formula as an operation, held to the contract and to Python's own numbers."""

import types
from typing import Any

import pytest

from openruntime.ai.agents.developer.formula import Formula
from openruntime.ai.agents.developer.reading import problems
from openruntime.ai.agents.developer.templates import Wanted, client, kernel, operation, operation_test, tried, wanted
from openruntime.contracts.errors import InvalidParameter
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.testing.operation_suite import CHECKS, Example, Trial, examine

FORMULAS = [
    "f(x) = x**2 + 2*x + 1",
    "f(x, beta=1.5) = x / (1 + exp(-beta*x))",
    "f(x, y) = sqrt(x**2 + y**2)",
    "f(x, y, a=2.0, b=0.5) = where(x > y, a*x, b*y)",
    "f(x) = where(x > 1, 1, 0)",
    "f(x) = maximum(x, 0.5)",
    "f(x, low=0.5) = minimum(maximum(low, x), 2*low)",
    "f(x) = (0.3 < x) & (x < 1.5)",
    "f(x, s=2.0) = exp(-(x*x)/(2*s*s)) / (s*sqrt(2*pi))",
    "f(x) = abs(-x) + hypot(x, 2*x) - log1p(x)",
    "f(x, y, z) = x*y - z",
    "f(x) = square(sin(x)) + cos(x)**2",
]


def made(signed: str) -> tuple[Wanted, Formula, Any]:
    want = wanted(f"operation {signed}", {})
    formula = Formula(want.formula, want.arrays, list(want.scalars))
    module = types.ModuleType("written")
    code = operation(want, formula)
    assert problems(code, "operation", want.name) == []
    exec(compile(code, "written", "exec"), module.__dict__)
    return want, formula, module.__dict__[want.name]


def trial(found: Any, examples: list[Example]) -> Trial:
    catalogue = OperationCatalogue()
    catalogue._operations[found.name] = found
    return Trial(found.name, examples, catalogue)


@pytest.mark.parametrize("signed", FORMULAS)
def test_a_formula_becomes_an_operation_that_keeps_the_contract(signed: str) -> None:
    want, formula, found = made(signed)
    examples = [Example(one["parameters"], one.get("expected")) for one in tried(want, formula)]
    assert all(one.expected is not None for one in examples)
    assert [row for row in examine(trial(found, examples)) if not row["ok"]] == []
    compile(operation_test(want, formula), "test", "exec")


def test_arrays_of_several_shapes_broadcast() -> None:
    _, _, found = made("f(x, y) = x + 2*y")
    examples = [Example({"x": [[1.0, 2.0], [3.0, 4.0]], "y": [10.0, 20.0]}, [[21.0, 42.0], [23.0, 44.0]])]
    assert [row for row in examine(trial(found, examples)) if not row["ok"]] == []


@pytest.mark.parametrize(
    ("signed", "word"),
    [
        ("f(x) = y + x", "y"),
        ("f(x, y) = x", "does not use y"),
        ("f(x) = __import__('os')", "__import__"),
        ("f(x) = x.__class__", "prefix"),
        ("f(x) = foo(x)", "foo"),
        ("f(x) = [x for x in x]", "elementwise"),
        ("f(xp) = xp*2", "taken"),
        ("f(x) = lambda: x", "formula"),
        ("f(x) = conj(x)", "known"),
        ("f(x) = x + 2j", "complex"),
    ],
)
def test_what_is_no_formula_is_refused(signed: str, word: str) -> None:
    want = wanted(f"operation {signed}", {})
    with pytest.raises(InvalidParameter, match=word) as caught:
        Formula(want.formula, want.arrays, list(want.scalars))
    assert caught.value.field == "formula"


def test_a_power_tower_costs_nothing() -> None:
    want = Wanted(kind="operation", name="f", formula="x * 9**9**9**9**9", arrays=["x"])
    assert tried(want, Formula(want.formula, ["x"], [])) == [{"parameters": {"x": [0.25, 0.5, 1.25, 2.0]}}]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"kid": "operation"}, "kid"),
        ({"kind": "poem"}, "kind"),
        ({"kind": "operation", "name": "../x"}, "name"),
        ({"kind": "operation", "name": "class"}, "name"),
        ({"kind": "operation", "name": "f", "arrays": ["x; import os"]}, "arrays"),
        ({"kind": "operation", "name": "f", "scalars": {"a": "import os"}}, "scalars"),
        ({"kind": "operation", "name": 5}, "name"),
    ],
)
def test_a_bad_request_names_the_field(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        wanted("write it", parameters)
    assert caught.value.field == field


def test_a_docstring_cannot_end_itself() -> None:
    want = Wanted(kind="operation", name="f", formula="x + 1", arrays=["x"], doc='Nice"""\nimport os\nos.system("x")\n"""')
    code = operation(want, Formula("x + 1", ["x"], []))
    assert problems(code, "operation", "f") == []
    want = Wanted(kind="operation", name="f", formula="x + 1", arrays=["x"], doc="Ends in a backslash\\")
    assert problems(operation(want, Formula("x + 1", ["x"], [])), "operation", "f") == []


def test_a_clients_values_are_data() -> None:
    code = client(Wanted(kind="client", name="", operation="sum'); import os; ('", parameters={"x": ["'); import os; ('"]}))
    assert problems(code, "client") == []


def test_a_kernel_computes_the_formula_in_float32() -> None:
    request = kernel(
        Wanted(kind="kernel", name="swish", formula="x / (1 + exp(-b*x**2))", arrays=["x"], scalars={"b": 1.0}),
        Formula("x / (1 + exp(-b*x**2))", ["x"], ["b"]),
    )
    assert "x[gid] / (1.0f + exp(((-b) * (x[gid] * x[gid]))))" in request["source"]
    assert request["scalars"] == [{"name": "b", "dtype": "float32"}, {"name": "n", "dtype": "int32"}]


HEAD = "from openruntime.operations import Array, Estimate, Namespace, Spec, operation\n"
BROKEN = {
    "answers": '@operation\ndef f(x: Array, *, xp: Namespace) -> Array:\n    """Twice."""\n    return x * 3\n',
    "declared": '@operation\ndef f(x: Array, *, xp: Namespace) -> Array:\n    """Twice."""\n    return xp.astype(x * 2, xp.float64)\n',
    "documented": "@operation\ndef f(x: Array, *, xp: Namespace) -> Array:\n    return x * 2\n",
    "pure": '@operation\ndef f(x: Array, *, xp: Namespace) -> Array:\n    """Twice."""\n    from random import random\n'
    "    return x * 2 + 1e-14 * random()\n",
    "standard": '@operation\ndef f(x: Array, *, xp: Namespace) -> Array:\n    """Twice."""\n    return xp.add(x, x, where=True)\n',
    "stacks": "from openruntime.operations.stacking import each\n@operation(batch=each)\ndef f(x: Array, *, xp: Namespace) -> Array:\n"
    '    """Twice."""\n    return x * 2 * (1.0 if len(x.shape) == 1 else 1.5)\n',
}


@pytest.mark.parametrize("check", BROKEN)
def test_the_contract_catches_what_breaks_it(check: str) -> None:
    module = types.ModuleType("written")
    exec(HEAD + BROKEN[check], module.__dict__)
    rows = {row["check"]: row for row in examine(trial(module.f, [Example({"x": [1.0, 2.0]}, [2.0, 4.0])]))}
    assert rows.keys() == CHECKS.keys()
    assert rows[check]["ok"] is False, rows


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "import os.path",
        "import openruntime.core",
        "from typing import sys",
        "from math import *",
        "from . import x",
        "from openruntime.backends.cpu import NumpyBackend",
        "x = ().__class__",
        "x = typing.sys",
        "eval('1')",
        "open('x')",
        "getattr(1, 'x')",
        "x = __builtins__",
        "def g():\n    yield\ng().gi_frame",
        "xp.load('x')",
        "print('x')",
        "while True: pass",
        "for i in range(3): pass",
        "match x:\n    case int(): pass",
        "def __getattr__(name): return 1",
        "x = 'a' * 50_000_0" + "0" * 40_000,
        "def f(:",
        "\0",
        "(" * 5000,
    ],
)
def test_what_such_a_file_does_not_need_is_refused(code: str) -> None:
    good = "from openruntime.operations import Array, Namespace, operation\n@operation\ndef f(x: Array, *, xp: Namespace) -> Array:\n    return x\n"
    assert problems(good, "operation", "f") == []
    assert problems(f"{good}{code}\n", "operation", "f")


def test_two_operations_or_none_are_refused() -> None:
    one = "@operation\ndef f(x): return x\n"
    head = "from openruntime.operations import operation\n"
    assert problems(head + one * 2, "operation", "f")
    assert problems(head, "operation", "f")
    assert problems(head + one, "operation", "g")
