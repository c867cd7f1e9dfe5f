"""`ModelBackend`: turns a call into the adapter's, and what that says into the answer. It computes nothing itself, so it runs in the gateway."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from openruntime.ai.hosting import Hosting, local
from openruntime.contracts.ai import (
    ANSWER,
    REQUIRES,
    SAY,
    TENANT,
    Completion,
    EmbeddingModel,
    Embeddings,
    Generation,
    Models,
    ModelSpec,
    TextModel,
    Tokens,
)
from openruntime.contracts.errors import InvalidParameter, ModelNotFound, OperationFailed
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.payload import Array
from openruntime.contracts.records import LOCAL, Call, Result, Task
from openruntime.tasks.io import Place

FIRST = 1.0  # seconds that a model's call is predicted to take before one did
WEIGHT = 0.2  # of the newest call, in what is predicted

_to_json = msgspec.json.Encoder().encode
_to_answer = msgspec.json.Decoder(Completion).decode


class Counts(msgspec.Struct):
    """What a model's calls have used so far, and the seconds that one takes by now."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    requests: int = 0
    seconds: float = FIRST

    def add(self, usage: Tokens, seconds: float) -> None:
        self.prompt += usage.prompt
        self.completion += usage.completion
        self.cached += usage.cached
        self.seconds += WEIGHT * (seconds - self.seconds)


class ModelBackend(ComputeBackend):
    """Operations are `model:NAME:VERSION`; parameters those of `Generation`, or `input` for embeddings. `shared`: others may have more models."""

    name = "models"

    def __init__(self, models: Models, hosting: Hosting, *, shared: bool = False, accepts: Callable[[str], bool] = lambda device: True) -> None:
        self._models = models
        self._hosting = hosting
        self._shared = shared
        self._accepts = accepts
        self.offered: frozenset[str] | None = None  # what others that share the tasks can serve; None as long as that is not known
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)  # by name, whatever the version

    def get_capabilities(self) -> list[str]:
        return [REQUIRES + spec.id for spec in self._models.list()]

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        spec = self._spec(operation)
        say, tenant = params.pop(SAY, None), params.pop(TENANT, LOCAL.tenant)
        self.counts[spec.name].requests += 1
        host, adapter, loading = await self._hosting.enter(spec, tenant)
        try:
            began = time.monotonic()
            answer = await (_embedded(adapter, params) if spec.kind == "embedding" else _completed(adapter, params, say))
            seconds = time.monotonic() - began
        finally:
            self._hosting.leave(host)
        answer = msgspec.structs.replace(answer, model=spec.id)
        self.counts[spec.name].add(answer.usage, seconds)
        return Result({ANSWER: packed(_to_json(answer))}, seconds, compile=loading)

    async def close(self) -> None:
        await self._hosting.close()

    # -- what the executor asks -----------------------------------------------------------------------------------------------

    def seats(self, ability: str) -> int:
        """Calls at the same time. Of a model that is gone one, which is to be told so, unless another gateway has it."""
        try:
            spec = self._spec(ability)
            return spec.parallel if not local(spec) or self._accepts("cpu:0") else 0
        except ModelNotFound:
            return 0 if self._shared and (self.offered is None or ability in self.offered) else 1

    def place(self, ability: str) -> Place:
        """`io` stands for what is not on this machine. Raises `ModelNotFound`."""
        spec = self._spec(ability)
        where = "a process of its own here" if local(spec) else f"{spec.source or 'its provider'}, over the network"
        at_once = f"up to {spec.parallel} requests at a time" if spec.parallel > 1 else "one request at a time"
        return Place("cpu:0" if local(spec) else "io", spec.adapter, f"the {spec.adapter} adapter asks {spec.id} in {where}, {at_once}")

    def predict(self, call: Call) -> float:
        """Seconds that a call takes, by those before."""
        known = self.counts.get(call.operation)
        return known.seconds if known is not None else FIRST

    def describe(self, device: str) -> list[dict[str, Any]]:
        """The models that this machine has taken up since the start."""
        return [host.describe() for host in self._hosting.list() if host.local] if device == "cpu:0" else []

    def figures(self) -> Mapping[str, Mapping[str, float]]:
        """By name, as `ModelFigures` has it."""
        hosts = self._hosting.list()
        found: dict[str, dict[str, float]] = {}
        for name in {*self.counts, *(host.spec.name for host in hosts)}:
            own, counts = [host for host in hosts if host.spec.name == name], self.counts[name]
            found[name] = {
                "prompt": counts.prompt, "completion": counts.completion, "cached": counts.cached, "requests": counts.requests,
                "running": sum(host.users for host in own), "bytes": sum(host.bytes() for host in own),
            }  # fmt: skip
        return found

    def loads(self) -> Mapping[str, float]:
        return {"loaded": self._hosting.loads, "unloaded": self._hosting.unloads}

    def _spec(self, ability: str) -> ModelSpec:
        return self._models.resolve(ability.removeprefix(REQUIRES))


async def _embedded(adapter: TextModel, params: Mapping[str, Any]) -> Embeddings:
    if not isinstance(adapter, EmbeddingModel):
        raise InvalidParameter(f"{type(adapter).__name__} makes no embeddings", field="input")
    return await adapter.embed(params["input"])


async def _completed(adapter: TextModel, params: Mapping[str, Any], say: Any) -> Completion:
    request = msgspec.convert(dict(params), Generation)
    stream = getattr(adapter, "stream", None)
    if stream is None:
        return await adapter.complete(request)
    text: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    finish: str | None = None
    usage = Tokens()
    async with aclosing(stream(request)) as pieces:
        async for piece in pieces:
            if say is not None:
                say(piece)
            text.append(piece.text)
            for part in piece.tool_calls:
                _join(calls, part)
            finish, usage = piece.finish or finish, piece.usage or usage
    if finish is None:
        raise OperationFailed("the answer broke off before its end")
    return Completion("".join(text), finish, usage, [calls[index] for index in sorted(calls)])


def _join(calls: dict[int, dict[str, Any]], part: Mapping[str, Any]) -> None:
    """Add a piece of a tool call to what came of it before."""
    given = part.get("function") or {}
    known = calls.setdefault(int(part.get("index", len(calls))), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    known["id"] = part.get("id") or known["id"]
    for name in ("name", "arguments"):
        known["function"][name] += given.get(name) or ""


def packed(answer: bytes) -> Array:
    return Array("uint8", (len(answer),), answer)


def kept(task: Task) -> Mapping[str, Array]:
    """What the result cache keeps of a task's outputs: of a model's answer that its next use costs no tokens."""
    outputs = task.outputs or {}
    if not task.call.requires.startswith(REQUIRES) or ANSWER not in outputs or outputs[ANSWER].data is None:
        return outputs
    answer = msgspec.json.decode(outputs[ANSWER].view)
    usage = answer.get("usage") or {}
    return {ANSWER: packed(_to_json(answer | {"usage": usage | {"cached": usage.get("prompt", 0)}}))}
