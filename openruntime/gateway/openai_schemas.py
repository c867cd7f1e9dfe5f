"""Whether a JSON Schema that a client sent is one, before a model is held to it."""

from collections.abc import Sequence
from typing import Any

from openruntime.contracts.errors import InvalidRequest

DEEPEST = 32  # levels; engines turn schemas into grammars by recursion
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")  # objects of schemas
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "not", "additionalProperties", "if", "then", "else", "contains", "propertyNames")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def check_schema(schema: Any, field: str, root: Any = None, depth: int = 0) -> None:
    """Raises `InvalidRequest` that names the place. Keywords that are not known here are left to the model's engine."""
    if schema is True or schema is False:
        return
    if not isinstance(schema, dict):
        raise _wrong(field, "must be a JSON Schema, which is an object")
    if depth > DEEPEST:
        raise InvalidRequest(f"`{field.partition('.')[0]}` holds a schema nested more than {DEEPEST} levels deep", field=field.partition(".")[0])
    root = schema if root is None else root
    _check_keywords(schema, field, root)
    for name in _NAMED:
        if name in schema:
            if not isinstance(schema[name], dict):
                raise _wrong(f"{field}.{name}", "must be an object of schemas")
            for key, inner in schema[name].items():
                check_schema(inner, f"{field}.{name}.{key}", root, depth + 1)
    for name in _LISTED:
        if name in schema:
            if not isinstance(schema[name], list) or not schema[name]:
                raise _wrong(f"{field}.{name}", "must be a list of one schema or more")
            for index, inner in enumerate(schema[name]):
                check_schema(inner, f"{field}.{name}[{index}]", root, depth + 1)
    for name in _SINGLE:
        if name in schema:
            check_schema(schema[name], f"{field}.{name}", root, depth + 1)


def _check_keywords(schema: dict[str, Any], field: str, root: Any) -> None:
    kinds = schema.get("type")
    for kind in [kinds] if not isinstance(kinds, list) else kinds:
        if kind is not None and kind not in _TYPES:
            raise _wrong(f"{field}.type", f"must be one of {', '.join(_TYPES)}")
    if kinds == []:
        raise _wrong(f"{field}.type", "must name one type or more")
    required = schema.get("required", [])
    if not _texts(required):
        raise _wrong(f"{field}.required", "must be a list of names")
    known = schema.get("properties")
    if schema.get("additionalProperties") is False and isinstance(known, dict) and (lost := [name for name in required if name not in known]):
        raise _wrong(f"{field}.required", f"asks for {lost[0]!r}, which is not among the properties: nothing could meet that")
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        raise _wrong(f"{field}.enum", "must be a list of one value or more")
    for name in _COUNTS:
        if name in schema and (type(schema[name]) is not int or schema[name] < 0):
            raise _wrong(f"{field}.{name}", "must be a whole number from 0 on")
    for name in _NUMBERS:
        if name in schema and type(schema[name]) not in (int, float):
            raise _wrong(f"{field}.{name}", "must be a number")
    for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        if low in schema and high in schema and schema[low] > schema[high]:
            raise _wrong(f"{field}.{low}", f"is above `{high}`: nothing could meet that")
    if not isinstance(schema.get("pattern", ""), str):
        raise _wrong(f"{field}.pattern", "must be a text")
    if "$ref" in schema:
        _check_reference(schema["$ref"], f"{field}.$ref", root)


def _check_reference(reference: Any, field: str, root: Any) -> None:
    """Only into the same document: nothing is fetched from elsewhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise _wrong(field, "must point into the same schema, as `#/$defs/NAME` does")
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise _wrong(field, f"points at {reference[:60]!r}, where there is no schema")


def _texts(found: Any) -> bool:
    return isinstance(found, Sequence) and not isinstance(found, str) and all(isinstance(item, str) for item in found)


def _wrong(field: str, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"`{field[:200]}` {sentence}", field=field[:200])
