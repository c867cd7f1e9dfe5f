"""What stands in a chat: messages, tools and the answer's form, checked, and brought to the one shape that adapters see."""

import re
from collections.abc import Sequence
from typing import Any

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidRequest
from openruntime.gateway.openai_schemas import check_schema
from openruntime.models.requests import image_fault, sees

_ROLES = ("system", "developer", "user", "assistant", "tool")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_TOOLS = 128


def wrong(field: str, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {sentence}", field=field)


def messages(found: Any, spec: ModelSpec) -> list[dict[str, Any]]:
    """Only what a model is told: `role`, `content` (a text; parts where there are images), `name`, `tool_calls`, `tool_call_id`.

    `developer` is `system`; parts that are all text are one text. What clients send back of an answer besides is left out."""
    if not isinstance(found, list) or not found:
        raise wrong("messages", "must be a list of one message or more")
    made: list[dict[str, Any]] = []
    called: set[str] = set()
    for index, message in enumerate(found):
        field = f"messages[{index}]"
        if not isinstance(message, dict):
            raise wrong(field, "must be an object with `role` and `content`")
        made.append(_message(message, field, spec, called))
    return made


def _message(message: dict[str, Any], field: str, spec: ModelSpec, called: set[str]) -> dict[str, Any]:
    role = message.get("role")
    if role == "function":
        raise wrong(f"{field}.role", "`function` is no longer in use; answer a tool call with the role `tool`")
    if role not in _ROLES:
        raise wrong(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
    made: dict[str, Any] = {"role": "system" if role == "developer" else role}
    for old in ("function_call", "audio"):
        if message.get(old) is not None:
            raise wrong(f"{field}.{old}", "is not supported here" + ("; use `tool_calls`" if old == "function_call" else ""))
    calls = message.get("tool_calls")
    if calls is not None and role != "assistant":
        raise wrong(f"{field}.tool_calls", "can only stand in a message of the assistant")
    if role == "assistant" and calls:
        made["tool_calls"] = _calls(calls, f"{field}.tool_calls", called)
    if role == "tool":
        answered = message.get("tool_call_id")
        if not isinstance(answered, str) or answered not in called:
            raise wrong(f"{field}.tool_call_id", "must be the `id` of a tool call in a message of the assistant before it")
        made["tool_call_id"] = answered
    content = message.get("content")
    if content is None and role != "assistant":
        raise wrong(f"{field}.content", "is missing")
    if content is None and not calls:
        if not isinstance(message.get("refusal"), str):
            raise wrong(f"{field}.content", "is missing; only a message with `tool_calls` can do without")
        content = message["refusal"]
    made["content"] = None if content is None else _content(content, f"{field}.content", spec)
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str) or not 1 <= len(name) <= 64:
            raise wrong(f"{field}.name", "must be a text of 1 to 64 characters")
        made["name"] = name
    return made


def _content(content: Any, field: str, spec: ModelSpec) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong(field, "must be a text, or a list of parts with a `type` each")
    parts = [_part(part, f"{field}[{index}]", spec) for index, part in enumerate(content)]
    return parts if any("text" not in part for part in parts) else "\n".join([part["text"] for part in parts])


def _part(part: Any, field: str, spec: ModelSpec) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        if not isinstance(part.get(kind), str):
            raise wrong(f"{field}.{kind}", "must be a text")
        return {"type": "text", "text": part[kind]}
    if kind == "image_url" and sees(spec):
        if (fault := image_fault(part)) is not None:
            raise wrong(f"{field}.image_url", fault)
        return {"type": kind, "image_url": {key: part[kind][key] for key in ("url", "detail") if part[kind].get(key) is not None}}
    if kind in ("image_url", "input_audio", "file"):
        raise wrong(f"{field}.type", f"`{kind}` cannot be read: the model {spec.id} reads {'text and images' if sees(spec) else 'text'} only")
    raise wrong(f"{field}.type", "must be `text`" + (" or `image_url`" if sees(spec) else ""))


def _calls(calls: Any, field: str, called: set[str]) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise wrong(field, "must be a list of tool calls")
    made = []
    for index, call in enumerate(calls):
        here = f"{field}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise wrong(here, 'must be {"id", "type": "function", "function": {"name", "arguments"}}')
        for name, value in (("id", call.get("id")), ("function.name", function.get("name")), ("function.arguments", function.get("arguments"))):
            if not isinstance(value, str):
                raise wrong(f"{here}.{name}", "must be a text")
        called.add(call["id"])
        made.append({"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": function["arguments"]}})
    return made


def tools(found: Any) -> list[dict[str, Any]]:
    """Functions that the model may call, each with a schema of its arguments."""
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > _TOOLS:
        raise wrong("tools", f"must be a list of at most {_TOOLS} tools")
    made, names = [], set()
    for index, tool in enumerate(found):
        field = f"tools[{index}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise wrong(f"{field}.type", "must be `function`; there are no other tools here")
        function = tool.get("function")
        if not isinstance(function, dict):
            raise wrong(f"{field}.function", "must be an object with `name`, `description` and `parameters`")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME(name):
            raise wrong(f"{field}.function.name", "must have 1 to 64 letters, digits, underscores or dashes")
        if name in names:
            raise wrong(f"{field}.function.name", f"{name!r} is the name of another tool already")
        names.add(name)
        if not isinstance(function.get("description"), str | None):
            raise wrong(f"{field}.function.description", "must be a text")
        parameters = function.get("parameters")
        if parameters is not None:
            check_schema(parameters, f"{field}.function.parameters")
            if parameters is False or (isinstance(parameters, dict) and parameters.get("type", "object") != "object"):
                raise wrong(f"{field}.function.parameters", 'must be a schema of type "object": arguments have names')
        kept = {key: function[key] for key in ("name", "description", "parameters", "strict") if function.get(key) is not None}
        made.append({"type": "function", "function": kept})
    return made


def tool_choice(found: Any, offered: Sequence[dict[str, Any]]) -> str | dict[str, Any] | None:
    if found is None or (not offered and found in ("none", "auto")):
        return None
    if not offered:
        raise wrong("tool_choice", "is only possible with `tools`")
    if found in ("none", "auto", "required"):
        return str(found)
    function = found.get("function") if isinstance(found, dict) and found.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise wrong("tool_choice", 'must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}')
    if all(tool["function"]["name"] != name for tool in offered):
        raise wrong("tool_choice", f"names {name[:64]!r}, which is not among the `tools`")
    return {"type": "function", "function": {"name": name}}


def response_format(found: Any) -> dict[str, Any] | None:
    """None for text, which needs no form."""
    if found is None:
        return None
    kind = found.get("type") if isinstance(found, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    if kind != "json_schema":
        raise wrong("response_format.type", "must be `text`, `json_object` or `json_schema`")
    given = found.get("json_schema")
    if not isinstance(given, dict) or not isinstance(given.get("schema"), dict):
        raise wrong("response_format.json_schema", "must be an object with `name` and `schema`")
    if not isinstance(given.get("name"), str) or not _NAME(given["name"]):
        raise wrong("response_format.json_schema.name", "must have 1 to 64 letters, digits, underscores or dashes")
    check_schema(given["schema"], "response_format.json_schema.schema")
    kept = {key: given[key] for key in ("name", "description", "schema", "strict") if given.get(key) is not None}
    return {"type": kind, "json_schema": kept}


def stops(found: Any) -> list[str]:
    if found is None:
        return []
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or len(texts) > 16 or not all(isinstance(text, str) and text for text in texts):
        raise wrong("stop", "must be a text, or a list of at most 16, none of them empty")
    return texts
