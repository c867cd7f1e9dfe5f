"""Tools for models that were never taught to call any: told in the prompt, and held to by a grammar."""

import json
import uuid
from typing import Any

import msgspec

from openruntime.ai.grammars import HEAD, held, json_grammar, shape_of
from openruntime.contracts.ai import Generation

_TEXT = "/[^{](.|\\n)*/"  # whatever begins with a brace is a call, where no JSON was asked for

_DEFINED = ("$defs", "definitions")


class _Called(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any]


def grammar(request: Generation) -> str | None:
    """What the answer is held to: a call, or where the model may choose a call or what `response_format` says. None where no tool may be called."""
    calls = schemas(request)
    if not calls:
        return None
    definitions: dict[str, Any] = {}
    for call in calls:
        definitions |= call.pop("$defs", {})
    schema = {"anyOf": calls, "$defs": definitions} if len(calls) > 1 else {**calls[0], "$defs": definitions}
    if request.tool_choice not in (None, "auto"):
        return json_grammar(schema)
    shape = shape_of(request.response_format)
    answer = _TEXT if shape is None else f"%json {json.dumps(held(shape))}"
    return f"{HEAD}start: call | answer\nanswer: {answer}\ncall: %json {json.dumps(held(schema))}"


def beginnings(request: Generation) -> list[str]:
    """How a call begins, of each tool that may be called: as the grammar has it, to the letter."""
    return [f'{{"name": "{request.tools[at]["function"]["name"]}", "arguments": ' for at in open_to_call(request)]


def open_to_call(request: Generation) -> list[int]:
    """Which of the tools may be called."""
    choice = request.tool_choice
    only = choice["function"]["name"] if isinstance(choice, dict) else None
    return [at for at, tool in enumerate(request.tools) if choice != "none" and only in (None, tool["function"]["name"])]


def schemas(request: Generation) -> list[dict[str, Any]]:
    """Of each call that may be made: what the tool defines stands at the root, where references look, under names that no other tool has."""
    return [_call(request.tools[at]["function"], at) for at in open_to_call(request)]


def _call(function: dict[str, Any], number: int) -> dict[str, Any]:
    arguments = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
    names = {"#": f"{number}"} | {f"#/{word}/{name}": f"{number}.{name}" for word in _DEFINED for name in arguments.get(word) or ()}
    definitions = {f"{number}.{name}": _renamed(inner, names) for word in _DEFINED for name, inner in (arguments.get(word) or {}).items()}
    own = _renamed({key: value for key, value in arguments.items() if key not in _DEFINED}, names)
    return {
        "type": "object", "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/{number}"}},
        "required": ["name", "arguments"], "additionalProperties": False, "$defs": {**definitions, f"{number}": own},
    }  # fmt: skip


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    if isinstance(schema, dict):
        return {key: f"#/$defs/{names[value]}" if key == "$ref" and value in names else _renamed(value, names) for key, value in schema.items()}
    return [_renamed(each, names) for each in schema] if isinstance(schema, list) else schema


def told(request: Generation) -> list[dict[str, Any]]:
    """The messages as any template takes them: plain texts, the tools in the system's, calls and their results as texts."""
    names: dict[str, str] = {}
    messages: list[dict[str, Any]] = []
    for message in request.messages or []:
        role, text = message["role"], _text(message.get("content"))
        if role == "developer":
            role = "system"
        for call in message.get("tool_calls") or []:
            function = call["function"]
            names[call.get("id", "")] = function["name"]
            text += ("\n" if text else "") + f'{{"name": {json.dumps(function["name"])}, "arguments": {function["arguments"] or "{}"}}}'
        if role == "tool":
            name = names.get(message.get("tool_call_id", ""), message.get("name", ""))
            role, text = "user", f"Result of {name or 'the call'}: {text}"
        messages.append({"role": role, "content": text})
    if request.tools and request.tool_choice != "none":
        tools = "\n".join(json.dumps({k: v for k, v in tool["function"].items() if v and k != "strict"}) for tool in request.tools)
        how = f'You can call these functions:\n{tools}\nTo call one, answer with nothing but {{"name": its name, "arguments": {{...}}}}.'
        if messages and messages[0]["role"] == "system":
            messages[0]["content"] += f"\n\n{how}"
        else:
            messages.insert(0, {"role": "system", "content": how})
    return messages


def _text(content: Any) -> str:
    return "".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def call_of(text: str) -> dict[str, Any] | None:
    """The call that `text` is, as OpenAI has it; None where it is none, as when it was cut off."""
    try:
        found = msgspec.json.decode(text, type=_Called)
    except msgspec.DecodeError:
        return None
    function = {"name": found.name, "arguments": json.dumps(found.arguments)}
    return {"index": 0, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
