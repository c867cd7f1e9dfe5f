"""Types of the operations for editors: `python -m openruntime.cli.stubs` writes `client/operations.pyi` from the catalogue."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from openruntime.operations.catalogue import FAMILIES, OperationCatalogue

TARGET = Path(__file__).parent.parent / "client" / "operations.pyi"
WIDTH = 150

_HEAD = """\
# Made by `python -m openruntime.cli.stubs` from the operation catalogue; change that, not this.
# ruff: noqa: E501, RUF100
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from openruntime.client.arrays import Outputs, Referable

Input = npt.ArrayLike | Referable
Cache = Literal["no-store", "no-cache"] | None

def check_names(operation: str, schema: Mapping[str, Any], given: Iterable[str], options: Iterable[str]) -> None: ...
def unknown(name: str, known: Mapping[str, Any]) -> AttributeError: ...
def arguments(operation: str, schema: Mapping[str, Any], positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]: ...
"""
_OPTIONS = (
    "priority: int = ...", "device: str | None = ...", "timeout: float | None = ...", "max_retries: int = ...",
    "tags: Sequence[str] = ...", "cache: Cache = ...", "traceparent: str | None = ...",
)  # fmt: skip
_JSON = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "None"}


def source() -> str:
    """The stub's text."""
    catalogue = OperationCatalogue()
    entries = [catalogue.describe(name) for names in FAMILIES.values() for name in names]
    parts = [_HEAD]
    for name, prefix, run in (("Operations", "def", "Any"), ("AsyncOperations", "async def", "Coroutine[Any, Any, Any]")):
        parts.append(f"class {name}:\n    def __getattr__(self, name: str) -> Callable[..., {run}]: ...\n")
        parts += [indent(_method(entry, prefix), "    ") for entry in entries]
    return "\n".join(parts)


def _method(entry: Mapping[str, Any], prefix: str) -> str:
    schema = entry["parameters"]
    taken = [f"{name}: {_annotation(given)}{_default(name, given, schema)}" for name, given in schema["properties"].items()]
    rest = schema.get("additionalProperties")
    parameters = ["self", *taken, "*", *_OPTIONS, *([f"**arrays: {_annotation(rest)}"] if rest else [])]
    returns = "Any" if entry["outputs"] == ["output"] else "Outputs"
    doc = entry["doc"].replace("\\", "\\\\")
    body = f'"""{doc}\n"""' if "\n" in doc or len(doc) > WIDTH - 14 else f'"""{doc}"""'
    return f"{prefix} {entry['name']}(\n{''.join(_lines(parameters))}) -> {returns}:\n{indent(body, '    ')}\n"


def _lines(parameters: list[str]) -> Iterator[str]:
    line = "   "
    for parameter in parameters:
        if len(line) + len(parameter) + 2 > WIDTH - 8:
            yield f"{line}\n"
            line = "   "
        line += f" {parameter},"
    yield f"{line}\n"


def _default(name: str, given: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if name in schema["required"]:
        return ""
    value = given.get("default")
    return f" = {tuple(value)!r}" if isinstance(value, list) else f" = {value!r}"


def _annotation(schema: Mapping[str, Any]) -> str:
    if "x-kind" in schema:
        optional = any(option.get("type") == "null" for option in schema["anyOf"])
        kind = "Sequence[Input]" if schema["x-kind"] == "arrays" else "Input"
        return f"{kind} | None" if optional else kind
    options = schema.get("anyOf", [schema])
    return " | ".join(dict.fromkeys(_scalar(option) for option in options))


def _scalar(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"Literal[{', '.join(json.dumps(value) for value in schema['enum'])}]"
    if schema.get("type") == "array":
        items: Mapping[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", [])), {})
        return f"Iterable[{_annotation(items)}]" if items else "Iterable[Any]"
    return _JSON.get(str(schema.get("type")), "Any")


if __name__ == "__main__":
    TARGET.write_text(source())
    print(f"wrote {TARGET}")
