"""Reads what was written before it is run: does it parse, does it import and call only what such a file needs. The sandbox is the wall; this keeps
the verdict honest: code that reaches neither frames, modules and files nor what evaluates text cannot answer in its examiner's place."""

import ast
from collections.abc import Iterator

LONGEST = 40_000  # characters
_TYPES = frozenset({"math", "cmath", "typing", "collections.abc", "itertools", "functools", "dataclasses", "enum", "__future__"})
_OPERATIONS = frozenset({"openruntime.operations", "openruntime.operations.stacking", "openruntime.operations.shapes", "msgspec"})
PUBLIC = {  # of these modules only so much: the rest evaluates text, or leads to other modules
    "typing": frozenset({
        "Annotated", "Any", "Callable", "ClassVar", "Final", "Generic", "Iterable", "Iterator", "Literal", "Mapping", "Optional", "Protocol", "Self",
        "Sequence", "TYPE_CHECKING", "TypeAlias", "TypedDict", "Union", "cast", "overload",
    }),
    "dataclasses": frozenset({"asdict", "astuple", "dataclass", "field", "replace"}),
    "functools": frozenset({"partial", "reduce"}),
    "enum": frozenset({"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "auto", "unique"}),
    "msgspec": frozenset({"Meta"}),
    "openruntime.operations": frozenset(
        {"Array", "Estimate", "InvalidParameter", "Namespace", "Number", "Operation", "OperationFailed", "Spec", "Steps", "operation"}
    ),
}  # fmt: skip
IMPORTS = {
    "operation": _TYPES | _OPERATIONS,
    "client": _TYPES | {"openruntime", "openruntime.errors", "numpy", "json", "time", "statistics", "random", "datetime", "asyncio", "contextlib"},
    "backend": _TYPES | {"openruntime.backends.array_backend", "openruntime.errors", "openruntime.operations", "numpy"},
}
_NAMES = frozenset({
    "exec", "eval", "compile", "open", "globals", "locals", "vars", "getattr", "setattr", "delattr", "breakpoint", "input", "help", "memoryview",
    "exit", "quit", "type", "__import__", "__builtins__", "__loader__", "__spec__",
})  # fmt: skip
_ATTRIBUTES = frozenset({
    "sys", "os", "builtins", "importlib", "subprocess", "socket", "ctypes", "shutil", "io", "inspect", "gc", "threading", "multiprocessing", "signal",
    "modules", "pickle", "pathlib", "ctypeslib", "f2py", "memmap", "load", "save", "savez", "loadtxt", "savetxt", "genfromtxt", "fromfile", "tofile",
    "DataSource", "fromregex", "savez_compressed", "open",
    "testing", "f_back", "f_globals", "f_locals", "f_builtins", "gi_frame", "cr_frame", "ag_frame", "tb_frame", "tb_next", "gi_code", "cr_code",
    "func_globals", "environ", "system", "popen", "dump", "dumps_pickle", "lib",
})  # fmt: skip


def problems(code: str, kind: str, name: str = "", extra: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with it, each with its line; nothing where it may be run. `extra`: further modules that it may import."""
    if len(code) > LONGEST:
        return [f"it has {len(code)} characters; {LONGEST} is the most"]
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return [f"it does not parse{f' (line {line})' if line else ''}: {getattr(error, 'msg', None) or error}"]
    try:
        found = [*_forbidden(tree, IMPORTS[kind] | extra, kind, extra), *_evaluated(tree)]
    except RecursionError:
        return ["its expressions are too deep"]
    if kind == "operation":
        found += _operation(tree, name)
    return found


def _forbidden(tree: ast.AST, allowed: frozenset[str], kind: str, extra: frozenset[str]) -> Iterator[str]:
    imported = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    partly = {alias.asname or alias.name: alias.name for alias in imported if alias.name in PUBLIC}
    owners = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        at = f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in allowed:
                    yield f"{at}: it imports {alias.name}; {kind} code may import {', '.join(sorted(allowed))}"
                elif "." in alias.name and alias.name not in extra:
                    yield f"{at}: it imports {alias.name} whole; write `from {alias.name} import` and the names"
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module not in allowed:
                yield f"{at}: it imports from {'.' * node.level}{node.module or ''}; {kind} code may import from {', '.join(sorted(allowed))}"
            public = PUBLIC.get(node.module or "")
            for alias in node.names:
                if alias.name in _ATTRIBUTES or alias.name == "*" or alias.name.startswith("_") or alias.name not in (public or {alias.name}):
                    yield f"{at}: it imports {alias.name} from {node.module}"
                elif public is not None and alias.asname is not None:
                    yield f"{at}: it calls {alias.name} of {node.module} {alias.asname}"
        elif isinstance(node, ast.Name) and (node.id in _NAMES or (_dunder(node.id) and node.id != "__name__")):
            yield f"{at}: it uses {node.id}"
        elif isinstance(node, ast.Name) and node.id in partly and id(node) not in owners:
            yield f"{at}: it hands {node.id} on"
        elif isinstance(node, ast.Attribute) and (node.attr in _ATTRIBUTES or _dunder(node.attr) or (node.attr.startswith("_") and not _own(node))):
            yield f"{at}: it uses .{node.attr}"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr not in PUBLIC.get(partly.get(node.value.id, ""), {node.attr})
        ):
            yield f"{at}: it uses .{node.attr} of {node.value.id}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _dunder(node.name):
            if kind != "backend" or node.name != "__init__":
                yield f"{at}: it defines {node.name}"
        elif isinstance(node, ast.MatchClass):
            yield f"{at}: it matches by class"


def _own(node: ast.Attribute) -> bool:
    """Whether it is of the object itself, or of what that was made from."""
    base = node.value
    return (isinstance(base, ast.Name) and base.id in ("self", "cls")) or (
        isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super"
    )


def _evaluated(tree: ast.Module) -> Iterator[str]:
    """Annotations that could be text, which whoever asks for their types evaluates; and types made of text by a call."""
    nodes = list(ast.walk(tree))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)} | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    made |= {node.name for node in nodes if isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and node.name}
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    bases = {id(base) for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases}
    for node in nodes:
        annotation = node.returns if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else getattr(node, "annotation", None)
        if annotation is not None and (part := _text(annotation, made, classes)) is not None:
            yield f"line {part.lineno}: its annotation `{ast.unparse(part)[:60]}` is not made of types' names alone"
        if isinstance(node, ast.Name | ast.Attribute) and getattr(node, "id", getattr(node, "attr", "")) == "TypedDict" and id(node) not in bases:
            yield f"line {node.lineno}: it uses TypedDict otherwise than as a class's base"


def _text(node: ast.expr, made: set[str], classes: set[str]) -> ast.expr | None:
    """The first part of an annotation that may be text when it runs."""
    match node:
        case ast.Subscript(value=ast.Name(id="Literal") | ast.Attribute(attr="Literal"), slice=ast.Constant()) if "Literal" not in made:
            return None
        case ast.Subscript(value=ast.Name(id="Literal") | ast.Attribute(attr="Literal"), slice=ast.Tuple(elts=parts)) if "Literal" not in made:
            return next((part for part in parts if not isinstance(part, ast.Constant)), None)
        case ast.Call(func=ast.Name(id="Meta") | ast.Attribute(attr="Meta")) if "Meta" not in made:
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            return next((part for part in given if isinstance(part, ast.Constant) is isinstance(part, ast.UnaryOp)), None)
        case ast.Name(id=name):
            return node if name in made else None
        case ast.Constant(value=value):
            return node if isinstance(value, str) else None
        case ast.Attribute(value=inner):
            return node if isinstance(inner, ast.Name) and inner.id in classes else _text(inner, made, classes)
        case ast.Subscript(value=left, slice=right) | ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _text(left, made, classes) or _text(right, made, classes)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return next((found for part in parts if (found := _text(part, made, classes)) is not None), None)
    return node


def _dunder(name: str) -> bool:
    return name.startswith("__")


def _operation(tree: ast.Module, name: str) -> Iterator[str]:
    """One operation of this name, and nothing that runs when it is imported but definitions."""
    decorated = [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list if "operation" in (getattr(mark, "id", ""), getattr(getattr(mark, "func", None), "id", ""))
    ]  # fmt: skip
    if decorated != [name]:
        yield f"it must define exactly one function with @operation, called {name}; it has {', '.join(decorated) or 'none'}"
    marks = {id(getattr(mark, "func", mark)) for node in tree.body if isinstance(node, ast.FunctionDef) for mark in node.decorator_list}
    for use in ast.walk(tree):
        if isinstance(use, ast.Name) and (use.id == "Operation" or (use.id == "operation" and id(use) not in marks)):
            yield f"line {use.lineno}: it uses {use.id} otherwise than to mark its function"
    if any(len(node.decorator_list) != 1 for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name):
        yield f"{name} must have no other decorator than @operation"
    for node in tree.body:
        plain = isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.ClassDef)
        if not plain and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield f"line {node.lineno}: a {type(node).__name__} at the module's top; only imports, constants and definitions stand there"
