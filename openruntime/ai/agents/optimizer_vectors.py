"""Rewrites kernels so that one work-item does a block of what many did: lanes of vectors along one dimension, rows along another.

What comes out is only a candidate: whether it is right and faster, verification and measurement say. So a rewriting need not be proven, but it must be
worth trying: what cannot be told in whole vectors is not rewritten, and the reason is given.

Sources: unroll-and-jam and strip-mining as in Allen and Kennedy, "Optimizing Compilers for Modern Architectures" (2001), chapters 5 and 8; varying
and uniform values as in Pharr and Mark, "ispc: A SPMD compiler for high-performance CPU programming" (2012).
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from openruntime.ai.agents.optimizer_source import (
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
    Pointer,
    Return,
    Scalar,
    Statement,
    Ternary,
    Unary,
    Unreadable,
    lines,
    names,
    parts,
    text,
)

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
_NEUTRAL = {"+=": "0", "*=": "1", "fmax": "-INFINITY", "fmin": "INFINITY"}
_FLOATS = ("float", "double")


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
        isinstance(part, Call) and part.function.startswith("get_") for whole in _expressions(statement) for part in _all(whole)
    )  # fmt: skip


def _all(found: Expression) -> list[Expression]:
    return [found, *(inner for part in parts(found) for inner in _all(part))]


def _expressions(statement: Statement) -> list[Expression]:
    match statement:
        case Declare(_, _, value):
            return [] if value is None else [value]
        case Assign(target, _, value):
            return [target, value]
        case For(_, start, test, step, body):
            return [start, test, *_expressions(step), *(part for inner in body for part in _expressions(inner))]
        case If(test, then, other):
            return [test, *(part for inner in (*then, *other) for part in _expressions(inner))]
    return []


def _unguarded(body: tuple[Statement, ...], places: set[str], limits: dict[str, Expression]) -> tuple[Statement, ...]:
    """Without the tests that an item is not beyond the end; what they say goes to `limits`."""
    rest: list[Statement] = []
    for number, statement in enumerate(body):
        if isinstance(statement, If) and statement.then == (Return(),) and not statement.other:
            if _limits(statement.test, "||", (">=", "<="), places, limits):
                continue
        elif isinstance(statement, If) and not statement.other and number == len(body) - 1 and _limits(statement.test, "&&", ("<", ">"), places, limits):
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
            value = _replaced(statement.value, known)
            if statement.name not in changed and names(value) & places:
                known[statement.name] = value
                continue
        found.append(_within(statement, lambda part: _replaced(part, known)))
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


def _replaced(found: Expression, known: Mapping[str, Expression]) -> Expression:
    match found:
        case Name(id):
            return known.get(id, found)
        case Unary(op, of):
            return Unary(op, _replaced(of, known))
        case Binary(op, left, right):
            return Binary(op, _replaced(left, known), _replaced(right, known))
        case Ternary(test, yes, no):
            return Ternary(_replaced(test, known), _replaced(yes, known), _replaced(no, known))
        case Call(function, args):
            return Call(function, tuple(_replaced(arg, known) for arg in args))
        case Index(base, at):
            return Index(base, _replaced(at, known))
        case Cast(kind, of):
            return Cast(kind, _replaced(of, known))
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
        self._rowed: set[str] = set() if row is None else {row}
        self._kind = "float"

    def learn(self, body: Sequence[Statement]) -> None:
        """Which variables differ from lane to lane, and which from row to row."""
        before = -1
        while before != len(self.varying) + len(self._rowed):
            before = len(self.varying) + len(self._rowed)
            for statement in body:
                self._learn(statement)

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
        return any(self._varies(part) or names(part) & self._rowed for part in found)

    def _varies(self, found: Expression) -> bool:
        return bool(names(found) & (self.varying | {self._lane}))

    def _follow(self, name: str, value: Expression) -> None:
        if self._varies(value):
            self.varying.add(name)
        if names(value) & self._rowed:
            self._rowed.add(name)

    def statements(self, body: Sequence[Statement], indent: str) -> list[str]:
        return [line for statement in body for line in self._statement(statement, indent)]

    def _statement(self, statement: Statement, indent: str) -> list[str]:
        match statement:
            case Declare(kind, name, value):
                return self._declared(kind, name, value, indent)
            case Assign(target, op, value):
                rowed = bool((names(target) | names(value)) & self._rowed)
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
        varying, rowed = name in self.varying, name in self._rowed
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
        self._kind = array.type

    def _broadcast(self, told: str, vector: bool) -> str:
        return told if vector else f"((VECTOR({self._kind}, {self._width}))({told}))"

    def _named(self, name: str) -> str:
        if name == self._row:
            return f"({name} + row_)"
        if name == self._lane:
            return self._place
        return f"{name}[row_]" if name in self._rowed else name

    def _plain(self, found: Expression) -> str:
        """A value that is the same in all lanes, or the first lane's."""
        known: dict[str, Expression] = {name: Name(self._named(name)) for name in names(found)}
        return text(_replaced(found, known))

    def _value(self, found: Expression) -> tuple[str, bool]:
        """As C, and whether it is a vector."""
        if not self._varies(found):
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
            case Cast(kind, of) if kind == self._kind:
                return self._value(of)
        raise Unreadable(f"{text(found):.60} cannot be put into a vector")


def _given(function: Function) -> str:
    """The arguments as declared. No array of a call overlaps another: the runtime allocates each."""
    told = [
        f"global {'const ' if isinstance(a, Pointer) and a.constant else ''}{a.type} *restrict {a.name}" if isinstance(a, Pointer) else f"{a.type} {a.name}"
        for a in function.arguments
    ]
    return ", ".join(told)


def _item(function: Function, known: Items) -> str:
    """What one item did, as a function of its place."""
    places = "".join(f", int {name}" for name in known.variables.values())
    body = [s for s in function.body if not (isinstance(s, Declare) and s.name in known.variables.values())]
    return "\n".join([f"static inline void {function.name}_item({_given(function)}{places}) {{", *lines(tuple(body)), "}"])


def _arrays(function: Function) -> dict[str, Pointer]:
    return {argument.name: argument for argument in function.arguments if isinstance(argument, Pointer)}


def blocked(function: Function, grid: Sequence[int | str], *, row: int | None) -> tuple[str, list[int | str], list[str]]:
    """`LANES` items along dimension 0 as a vector, `ROWS` along dimension `row`: the source, the grid, the tunable constants' lines.

    Raises `Unreadable` with the reason why that cannot be."""
    known = items(function)
    if 0 not in known.variables or (row is not None and row not in known.variables):
        raise Unreadable(f"it has no items along dimension {row or 0}")
    lane, below = known.variables[0], None if row is None else known.variables[row]
    writer = Writer(_arrays(function), lane, "LANES", row=below)
    writer.learn(known.body)
    inner = writer.statements(known.body, "        ")
    return _assembled(function, known, inner, grid, {0: "LANES"} | ({} if row is None else {row: "ROWS"}))


def tiled(function: Function, grid: Sequence[int | str]) -> tuple[str, list[int | str], list[str]]:
    """A square of `TILE` items a side, for kernels that only move: rows that are read and columns that are written share cache lines.

    Raises `Unreadable`."""
    known = items(function)
    if not {0, 1} <= known.variables.keys():
        raise Unreadable("it has one dimension")
    if not all(isinstance(statement, Assign) and isinstance(statement.target, Index) and statement.op == "=" for statement in known.body):
        raise Unreadable("it does more than move")
    if len(known.body) != 1:
        raise Unreadable("it writes more than one element")
    (move,) = known.body
    assert isinstance(move, Assign)
    j, i = known.variables[0], known.variables[1]
    shifted: dict[str, Expression] = {j: Binary("+", Name(j), Name("c_")), i: Binary("+", Name(i), Name("r_"))}
    kind = _arrays(function)[move.target.base].type if isinstance(move.target, Index) else "float"
    inner = [
        f"        {kind} block_[TILE][TILE];", "#pragma unroll", "        for (int r_ = 0; r_ < TILE; r_++)", "#pragma unroll",
        f"            for (int c_ = 0; c_ < TILE; c_++) block_[c_][r_] = {text(_replaced(move.value, shifted))};", "#pragma unroll",
        "        for (int c_ = 0; c_ < TILE; c_++)", "#pragma unroll",
        f"            for (int r_ = 0; r_ < TILE; r_++) {text(_replaced(move.target, shifted))} = block_[c_][r_];",
    ]  # fmt: skip
    return _assembled(function, known, inner, grid, {0: "TILE", 1: "TILE"})


def _assembled(
    function: Function, known: Items, inner: list[str], grid: Sequence[int | str], block: Mapping[int, str]
) -> tuple[str, list[int | str], list[str]]:
    """The kernel: whole blocks as `inner` says, what is left item by item."""
    ends = {}
    for dimension, name in known.variables.items():
        end = known.limits.get(name)
        if end is None and not (str(grid[dimension]).isdigit() or any(a.name == grid[dimension] for a in function.arguments if isinstance(a, Scalar))):
            raise Unreadable(f"it does not test whether `{name}` is beyond the end")
        ends[name] = text(end) if end is not None else str(grid[dimension])
    sizes = {known.variables[dimension]: size for dimension, size in block.items()}
    places = [f"{name} = {sizes[name] + ' * ' if name in sizes else ''}get_global_id({d})" for d, name in known.variables.items()]
    fits = [f"{name} + {sizes[name]} <= {ends[name]}" if name in sizes else f"{name} < {ends[name]}" for name in known.variables.values()]
    arguments = ", ".join([a.name for a in function.arguments] + [f"{name}_" if name in sizes else name for name in known.variables.values()])
    rest = f"{function.name}_item({arguments});"
    for name, size in sizes.items():
        rest = f"for (int {name}_ = {name}; {name}_ < min({name} + {size}, (int)({ends[name]})); {name}_++) {rest}"
    source = "\n".join([
        _item(function, known), f"kernel void {function.name}({_given(function)}) {{", f"    int {', '.join(places)};",
        f"    if ({' && '.join(fits)}) {{", *inner, "        return;", "    }", f"    {rest}", "}", "",
    ])  # fmt: skip
    sides: list[int | str] = [f"ceildiv({side}, {block[d]})" if d in block else side for d, side in enumerate(grid)]
    return MACROS + source, sides, []


def strips(function: Function) -> str:
    """Inner loops over neighbours in strips of `CHAINS` vectors of `LANES`; sums and extremes are gathered in as many parts.

    Raises `Unreadable` where no loop can be."""
    reasons: list[str] = []
    arrays = _arrays(function)
    found = 0

    def written(body: Sequence[Statement], indent: str) -> list[str]:
        nonlocal found
        told: list[str] = []
        for statement in body:
            if isinstance(statement, For) and not any(isinstance(inner, For) for inner in statement.body):
                try:
                    told += _strip(statement, arrays, indent)
                    found += 1
                    continue
                except Unreadable as error:
                    reasons.append(str(error))
            if isinstance(statement, For):
                head = lines((msgspec.structs.replace(statement, body=()),), indent)[0]
                told += [head, *written(statement.body, indent + "    "), f"{indent}}}"]
            elif isinstance(statement, If):
                told += [f"{indent}if ({text(statement.test)}) {{", *written(statement.then, indent + "    "), f"{indent}}}"]
                if statement.other:
                    told += [f"{indent}else {{", *written(statement.other, indent + "    "), f"{indent}}}"]
            else:
                told += lines((statement,), indent)
        return told

    inner = written(function.body, "    ")
    if not found:
        raise Unreadable("; ".join(dict.fromkeys(reasons)) or "it has no loop")
    return MACROS + "\n".join([f"kernel void {function.name}({_given(function)}) {{", *inner, "}", ""])


def _strip(loop: For, arrays: Mapping[str, Pointer], indent: str) -> list[str]:
    if (loop.step.op, loop.step.value) != ("+=", Literal("1")) or not isinstance(loop.test, Binary) or loop.test.op != "<":
        raise Unreadable("a loop does not count up by one")
    if loop.test.left != Name(loop.variable) or loop.variable in names(loop.test.right):
        raise Unreadable("a loop has no plain end")
    gathered = {part.target.id: _gathering(part) for part in loop.body if isinstance(part, Assign) and isinstance(part.target, Name)}
    own = {part.name for part in loop.body if isinstance(part, Declare)}
    for part in loop.body:
        if isinstance(part, If | For | Return):
            raise Unreadable("a loop branches")
        read = names(part.value) if part.value is not None and not (isinstance(part, Assign) and part.target in map(Name, gathered)) else set[str]()
        if read & gathered.keys() - own:
            raise Unreadable("a loop uses what it gathers, so its steps follow each other")
    at, end, width = f"{loop.variable}", text(loop.test.right), "LANES"
    writer = Writer(arrays, loop.variable, width, place=f"({at} + chain_ * {width})")
    gatherings: list[Statement] = []
    for part in loop.body:
        if isinstance(part, Assign) and isinstance(part.target, Name):
            op, value = gathered[part.target.id]
            chosen: Expression = value if op in ("+=", "*=") else Call(op, (Name(f"{part.target.id}_"), value))
            gatherings.append(Assign(Name(f"{part.target.id}_"), op if op in ("+=", "*=") else "=", chosen))
        else:
            gatherings.append(part)
    writer.varying |= {f"{name}_" for name in gathered}
    writer.learn(gatherings)
    writer._rowed |= {f"{name}_" for name in gathered}
    steps = [line.replace("[row_]", "[chain_]") for part in gatherings for line in writer._statement(part, indent + "        ") if "row_ = 0" not in line]
    kind = writer._kind
    told = [f"{indent}{{", f"{indent}    int {at} = {text(loop.start)};"]
    for name, (op, _) in gathered.items():
        told += [f"{indent}    VECTOR({kind}, {width}) {name}_[CHAINS];", f"{indent}    for (int c_ = 0; c_ < CHAINS; c_++) {name}_[c_] = {_NEUTRAL[op]};"]
    told += [f"{indent}    for (; {at} + CHAINS * {width} <= {end}; {at} += CHAINS * {width})", "#pragma unroll"]
    told += [f"{indent}        for (int chain_ = 0; chain_ < CHAINS; chain_++) {{", *[f"    {line}" for line in steps if line != "#pragma unroll"]]
    told += [f"{indent}        }}"]
    for name, (op, _) in gathered.items():
        join = f"{name} {op} lanes_[l_];" if op in ("+=", "*=") else f"{name} = {op}({name}, lanes_[l_]);"
        both = f"{name}_[0] {op} {name}_[c_];" if op in ("+=", "*=") else f"{name}_[0] = {op}({name}_[0], {name}_[c_]);"
        told += [
            f"{indent}    for (int c_ = 1; c_ < CHAINS; c_++) {both}", f"{indent}    {{ {kind} lanes_[{width}];",
            f"{indent}    STORE({width})({name}_[0], 0, lanes_);", f"{indent}    for (int l_ = 0; l_ < {width}; l_++) {join} }}",
        ]  # fmt: skip
    return [*told, f"{indent}    for (; {at} < {end}; {at}++) {{", *lines(loop.body, indent + "        "), f"{indent}    }}", f"{indent}}}"]


def _gathering(step: Assign) -> tuple[str, Expression]:
    """How a loop gathers: `+=`, `*=`, `fmax` or `fmin`, and what."""
    assert isinstance(step.target, Name)
    match step:
        case Assign(Name(name), "+=" | "*=" as op, value) if name not in names(value):
            return op, value
        case Assign(Name(name), "=", Call("fmax" | "fmin" as op, (Name(first), value))) if first == name and name not in names(value):
            return op, value
        case Assign(Name(name), "=", Binary("+" | "*" as op, Name(first), value)) if first == name and name not in names(value):
            return f"{op}=", value
    raise Unreadable(f"a loop computes `{step.target.id}` from itself in another way than a sum or an extreme")
