"""Sentence embeddings by sentence-transformers, from a folder on this machine, in a process of their own."""

import asyncio
import itertools
import os
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from openruntime.ai.engines.process import Engine, needs
from openruntime.contracts.ai import Completion, EmbeddingModel, Embeddings, Generation, ModelSpec, Tokens
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, OperationFailed, Unavailable
from openruntime.contracts.models import ModelInfo
from openruntime.models.weights import examine

needs("sentence_transformers")  # only the engine imports it: with PyTorch it would be a gigabyte in the gateway

SILENCE = 120.0  # seconds: it says something with every tenth of a second's work
MOST_THREADS = 4
_decoder = msgspec.msgpack.Decoder(tuple[int, bytes, int, int, str | None])


class SentenceEmbeddings(EmbeddingModel):
    """The folder at `spec.source`. Of a text longer than the model reads, the beginning counts, as in the library.

    Of `spec.options`: `threads` (the machine's cores, at most 4), `batch` texts that are computed together at most (64; fewer where they would take
    longer than a tenth of a second), `device` in PyTorch's words (`cpu`), `timeout` seconds that the engine may say nothing (120).
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._path = Path(spec.source)
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[tuple[bytes, int, int]]] = {}
        self._numbers = itertools.count()
        self._hearing: asyncio.Task[None] | None = None
        self._silence = float(spec.options.get("timeout") or SILENCE)
        self._heard = 0.0  # monotonic

    async def generate(self, prompt: str, **kwargs: Any) -> str:
        raise InvalidParameter(f"{self.spec.id} turns texts into vectors; it writes none", field="model")

    async def complete(self, request: Generation) -> Completion:
        raise InvalidParameter(f"{self.spec.id} turns texts into vectors; it writes none", field="model")

    def get_model_info(self) -> ModelInfo:
        spec = self.spec
        return ModelInfo(
            id=spec.id, name=spec.name, version=spec.version, provider="sentence-transformers", context_length=spec.context_length,
            size=spec.size or None, license=spec.license or None,
        )  # fmt: skip

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise InvalidParameter("input is one text or more, none of them empty", field="input")
        engine = await self._opened()
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            engine.send((number, list(texts)))
            await self._watch(engine, answer)
            data, dimensions, tokens = answer.result()
        except asyncio.CancelledError:
            if engine.alive:
                engine.send((number, None))
            raise
        finally:
            self._waiting.pop(number, None)
        flat = array("f", data)
        return Embeddings([flat[at : at + dimensions].tolist() for at in range(0, len(flat), dimensions)], Tokens(tokens), self.spec.id)

    async def open(self) -> None:
        await self._opened()

    async def close(self) -> None:
        async with self._opening:
            engine, self._engine = self._engine, None
            if engine is not None:
                await engine.end()

    @property
    def pid(self) -> int | None:
        """Of its engine's process, while that is up."""
        return self._engine.pid if self._engine is not None and self._engine.alive else None

    def resident(self) -> int:
        return self._engine.memory() if self._engine is not None else 0

    async def _opened(self) -> Engine:
        if self._engine is not None and self._engine.alive:
            return self._engine
        async with self._opening:
            if self._engine is None or not self._engine.alive:
                engine = Engine(
                    "openruntime.ai.engines.embeddings", await asyncio.to_thread(self._settings), threads=self._threads(), name=self.spec.id
                )
                await engine.start()
                self._engine = engine
                self._hearing = asyncio.get_running_loop().create_task(self._hear(engine))
            return self._engine

    def _threads(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return int(self.spec.options.get("threads") or min(cores, MOST_THREADS))

    def _settings(self) -> dict[str, Any]:
        try:
            examine(self._path)
        except InvalidParameter as error:
            raise _lasting(f"{self.spec.id} cannot be loaded: {error.message}") from None
        options = self.spec.options
        return {"path": str(self._path), "batch": int(options.get("batch") or 64), "device": str(options.get("device") or "cpu")}

    async def _watch(self, engine: Engine, answer: asyncio.Future[Any]) -> None:
        """Until there is an answer. Ends the engine where it says nothing for too long: it is stuck, and would be for everybody."""
        began = time.monotonic()
        while not answer.done():
            left = max(began, self._heard) + self._silence - time.monotonic()
            if left <= 0:
                await engine.end()
                raise Unavailable(f"the engine of {self.spec.id} said nothing for {self._silence:g} s, and is ended; it starts again")
            await asyncio.wait((answer,), timeout=left)

    async def _hear(self, engine: Engine) -> None:
        try:
            while True:
                number, data, dimensions, tokens, failure = _decoder.decode(await engine.receive())
                self._heard = time.monotonic()
                answer = self._waiting.get(number)
                if answer is None or answer.done() or failure == "":
                    continue  # nobody waits for it any more, or it goes on
                if failure is None:
                    answer.set_result((data, dimensions, tokens))
                else:
                    answer.set_exception(OperationFailed(f"{self.spec.id} failed: {failure}"))
        except OpenRuntimeError as error:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)


def _lasting(message: str) -> Unavailable:
    error = Unavailable(message)
    error.retryable = False
    return error
