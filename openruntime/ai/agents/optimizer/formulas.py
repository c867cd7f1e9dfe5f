"""Formulas that compute the same with less: powers as products, polynomials by Horner's rule, divisions and functions taken together.

Each rewriting holds over the real numbers; whether it does in floating point, and at NaN, infinities and zeros, is for the comparison that follows.
Common subexpressions need none of it: `expression` computes equal parts once.

Source of Horner's rule and of powers by squaring: Knuth, "The Art of Computer Programming", volume 2, sections 4.6.3 and 4.6.4.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import msgspec

from openruntime.operations.formula import Constant, Node, parse

MOST_POWER = 16  # as products
_SYMBOLS = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//", "remainder": "%", "pow": "**", "bitwise_and": "&",
    "bitwise_or": "|", "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>", "less": "<", "less_equal": "<=",
    "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
}  # fmt: skip
_SIGNS = {"negative": "-", "positive": "+", "bitwise_invert": "~"}


class Rewriting(msgspec.Struct, frozen=True):
    """A formula, and what was done to get it."""

    formula: str
    what: str


def rewritings(formula: str) -> list[Rewriting]:
    """Other ways to write it, the most thorough first. Raises `InvalidParameter` for what is no formula."""
    tree = parse(formula)
    found: dict[str, str] = {}
    rules: tuple[tuple[str, Callable[[Node], Node]], ...] = (
        ("functions and divisions taken together", _together), ("polynomials by Horner's rule", _horner), ("powers as products", _products),
    )  # fmt: skip
    whole, told = tree, []
    for what, rule in rules:
        alone = _everywhere(tree, rule)
        if alone != tree:
            told.append(what)
            found.setdefault(text(alone), what)
        whole = _everywhere(whole, rule)
    if len(told) > 1:
        found = {text(whole): ", ".join(told), **found}
    found.pop(text(tree), None)
    return [Rewriting(written, what) for written, what in found.items()]


def composed(formulas: Mapping[str, str]) -> str:
    """Several formulas as one: where a later one names an earlier, that stands in its place. The last is the result."""
    known: dict[str, Node] = {}
    last = ""
    for name, formula in formulas.items():
        known[name] = _put(parse(formula), known)
        last = name
    return text(known[last])


def variables(formula: str) -> set[str]:
    return {leaf for leaf in _leaves(parse(formula)) if isinstance(leaf, str)}


def _put(node: Node, known: Mapping[str, Node]) -> Node:
    if not node.function:
        name = node.args[0]
        return known.get(name, node) if isinstance(name, str) else node
    return Node(node.function, tuple(_put(arg, known) if isinstance(arg, Node) else arg for arg in node.args))


def text(node: Node) -> str:
    """As it is written, every operation in parentheses but the outermost."""
    told = _text(node)
    return told[1:-1] if told.startswith("(") and _closes(told) else told


def _closes(told: str) -> bool:
    """Whether the first parenthesis closes with the last."""
    depth = 0
    for place, letter in enumerate(told):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place == len(told) - 1
    return False


def _text(node: Node) -> str:
    if not node.function:
        leaf = node.args[0]
        if isinstance(leaf, Constant):
            value = leaf.value
            told = {math.inf: "inf", -math.inf: "(-inf)"}.get(value, repr(value)) if isinstance(value, float) else repr(value)
            return f"({told})" if told.startswith("-") else told
        return str(leaf)
    args = [_text(arg) for arg in node.args if isinstance(arg, Node)]
    if node.function in _SYMBOLS:
        return f"({args[0]} {_SYMBOLS[node.function]} {args[1]})"
    if node.function in _SIGNS:
        return f"({_SIGNS[node.function]}{args[0]})"
    return f"{node.function}({', '.join(args)})"


def _everywhere(node: Node, rule: Callable[[Node], Node]) -> Node:
    """The rule at the root first, where it sees the most, then below."""
    node = rule(node)
    if not node.function:
        return node
    return Node(node.function, tuple(_everywhere(arg, rule) if isinstance(arg, Node) else arg for arg in node.args))


def _leaves(node: Node) -> Iterator[str | Constant]:
    for arg in node.args:
        if isinstance(arg, Node):
            yield from _leaves(arg)
        else:
            yield arg


def _value(node: Node) -> int | float | None:
    """Of a plain number."""
    if node.function == "negative":
        inner = _value(_arg(node, 0))
        return None if inner is None else -inner
    leaf = node.args[0]
    if not node.function and isinstance(leaf, Constant) and isinstance(leaf.value, int | float) and not isinstance(leaf.value, bool):
        return leaf.value
    return None


def _arg(node: Node, place: int) -> Node:
    found = node.args[place]
    assert isinstance(found, Node)
    return found


def _two(function: str, left: Node, right: Node) -> Node:
    return Node(function, (left, right))


def _number(value: float) -> Node:
    return Node("", (Constant(value),))


def _products(node: Node) -> Node:
    """x**3 as x*(x*x) and so on by squaring; x**0.5 as a root; x**-2 as one over x*x."""
    if node.function != "pow":
        return node
    base, power = _arg(node, 0), _value(_arg(node, 1))
    if power is None or _value(base) is not None:
        return node
    if power == 0.5:
        return Node("sqrt", (base,))
    if abs(power) > MOST_POWER or power != int(power) or int(power) in (0, 1, 2):
        return node
    made = _power(base, abs(int(power)))
    return made if power > 0 else _two("divide", _number(1.0), made)


def _power(base: Node, power: int) -> Node:
    if power == 1:
        return base
    half = _power(base, power // 2)
    square = _two("multiply", half, half)
    return _two("multiply", base, square) if power % 2 else square


def _horner(node: Node) -> Node:
    """A sum of c*x**k, of degree 2 at least, as ((c*x + c)*x + c)."""
    terms: dict[int, float] = {}
    names: set[str] = set()
    if node.function not in ("add", "subtract") or not _terms(node, 1, terms, names) or len(names) != 1:
        return node
    degree = max(terms)
    if degree < 2 or degree > MOST_POWER or len(terms) < 3:
        return node
    x = Node("", (names.pop(),))
    made = _number(terms.get(degree, 0.0))
    if made == _number(1.0) or made == _number(1):
        made, degree = _plus(x, terms.get(degree - 1, 0)), degree - 1
    for power in range(degree - 1, -1, -1):
        made = _plus(_two("multiply", made, x), terms.get(power, 0))
    return made


def _plus(node: Node, value: float) -> Node:
    return node if value == 0 else _two("add", node, _number(value))


def _terms(node: Node, sign: int, terms: dict[int, float], names: set[str]) -> bool:
    """Whether it is a polynomial with numbers as coefficients; they go to `terms`."""
    if node.function in ("add", "subtract"):
        other = sign if node.function == "add" else -sign
        return _terms(_arg(node, 0), sign, terms, names) and _terms(_arg(node, 1), other, terms, names)
    found = _term(node)
    if found is None:
        return False
    factor, power, name = found
    if name:
        names.add(name)
    terms[power] = terms.get(power, 0) + sign * factor
    return True


def _term(node: Node) -> tuple[float, int, str] | None:
    """Factor, power and name of c*x**k."""
    value = _value(node)
    if value is not None:
        return value, 0, ""
    if not node.function and isinstance(node.args[0], str):
        return 1, 1, node.args[0]
    if node.function in ("negative", "square"):
        inner = _term(_arg(node, 0))
        if inner is None:
            return None
        return (-inner[0], inner[1], inner[2]) if node.function == "negative" else (inner[0] ** 2, 2 * inner[1], inner[2])
    if node.function == "pow":
        inner, power = _term(_arg(node, 0)), _value(_arg(node, 1))
        if inner is None or inner[0] != 1 or power is None or power != int(power) or not 0 <= power <= MOST_POWER:
            return None
        return 1, inner[1] * int(power), inner[2]
    if node.function == "multiply":
        left, right = _term(_arg(node, 0)), _term(_arg(node, 1))
        if left is None or right is None or len({left[2], right[2]} - {""}) > 1:
            return None
        return left[0] * right[0], left[1] + right[1], left[2] or right[2]
    return None


def _together(node: Node) -> Node:
    """exp(a)*exp(b) as exp(a + b), x/a/b as x/(a*b), x/c as x*(1/c), a/c + b/c as (a + b)/c, sin² + cos² as 1, sqrt(a)*sqrt(b) as sqrt(a*b)."""
    if node.function in ("multiply", "add", "subtract", "divide"):
        left, right = _arg(node, 0), _arg(node, 1)
        if node.function == "multiply" and left.function == right.function and left.function in ("exp", "sqrt"):
            joined = "add" if left.function == "exp" else "multiply"
            return Node(left.function, (_two(joined, _arg(left, 0), _arg(right, 0)),))
        if node.function == "divide" and left.function == "divide":
            return _two("divide", _arg(left, 0), _two("multiply", _arg(left, 1), right))
        if node.function == "divide" and (value := _value(right)) not in (None, 0) and _value(left) is None:
            return _two("multiply", left, _number(1.0 / value))
        if node.function in ("add", "subtract") and left.function == right.function == "divide" and left.args[1] == right.args[1]:
            return _two("divide", _two(node.function, _arg(left, 0), _arg(right, 0)), _arg(left, 1))
        angle = _square_of(left, "sin")
        if node.function == "add" and angle is not None and angle == _square_of(right, "cos"):
            return _number(1.0)
    return node


def _square_of(node: Node, function: str) -> Node | None:
    """What stands in sin(...)**2."""
    inner = None
    if (
        node.function == "square"
        or (node.function == "pow" and _value(_arg(node, 1)) == 2)
        or (node.function == "multiply" and node.args[0] == node.args[1])
    ):
        inner = _arg(node, 0)
    return _arg(inner, 0) if inner is not None and inner.function == function else None
