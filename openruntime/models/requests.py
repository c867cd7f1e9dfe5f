"""What a request to a model must look like: types, ranges, and what belongs together. Each refusal names the field."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import isfinite
from typing import Any

import msgspec

from openruntime.contracts.ai import Generation, ModelSpec
from openruntime.contracts.errors import InvalidParameter, nearest
from openruntime.contracts.payload import Array, Reference, Spec

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMATS = ("text", "json_object", "json_schema")
CHOICES = ("none", "auto", "required")
MOST_TEXTS = 2048
MOST_STOPS = 16
MOST_TOOLS = 128
# field -> what it may be at least and at most; temperatures and penalties as in OpenAI's API
RANGES: Mapping[str, tuple[float, float]] = {
    "max_tokens": (1, 1 << 30), "temperature": (0, 2), "top_p": (0, 1), "seed": (0, 2**63 - 1),
    "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2),
}  # fmt: skip
_FIELDS = {field.name: field for field in msgspec.structs.fields(Generation)}
_TOLD = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?").fullmatch

_IMAGE = re.compile(r"https?://[^\s/]|data:image/[\w.+-]{1,40};base64,[A-Za-z0-9+/]").match


def sees(spec: ModelSpec) -> bool:
    """Whether images may be sent to it: to models elsewhere, unless their option `images` says no."""
    return spec.adapter == "openai" and bool(spec.options.get("images", True))


def generation(model: str, parameters: Mapping[str, Any], *, images: bool = False) -> Generation:
    """`images`: whether the model may be sent some. Raises `InvalidParameter` naming the field."""
    for name, value in parameters.items():
        if name == "input":
            raise InvalidParameter(f"{model} writes text, and takes `messages` or `prompt`; `input` is for models that embed", field=name)
        if name not in _FIELDS:
            raise InvalidParameter(f"{model} has no parameter `{name}`{nearest(name, _FIELDS)}", field=name)
        if isinstance(value, Array | Reference | Spec):
            raise InvalidParameter(f"`{name}` of {model} is no array: models take text, as JSON", field=name)
    try:
        request = msgspec.convert({name: value for name, value in parameters.items() if value is not None}, Generation)
    except msgspec.ValidationError as error:
        told = _TOLD(str(error))
        where = (told and told["where"]) or ""
        field = re.split(r"[.\[]", where)[0]
        raise InvalidParameter(f"`{where or field}` of {model}: {told and told['what']}", field=field or None) from None
    if (request.messages is None) == (request.prompt is None):
        wrong = "and neither is there" if request.messages is None else "and not both"
        raise InvalidParameter(f"{model} takes `messages`, or else `prompt`, {wrong}", field="messages")
    for name, (least, most) in RANGES.items():
        value = getattr(request, name)
        if value is not None and not (isfinite(value) and least <= value <= most):
            raise InvalidParameter(f"`{name}` must be from {least:g} to {most:g}, not {value!r:.50}", field=name)
    if len(request.stop) > MOST_STOPS or not all(request.stop):
        raise InvalidParameter(f"`stop` must be up to {MOST_STOPS} strings that are not empty", field="stop")
    if request.messages is not None:
        _check_messages(request.messages, ("text", "image_url") if images else ("text",))
    _check_tools(request)
    _check_format(request.response_format)
    return request


def texts(model: str, parameters: Mapping[str, Any]) -> list[str]:
    """Of a request for embeddings. Raises `InvalidParameter` naming the field."""
    for name in parameters:
        if name != "input":
            raise InvalidParameter(f"{model} embeds texts, and takes nothing but `input`, not `{name}`", field=name)
    given = parameters.get("input")
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_TEXTS or not all(isinstance(text, str) and text for text in found):
        raise InvalidParameter(f"`input` of {model} must be a text, or a list of 1 to {MOST_TEXTS} of them, none of them empty", field="input")
    return list(found)


def image_fault(part: Mapping[str, Any]) -> str | None:
    """What is wrong with a part of the type `image_url`. An address is the model's server's to fetch: nothing is fetched from here."""
    image = part.get("image_url")
    if not isinstance(image, Mapping) or not isinstance(image.get("url"), str) or not _IMAGE(image["url"]):
        return 'must be {"url": one that begins with https://, http:// or data:image/TYPE;base64,}'
    return None if isinstance(image.get("detail"), str | None) else "has a `detail` that is no text"


def _check_messages(messages: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> None:
    if not messages:
        raise InvalidParameter("`messages` must not be empty", field="messages")
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        where = f"messages[{index}]"
        if role not in ROLES:
            raise InvalidParameter(f"`{where}.role` must be one of {', '.join(ROLES)}, not {role!r:.50}", field="messages")
        if isinstance(content, list):
            for part in content:
                kind = part.get("type") if isinstance(part, Mapping) else None
                if kind not in kinds:
                    allowed = " and ".join(f"`{each}`" for each in kinds)
                    raise InvalidParameter(f"`{where}.content` may hold parts of the type {allowed} only, not {kind!r:.50}", field="messages")
                if kind == "image_url":
                    if (fault := image_fault(part)) is not None:
                        raise InvalidParameter(f"`image_url` of a part of `{where}.content` {fault}", field="messages")
                elif not isinstance(part.get("text"), str):
                    raise InvalidParameter(f"`{where}.content`: a part's `text` must be a text", field="messages")
        elif not isinstance(content, str) and not (content is None and role == "assistant" and message.get("tool_calls")):
            raise InvalidParameter(f"`{where}.content` must be a text, or a list of parts of the type `text`", field="messages")
        if role == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise InvalidParameter(f"`{where}.tool_call_id` must name the call that this answers", field="messages")


def _check_tools(request: Generation) -> None:
    if len(request.tools) > MOST_TOOLS:
        raise InvalidParameter(f"`tools` may be {MOST_TOOLS} at most, not {len(request.tools)}", field="tools")
    names = []
    for index, tool in enumerate(request.tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping):
            shape = '{"type": "function", "function": {"name", "description", "parameters"}}'
            raise InvalidParameter(f"`tools[{index}]` must be {shape}", field="tools")
        if not isinstance(name := function.get("name"), str) or not re.fullmatch(r"[\w.-]{1,64}", name):
            raise InvalidParameter(f"`tools[{index}].function.name` must be 1 to 64 letters, digits, `_`, `-` or `.`", field="tools")
        if not isinstance(function.get("parameters", {}), Mapping):
            raise InvalidParameter(f"`tools[{index}].function.parameters` must be a JSON schema, which is an object", field="tools")
        names.append(name)
    choice = request.tool_choice
    if isinstance(choice, str) and choice not in CHOICES:
        raise InvalidParameter(f"`tool_choice` must be one of {', '.join(CHOICES)}, or name a function, not {choice!r:.50}", field="tool_choice")
    if choice not in (None, "none", "auto") and not names:
        raise InvalidParameter("`tool_choice` asks for a tool, and `tools` has none", field="tool_choice")
    if isinstance(choice, Mapping):
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, Mapping) else None
        if wanted not in names:
            raise InvalidParameter(f"`tool_choice` names {wanted!r:.70}, and the tools are {', '.join(names)}", field="tool_choice")


def _check_format(wanted: Mapping[str, Any] | None) -> None:
    if wanted is None:
        return
    if wanted.get("type") not in FORMATS:
        raise InvalidParameter(f"`response_format.type` must be one of {', '.join(FORMATS)}, not {wanted.get('type')!r:.50}", field="response_format")
    if wanted["type"] == "json_schema":
        schema = wanted.get("json_schema")
        if not isinstance(schema, Mapping) or not isinstance(schema.get("schema"), Mapping):
            raise InvalidParameter('`response_format.json_schema` must be {"name", "schema": a JSON schema}', field="response_format")


@cache
def generation_schema() -> dict[str, Any]:
    """The JSON schema of `Generation`, with the ranges that are checked here."""
    found = msgspec.json.schema(Generation)
    schema: dict[str, Any] = found["$defs"]["Generation"]
    properties = {name: _plain(of) for name, of in schema["properties"].items()}
    properties = {"prompt": properties.pop("prompt"), **properties}  # what a command line's first word is
    for name, (least, most) in RANGES.items():
        if abs(most) < 1 << 30:
            properties[name] |= {"minimum": least, "maximum": most}
    return {
        "type": "object", "properties": properties, "additionalProperties": False,
        "required": [], "oneOf": [{"required": ["messages"]}, {"required": ["prompt"]}],
    }  # fmt: skip


def _plain(of: dict[str, Any]) -> dict[str, Any]:
    """Without null, which says what leaving it out says."""
    options = [option for option in of.get("anyOf", [of]) if option != {"type": "null"}]
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}


@cache
def embedding_schema() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    listed = {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_TEXTS}
    return {"type": "object", "properties": {"input": {"anyOf": [text, listed]}}, "required": ["input"], "additionalProperties": False}
