"""A model that has read one text file, and goes on from the last word it was told as that file would: the smallest language model there is."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from openruntime.ai.checks import asked, check
from openruntime.ai.chunks import collected
from openruntime.contracts.ai import Completion, Delta, Generation, ModelSpec, TextModel, Tokens
from openruntime.contracts.models import ModelInfo
from openruntime.errors import ContextTooLong, InvalidParameter, Unavailable


class MarkovChain(TextModel):
    """Of `spec.options`: `context` words that a prompt may have (1000)."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._context = int(spec.options.get("context", 1000))
        self._after: dict[str, Counter[str]] = {}

    def get_model_info(self) -> ModelInfo:
        return ModelInfo(id=self.spec.id, name=self.spec.name, version=self.spec.version, provider="markov", context_length=self._context)

    async def generate(self, prompt: str, **kwargs: Any) -> str:
        return (await self.complete(asked(prompt, kwargs))).text

    async def complete(self, request: Generation) -> Completion:
        return await collected(self.stream(request), self.spec.id)

    async def count(self, request: Generation) -> int:
        return len(_words(request))

    async def open(self) -> None:
        try:
            words = await asyncio.to_thread(lambda: Path(self.spec.source).read_text(encoding="utf-8").split())
        except OSError as error:
            raise Unavailable(f"{self.spec.source} cannot be read: {error.strerror}") from None
        after: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for word, following in zip(words, words[1:] + words[:1], strict=True):
            after[word][following] += 1
        self._after = dict(after)

    async def close(self) -> None:
        self._after = {}

    def resident(self) -> int:
        return 100 * sum(len(following) for following in self._after.values())

    async def stream(self, request: Generation) -> AsyncIterator[Delta]:
        check(request, images=False)
        if request.tools or request.response_format:
            field = "tools" if request.tools else "response_format"
            raise InvalidParameter("this model writes as it has read, and cannot be held to a form", field=field)
        prompt = _words(request)
        if len(prompt) > self._context:
            raise ContextTooLong(f"the prompt is {len(prompt)} words long; {self.spec.id} can read {self._context}", field="messages")
        if not self._after:
            await self.open()
        chance = random.Random(request.seed)
        word, said, finish = prompt[-1], "", "length"
        most = request.max_tokens or 100
        for number in range(most):
            following = self._after.get(word) or Counter(dict.fromkeys(self._after, 1))
            word = max(following, key=following.__getitem__) if request.temperature == 0 else chance.choices(*zip(*following.items(), strict=True))[0]
            piece = f" {word}" if number else word
            ends = [at for stop in request.stop if (at := (said + piece).find(stop)) >= 0]
            if ends:  # no piece says more than the answer does
                finish = "stop"
                yield Delta((said + piece)[len(said) : min(ends)])
                break
            said += piece
            yield Delta(piece)
            await asyncio.sleep(0)  # where it is cancelled
        yield Delta(finish=finish, usage=Tokens(len(prompt), number + 1))


def _words(request: Generation) -> list[str]:
    texts = [request.prompt or ""] if request.messages is None else [str(message["content"]) for message in request.messages]
    return " ".join(texts).split() or [""]
