"""Models for tests, and how they are asked: adapters that do what they are told (`tests/plugin/vocal.py`)."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.ai import Completion, Delta, ModelSpec, answer_of
from openruntime.contracts.errors import ModelNotFound
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.records import Task
from openruntime.core.runtime import Runtime

PLUGIN = str(Path(__file__).parents[1] / "plugin")
GIB = 1 << 30


class Few:
    """Implements `Models`: what a test says."""

    def __init__(self, *specs: ModelSpec, **aliases: str) -> None:
        self.specs = {spec.id: spec for spec in specs}
        self.now = aliases

    def list(self) -> Sequence[ModelSpec]:
        return list(self.specs.values())

    def aliases(self) -> Mapping[str, str]:
        return {spec.name: spec.id for spec in self.specs.values()} | self.now

    def resolve(self, name: str) -> ModelSpec:
        spec = self.specs.get(self.aliases().get(name, name))
        if spec is None:
            raise ModelNotFound(f"there is no model {name}", field="model")
        return spec

    def default(self, kind: str = "chat") -> ModelSpec:
        return next(spec for spec in self.specs.values() if spec.kind == kind)

    async def verify(self, spec: ModelSpec) -> None:
        pass


def few() -> Few:
    return Few(
        ModelSpec(name="echo", adapter="vocal", source="/weights/echo", digest="aa", size=GIB, parallel=3, license="MIT"),
        ModelSpec(name="mute", adapter="quiet", source="http://127.0.0.1:9/v1", upstream="mute-large", parallel=2),
        ModelSpec(name="numbers", adapter="vocal-embeddings", source="/weights/numbers", kind="embedding"),
        ModelSpec(name="slow", adapter="vocal", source="/weights/slow", options={"load": 0.3}),
        ModelSpec(name="gone", adapter="vocal", source="/weights/gone", options={"refuse": "no key; set OPENAI_API_KEY"}),
        ModelSpec(name="unmade", adapter="openai-of-tomorrow"),
        ModelSpec(name="sum", adapter="vocal", source="/weights/sum"),
        production="echo:1",
    )


def ask(
    model: str,
    prompt: str | None = None,
    /,
    *,
    priority: int = 5,
    device: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    **more: Any,
) -> TaskRequest:
    parameters = more if prompt is None else {"prompt": prompt, **more}
    return TaskRequest(operation=model, parameters=parameters, priority=priority, device_preference=device, timeout=timeout, max_retries=retries)


async def answer(runtime: Runtime, task: Task, seconds: float = 10.0) -> Completion:
    assert await runtime.tasks.wait(task, seconds)
    outputs = (await runtime.tasks.result(task.id)).outputs
    assert outputs is not None
    return msgspec.json.decode(answer_of(outputs), type=Completion)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, f"not within {seconds} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def pieces(runtime: Runtime, task: Task) -> list[Delta]:
    return [piece async for piece in runtime.streams.follow(task)]
