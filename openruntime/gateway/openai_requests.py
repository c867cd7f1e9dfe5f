"""Requests in OpenAI's form, checked. What does not change the answer is taken and left aside; what would, and is not done here, is refused."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openruntime.contracts.ai import Generation, ModelSpec
from openruntime.contracts.errors import InvalidRequest
from openruntime.contracts.payload import Buffer
from openruntime.gateway import openai_messages as checked
from openruntime.gateway.errors import invalid
from openruntime.gateway.openai_messages import wrong
from openruntime.gateway.requests import parse_json

TEXTS = 2048  # of one request for embeddings
_INTEGER = 2**63 - 1
Ignored = Annotated[Any, Field(description="Taken, and without effect here.", json_schema_extra={"type": ["string", "object", "boolean", "null"]})]

# fields that are known and not done here: what they may be nevertheless, and what to do instead
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "can only be 1: send the request again for another answer, with another `seed`"),
    "best_of": ((1,), "can only be 1"),
    "logprobs": ((False,), "is not supported: models here do not tell their probabilities; leave it out"),
    "top_logprobs": ((0,), "is not supported: models here do not tell their probabilities; leave it out"),
    "logit_bias": (({},), "is not supported: leave it out"),
    "modalities": ((["text"],), 'can only be ["text"]'),
    "audio": ((), "is not supported: answers are text"),
    "reasoning_effort": (("none",), "is not supported: leave it out"),
    "web_search_options": ((), "is not supported: models here do not search the web; offer a tool that does"),
    "functions": (([],), "is no longer in use; offer `tools`"),
    "function_call": (("none",), "is no longer in use; say `tool_choice`"),
    "echo": ((False,), "is not supported: the answer is what follows the prompt"),
    "suffix": (("",), "is not supported: the answer is what follows the prompt"),
}


class Common(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = Field(
        None, description="`NAME`, `NAME:VERSION` or an alias; the server's default without it.", examples=["smollm2-135m-instruct"]
    )
    priority: int | None = Field(
        None, ge=1, le=10, description="OpenRuntime's own: 10 runs first; 5 unless said. The header `X-Priority` says the same."
    )
    timeout: float | None = Field(None, gt=0, le=_INTEGER, description="OpenRuntime's own: seconds after which it is given up.")
    user: Ignored = None


class Written(Common):
    """What a chat and a completion have in common."""

    max_tokens: int | None = Field(None, ge=1, le=1 << 30, description="Tokens of the answer at most.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is the likeliest answer, and the same each time.")
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, le=_INTEGER, description="The same seed and request give the same answer.")
    stop: Annotated[
        Any, Field(json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    ] = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    stream: bool | None = Field(None, description="Answer in pieces as they are made: server-sent events, the last of them `[DONE]`.")
    stream_options: dict[str, Any] | None = Field(None, description="`include_usage`: a last piece with the usage.")
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None


class ChatRequest(Written):
    """A chat, as OpenAI's API has it: `POST /v1/chat/completions`."""

    messages: list[Any] = Field(
        description="Each with `role` (system, developer, user, assistant, tool) and `content`: a text, or parts with a `type` each.",
        examples=[[{"role": "user", "content": "What is a kernel?"}]],
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 30, description="The newer name of `max_tokens`.")
    response_format: dict[str, Any] | None = Field(
        None, description='{"type": "text" | "json_object" | "json_schema", "json_schema": {"name", "schema"}}'
    )
    tools: list[Any] | None = Field(None, description="Functions that the model may ask to be called.")
    tool_choice: Annotated[Any, Field(json_schema_extra={"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]})] = None
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call an answer.")
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    verbosity: Ignored = None


class CompletionRequest(Written):
    """A text to be continued, as OpenAI's API has it: `POST /v1/completions`."""

    prompt: Annotated[Any, Field(description="A text, or a list of one.", json_schema_extra={"type": ["string", "array"]})]


class EmbeddingRequest(Common):
    """Texts to be turned into vectors, as OpenAI's API has it: `POST /v1/embeddings`."""

    input: Annotated[Any, Field(description=f"A text, or a list of at most {TEXTS}.", json_schema_extra={"type": ["string", "array"]})]
    encoding_format: Literal["float", "base64"] | None = Field(None, description="`base64`: float32, little-endian. `float` unless said.")
    dimensions: int | None = Field(None, ge=1, le=_INTEGER, description="Only the number that the model has.")


class Asked(NamedTuple):
    """A checked request, and how it is to be answered."""

    request: Generation | list[str]
    priority: int = 5
    timeout: float | None = None
    stream: bool = False
    usage: bool = False  # a piece with it at the end of the stream
    one_call: bool = False
    base64: bool = False


_Request = TypeVar("_Request", bound=Common)
_Resolve = Callable[[str | None], ModelSpec]


def _read(body: Buffer, schema: type[_Request]) -> _Request:
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object")
    for name in document.keys() & _REFUSED.keys():
        allowed, why = _REFUSED[name]
        value = document.pop(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise wrong(name, why)
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise invalid(error, schema.model_fields) from None


def _priority(asked: Common, header: bytes | None) -> int:
    if asked.priority is not None:
        return asked.priority
    if header is None:
        return 5
    if not header.isdigit() or not 1 <= int(header[:4]) <= 10:
        raise InvalidRequest("the header `X-Priority` must be a whole number from 1 to 10", field="X-Priority")
    return int(header)


def _limit(asked: ChatRequest) -> int | None:
    old, new = asked.max_tokens, asked.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise wrong("max_tokens", "and `max_completion_tokens` say different things; send one of them")
    return old if new is None else new


def _streamed(asked: Written) -> tuple[bool, bool]:
    """Whether in pieces, and whether with the usage."""
    options = asked.stream_options
    if options is None:
        return bool(asked.stream), False
    if not asked.stream:
        raise wrong("stream_options", "is only possible with `stream`")
    for name, value in options.items():
        if name not in ("include_usage", "include_obfuscation") or type(value) is not bool:
            raise wrong(f"stream_options.{name[:60]}", "is not known: `include_usage` can be true or false")
    return True, options.get("include_usage", False)


def chat(body: Buffer, resolve: _Resolve, header: bytes | None = None) -> tuple[ModelSpec, Asked]:
    asked = _read(body, ChatRequest)
    spec = _model(asked, resolve, "chat")
    offered = checked.tools(asked.tools)
    request = Generation(
        messages=checked.messages(asked.messages, spec),
        max_tokens=_limit(asked),
        response_format=checked.response_format(asked.response_format),
        tools=offered,
        tool_choice=checked.tool_choice(asked.tool_choice, offered),
        parallel_tool_calls=asked.parallel_tool_calls if offered else None,
        **_sampling(asked),
    )
    stream, usage = _streamed(asked)
    return spec, Asked(request, _priority(asked, header), asked.timeout, stream, usage, asked.parallel_tool_calls is False)


def completion(body: Buffer, resolve: _Resolve, header: bytes | None = None) -> tuple[ModelSpec, Asked]:
    asked = _read(body, CompletionRequest)
    spec = _model(asked, resolve, "chat")
    prompt = asked.prompt
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        tokens = isinstance(prompt, int) or (isinstance(prompt, list) and any(isinstance(item, int | list) for item in prompt))
        raise wrong("prompt", "must be a text, not tokens: each model counts in its own" if tokens else "must be one text; send others one by one")
    request = Generation(prompt=prompt, max_tokens=asked.max_tokens, **_sampling(asked))
    stream, usage = _streamed(asked)
    return spec, Asked(request, _priority(asked, header), asked.timeout, stream, usage)


def embedding(body: Buffer, resolve: _Resolve, header: bytes | None = None) -> tuple[ModelSpec, Asked]:
    asked = _read(body, EmbeddingRequest)
    spec = _model(asked, resolve, "embedding")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not isinstance(texts, list) or not 1 <= len(texts) <= TEXTS:
        raise wrong("input", f"must be a text, or a list of 1 to {TEXTS}")
    if any(isinstance(text, int | list) for text in texts):
        raise wrong("input", "must be text, not tokens: each model counts in its own (LangChain: `check_embedding_ctx_length=False`)")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise wrong("input" if isinstance(asked.input, str) else f"input[{index}]", "must be a text that is not empty")
    if asked.dimensions is not None and asked.dimensions != spec.options.get("dimensions"):
        raise wrong("dimensions", f"cannot be chosen: the model {spec.id} has its own; leave it out")
    return spec, Asked(texts, _priority(asked, header), asked.timeout, base64=asked.encoding_format == "base64")


def _sampling(asked: Written) -> dict[str, Any]:
    return {
        "temperature": asked.temperature, "top_p": asked.top_p, "seed": asked.seed, "stop": checked.stops(asked.stop),
        "frequency_penalty": asked.frequency_penalty, "presence_penalty": asked.presence_penalty,
    }  # fmt: skip


def _model(asked: Common, resolve: _Resolve, kind: str) -> ModelSpec:
    spec = resolve(asked.model)
    if spec.kind != kind:
        where = "/v1/embeddings" if spec.kind == "embedding" else "/v1/chat/completions"
        raise wrong("model", f"names {spec.id}, which is a model for {where}")
    return spec
