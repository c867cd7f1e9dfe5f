"""JSON schemas that models are to answer by, looked at before an engine is: what is malformed, and what nothing could meet, is refused by name."""

from collections.abc import Mapping
from typing import Any

from openruntime.contracts.errors import InvalidParameter

DEEPEST = 32  # levels: grammars are read by recursion
MOST_NODES = 2_000  # schemas within a schema
MOST_REPEATS = 2_000  # of `minItems` and the like; grammars unroll them
TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_BOUNDS = (
    ("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"), ("minimum", "maximum"),
)  # fmt: skip
_IN_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_IN_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_IN_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def check_schema(schema: Any, field: str) -> None:
    """Raises `InvalidParameter` naming the place within `field`."""
    _Walk(schema).visit(schema, field, 0)
    _ends(schema, schema, field, (), set())


def _refuse(message: str, field: str) -> None:
    raise InvalidParameter(message, field=field)


def _ends(schema: Any, root: Any, at: str, within: tuple[int, ...], seen: set[int]) -> None:
    """Refuses what requires itself within itself, and so has no end."""
    if not isinstance(schema, dict) or (id(schema) in seen and id(schema) not in within):
        return
    seen.add(id(schema))
    if id(schema) in within:
        _refuse("nothing can meet a schema that requires itself within itself: it has no end", at)
    inner = (*within, id(schema))
    if isinstance(schema.get("$ref"), str):
        _ends(_at(root, schema["$ref"]), root, at, inner, seen)
    properties = schema.get("properties") or {}
    if schema.get("type") == "object":
        for name in schema.get("required", []):
            _ends(properties.get(name), root, f"{at}.properties.{name}", inner, seen)
    if schema.get("type") == "array" and schema.get("minItems"):
        _ends(schema.get("items"), root, f"{at}.items", inner, seen)
    for each in schema.get("allOf", []):
        _ends(each, root, at, inner, seen)
    for word in ("anyOf", "oneOf"):
        if len(schema.get(word, [])) == 1:
            _ends(schema[word][0], root, at, inner, seen)


def _at(root: Any, ref: str) -> Any:
    """What a reference names; None where there is nothing."""
    found = root
    for part in ref.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


class _Walk:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 0

    def visit(self, schema: Any, at: str, depth: int) -> None:
        self._nodes += 1
        if depth > DEEPEST:
            _refuse(f"a schema may be {DEEPEST} levels deep; this one goes on", at)
        if self._nodes > MOST_NODES:
            _refuse(f"a schema may hold {MOST_NODES} schemas; this one holds more", at)
        if schema is False:
            _refuse("no value can meet the schema false", at)
        if schema is True:
            return
        if not isinstance(schema, dict):
            _refuse(f"a JSON schema is an object; this is {schema!r:.80}", at)
        self._types(schema, at)
        self._bounds(schema, at)
        self._values(schema, at)
        self._required(schema, at)
        if "$ref" in schema:
            self._reference(schema["$ref"], f"{at}.$ref")
        for word in _IN_ONE:
            inner = schema.get(word)
            if inner is not None and not (word == "additionalProperties" and isinstance(inner, bool)) and not (word == "items" and inner is False):
                self.visit(inner, f"{at}.{word}", depth + 1)
        for word in _IN_MANY:
            if word in schema:
                inner = schema[word]
                if not isinstance(inner, list) or not inner:
                    _refuse(f"{word} is a list of one or more schemas", f"{at}.{word}")
                for index, each in enumerate(inner):
                    self.visit(each, f"{at}.{word}[{index}]", depth + 1)
        for word in _IN_NAMED:
            if word in schema:
                if not isinstance(schema[word], dict):
                    _refuse(f"{word} is an object of schemas by name", f"{at}.{word}")
                for name, each in schema[word].items():
                    self.visit(each, f"{at}.{word}.{name}", depth + 1)

    def _types(self, schema: Mapping[str, Any], at: str) -> None:
        told = schema.get("type", [])
        if "type" not in schema:
            return
        for kind in told if isinstance(told, list) and told else [told]:
            if not isinstance(kind, str) or kind not in TYPES:
                _refuse(f"a type is one of {', '.join(sorted(TYPES))}; this is {kind!r:.80}", f"{at}.type")

    def _bounds(self, schema: Mapping[str, Any], at: str) -> None:
        for low, high in _BOUNDS:
            counts = low != "minimum"
            for word in (low, high):
                value = schema.get(word)
                if value is None:
                    continue
                if isinstance(value, bool) or not isinstance(value, int if counts else (int, float)) or (counts and value < 0):
                    _refuse(f"{word} is a {'count from 0 on' if counts else 'number'}; this is {value!r:.80}", f"{at}.{word}")
                if counts and value > MOST_REPEATS:
                    _refuse(f"{word} may be at most {MOST_REPEATS}; this is {value}", f"{at}.{word}")
            if schema.get(low) is not None and schema.get(high) is not None and schema[low] > schema[high]:
                _refuse(f"nothing can meet a {low} of {schema[low]} with a {high} of {schema[high]}", f"{at}.{low}")

    def _values(self, schema: Mapping[str, Any], at: str) -> None:
        if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
            _refuse("enum is a list of one or more values; nothing can meet an empty one", f"{at}.enum")
        told = schema.get("type")
        kinds = told if isinstance(told, list) else [told] if told else None
        if kinds is None:
            return
        if "const" in schema and not any(_is(schema["const"], kind) for kind in kinds):
            _refuse(f"nothing can be {schema['const']!r:.80} and of type {' or '.join(kinds)}", f"{at}.const")
        if "enum" in schema and not any(_is(value, kind) for value in schema["enum"] for kind in kinds):
            _refuse(f"no value of enum is of type {' or '.join(kinds)}", f"{at}.enum")

    def _required(self, schema: Mapping[str, Any], at: str) -> None:
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            _refuse("required is a list of properties' names", f"{at}.required")
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False and "patternProperties" not in schema and isinstance(properties, dict):
            for name in required:
                if name not in properties:
                    _refuse(f"nothing can have the required property {name!r:.80} where additionalProperties is false and properties has none", at)

    def _reference(self, ref: Any, at: str) -> None:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _refuse(f"$ref names a place in this schema, such as #/$defs/NAME; this is {ref!r:.80}", at)
        seen: set[str] = set()
        while True:
            if ref in seen:
                _refuse(f"{ref} refers to itself and to nothing else", at)
            seen.add(ref)
            found = _at(self._root, ref)
            if found is None:
                _refuse(f"there is no {ref} in the schema", at)
            if not (isinstance(found, dict) and isinstance(found.get("$ref"), str) and found["$ref"].startswith("#/")):
                return
            ref = found["$ref"]


def _is(value: Any, kind: str) -> bool:
    return {
        "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str), "null": value is None,
        "boolean": isinstance(value, bool), "number": isinstance(value, int | float) and not isinstance(value, bool),
        "integer": not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())),
    }[kind]  # fmt: skip
