"""Rewrites kernels so that one work-item does a block of what many did: vectors, rows, tiles, strips of loops.

What comes out is only a candidate: whether it is right and faster, verification and measurement say. So a rewriting need not be proven, but it
must be worth trying: what cannot be told in whole vectors is not rewritten, and the reason is given.
"""

from collections.abc import Mapping, Sequence

import msgspec

from openruntime.ai.agents.optimizer.items import Items, everything, expressions, items, replaced
from openruntime.ai.agents.optimizer.source import (
    Assign,
    Binary,
    Call,
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
    Unreadable,
    lines,
    names,
    text,
)  # fmt: skip
from openruntime.ai.agents.optimizer.writing import MACROS, NEUTRAL, PERIODIC, Writer


def _given(function: Function) -> str:
    """The arguments as declared. No array of a call overlaps another: the runtime allocates each."""
    told = [
        f"global {'const ' if isinstance(a, Pointer) and a.constant else ''}{a.type} *restrict {a.name}"
        if isinstance(a, Pointer)
        else f"{a.type} {a.name}"
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
    tests = [] if row is not None else _moderate(function, known, writer)
    return _assembled(function, known, inner, grid, {0: "LANES"} | ({} if row is None else {row: "ROWS"}), tests)


def _moderate(function: Function, known: Items, writer: Writer) -> list[str]:
    """Tests that the arguments of periodic functions are moderate, where those are read from arrays at once."""
    given = {argument.name for argument in function.arguments} | set(known.variables.values())
    calls = [part for statement in known.body for whole in expressions(statement) for part in everything(whole)]
    arguments = [part.args[0] for part in calls if isinstance(part, Call) and part.function in PERIODIC and writer.varies(part)]
    return list(dict.fromkeys(writer.moderate(argument) for argument in arguments if names(argument) <= given))


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
        f"            for (int c_ = 0; c_ < TILE; c_++) block_[c_][r_] = {text(replaced(move.value, shifted))};", "#pragma unroll",
        "        for (int c_ = 0; c_ < TILE; c_++)", "#pragma unroll",
        f"            for (int r_ = 0; r_ < TILE; r_++) {text(replaced(move.target, shifted))} = block_[c_][r_];",
    ]  # fmt: skip
    return _assembled(function, known, inner, grid, {0: "TILE", 1: "TILE"})


def _assembled(
    function: Function, known: Items, inner: list[str], grid: Sequence[int | str], block: Mapping[int, str], tests: Sequence[str] = ()
) -> tuple[str, list[int | str], list[str]]:
    """The kernel: whole blocks as `inner` says, what is left item by item."""
    ends = {}
    for dimension, name in known.variables.items():
        end = known.limits.get(name)
        if end is None and not (
            str(grid[dimension]).isdigit() or any(a.name == grid[dimension] for a in function.arguments if isinstance(a, Scalar))
        ):
            raise Unreadable(f"it does not test whether `{name}` is beyond the end")
        ends[name] = text(end) if end is not None else str(grid[dimension])
    sizes = {known.variables[dimension]: size for dimension, size in block.items()}
    places = [f"{name} = {sizes[name] + ' * ' if name in sizes else ''}get_global_id({d})" for d, name in known.variables.items()]
    fits = [f"{name} + {sizes[name]} <= {ends[name]}" if name in sizes else f"{name} < {ends[name]}" for name in known.variables.values()]
    fits += tests
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
        read = names(part.value) if part.value is not None and not _gathers(part, gathered) else set[str]()
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
    writer.rowed |= {f"{name}_" for name in gathered}
    steps = [
        line.replace("[row_]", "[chain_]") for part in gatherings for line in writer.statement(part, indent + "        ") if "row_ = 0" not in line
    ]
    kind = writer.kind
    told = [f"{indent}{{", f"{indent}    int {at} = {text(loop.start)};"]
    for name, (op, _) in gathered.items():
        told += [
            f"{indent}    VECTOR({kind}, {width}) {name}_[CHAINS];",
            f"{indent}    for (int c_ = 0; c_ < CHAINS; c_++) {name}_[c_] = {NEUTRAL[op]};",
        ]
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


def _gathers(step: Statement, gathered: Mapping[str, object]) -> bool:
    return isinstance(step, Assign) and isinstance(step.target, Name) and step.target.id in gathered


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
