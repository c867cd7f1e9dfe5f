"""What happens in a run, told to whoever watches: from the beginning, or from where somebody stopped."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

MOST = 20_000  # events of one run that are kept for those who come later; pieces of text count each


class Feed:
    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []
        self._first = 0  # the number of the first event that is kept
        self._happened = asyncio.Event()

    def say(self, text: str) -> None:
        """A piece of what the model says."""
        if text:
            self.tell("delta", {"text": text})

    def tell(self, kind: str, data: Any) -> None:
        """One of started, call, progress, delta, approval, finished."""
        self._events.append((kind, data))
        if len(self._events) > MOST:
            del self._events[: MOST // 2]
            self._first += MOST // 2
        self._happened.set()
        self._happened = asyncio.Event()

    def over(self, after: int) -> bool:
        """Whether nothing comes after a number any more."""
        return bool(self._events) and self._events[-1][0] == "finished" and after >= self._first + len(self._events)

    async def events(self, after: int = 0) -> AsyncGenerator[tuple[int, str, Any]]:
        """`(number, kind, data)`, those after a number that was seen; the last is `finished` with the run."""
        at = after
        while True:
            at = max(at, self._first)
            while at - self._first < len(self._events):
                kind, data = self._events[at - self._first]
                at += 1
                yield at, kind, data
                at = max(at, self._first)
            if self.over(at):
                return
            await self._happened.wait()
