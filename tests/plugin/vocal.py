"""Adapters whose models do what the prompt tells them: `say WORD N PAUSE`, `stubborn`, `busy N`, `break`, `defect`, `die`, `long`.

`options` of the spec: `load` seconds, `refuse` to open with that sentence, `bytes` that it takes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from openruntime.contracts.ai import Completion, Delta, EmbeddingModel, Embeddings, Generation, ModelSpec, TextModel, Tokens
from openruntime.contracts.errors import ContextTooLong, OperationFailed, Unavailable, WorkerCrashed
from openruntime.contracts.models import ModelInfo

spoken: list[str] = []  # every word that any of them made, in their order
opened: list[str] = []
closed: list[str] = []
running = 0  # calls under way
busiest = 0
tries: dict[str, int] = {}


class _Small(TextModel):
    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._open = False

    async def generate(self, prompt: str, **kwargs: Any) -> str:
        return (await self.complete(Generation(prompt=prompt))).text

    def get_model_info(self) -> ModelInfo:
        return ModelInfo(id=self.spec.id, name=self.spec.name, version=self.spec.version, provider=self.spec.adapter)

    async def open(self) -> None:
        if reason := self.spec.options.get("refuse"):
            raise Unavailable(reason)
        await asyncio.sleep(self.spec.options.get("load", 0.0))
        opened.append(self.spec.id)
        self._open = True

    async def close(self) -> None:
        if self._open:
            closed.append(self.spec.id)
        self._open = False

    def resident(self) -> int:
        return int(self.spec.options.get("bytes", 0)) if self._open else 0


class Quiet(_Small):
    """Says all at once."""

    async def complete(self, request: Generation) -> Completion:
        pieces = [piece async for piece in self._stream(request)]
        return Completion("".join(piece.text for piece in pieces), pieces[-1].finish or "", pieces[-1].usage or Tokens())

    async def _stream(self, request: Generation) -> AsyncIterator[Delta]:
        global running, busiest
        prompt = request.prompt if request.prompt is not None else (request.messages or [{}])[-1].get("content", "")
        verb, *words = str(prompt).split()
        running += 1
        busiest = max(busiest, running)
        try:
            if verb == "break":
                yield Delta("half")
                raise OperationFailed("the connection broke off")
            if verb == "unfinished":
                yield Delta("half")
                return
            if verb == "defect":
                raise ZeroDivisionError("a secret")
            if verb == "die":
                tries[prompt] = tries.get(prompt, 0) + 1
                if tries[prompt] <= int(words[0]):
                    raise WorkerCrashed("ended by signal SIGSEGV")
                words = ["alive", "1", "0"]
            if verb == "busy":
                tries[prompt] = tries.get(prompt, 0) + 1
                if tries[prompt] <= int(words[0]):
                    raise Unavailable("too many requests", retry_after=0.05)
                words = ["free", "1", "0"]
            if verb == "long":
                raise ContextTooLong("the prompt has 9000 tokens, and 2048 are allowed", field="messages")
            if verb == "stubborn":
                end = time.monotonic() + float(words[0])
                while time.monotonic() < end:
                    try:
                        await asyncio.sleep(0.05)
                    except asyncio.CancelledError:
                        continue
                words = ["late", "1", "0"]
            word, count, pause = words[0], int(words[1]), float(words[2])
            for _ in range(count):
                if pause:
                    await asyncio.sleep(pause)
                spoken.append(word)
                yield Delta(word + " ")
            yield Delta(finish="stop", usage=Tokens(len(prompt.split()), count))
        finally:
            running -= 1


class Vocal(Quiet):
    """Says a word at a time."""

    def stream(self, request: Generation) -> AsyncIterator[Delta]:
        return self._stream(request)


class Numbers(_Small, EmbeddingModel):
    """A text's length, and how many vowels it has."""

    async def complete(self, request: Generation) -> Completion:
        raise OperationFailed("it embeds")

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        vectors = [[float(len(text)), float(sum(text.count(vowel) for vowel in "aeiou"))] for text in texts]
        return Embeddings(vectors, Tokens(sum(len(text.split()) for text in texts)))
