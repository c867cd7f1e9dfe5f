"""Formulas of whole numbers over named sizes: `n`, `2*n + 1`, `ceildiv(n, 64)`. For shapes and launch grids of kernels."""

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from openruntime.contracts.errors import InvalidParameter, nearest

LONGEST = 200  # characters
DEEPEST = 20  # levels of nesting
LARGEST = (1 << 62) - 1  # any value on the way: no machine has more of anything


def _ceildiv(a: int, b: int) -> int:
    return -(-a // b)


_OPERATORS: dict[type[ast.AST], tuple[str, Callable[..., int]]] = {
    ast.Add: ("+", lambda a, b: a + b), ast.Sub: ("-", lambda a, b: a - b), ast.Mult: ("*", lambda a, b: a * b),
    ast.FloorDiv: ("//", lambda a, b: a // b), ast.Mod: ("%", lambda a, b: a % b),
    ast.USub: ("-", lambda a: -a), ast.UAdd: ("+", lambda a: a),
}  # fmt: skip
FUNCTIONS: dict[str, tuple[int, Callable[..., int]]] = {"min": (2, min), "max": (2, max), "ceildiv": (2, _ceildiv)}
_INSTEAD: dict[type, str] = {
    ast.Div: "/ may leave whole numbers; use // (rounds down) or ceildiv(a, b) (rounds up)",
    ast.Pow: "** is not offered; multiply",
    ast.Attribute: "write functions without a prefix: min(a, b)",
}


class Dimension(msgspec.Struct, frozen=True):
    """A parsed formula. `names`: the symbols in it; `symbol`: its name where it is nothing but one, and so can bind it."""

    text: str
    tree: Any
    names: frozenset[str]

    @property
    def symbol(self) -> str | None:
        return self.tree if isinstance(self.tree, str) else None

    @property
    def constant(self) -> int | None:
        """Its value where it has no symbols."""
        return None if self.names else self.value({}, "formula")

    def value(self, symbols: Mapping[str, int], field: str) -> int:
        """Raises `InvalidParameter` naming `field` for a division by zero, and for what no machine can count."""
        try:
            return _value(self.tree, symbols)
        except ZeroDivisionError:
            raise InvalidParameter(f"`{field}`: {self.text} divides by zero{where(symbols, self.names)}", field=field) from None
        except OverflowError:
            raise InvalidParameter(f"`{field}`: {self.text} is beyond 62 bits{where(symbols, self.names)}", field=field) from None


def where(symbols: Mapping[str, int], names: frozenset[str]) -> str:
    """The values that a formula was given, as the end of a sentence."""
    told = ", ".join(f"{name} = {symbols[name]}" for name in sorted(names) if name in symbols)
    return f" where {told}" if told else ""


def parse(formula: int | str, field: str) -> Dimension:
    """Raises `InvalidParameter` naming `field` for anything but whole numbers, names, + - * // %, min, max and ceildiv."""
    if isinstance(formula, bool) or not isinstance(formula, int | str):
        raise _refuse(field, f"must be a whole number or a formula such as 'n' or '2*n', not {formula!r:.60}")
    text = str(formula)
    if len(text) > LONGEST:
        raise _refuse(field, f"has {len(text)} characters; a formula has at most {LONGEST}")
    try:
        return _parse(text)
    except InvalidParameter as error:
        raise _refuse(field, f"{text!r} is no formula here: {error.message}") from None


def _refuse(field: str, what: str) -> InvalidParameter:
    return InvalidParameter(f"`{field}` {what}", field=field)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Dimension:
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise InvalidParameter(f"{getattr(error, 'msg', None) or 'it cannot be read'}{place}") from None
    names: set[str] = set()
    return Dimension(text.strip(), _tree(body, names, 0), frozenset(names))


def _tree(node: ast.AST, names: set[str], depth: int) -> Any:
    """An int, a name, or (function, operands)."""
    if depth > DEEPEST:
        raise InvalidParameter(f"it is nested more than {DEEPEST} levels deep")

    def inner(*parts: ast.AST) -> tuple[Any, ...]:
        return tuple(_tree(part, names, depth + 1) for part in parts)

    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            if value > LARGEST:
                raise InvalidParameter("a number in it is beyond 62 bits")
            return value
        case ast.Name(id=name) if name not in FUNCTIONS:
            names.add(name)
            return name
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)][1], inner(left, right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)][1], inner(operand)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            if name not in FUNCTIONS:
                raise InvalidParameter(f"there is no function {name!r:.60}{nearest(name, FUNCTIONS)}")
            arity, function = FUNCTIONS[name]
            if len(args) != arity or any(isinstance(arg, ast.Starred) for arg in args):
                raise InvalidParameter(f"{name} takes {arity} arguments, and was given {len(args)}")
            return function, inner(*args)
        case ast.Constant(value=value):
            raise InvalidParameter(f"{value!r:.40} is no whole number")
    parts = [type(node), type(getattr(node, "op", None)), type(getattr(node, "func", None))]
    raise InvalidParameter(
        next((_INSTEAD[part] for part in parts if part in _INSTEAD), "it may hold whole numbers, names, + - * // %, min, max and ceildiv")
    )


def _value(tree: Any, symbols: Mapping[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return symbols[tree]
    function, operands = tree
    value: int = function(*(_value(operand, symbols) for operand in operands))
    if abs(value) > LARGEST:
        raise OverflowError
    return value
