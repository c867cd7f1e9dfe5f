"""Models small enough to read, for the gateway's tests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import msgspec

from openruntime.contracts.ai import ANSWER, Completion, Delta, Embeddings, Generation, ModelSpec, Tokens
from openruntime.contracts.errors import ContextTooLong, ModelNotFound, OperationFailed, QueueFull, Unavailable
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Failure, Life, Task

CHAT = "/v1/chat/completions"


class SmallModels:
    """Models, what they are asked and what they say: the last message's words, or what its first word tells."""

    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks
        self.asked: list[dict[str, Any]] = []
        self.go_on = asyncio.Event()
        self.drained = False
        self.specs = [
            ModelSpec(name="echo", version="1", adapter="small", created=1.0), ModelSpec(name="echo", version="2", adapter="small", digest="ab" * 32),
            ModelSpec(name="vectors", adapter="small", kind="embedding"),
        ]  # fmt: skip

    def list(self) -> list[ModelSpec]:
        return self.specs

    def aliases(self) -> dict[str, str]:
        return {"echo": "echo:2", "production": "echo:1"}

    def resolve(self, name: str) -> ModelSpec:
        meant = self.aliases().get(name, name if ":" in name else f"{name}:1")
        found = next((spec for spec in self.specs if spec.id == meant), None)
        if found is None:
            raise ModelNotFound(f"there is no model {name!r}", field="model")
        return found

    def default(self, kind: str = "chat") -> ModelSpec:
        return self.resolve("echo" if kind == "chat" else "vectors")

    def begins(self, spec: ModelSpec) -> None:
        if self.drained:
            raise Unavailable(f"{spec.id} runs on cpu:0, which is draining", retry_after=30)

    async def submit(self, model: str, request: Generation | Sequence[str], **options: Any) -> Task:
        self.asked.append({"model": model, "request": request, **options})
        if isinstance(request, Generation):
            words = (request.messages[-1]["content"] if request.messages is not None else request.prompt or "").split(" ")
            pieces = [Delta(f"{word} ") for word in words]
            whole: Completion | Embeddings = Completion("".join(piece.text for piece in pieces), "stop", Tokens(3, len(pieces), 1))
            if words[0] == "call":
                call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                whole = Completion("", "tool_calls", Tokens(3, 2), [call, {**call, "id": "call_2"}])
        else:
            words, whole = [""], Embeddings([[0.5, -0.25, float(len(text))] for text in request], Tokens(2))
        if words[0] == "full":
            raise QueueFull("the queue is full", retry_after=2.5)
        if words[0] == "closed":
            raise Unavailable("there is no model; add one")
        task = await self.tasks.submit(TaskRequest(operation="slow", parameters={"words": words}, priority=options["priority"]), promised=False)
        if words[0] not in ("slow", "breaks", "defect", "long"):
            data = msgspec.json.encode(whole)
            task.outputs = {ANSWER: Array("uint8", (len(data),), data)}
            task.life = Life(TaskStatus.COMPLETED, 1)
        if words[0] == "fails":
            task.life, task.failure = Life(TaskStatus.FAILED, 1), Failure("operation_failed", "the engine ended")
        return task

    async def follow(self, task: Task) -> AsyncIterator[Delta]:
        words = task.call.parameters["words"]
        if words[0] == "long":
            raise ContextTooLong("the prompt has 9000 tokens, and the model reads 8192")
        for word in words:
            yield Delta(f"{word} ")
            if word in ("slow", "one"):
                await self.go_on.wait()
            if word == "breaks":
                task.life, task.failure = Life(TaskStatus.FAILED, 1), Failure("operation_failed", "the engine ended")
                raise OperationFailed("the engine ended")
            if word == "defect":
                raise ZeroDivisionError("secret")
        yield Delta(finish="stop", usage=Tokens(3, len(words), 1))


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}


def check_refusal(answer: httpx.Response, status: int, code: str, param: str | None = None, says: str = "") -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    found: dict[str, Any] = answer.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    assert (found["code"], found["param"]) == (code, param), found
    assert says in found["message"], found
    assert found["type"] == ("server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error")
    assert "Traceback" not in answer.text
    return found
