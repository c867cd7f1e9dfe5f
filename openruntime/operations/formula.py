"""Formulas over named arrays: parsed with a whitelist, typed by NumPy's rules, and flattened into steps any backend can run."""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import msgspec

from openruntime.contracts.errors import InvalidParameter, nearest
from openruntime.operations.dtypes import KIND, Weak, floating, name_of, promote, promote_weak, real, weak

LONGEST = 4_000  # characters
DEEPEST = 150  # levels of nesting; `a + b + c + ...` nests once a term


class Function(msgspec.Struct, frozen=True):
    """`kinds`: dtype kinds accepted once the arguments are promoted. `rule`: what the arguments are computed in, and give."""

    arity: int
    kinds: str
    rule: str = "same"


FUNCTIONS: dict[str, Function] = {
    **{name: Function(1, "biufc", "float") for name in (
        "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt",
        "tan", "tanh")},
    **{name: Function(2, "biuf", "float") for name in ("atan2", "copysign", "hypot", "logaddexp", "nextafter")},
    **{name: Function(1, "iufc") for name in ("conj", "negative", "positive", "round", "sign", "square")},
    **{name: Function(1, "iuf") for name in ("ceil", "floor", "trunc")},
    **{name: Function(1, "iufc", "part") for name in ("abs", "imag", "real")},
    "reciprocal": Function(1, "fc"),
    "signbit": Function(1, "f", "test"),
    **{name: Function(1, "biufc", "test") for name in ("isfinite", "isinf", "isnan")},
    **{name: Function(2, "biufc") for name in ("add", "multiply")},
    **{name: Function(2, "iufc") for name in ("subtract", "pow")},
    "divide": Function(2, "biufc", "divide"),
    **{name: Function(2, "iuf") for name in ("floor_divide", "remainder")},
    **{name: Function(2, "biuf") for name in ("maximum", "minimum")},
    "clip": Function(3, "iuf"),
    **{name: Function(2, "biufc", "test") for name in ("equal", "not_equal")},
    **{name: Function(2, "biuf", "test") for name in ("greater", "greater_equal", "less", "less_equal")},
    **{name: Function(2, "biu") for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    **{name: Function(2, "iu") for name in ("bitwise_left_shift", "bitwise_right_shift")},
    "bitwise_invert": Function(1, "biu"),
    **{name: Function(2, "b") for name in ("logical_and", "logical_or", "logical_xor")},
    "logical_not": Function(1, "b"),
    "where": Function(3, "biufc"),
}  # fmt: skip

_LISTED = 8  # names in a message
CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}

_OPERATORS: dict[type[ast.AST], tuple[str, Callable[..., Any]]] = {
    ast.Add: ("add", operator.add), ast.Sub: ("subtract", operator.sub), ast.Mult: ("multiply", operator.mul), ast.Div: ("divide", operator.truediv),
    ast.FloorDiv: ("floor_divide", operator.floordiv), ast.Mod: ("remainder", operator.mod), ast.Pow: ("pow", operator.pow),
    ast.BitAnd: ("bitwise_and", operator.and_), ast.BitOr: ("bitwise_or", operator.or_), ast.BitXor: ("bitwise_xor", operator.xor),
    ast.LShift: ("bitwise_left_shift", operator.lshift), ast.RShift: ("bitwise_right_shift", operator.rshift),
    ast.USub: ("negative", operator.neg), ast.UAdd: ("positive", operator.pos), ast.Invert: ("bitwise_invert", operator.invert),
    ast.Lt: ("less", operator.lt), ast.LtE: ("less_equal", operator.le), ast.Gt: ("greater", operator.gt), ast.GtE: ("greater_equal", operator.ge),
    ast.Eq: ("equal", operator.eq), ast.NotEq: ("not_equal", operator.ne),
}  # fmt: skip
_FOLD: dict[str, Callable[..., Any]] = {name: fold for name, fold in _OPERATORS.values()} | {"abs": abs} | {
    name: getattr(math, name) for name, function in FUNCTIONS.items() if function.rule == "float" and name not in ("logaddexp", "nextafter")
}  # fmt: skip
_INSTEAD: dict[type, str] = {
    ast.BoolOp: "`and`, `or` do not work on arrays; use & and |, with parentheses around each side",
    ast.Not: "`not` does not work on arrays; use ~",
    ast.IfExp: "`if` does not work on arrays; use where(condition, a, b)",
    ast.MatMult: "@ is not elementwise; use the operation matmul",
    ast.Subscript: "indexing is not elementwise",
    ast.Attribute: "write functions without a prefix: sin(x), not np.sin(x)",
}


class Constant(msgspec.Struct, frozen=True):
    value: Weak


class Node(msgspec.Struct, frozen=True):
    """`function` of `args`; a leaf has the function "" and one argument: a name or a constant."""

    function: str
    args: "tuple[Node | str | Constant, ...]"


Operand = int | Constant
"""An index into the values (inputs first, then steps), or a constant."""


class Step(msgspec.Struct, frozen=True):
    """Apply `function` to operands that all have dtype `common` (but `where`'s condition); the value has dtype `dtype`.

    Functions are those of `FUNCTIONS` without `clip`, and `cast`.
    """

    function: str
    args: tuple[Operand, ...]
    common: str
    dtype: str


class Program(msgspec.Struct, frozen=True):
    """A typed formula. `inputs`: names of the arrays, in the order of their indices. `result`: an index, or a constant."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    result: Operand
    dtype: str


def refuse(message: str) -> InvalidParameter:
    return InvalidParameter(f"`formula`: {message}", field="formula")


@lru_cache(maxsize=512)
def parse(formula: str) -> Node:
    """The tree of a formula. Raises `InvalidParameter` for anything but elementwise arithmetic, and for what is too long or deep."""
    if len(formula) > LONGEST:
        raise refuse(f"{len(formula)} characters are more than {LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python only warns of `2if x`
            tree = ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise refuse(f"not a formula ({getattr(error, 'msg', error)}{place})") from None
    except (MemoryError, RecursionError):
        raise refuse(f"nested more than {DEEPEST} levels deep") from None
    return _node(tree.body, 0)


def _node(tree: ast.AST, depth: int) -> Node:
    if depth > DEEPEST:
        raise refuse(f"nested more than {DEEPEST} levels deep")

    def inner(*parts: ast.AST) -> tuple[Node, ...]:
        return tuple(_node(part, depth + 1) for part in parts)

    match tree:
        case ast.Name(id=name):
            return Node("", (name,))
        case ast.Constant(value=bool() | int() | float() | complex() as value):
            return Node("", (Constant(_bounded(value)),))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return Node(_OPERATORS[type(op)][0], inner(left, right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return Node(_OPERATORS[type(op)][0], inner(operand))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _OPERATORS for op in ops):
            sides = inner(left, *others)
            found = [Node(_OPERATORS[type(op)][0], (sides[i], sides[i + 1])) for i, op in enumerate(ops)]
            whole = found[0]
            for part in found[1:]:
                whole = Node("bitwise_and", (whole, part))
            return whole
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            function = FUNCTIONS.get(name)
            if function is None:
                raise refuse(f"there is no function {name!r:.60}{nearest(name, FUNCTIONS)}")
            if len(args) != function.arity or any(isinstance(arg, ast.Starred) for arg in args):
                raise refuse(f"{name} takes {function.arity} argument{'s' * (function.arity > 1)}, and was given {len(args)}")
            return Node(name, inner(*args))
        case ast.Call(func=ast.Name(id=name)):
            raise refuse(f"{name:.60} takes its arguments by position only")
    parts = [type(tree), type(getattr(tree, "op", None)), type(getattr(tree, "func", None))]
    hint = next((_INSTEAD[part] for part in parts if part in _INSTEAD), "only elementwise arithmetic is allowed")
    raise refuse(f"{hint} (at character {getattr(tree, 'col_offset', 0) + 1})")


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise refuse("has an integer beyond 64 bits")
    return value


Signature = tuple[tuple[str, str] | tuple[str, type, str], ...]
"""What a program depends on: each array's name and dtype, each bare number's name, type and text.

Text, because 1, 1.0 and True would be one key of a cache, and so would 0.0 and -0.0.
"""


def signature(arrays: Mapping[str, Any]) -> Signature:
    """Of arrays of any library, or specs, and bare numbers."""
    return tuple((name, type(x), repr(x)) if isinstance(x, Weak) else (name, name_of(x)) for name, x in arrays.items())


@lru_cache(maxsize=512)
def program(formula: str, types: Signature) -> Program:
    """The formula typed for these arrays and numbers.

    Raises `InvalidParameter`: unknown and unused names, dtypes a function does not take, integers that do not fit.
    """
    numbers = {name: Constant(value[0] == "True" if kind is bool else kind(*value)) for name, kind, *value in types if not isinstance(kind, str)}
    builder = _Builder({name: dtype for name, dtype, *_ in types if isinstance(dtype, str)}, numbers)
    result = builder.visit(parse(formula))
    unused = next((name for name, *_ in types if name not in builder.used), None)
    if unused is not None:
        raise InvalidParameter(f"`{unused}` does not appear in the formula", field=unused)
    return Program(tuple(builder.inputs), tuple(builder.steps), result, builder.dtype(result))


class _Builder:
    """Flattens a tree into steps; equal subexpressions are computed once."""

    def __init__(self, arrays: Mapping[str, str], numbers: Mapping[str, Constant]) -> None:
        self.inputs = list(arrays)
        self.dtypes = list(arrays.values())
        self.steps: list[Step] = []
        self.used: set[str] = set()
        self._numbers = numbers
        self._known: dict[Any, int] = {}

    def visit(self, node: Node) -> Operand:
        if not node.function:
            return self._leaf(node.args[0])
        args = [self.visit(arg) for arg in node.args if isinstance(arg, Node)]
        constants = [arg.value for arg in args if isinstance(arg, Constant)]
        if len(constants) == len(args) and node.function in _FOLD:
            return Constant(_fold(node.function, constants))
        return self._apply(node.function, args)

    def _leaf(self, leaf: Any) -> Operand:
        if isinstance(leaf, Constant):
            return leaf
        if leaf in self.inputs or leaf in self._numbers:
            self.used.add(leaf)
            return self._numbers[leaf] if leaf in self._numbers else self.inputs.index(leaf)
        if leaf in CONSTANTS:
            return Constant(CONSTANTS[leaf])
        given = [*self.inputs, *self._numbers]
        close = get_close_matches(leaf, [*given, *CONSTANTS], n=1, cutoff=0.5)
        hint = f"; {leaf}(...) is a function" if leaf in FUNCTIONS else f", did you mean {close[0]}?" if close else ""
        listed = ", ".join(f"{name:.60}" for name in given[:_LISTED]) + ", ..." * (len(given) > _LISTED)
        raise refuse(f"`{leaf:.60}` is not given{hint}; given: {listed or 'nothing'} (and the constants {', '.join(CONSTANTS)})")

    def _apply(self, name: str, args: list[Operand]) -> Operand:
        if name == "clip":
            common = self._common(name, args)
            low = self._emit("maximum", [self._cast(arg, common) for arg in args[:2]], common, common)
            return self._emit("minimum", [low, self._cast(args[2], common)], common, common)
        if name == "where":
            condition, *args = args
            if self.dtype(condition) != "bool":
                raise refuse("the condition of where must be boolean, such as x > 0")
            common = self._common(name, args)
            return self._emit(name, [self._cast(condition, "bool"), *(self._cast(arg, common) for arg in args)], common, common)
        function = FUNCTIONS[name]
        common = self._common(name, args)
        kind = KIND[common][0]
        if kind not in function.kinds:
            raise refuse(f"{name} does not take {common}{_HINTS.get((name, kind), '')}")
        if function.rule == "float":
            common = floating(common)
        elif function.rule == "divide" and kind in "biu":
            common = "float64"
        dtype = {"test": "bool", "part": real(common)}.get(function.rule, common)
        last = args[-1]
        if name == "pow" and isinstance(last, Constant) and not isinstance(last.value, complex):
            if kind in "iu" and last.value < 0:
                raise refuse(f"an integer to the power {last.value} is no integer; write {float(last.value)}")
            if last.value == 2:
                return self._emit("square", [self._cast(args[0], common)], common, common)
        operands = [self._cast(arg, common) for arg in args]
        changes_nothing = name == "positive" or (kind in "iu" and function.kinds == "iuf" and function.arity == 1)
        if changes_nothing or (name in ("round", "conj", "real") and kind in ("iu" if name == "round" else "iuf")):
            return operands[0]
        return self._emit(name, operands, common, dtype)

    def dtype(self, arg: Operand) -> str:
        return self.dtypes[arg] if isinstance(arg, int) else weak(arg.value)

    def _common(self, name: str, args: list[Operand]) -> str:
        strong = [self.dtypes[arg] for arg in args if isinstance(arg, int)]
        constants = [arg.value for arg in args if isinstance(arg, Constant)]
        if not strong:
            strong, constants = [weak(value) for value in constants], []
        common = strong[0]
        for dtype in strong[1:]:
            common = promote(common, dtype)
        for value in sorted(constants, key=lambda value: KIND[weak(value)][0] in "iu"):  # an integer need only fit what a float made of it
            try:
                common = promote_weak(common, value)
            except OverflowError as error:
                raise refuse(f"{error} (in {name})") from None
        return common

    def _cast(self, arg: Operand, dtype: str) -> Operand:
        if isinstance(arg, Constant) or self.dtypes[arg] == dtype:
            return arg
        return self._emit("cast", [arg], dtype, dtype)

    def _emit(self, name: str, args: list[Operand], common: str, dtype: str) -> int:
        key = (name, common, dtype, *(arg if isinstance(arg, int) else repr(arg.value) for arg in args))
        if key not in self._known:
            self._known[key] = len(self.dtypes)
            self.dtypes.append(dtype)
            self.steps.append(Step(name, tuple(args), common, dtype))
        return self._known[key]


_HINTS = {
    ("subtract", "b"): "; for booleans use ^",
    ("negative", "b"): "; for booleans use ~",
    **{(name, kind): "; use & | ^ ~, or compare first" for name in ("logical_and", "logical_or", "logical_not") for kind in "iu"},
    **{(name, kind): "; compare first, such as (x > 0)" for name in ("bitwise_and", "bitwise_or", "bitwise_invert") for kind in "fc"},
    **{("bitwise_xor", kind): "; a power is written **, such as x**2, and ^ joins booleans and integers" for kind in "fc"},
}


def _fold(name: str, values: list[Any]) -> Any:
    """Arithmetic on constants alone, as Python does it."""
    shown = f"{name}({', '.join(map(str, values))})"
    if name == "pow" and all(isinstance(value, int) for value in values) and abs(values[0]) > 1 and values[0].bit_length() * values[1] > 130:
        raise refuse(f"{shown} is an integer beyond 64 bits")
    if name == "bitwise_left_shift" and isinstance(values[1], int) and values[1] > 64:
        raise refuse(f"{shown} is an integer beyond 64 bits")
    if name == "bitwise_invert" and isinstance(values[0], bool):
        return not values[0]
    try:
        return _bounded(_FOLD[name](*values))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise refuse(f"{shown} has no value: {error}") from None
