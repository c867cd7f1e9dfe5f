"""Reads the C that kernels are mostly written in: numbers, arrays, loops and branches, no preprocessor. Nothing here runs what it reads.

Grammar: a subset of OpenCL C 3.0 (https://registry.khronos.org/OpenCL/specs/3.0-unified/html/OpenCL_C.html).
"""

import re

import msgspec


class Unreadable(Exception):
    """A kernel that is written with more than this reads; says what."""


class Name(msgspec.Struct, frozen=True):
    id: str


class Literal(msgspec.Struct, frozen=True):
    text: str


class Unary(msgspec.Struct, frozen=True):
    op: str
    of: "Expression"


class Binary(msgspec.Struct, frozen=True):
    op: str
    left: "Expression"
    right: "Expression"


class Ternary(msgspec.Struct, frozen=True):
    test: "Expression"
    yes: "Expression"
    no: "Expression"


class Call(msgspec.Struct, frozen=True):
    function: str
    args: "tuple[Expression, ...]"


class Index(msgspec.Struct, frozen=True):
    base: str
    at: "Expression"


class Cast(msgspec.Struct, frozen=True):
    type: str
    of: "Expression"


Expression = Name | Literal | Unary | Binary | Ternary | Call | Index | Cast


class Declare(msgspec.Struct, frozen=True):
    type: str
    name: str
    value: Expression | None


class Assign(msgspec.Struct, frozen=True):
    """`op` is `=`, `+=` and the like; `i++` is `i += 1`."""

    target: Name | Index
    op: str
    value: Expression


class For(msgspec.Struct, frozen=True):
    """`for (int variable = start; test; step)`."""

    variable: str
    start: Expression
    test: Expression
    step: Assign
    body: "tuple[Statement, ...]"


class If(msgspec.Struct, frozen=True):
    test: Expression
    then: "tuple[Statement, ...]"
    other: "tuple[Statement, ...]" = ()


class Return(msgspec.Struct, frozen=True):
    pass


Statement = Declare | Assign | For | If | Return


class Pointer(msgspec.Struct, frozen=True):
    """An argument that is an array."""

    type: str
    name: str
    constant: bool


class Scalar(msgspec.Struct, frozen=True):
    type: str
    name: str


class Function(msgspec.Struct, frozen=True):
    name: str
    arguments: tuple[Pointer | Scalar, ...]
    body: tuple[Statement, ...]


TYPES = frozenset({"bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "float", "double", "half", "size_t"})
_TOKEN = re.compile(
    r"\s+|//[^\n]*|/\*.*?\*/|(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fFuUlL]*)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op><<=|>>=|\+\+|--|->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%<>=!&|^~?:;,.(){}\[\]])",
    re.DOTALL,
)
_LEVELS = (("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="), ("<<", ">>"), ("+", "-"), ("*", "/", "%"))
_QUALIFIERS = {"global", "__global", "const", "restrict", "__restrict", "__restrict__", "private", "__private", "volatile"}
_REFUSED = {
    "local": "local memory", "__local": "local memory", "barrier": "a barrier", "while": "a while loop", "do": "a do loop", "switch": "a switch",
    "goto": "a goto", "struct": "a struct", "break": "a break", "continue": "a continue",
}  # fmt: skip


def read(source: str) -> Function:
    """The one kernel of a source. Raises `Unreadable`."""
    plain = re.sub(r"^[ \t]*//[ \t]*tune:", "@tune", source, flags=re.MULTILINE)
    if "@tune" in plain:
        raise Unreadable("it leaves constants open itself")
    if re.search(r"^[ \t]*#", source, re.MULTILINE):
        raise Unreadable("it uses the preprocessor")
    try:
        return _Reader(_tokens(source)).function()
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None


def _tokens(source: str) -> list[str]:
    found, at = [], 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise Unreadable(f"{source[at : at + 10]!r} is not read")
        if match.lastgroup:
            if match[0] in _REFUSED:
                raise Unreadable(f"it has {_REFUSED[match[0]]}")
            found.append(match[0])
        at = match.end()
    return found


class _Reader:
    """Recursive descent."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        token = self._next()
        if wanted and token not in wanted:
            raise Unreadable(f"{token or 'its end'!r} stands where {' or '.join(wanted)} was expected")
        self._at += 1
        return token

    def _has(self, token: str) -> bool:
        if self._next() == token:
            self._at += 1
            return True
        return False

    def _word(self) -> str:
        token = self._take()
        if not re.fullmatch(r"[A-Za-z_]\w*", token):
            raise Unreadable(f"{token or 'its end'!r} stands where a name was expected")
        return token

    def function(self) -> Function:
        self._take("kernel", "__kernel")
        self._take("void")
        name = self._word()
        self._take("(")
        arguments = [self._argument()]
        while self._has(","):
            arguments.append(self._argument())
        self._take(")")
        body = self._block()
        if self._next():
            raise Unreadable("it has more than one function")
        return Function(name, tuple(arguments), body)

    def _argument(self) -> Pointer | Scalar:
        constant = False
        while self._next() in _QUALIFIERS:
            constant |= self._take() == "const"
        kind = self._type()
        while self._next() in _QUALIFIERS:
            constant |= self._take() == "const"
        pointer = self._has("*")
        while self._next() in _QUALIFIERS:
            self._take()
        return Pointer(kind, self._word(), constant) if pointer else Scalar(kind, self._word())

    def _type(self) -> str:
        kind = self._word()
        if kind not in TYPES:
            raise Unreadable(f"{kind!r} is no type that is read")
        return kind

    def _block(self) -> tuple[Statement, ...]:
        if not self._has("{"):
            return self._statement()
        found: list[Statement] = []
        while not self._has("}"):
            found += self._statement()
        return tuple(found)

    def _statement(self) -> tuple[Statement, ...]:
        token = self._next()
        if token == "{":
            return self._block()
        if self._has(";"):
            return ()
        if self._has("if"):
            self._take("(")
            test = self.expression()
            self._take(")")
            then = self._block()
            return (If(test, then, self._block() if self._has("else") else ()),)
        if self._has("for"):
            return (self._loop(),)
        if self._has("return"):
            self._take(";")
            return (Return(),)
        while self._next() == "const":
            self._take()
        found = self._declarations() if self._next() in TYPES else (self._assignment(),)
        self._take(";")
        return found

    def _declarations(self) -> tuple[Declare, ...]:
        kind, found = self._type(), []
        while True:
            name = self._word()
            found.append(Declare(kind, name, self.expression() if self._has("=") else None))
            if not self._has(","):
                return tuple(found)

    def _loop(self) -> For:
        self._take("(")
        (first,) = found if len(found := self._declarations()) == 1 else (None,)
        if first is None or first.value is None or first.type != "int":
            raise Unreadable("a loop counts with more than one variable, or with one that is no int")
        self._take(";")
        test = self.expression()
        self._take(";")
        step = self._assignment()
        self._take(")")
        return For(first.name, first.value, test, step, self._block())

    def _assignment(self) -> Assign:
        if self._next() in ("++", "--"):
            op = self._take()
            return Assign(self._target(), f"{op[0]}=", Literal("1"))
        target = self._target()
        if self._next() in ("++", "--"):
            return Assign(target, f"{self._take()[0]}=", Literal("1"))
        op = self._take("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
        return Assign(target, op, self.expression())

    def _target(self) -> Name | Index:
        found = self._primary()
        if not isinstance(found, Name | Index):
            raise Unreadable("a statement is no assignment")
        return found

    def expression(self) -> Expression:
        test = self._binary(0)
        if self._has("?"):
            yes = self.expression()
            self._take(":")
            return Ternary(test, yes, self.expression())
        return test

    def _binary(self, level: int) -> Expression:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._next() in _LEVELS[level]:
            left = Binary(self._take(), left, self._binary(level + 1))
        return left

    def _unary(self) -> Expression:
        if self._next() in ("-", "+", "!", "~"):
            return Unary(self._take(), self._unary())
        if self._next() == "(" and self._tokens[self._at + 1 : self._at + 2] and self._tokens[self._at + 1] in TYPES:
            self._take()
            kind = self._type()
            self._take(")")
            return Cast(kind, self._unary())
        return self._primary()

    def _primary(self) -> Expression:
        if self._has("("):
            found = self.expression()
            self._take(")")
        elif re.match(r"[\d.]", self._next()):
            return Literal(self._take())
        else:
            name = self._word()
            if self._has("("):
                args: list[Expression] = []
                while not self._has(")"):
                    args.append(self.expression())
                    if self._next() != ")":
                        self._take(",")
                return Call(name, tuple(args))
            if self._has("["):
                at = self.expression()
                self._take("]")
                found = Index(name, at)
            else:
                found = Name(name)
        if self._next() in (".", "->", "["):
            raise Unreadable("it uses vectors' parts, pointers or arrays of arrays")
        return found


def parts(found: Expression) -> tuple[Expression, ...]:
    match found:
        case Unary(_, of) | Cast(_, of) | Index(_, of):
            return (of,)
        case Binary(_, left, right):
            return left, right
        case Ternary(test, yes, no):
            return test, yes, no
        case Call(_, args):
            return args
    return ()


def names(found: Expression) -> set[str]:
    """Of variables and arrays."""
    if isinstance(found, Name):
        return {found.id}
    base = {found.base} if isinstance(found, Index) else set[str]()
    return base.union(*map(names, parts(found)))


def text(found: Expression) -> str:
    """As C, every operation in parentheses."""
    match found:
        case Name(id):
            return id
        case Literal(written):
            return written
        case Unary(op, of):
            return f"({op}{text(of)})"
        case Binary(op, left, right):
            return f"({text(left)} {op} {text(right)})"
        case Ternary(test, yes, no):
            return f"({text(test)} ? {text(yes)} : {text(no)})"
        case Call(function, args):
            return f"{function}({', '.join(map(text, args))})"
        case Index(base, at):
            return f"{base}[{text(at)}]"
        case Cast(kind, of):
            return f"(({kind}){text(of)})"
    raise Unreadable(f"{found!r} is no expression")


def lines(body: tuple[Statement, ...], indent: str = "    ") -> list[str]:
    """Statements as C, one a line."""
    found: list[str] = []
    for statement in body:
        match statement:
            case Declare(kind, name, value):
                found.append(f"{indent}{kind} {name}{f' = {text(value)}' if value is not None else ''};")
            case Assign(target, op, value):
                found.append(f"{indent}{text(target)} {op} {text(value)};")
            case Return():
                found.append(f"{indent}return;")
            case If(test, then, other):
                found += [f"{indent}if ({text(test)}) {{", *lines(then, indent + "    "), f"{indent}}}"]
                if other:
                    found += [f"{indent}else {{", *lines(other, indent + "    "), f"{indent}}}"]
            case For(variable, start, test, step, inner):
                head = f"for (int {variable} = {text(start)}; {text(test)}; {text(step.target)} {step.op} {text(step.value)})"
                found += [f"{indent}{head} {{", *lines(inner, indent + "    "), f"{indent}}}"]
    return found
