"""Reads a kernel as work for one item: where it is, up to where there is work, and what it does there."""

from collections.abc import Callable, Mapping

import msgspec

from openruntime.ai.agents.optimizer.source import (
    Assign,
    Binary,
    Call,
    Cast,
    Declare,
    Expression,
    For,
    Function,
    If,
    Index,
    Literal,
    Name,
    Return,
    Statement,
    Ternary,
    Unary,
    Unreadable,
    names,
    parts,
)  # fmt: skip


class Items(msgspec.Struct, frozen=True):
    """A kernel as work for one item: `variables` by dimension are where it is, `limits` up to where there is work, `body` what it does there."""

    variables: dict[int, str]
    limits: dict[str, Expression]
    body: tuple[Statement, ...]


def items(function: Function) -> Items:
    """Raises `Unreadable` where a kernel does not say in the usual way which item it is."""
    variables: dict[int, str] = {}
    rest: list[Statement] = []
    for statement in function.body:
        if isinstance(statement, Declare) and isinstance(statement.value, Call) and statement.value.function == "get_global_id":
            (dimension,) = statement.value.args
            if not isinstance(dimension, Literal) or statement.type not in ("int", "size_t", "uint", "long"):
                raise Unreadable("it asks for its place in an unusual way")
            variables[int(dimension.text)] = statement.name
        else:
            rest.append(statement)
    if not variables or any(_calls(statement) for statement in rest):
        raise Unreadable("it asks for its place within expressions")
    limits: dict[str, Expression] = {}
    body = _unguarded(tuple(rest), set(variables.values()), limits)
    return Items(variables, limits, _inlined(body, set(variables.values())))


def _calls(statement: Statement) -> bool:
    """Whether it asks the runtime where it is."""
    return any(
        isinstance(part, Call) and part.function.startswith("get_") for whole in expressions(statement) for part in everything(whole)
    )  # fmt: skip


def everything(found: Expression) -> list[Expression]:
    """It and all its parts."""
    return [found, *(inner for part in parts(found) for inner in everything(part))]


def expressions(statement: Statement) -> list[Expression]:
    """All that stand in it."""
    match statement:
        case Declare(_, _, value):
            return [] if value is None else [value]
        case Assign(target, _, value):
            return [target, value]
        case For(_, start, test, step, body):
            return [start, test, *expressions(step), *(part for inner in body for part in expressions(inner))]
        case If(test, then, other):
            return [test, *(part for inner in (*then, *other) for part in expressions(inner))]
    return []


def _unguarded(body: tuple[Statement, ...], places: set[str], limits: dict[str, Expression]) -> tuple[Statement, ...]:
    """Without the tests that an item is not beyond the end; what they say goes to `limits`."""
    rest: list[Statement] = []
    for number, statement in enumerate(body):
        if isinstance(statement, If) and statement.then == (Return(),) and not statement.other:
            if _limits(statement.test, "||", (">=", "<="), places, limits):
                continue
        elif (
            isinstance(statement, If)
            and not statement.other
            and number == len(body) - 1
            and _limits(statement.test, "&&", ("<", ">"), places, limits)
        ):
            rest += statement.then
            continue
        rest.append(statement)
    return tuple(rest)


def _limits(test: Expression, joined: str, ops: tuple[str, str], places: set[str], limits: dict[str, Expression]) -> bool:
    found: dict[str, Expression] = {}

    def look(part: Expression) -> bool:
        if isinstance(part, Binary) and part.op == joined:
            return look(part.left) and look(part.right)
        if isinstance(part, Binary) and part.op in ops:
            place, end = (part.left, part.right) if part.op == ops[0] else (part.right, part.left)
            if isinstance(place, Name) and place.id in places and not names(end) & places:
                found[place.id] = end
                return True
        return False

    if not look(test):
        return False
    limits |= found
    return True


def _inlined(body: tuple[Statement, ...], places: set[str]) -> tuple[Statement, ...]:
    """Whole numbers that are made of an item's place once, put where they are used."""
    known: dict[str, Expression] = {}
    changed = {part.target.id for statement in body for part in _assignments(statement) if isinstance(part.target, Name)}
    found: list[Statement] = []
    for statement in body:
        if isinstance(statement, Declare) and statement.type in ("int", "size_t", "long", "uint") and statement.value is not None:
            value = replaced(statement.value, known)
            if statement.name not in changed and names(value) & places:
                known[statement.name] = value
                continue
        found.append(_within(statement, lambda part: replaced(part, known)))
    return tuple(found)


def _assignments(statement: Statement) -> list[Assign]:
    match statement:
        case Assign():
            return [statement]
        case For(_, _, _, _, body):
            return [part for inner in body for part in _assignments(inner)]
        case If(_, then, other):
            return [part for inner in (*then, *other) for part in _assignments(inner)]
    return []


def replaced(found: Expression, known: Mapping[str, Expression]) -> Expression:
    match found:
        case Name(id):
            return known.get(id, found)
        case Unary(op, of):
            return Unary(op, replaced(of, known))
        case Binary(op, left, right):
            return Binary(op, replaced(left, known), replaced(right, known))
        case Ternary(test, yes, no):
            return Ternary(replaced(test, known), replaced(yes, known), replaced(no, known))
        case Call(function, args):
            return Call(function, tuple(replaced(arg, known) for arg in args))
        case Index(base, at):
            return Index(base, replaced(at, known))
        case Cast(kind, of):
            return Cast(kind, replaced(of, known))
    return found


def _within(statement: Statement, change: Callable[[Expression], Expression]) -> Statement:
    match statement:
        case Declare(kind, name, value):
            return Declare(kind, name, None if value is None else change(value))
        case Assign(target, op, value):
            place = change(target)
            assert isinstance(place, Name | Index)
            return Assign(place, op, change(value))
        case For(variable, start, test, step, body):
            return For(variable, change(start), change(test), step, tuple(_within(inner, change) for inner in body))
        case If(test, then, other):
            return If(change(test), tuple(_within(inner, change) for inner in then), tuple(_within(inner, change) for inner in other))
    return statement


def stride(found: Expression, lane: str, varying: set[str]) -> int | None:
    """By how much a whole number grows from one lane to the next; None where that is not the same for all."""
    match found:
        case Name(id):
            return 1 if id == lane else None if id in varying else 0
        case Literal():
            return 0
        case Cast(_, of):
            return stride(of, lane, varying)
        case Binary(op, left, right):
            a, b = stride(left, lane, varying), stride(right, lane, varying)
            if a is None or b is None:
                return None
            if op in ("+", "-"):
                return a + b if op == "+" else a - b
            return 0 if a == b == 0 else None
    return 0 if all(stride(part, lane, varying) == 0 for part in parts(found)) else None
