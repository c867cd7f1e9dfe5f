"""Writes statements for several work-items at once: a vector of them along one dimension, a block of rows along another.

Sources: unroll-and-jam and strip-mining as in Allen and Kennedy, "Optimizing Compilers for Modern Architectures" (2001), chapters 5 and 8;
varying and uniform values as in Pharr and Mark, "ispc: A SPMD compiler for high-performance CPU programming" (2012).
"""

from collections.abc import Mapping, Sequence

from openruntime.ai.agents.optimizer.items import replaced, stride
from openruntime.ai.agents.optimizer.source import (
    Assign,
    Binary,
    Call,
    Cast,
    Declare,
    Expression,
    For,
    If,
    Index,
    Name,
    Pointer,
    Statement,
    Ternary,
    Unary,
    Unreadable,
    names,
    text,
)  # fmt: skip

MACROS = """#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
#define VECTOR(type, width) JOIN(type, width)
"""
ELEMENTWISE = frozenset({
    "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "fabs", "floor", "fma", "fmax", "fmin", "hypot", "log", "log10",
    "log1p", "log2", "mad", "pow", "rint", "round", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh", "trunc", "native_exp", "native_sin", "native_cos",
    "native_sqrt", "native_log",
})  # fmt: skip
MODERATE = "100"
"""PoCL 3.1's sine, cosine and tangent of a vector: a lane from 2^23 on, or an infinite one, makes those below 2^-7 beside it wrong."""
PERIODIC = frozenset({"sin", "cos", "tan"})
NEUTRAL = {"+=": "0", "*=": "1", "fmax": "-INFINITY", "fmin": "INFINITY"}
_FLOATS = ("float", "double")


class Writer:
    """Writes statements for `width` lanes along `lane`, and a block of `rows` along `row`, where they depend on it."""

    def __init__(
        self, arrays: Mapping[str, Pointer], lane: str, width: str, *, place: str | None = None, row: str | None = None, rows: str = "ROWS"
    ) -> None:
        """`place`: how the first lane is written, its variable's name unless given."""
        self._arrays = arrays
        self._lane, self._width, self._place = lane, width, place or lane
        self._row, self._rows = row, rows
        self.varying: set[str] = set()
        self.rowed: set[str] = set() if row is None else {row}
        self.kind = "float"

    def learn(self, body: Sequence[Statement]) -> None:
        """Which variables differ from lane to lane, and which from row to row."""
        before = -1
        while before != len(self.varying) + len(self.rowed):
            before = len(self.varying) + len(self.rowed)
            for statement in body:
                self._learn(statement)

    def moderate(self, argument: Expression) -> str:
        """The test that all lanes of what is only read from arrays are far below where a vector's sine goes another way."""
        told, vector = self._value(argument)
        return f"all(isless(fabs({self._broadcast(told, vector)}), {self._broadcast(MODERATE, False)}))"

    def _learn(self, statement: Statement) -> None:
        match statement:
            case Declare(_, name, value) if value is not None:
                self._follow(name, value)
            case Assign(Name(name), _, value):
                self._follow(name, value)
            case For(_, start, test, step, body):
                if self._differs(start, test, step.value):
                    raise Unreadable("a loop's length depends on the item")
                for inner in body:
                    self._learn(inner)
            case If(test, then, other):
                if self._differs(test):
                    raise Unreadable("a branch depends on the item")
                for inner in (*then, *other):
                    self._learn(inner)

    def _differs(self, *found: Expression) -> bool:
        return any(self.varies(part) or names(part) & self.rowed for part in found)

    def varies(self, found: Expression) -> bool:
        return bool(names(found) & (self.varying | {self._lane}))

    def _follow(self, name: str, value: Expression) -> None:
        if self.varies(value):
            self.varying.add(name)
        if names(value) & self.rowed:
            self.rowed.add(name)

    def statements(self, body: Sequence[Statement], indent: str) -> list[str]:
        return [line for statement in body for line in self.statement(statement, indent)]

    def statement(self, statement: Statement, indent: str) -> list[str]:
        match statement:
            case Declare(kind, name, value):
                return self._declared(kind, name, value, indent)
            case Assign(target, op, value):
                rowed = bool((names(target) | names(value)) & self.rowed)
                return self._jammed([self._assigned(target, op, value)], rowed, indent)
            case For(variable, start, test, step, inner):
                head = f"for (int {variable} = {text(start)}; {text(test)}; {text(step.target)} {step.op} {text(step.value)})"
                return [f"{indent}{head} {{", *self.statements(inner, indent + "    "), f"{indent}}}"]
            case If(test, then, other):
                found = [f"{indent}if ({text(test)}) {{", *self.statements(then, indent + "    "), f"{indent}}}"]
                return found + ([f"{indent}else {{", *self.statements(other, indent + "    "), f"{indent}}}"] if other else [])
        raise Unreadable("it ends early")

    def _jammed(self, written: list[str], rowed: bool, indent: str) -> list[str]:
        if not rowed:
            return [indent + line for line in written]
        return ["#pragma unroll", f"{indent}for (int row_ = 0; row_ < {self._rows}; row_++)", *(f"{indent}    {line}" for line in written)]

    def _declared(self, kind: str, name: str, value: Expression | None, indent: str) -> list[str]:
        varying, rowed = name in self.varying, name in self.rowed
        if varying and kind not in _FLOATS:
            raise Unreadable(f"`{name}` is a {kind} that differs from item to item")
        told = f"VECTOR({kind}, {self._width})" if varying else kind
        declared = f"{indent}{told} {name}{f'[{self._rows}]' if rowed else ''};"
        if value is None:
            return [declared]
        return [declared, *self._jammed([self._assigned(Name(name), "=", value)], rowed, indent)]

    def _assigned(self, target: Name | Index, op: str, value: Expression) -> str:
        told, vector = self._value(value)
        if isinstance(target, Name):
            place = self._named(target.id)
            if target.id in self.varying and op == "+=" and isinstance(value, Binary) and value.op == "*" and vector:
                left, right = (self._broadcast(*self._value(part)) for part in (value.left, value.right))
                return f"{place} = fma({left}, {right}, {place});"
            if vector and target.id not in self.varying:
                raise Unreadable(f"`{target.id}` differs from item to item")
            return f"{place} {op} {self._broadcast(told, vector) if target.id in self.varying else told};"
        array = self._arrays.get(target.base)
        if array is None or stride(target.at, self._lane, self.varying) != 1:
            raise Unreadable(f"`{target.base}` is not written side by side")
        where = f"{target.base} + {self._plain(target.at)}"
        self._need(array)
        told = self._broadcast(told, vector)
        if op != "=":
            told = f"LOAD({self._width})(0, {where}) {op[:-1]} {told}"
        return f"STORE({self._width})({told}, 0, {where});"

    def _need(self, array: Pointer) -> None:
        if array.type not in _FLOATS:
            raise Unreadable(f"`{array.name}` holds {array.type}, and only float and double are put into vectors")
        self.kind = array.type

    def _broadcast(self, told: str, vector: bool) -> str:
        return told if vector else f"((VECTOR({self.kind}, {self._width}))({told}))"

    def _named(self, name: str) -> str:
        if name == self._row:
            return f"({name} + row_)"
        if name == self._lane:
            return self._place
        return f"{name}[row_]" if name in self.rowed else name

    def _plain(self, found: Expression) -> str:
        """A value that is the same in all lanes, or the first lane's."""
        known: dict[str, Expression] = {name: Name(self._named(name)) for name in names(found)}
        return text(replaced(found, known))

    def _value(self, found: Expression) -> tuple[str, bool]:
        """As C, and whether it is a vector."""
        if not self.varies(found):
            return self._plain(found), False
        match found:
            case Name(id) if id in self.varying:
                return self._named(id), True
            case Index(base, at) if base in self._arrays and stride(at, self._lane, self.varying) == 1:
                self._need(self._arrays[base])
                return f"LOAD({self._width})(0, {base} + {self._plain(at)})", True
            case Index(base):
                raise Unreadable(f"`{base}` is not read side by side")
            case Unary("-", of):
                return f"(-{self._value(of)[0]})", True
            case Binary(op, left, right) if op in ("+", "-", "*", "/", "<", ">", "<=", ">=", "==", "!="):
                told = [self._value(part) for part in (left, right)]
                return f"({self._broadcast(*told[0])} {op} {self._broadcast(*told[1])})", True
            case Ternary(test, yes, no):
                chosen = [self._broadcast(*self._value(part)) for part in (yes, no)]
                return f"({self._value(test)[0]} ? {chosen[0]} : {chosen[1]})", True
            case Call(function, args) if function in ELEMENTWISE:
                return f"{function}({', '.join(self._broadcast(*self._value(arg)) for arg in args)})", True
            case Cast(kind, of) if kind == self.kind:
                return self._value(of)
        raise Unreadable(f"{text(found):.60} cannot be put into a vector")
