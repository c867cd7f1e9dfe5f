"""An operation's JSON Schema as Python writes it: the one spelling of parameters in listings, help and documentation."""

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any

_KINDS = {"array": "array", "arrays": "list of arrays", "number": "array or number"}
_WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "True or False", "null": "None"}


def signature(schema: Mapping[str, Any]) -> Signature:
    """The signature of the operation's method."""
    parameters = []
    optional = named = False
    for name, about in schema["properties"].items():
        required = name in schema["required"]
        named = named or (required and optional)
        optional = optional or not required
        kind = Parameter.KEYWORD_ONLY if named else Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(Parameter(name, kind, default=Parameter.empty if required else default(about)))
    if schema.get("additionalProperties"):
        parameters.append(Parameter("arrays", Parameter.VAR_KEYWORD))
    else:
        parameters.append(Parameter("options", Parameter.VAR_KEYWORD))  # priority, device, timeout, max_retries, tags, cache, traceparent
    return Signature(parameters)


def told(entry: Mapping[str, Any]) -> str:
    """`kmeans(x, k, seed=0)`: what the operation itself takes."""
    shown = [str(one) for one in signature(entry["parameters"]).parameters.values() if one.name != "options" or one.kind is not Parameter.VAR_KEYWORD]
    return f"{entry['name']}({', '.join(shown)})"


def default(about: Mapping[str, Any]) -> Any:
    value = about.get("default")
    return tuple(value) if isinstance(value, list) else value


def kind(about: Mapping[str, Any]) -> str:
    """A parameter's type in words: `array`, `arrays`, `integer, at least 1`, `'sum' or 'mean'`, `integer, integers or None`."""
    if "x-kind" in about:
        optional = any(option.get("type") == "null" for option in about["anyOf"])
        return _KINDS[about["x-kind"]] + (" or None" if optional else "")
    return " or ".join(dict.fromkeys(_word(option) for option in about.get("anyOf", [about])))


def _word(about: Mapping[str, Any]) -> str:
    if "enum" in about:
        return " or ".join(repr(value) for value in about["enum"])
    if about.get("type") == "array":
        items = about.get("prefixItems") or [about.get("items") or {}]
        word = _word(items[0])
        return f"{len(items)} {word}s" if "prefixItems" in about else f"{word}s"
    word = _WORDS.get(str(about.get("type")), "value")
    low, high = about.get("minimum"), about.get("maximum")
    if high is not None and abs(high) >= 2**53:
        high = None
    if "exclusiveMinimum" in about:
        word += f" above {about['exclusiveMinimum']:g}"
    if low is not None and high is not None:
        return f"{word} from {low:g} to {high:g}"
    return f"{word} from {low:g}" if low is not None else f"{word} up to {high:g}" if high is not None else word
