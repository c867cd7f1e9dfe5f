"""Reads what was written before it is run: does it parse, does it import and call only what such a file needs. The sandbox is the wall; this keeps
the verdict honest: code that cannot reach frames, modules or files cannot answer in its examiner's place."""

import ast
from collections.abc import Iterator

LONGEST = 40_000  # characters
_TYPES = frozenset({"math", "cmath", "typing", "collections.abc", "itertools", "functools", "dataclasses", "enum", "__future__"})
_OPERATIONS = frozenset({"openruntime.operations", "openruntime.operations.stacking", "openruntime.operations.shapes", "msgspec"})
IMPORTS = {
    "operation": _TYPES | _OPERATIONS,
    "client": _TYPES | {"openruntime", "openruntime.errors", "numpy", "json", "time", "statistics", "random", "datetime", "asyncio", "contextlib"},
    "backend": _TYPES | {"openruntime.backends.array_backend", "openruntime.errors", "openruntime.operations", "numpy"},
}
_NAMES = frozenset({
    "exec", "eval", "compile", "open", "globals", "locals", "vars", "getattr", "setattr", "delattr", "breakpoint", "input", "help", "memoryview",
    "exit", "quit", "__import__", "__builtins__", "__loader__", "__spec__",
})  # fmt: skip
_ATTRIBUTES = frozenset({
    "sys", "os", "builtins", "importlib", "subprocess", "socket", "ctypes", "shutil", "io", "inspect", "gc", "threading", "multiprocessing", "signal",
    "modules", "pickle", "pathlib", "ctypeslib", "f2py", "memmap", "load", "save", "savez", "loadtxt", "savetxt", "genfromtxt", "fromfile", "tofile",
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
    found = list(_forbidden(tree, IMPORTS[kind] | extra, kind))
    if kind == "operation":
        found += _operation(tree, name)
    return found


def _forbidden(tree: ast.AST, allowed: frozenset[str], kind: str) -> Iterator[str]:
    for node in ast.walk(tree):
        at = f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in allowed:
                    yield f"{at}: it imports {alias.name}; {kind} code may import {', '.join(sorted(allowed))}"
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module not in allowed:
                yield f"{at}: it imports from {'.' * node.level}{node.module or ''}; {kind} code may import from {', '.join(sorted(allowed))}"
            for alias in node.names:
                if alias.name in _ATTRIBUTES or alias.name == "*":
                    yield f"{at}: it imports {alias.name} from {node.module}"
        elif isinstance(node, ast.Name) and (node.id in _NAMES or (_dunder(node.id) and node.id != "__name__")):
            yield f"{at}: it uses {node.id}"
        elif isinstance(node, ast.Attribute) and (node.attr in _ATTRIBUTES or _dunder(node.attr)):
            yield f"{at}: it uses .{node.attr}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _dunder(node.name):
            if kind != "backend" or node.name != "__init__":
                yield f"{at}: it defines {node.name}"
        elif isinstance(node, ast.MatchClass):
            yield f"{at}: it matches by class"


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
    for node in tree.body:
        plain = isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.ClassDef)
        if not plain and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield f"line {node.lineno}: a {type(node).__name__} at the module's top; only imports, constants and definitions stand there"
