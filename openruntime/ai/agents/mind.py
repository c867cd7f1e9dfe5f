"""How a model uses a role's tools: pydantic-ai's agent loop over the models of the repository."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic_ai import Agent, UsageLimits
from pydantic_ai import Tool as AgentTool
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from openruntime.ai.agents.run import Run
from openruntime.ai.agents.sessions import Recalled
from openruntime.ai.agents.writing import ModelWriter, formatted
from openruntime.contracts.agents import Tool
from openruntime.contracts.ai import Generation, Tokens
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed

TURNS = 25  # times that a model is asked in one run
TRIES = 3  # for arguments that do not fit


class RepositoryModel(Model):
    """A model of the repository, for pydantic-ai: every request is a task of the agent's."""

    def __init__(self, writer: ModelWriter) -> None:
        super().__init__(profile=ModelProfile(supports_json_schema_output=True, supports_json_object_output=True, supports_image_input=False))
        self._writer = writer

    @property
    def model_name(self) -> str:
        return self._writer.name

    @property
    def system(self) -> str:
        return "openruntime"

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None, model_request_parameters: ModelRequestParameters
    ) -> ModelResponse:
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        tools = [*parameters.declared_function_tools, *parameters.output_tools]
        form = parameters.output_object if parameters.output_mode == "native" else None
        answer = await self._writer.complete(
            Generation(
                messages=list(plain(messages)),
                max_tokens=(settings or {}).get("max_tokens"),
                tools=[_function(tool) for tool in tools],
                tool_choice="required" if tools and not parameters.allow_text_output else None,
                response_format=formatted(form.json_schema) if form is not None else None,
            ),
            aloud=form is None and self._writer.aloud,
        )
        parts: list[TextPart | ToolCallPart] = [TextPart(answer.text)] if answer.text else []
        parts += [ToolCallPart(call["function"]["name"], call["function"]["arguments"] or "{}", call["id"] or f"call_{i}")
                  for i, call in enumerate(answer.tool_calls)]  # fmt: skip
        usage = RequestUsage(input_tokens=answer.usage.prompt, output_tokens=answer.usage.completion, cache_read_tokens=answer.usage.cached)
        return ModelResponse(parts=parts, usage=usage, model_name=self._writer.name)


class Counted(WrapperModel):
    """A model that is none of the repository's (a script in tests), its tokens counted like theirs."""

    def __init__(self, wrapped: Model, run: Run) -> None:
        super().__init__(wrapped)
        self._run = run

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None, model_request_parameters: ModelRequestParameters
    ) -> ModelResponse:
        self._run.meter.request()
        answer = await super().request(messages, model_settings, model_request_parameters)
        self._run.meter.tokens(Tokens(answer.usage.input_tokens, answer.usage.output_tokens))
        for part in answer.parts:
            if isinstance(part, TextPart) and self._run.role.words is None:
                self._run.feed.say(part.content)
        return answer


async def converse(run: Run, prompt: str, model: Any = None) -> str:
    """What the run's model says in the end, having used its role's tools. `model`: pydantic-ai's, in place of the run's writer."""
    assert model is not None or isinstance(run.writer, ModelWriter)
    asked = Counted(model, run) if model is not None else RepositoryModel(run.writer)  # type: ignore[arg-type]
    agent: Agent[None, str] = Agent(
        asked, name=run.role.name, tools=[AgentTool(wrapped(run, tool), takes_ctx=False, max_retries=TRIES) for tool in run.role.tools],
        model_settings=ModelSettings(max_tokens=run.request.max_tokens, temperature=run.request.temperature),
    )  # fmt: skip
    try:
        answer = await agent.run(prompt, message_history=remembered(run.role.prompt, run.recalled), usage_limits=UsageLimits(request_limit=TURNS))
    except AgentRunError as error:
        raise OperationFailed(f"the model went astray: {error}") from error
    return answer.output


def _function(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters_json_schema}
    return {"type": "function", "function": function}


def wrapped(run: Run, tool: Tool) -> Callable[..., Any]:
    """The tool as a model calls it: without its context; a refusal or failure is its answer."""

    async def use(**arguments: Any) -> Any:
        try:
            return msgspec.to_builtins(await run.use(tool, arguments, by="model"), enc_hook=str)
        except OpenRuntimeError as error:
            return {"error": {"code": error.code, "detail": error.message}}

    signature = inspect.signature(tool, eval_str=True)
    parameters = list(signature.parameters.values())[1:]
    use.__name__, use.__doc__ = tool.__name__, tool.__doc__
    use.__signature__ = signature.replace(parameters=parameters, return_annotation=Any)  # type: ignore[attr-defined]
    use.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return use


def remembered(system: str, recalled: Recalled) -> list[ModelMessage]:
    """A session as pydantic-ai has it, below the role's prompt."""
    earlier = f"\n\nEarlier in this conversation, shortened:\n{recalled.summary}" if recalled.summary else ""
    found: list[ModelMessage] = [ModelRequest(parts=[SystemPromptPart(system + earlier)])]
    for message in recalled.messages:
        text = str(message["content"])
        found.append(ModelResponse(parts=[TextPart(text)]) if message["role"] == "assistant" else ModelRequest(parts=[UserPromptPart(text)]))
    return found


def plain(messages: Sequence[ModelMessage]) -> Sequence[dict[str, Any]]:
    """pydantic-ai's messages as OpenAI's API has them."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            text = "".join(part.content for part in message.parts if isinstance(part, TextPart))
            calls = [
                {"id": part.tool_call_id, "type": "function", "function": {"name": part.tool_name, "arguments": part.args_as_json_str()}}
                for part in message.parts if isinstance(part, ToolCallPart)
            ]  # fmt: skip
            found.append({"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})})
            continue
        for part in message.parts:
            match part:
                case SystemPromptPart():
                    found.append({"role": "system", "content": part.content})
                case UserPromptPart():
                    found.append({"role": "user", "content": part.content if isinstance(part.content, str) else str(part.content)})
                case ToolReturnPart():
                    found.append({"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response_str()})
                case RetryPromptPart() if part.tool_name is not None:
                    found.append({"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response()})
                case RetryPromptPart():
                    found.append({"role": "user", "content": part.model_response()})
                case _:  # what newer versions of the library bring: said as it says it
                    found.append({"role": "user", "content": str(getattr(part, "content", part))})
    return found
