"""What a request for text must be like, whichever model it is for: every refusal names the field, what was wrong and what would be right."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from openruntime.ai.schemas import check_schema
from openruntime.contracts.ai import Generation
from openruntime.contracts.errors import InvalidParameter

MOST_STOPS = 16
MOST_TOOLS = 128
LONGEST_GRAMMAR = 16_384  # characters
ROLES = ("system", "developer", "user", "assistant", "tool")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_RANGES = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "frequency_penalty": (-2.0, 2.0), "presence_penalty": (-2.0, 2.0)}


def asked(prompt: str, fields: Mapping[str, Any]) -> Generation:
    """A person's `prompt` with other fields of a `Generation`. Raises `InvalidParameter`."""
    if not isinstance(prompt, str):
        raise InvalidParameter(f"prompt is a text; this is {prompt!r:.80}", field="prompt")
    return generation({"messages": [{"role": "user", "content": prompt}], **fields})


def generation(fields: Mapping[str, Any]) -> Generation:
    """Raises `InvalidParameter` naming the field."""
    for name in fields:
        if name not in Generation.__struct_fields__:
            raise InvalidParameter(f"there is no field {name!r:.80}; there are {', '.join(Generation.__struct_fields__)}", field=name)
    try:
        return msgspec.convert(fields, Generation)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise InvalidParameter(message, field=place.rstrip("`") or None) from None


def check(request: Generation, *, images: bool = True, grammar: bool = False) -> None:
    """Raises `InvalidParameter`. `images`: whether the model can see them; `grammar`: whether it can be held to one."""
    if (request.messages is None) is (request.prompt is None):
        raise InvalidParameter("give messages or else prompt, one of them", field="messages")
    if request.prompt is not None and (request.tools or request.tool_choice):
        raise InvalidParameter("tools go with messages, not with prompt", field="tools")
    if request.messages is not None:
        _messages(request.messages, images)
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidParameter(f"max_tokens is 1 or more; this is {request.max_tokens}", field="max_tokens")
    for name, (low, high) in _RANGES.items():
        value = getattr(request, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InvalidParameter(f"{name} is a number from {low:g} to {high:g}; this is {value}", field=name)
    if request.seed is not None and not 0 <= request.seed < 1 << 63:
        raise InvalidParameter(f"seed is an integer from 0 to 2^63 - 1; this is {request.seed}", field="seed")
    if len(request.stop) > MOST_STOPS:
        raise InvalidParameter(f"there may be {MOST_STOPS} texts to stop at; these are {len(request.stop)}", field="stop")
    if "" in request.stop:
        raise InvalidParameter("a text to stop at cannot be empty", field=f"stop[{request.stop.index('')}]")
    _format(request.response_format, grammar)
    _tools(request)
    if (request.response_format or {}).get("type") == "grammar" and request.tools and request.tool_choice != "none":
        raise InvalidParameter("a grammar and tools that may be called cannot both be held to; say tool_choice none", field="response_format.type")


def _messages(messages: list[dict[str, Any]], images: bool) -> None:
    if not messages:
        raise InvalidParameter("messages holds one message or more", field="messages")
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise InvalidParameter(f"a role is one of {', '.join(ROLES)}; this is {role!r:.80}", field=f"{at}.role")
        if content is None:
            if not (role == "assistant" and message.get("tool_calls")):
                raise InvalidParameter("a message has content: a text, or a list of parts", field=f"{at}.content")
        elif isinstance(content, list):
            for part, each in enumerate(content):
                _part(each, f"{at}.content[{part}]", images)
        elif not isinstance(content, str):
            raise InvalidParameter(f"content is a text, or a list of parts; this is {content!r:.80}", field=f"{at}.content")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise InvalidParameter(f"tool_calls is a list; this is {calls!r:.80}", field=f"{at}.tool_calls")
        for number, call in enumerate(calls):
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
                raise InvalidParameter(
                    "a call of a tool is {id, type: function, function: {name, arguments}}, arguments a text", field=f"{at}.tool_calls[{number}]"
                )


def _part(part: Any, at: str, images: bool) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return
    if kind == "image_url" and isinstance(part.get("image_url"), dict) and isinstance(part["image_url"].get("url"), str):
        if not images:
            raise InvalidParameter("this model reads text and cannot see images; send text, or ask a model that can", field=at)
        return
    right = "{type: text, text: ...}" + (" or {type: image_url, image_url: {url: ...}}" if images else "; this model reads only text")
    raise InvalidParameter(f"a part of a message is {right}; this is {part!r:.80}", field=at)


def _format(told: dict[str, Any] | None, grammar: bool) -> None:
    if told is None or told.get("type") in ("text", "json_object"):
        return
    kind = told.get("type")
    if kind == "json_schema":
        inner = told.get("json_schema")
        if not isinstance(inner, dict) or "schema" not in inner:
            raise InvalidParameter("json_schema is {name, schema}", field="response_format.json_schema")
        return check_schema(inner["schema"], "response_format.json_schema.schema")
    if kind == "grammar" and grammar:
        if not isinstance(told.get("grammar"), str) or not told["grammar"].strip():
            raise InvalidParameter('grammar is a text in GBNF, such as `root ::= "yes" | "no"`', field="response_format.grammar")
        if len(told["grammar"]) > LONGEST_GRAMMAR or told["grammar"].lstrip().startswith("%"):
            raise InvalidParameter(f"grammar is GBNF, of at most {LONGEST_GRAMMAR} characters", field="response_format.grammar")
        return
    kinds = "text, json_object, json_schema" + (", grammar" if grammar else "")
    raise InvalidParameter(f"a response_format's type is one of {kinds}; this is {kind!r:.80}", field="response_format.type")


def _tools(request: Generation) -> None:
    if len(request.tools) > MOST_TOOLS:
        raise InvalidParameter(f"there may be {MOST_TOOLS} tools; these are {len(request.tools)}", field="tools")
    names: list[str] = []
    for index, tool in enumerate(request.tools):
        at = f"tools[{index}]"
        if tool.get("type", "function") != "function":
            raise InvalidParameter(f"a tool's type is function; this is {tool['type']!r:.80}", field=f"{at}.type")
        function = tool.get("function")
        if not isinstance(function, dict):
            raise InvalidParameter("a tool is {type: function, function: {name, description, parameters}}", field=f"{at}.function")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidParameter(f"a tool's name is 1 to 64 of letters, digits, _ and -; this is {name!r:.80}", field=f"{at}.function.name")
        if name in names:
            raise InvalidParameter(f"two tools are called {name}", field=f"{at}.function.name")
        names.append(name)
        if function.get("description") is not None and not isinstance(function["description"], str):
            raise InvalidParameter("a tool's description is a text", field=f"{at}.function.description")
        parameters = function.get("parameters")
        if parameters is not None:
            check_schema(parameters, f"{at}.function.parameters")
            if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
                raise InvalidParameter("a tool's parameters are a schema of type object", field=f"{at}.function.parameters.type")
    choice = request.tool_choice
    if choice is None or choice in ("none", "auto"):
        return
    if not names:
        raise InvalidParameter("tool_choice needs tools", field="tool_choice")
    if choice == "required":
        return
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidParameter(
            f"tool_choice is none, auto, required or {{type: function, function: {{name}}}}; this is {choice!r:.80}", field="tool_choice"
        )
    if function["name"] not in names:
        raise InvalidParameter(f"there is no tool {function['name']!r:.80}; there are {', '.join(names)}", field="tool_choice.function.name")
