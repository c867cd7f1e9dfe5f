"""What `/v1` refuses before a model is asked, and what it says then."""

from typing import Any

import pytest
from msgspec.structs import replace

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidRequest
from openruntime.gateway.openai_messages import messages
from tests.unit.gateway.small_models import CHAT, check_refusal, said


@pytest.fixture
async def gateway(start: Any) -> Any:
    return await start(own_protocol=True)


def with_message(**message: Any) -> dict[str, Any]:
    return said("x", messages=[message])


def with_tool(**function: Any) -> dict[str, Any]:
    return said("x", tools=[{"type": "function", "function": {"name": "f", **function}}])


def with_schema(schema: Any) -> dict[str, Any]:
    return said("x", response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})


SCHEMA = "response_format.json_schema.schema"
CALL = {"name": "f", "arguments": ""}
DEEP: Any = {"type": "string"}
for _ in range(40):
    DEEP = {"type": "array", "items": DEEP}


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    *(
        (CHAT, *case) for case in [
        (said("x", temperature=3), "temperature", "at most 2.0, not 3"),
        (said("x", temperature="hot"), "temperature", "must be a number"),
        (said("x", max_tokens=0), "max_tokens", "at least 1"),
        (said("x", max_tokens=1.5), "max_tokens", "whole number"),
        (said("x", max_tokens=True), "max_tokens", "whole number"),
        (said("x", max_tokens=3, max_completion_tokens=4), "max_tokens", "different"),
        (said("x", top_p=-0.1), "top_p", "at least 0"),
        (said("x", seed=2**70), "seed", ""),
        (said("x", seed=-1), "seed", "at least 0"),
        (said("x", stream="yes"), "stream", "true or false"),
        (said("x", stream_options={"include_usage": True}), "stream_options", "`stream`"),
        (said("x", stream=True, stream_options={"usage": True}), "stream_options.usage", "include_usage"),
        (said("x", stop=[1]), "stop", "a text"),
        (said("x", stop=""), "stop", "empty"),
        (said("x", n=2), "n", "can only be 1"),
        (said("x", n=True), "n", "can only be 1"),
        (said("x", logprobs=True), "logprobs", "not supported"),
        (said("x", top_logprobs=3), "top_logprobs", "not supported"),
        (said("x", logit_bias={"5": 1}), "logit_bias", "not supported"),
        (said("x", modalities=["audio"]), "modalities", "text"),
        (said("x", reasoning_effort="high"), "reasoning_effort", "not supported"),
        (said("x", functions=[{"name": "f"}]), "functions", "`tools`"),
        (said("x", temprature=1), "temprature", "did you mean temperature"),
        (said("x", priority=11), "priority", "at most 10"),
        (said("x", timeout=0), "timeout", "above 0"),
        (said("x", model=5), "model", "a string"),
        (said("x", model="vectors"), "model", "/v1/embeddings"),
        ({"model": "echo"}, "messages", "missing"),
        (said("x", messages="hi"), "messages", "a list"),
        (said("x", messages=[]), "messages", "one message or more"),
        (said("x", messages=["hi"]), "messages[0]", "an object"),
        (with_message(role="king", content="x"), "messages[0].role", "must be one of"),
        (with_message(role=["user"], content="x"), "messages[0].role", "must be one of"),
        (with_message(role="function", content="x"), "messages[0].role", "no longer"),
        (with_message(role="user"), "messages[0].content", "missing"),
        (with_message(role="user", content=5), "messages[0].content", "a text"),
        (with_message(role="user", content=[]), "messages[0].content", "a text"),
        (with_message(role="user", content=[{"type": "text"}]), "messages[0].content[0].text", "a text"),
        (with_message(role="user", content=["x"]), "messages[0].content[0].type", "`text`"),
        (with_message(role="user", content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[0].type", "reads text only"),
        (with_message(role="user", content=[{"type": "input_audio"}]), "messages[0].content[0].type", "reads text only"),
        (with_message(role="assistant"), "messages[0].content", "tool_calls"),
        (with_message(role="assistant", function_call={"name": "f"}), "messages[0].function_call", "tool_calls"),
        (with_message(role="user", content="x", tool_calls=[]), "messages[0].tool_calls", "assistant"),
        (with_message(role="assistant", tool_calls=[{"id": "a"}]), "messages[0].tool_calls[0]", "function"),
        (with_message(role="assistant", tool_calls=[{"id": 1, "function": CALL}]), "messages[0].tool_calls[0].id", "a text"),
        (with_message(role="tool", content="2", tool_call_id="call_9"), "messages[0].tool_call_id", "before it"),
        (with_message(role="user", content="x", name=""), "messages[0].name", "1 to 64"),
        (said("x", tools={}), "tools", "a list"),
        (said("x", tools=[{"type": "file_search"}]), "tools[0].type", "`function`"),
        (said("x", tools=[{"type": "function"}]), "tools[0].function", "`name`"),
        (with_tool(name="a b"), "tools[0].function.name", "letters"),
        (with_tool(description=5), "tools[0].function.description", "a text"),
        (with_tool(parameters=[]), "tools[0].function.parameters", "object"),
        (with_tool(parameters={"type": "string"}), "tools[0].function.parameters", 'type "object"'),
        (with_tool(parameters={"type": "object", "properties": {"a": 5}}), "tools[0].function.parameters.properties.a", "object"),
        (said("x", tools=with_tool()["tools"] * 2), "tools[1].function.name", "another tool"),
        (said("x", tool_choice="required"), "tool_choice", "with `tools`"),
        ({**with_tool(), "tool_choice": "any"}, "tool_choice", "required"),
        ({**with_tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "not among"),
        (said("x", response_format="json"), "response_format", "JSON object"),
        (said("x", response_format={"type": "xml"}), "response_format.type", "json_schema"),
        (said("x", response_format={"type": "json_schema"}), "response_format.json_schema", "`schema`"),
        (with_schema({"type": "text"}), f"{SCHEMA}.type", "string"),
        (with_schema({"type": []}), f"{SCHEMA}.type", "one type"),
        (with_schema({"type": "object", "properties": []}), f"{SCHEMA}.properties", "object of schemas"),
        (with_schema({"type": "object", "required": "a"}), f"{SCHEMA}.required", "names"),
        (with_schema({"properties": {}, "required": ["a"], "additionalProperties": False}), f"{SCHEMA}.required", "nothing could meet"),
        (with_schema({"enum": []}), f"{SCHEMA}.enum", "one value"),
        (with_schema({"minLength": 5, "maxLength": 4}), f"{SCHEMA}.minLength", "nothing could meet"),
        (with_schema({"minItems": -1}), f"{SCHEMA}.minItems", "from 0"),
        (with_schema({"minimum": "a"}), f"{SCHEMA}.minimum", "a number"),
        (with_schema({"anyOf": []}), f"{SCHEMA}.anyOf", "one schema"),
        (with_schema({"$ref": "http://example.com/s"}), f"{SCHEMA}.$ref", "same schema"),
        (with_schema({"$ref": "#/$defs/a"}), f"{SCHEMA}.$ref", "no schema"),
        (with_schema(DEEP), "response_format", "32 levels"),
    ]),
    ("/v1/completions", {"model": "echo"}, "prompt", "missing"),
    ("/v1/completions", {"model": "echo", "prompt": [1, 2]}, "prompt", "not tokens"),
    ("/v1/completions", {"model": "echo", "prompt": ["a", "b"]}, "prompt", "one by one"),
    ("/v1/completions", {"model": "echo", "prompt": "x", "suffix": "y"}, "suffix", "not supported"),
    ("/v1/completions", {"model": "echo", "prompt": "x", "echo": True}, "echo", "not supported"),
    ("/v1/completions", {"model": "echo", "prompt": "x", "best_of": 2}, "best_of", "can only be 1"),
    ("/v1/completions", {"model": "echo", "prompt": "x", "messages": []}, "messages", "not a field"),
    ("/v1/embeddings", {"model": "echo", "input": "x"}, "model", "/v1/chat/completions"),
    ("/v1/embeddings", {"model": "vectors", "input": []}, "input", "1 to 2048"),
    ("/v1/embeddings", {"model": "vectors", "input": ["x"] * 2049}, "input", "1 to 2048"),
    ("/v1/embeddings", {"model": "vectors", "input": ""}, "input", "not empty"),
    ("/v1/embeddings", {"model": "vectors", "input": ["x", ""]}, "input[1]", "not empty"),
    ("/v1/embeddings", {"model": "vectors", "input": [1, 2]}, "input", "not tokens"),
    ("/v1/embeddings", {"model": "vectors", "input": [[1, 2]]}, "input", "check_embedding_ctx_length"),
    ("/v1/embeddings", {"model": "vectors", "input": "x", "dimensions": 64}, "dimensions", "cannot be chosen"),
    ("/v1/embeddings", {"model": "vectors", "input": "x", "encoding_format": "hex"}, "encoding_format", "base64"),
]  # fmt: skip


SEES = ModelSpec(name="eyes", adapter="openai", source="http://127.0.0.1:9/v1")
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("url", [PIXEL, "https://example.com/a.png", "http://127.0.0.1:9/b.jpg"])
def test_images_are_handed_on_as_they_are(url: str) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    assert messages([{"role": "user", "content": parts}], SEES) == [{"role": "user", "content": parts}]


def test_parts_that_are_all_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert messages([{"role": "user", "content": parts}], SEES) == [{"role": "user", "content": "one\ntwo"}]


@pytest.mark.parametrize(
    ("part", "field", "says"),
    [
        ({"image_url": {"url": "file:///etc/passwd"}}, "image_url", "https://"),
        ({"image_url": {"url": "data:text/html;base64,AAAA"}}, "image_url", "data:image/"),
        ({"image_url": {"url": "data:image/png;base64,"}}, "image_url", "data:image/"),
        ({"image_url": {"url": 7}}, "image_url", "url"),
        ({"image_url": PIXEL}, "image_url", "url"),
        ({}, "image_url", "url"),
        ({"image_url": {"url": PIXEL, "detail": 7}}, "image_url", "detail"),
        ({"type": "input_audio"}, "type", "text and images only"),
        ({"type": "picture"}, "type", "`image_url`"),
    ],
    ids=str,
)
def test_what_is_no_image(part: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        messages([{"role": "user", "content": [{"type": "image_url", **part}]}], SEES)
    assert caught.value.field == f"messages[0].content[0].{field}"


@pytest.mark.parametrize("spec", [replace(SEES, options={"images": False}), replace(SEES, adapter="llamacpp")], ids=["said so", "llama.cpp"])
def test_a_model_that_reads_text_only_is_sent_no_image(spec: ModelSpec) -> None:
    with pytest.raises(InvalidRequest, match="reads text only"):
        messages([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}], spec)


async def test_bad_requests(gateway: Any) -> None:
    for path, body, param, says in BAD:
        check_refusal(await gateway.client.post(path, json=body), 400, "invalid_request", param, says)
    assert gateway.models.asked == []


UNREADABLE = [
    (b"", "it is empty"), (b"{", "not JSON"), (b"[]", "JSON object"), (b"5", "JSON object"), (b'{"model": "echo", "messages": [{]}', "not JSON"),
    (b'{"model": "\xff"}', "UTF-8"), (b'{"model": NaN}', "not JSON"), (b"[" * 200_000, "too deeply"), (b'{"messages":' * 50_000, "too deeply"),
    (b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
]  # fmt: skip


async def test_bodies_that_cannot_be_read(gateway: Any) -> None:
    for content, says in UNREADABLE:
        answer = await gateway.client.post(CHAT, content=content, headers={"content-type": "application/json"})
        check_refusal(answer, 400, "invalid_request", None, says)
