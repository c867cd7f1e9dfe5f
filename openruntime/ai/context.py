"""What of a conversation a model is told: counted in its tokens, kept within what it reads, by rules that leave the beginning alone.

An engine knows again the prompt of the request before, as far as the two are alike (prefix reuse). So what is left out stays left out, and the cut
moves rarely and then far: between two cuts each request only adds to the one before. The rules, in their order, until it fits:

1. The oldest turns go (a turn is what a user says and all that follows until the user speaks again), down to `LOW` of the room; a summary of
   them stands at the end of the system prompt.
2. Of the last turn, the oldest steps go (an assistant's tool calls with their results, never one without the other).
3. Long tool results lose their middle, the longest first.

System prompt and the user's last words stay whole: where these alone are too long, `ContextTooLong` says so.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import msgspec

from openruntime.contracts.ai import Counting, Generation, Tokens
from openruntime.contracts.errors import ContextTooLong, OpenRuntimeError

log = logging.getLogger(__name__)

Message = dict[str, Any]
Summarise = Callable[[str, Sequence[Message], int], Awaitable[str]]  # the summary so far, what goes, tokens at most: the new summary

LOW = 0.7  # of the room, what is left after a cut
SUMMARY = 0.1  # of the room, the longest summary
MESSAGE = 5  # tokens that a template spends on a message: its role, its marks
TRIMMED = 400  # characters: tool results are not made shorter
LEARNING = 0.3  # weight of the newest answer in what is known of a model's counting
_PIECES = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]|\n+|[ \t]{2,}")
_SENTENCE = re.compile(r"[.!?](?:\s|$)|\n")
_EARLIER = "\n\nEarlier in this conversation, shortened:\n"
_encode = msgspec.json.Encoder().encode


class Count(NamedTuple):
    """How long a prompt is. Not `exact`: estimated, because its model cannot be asked."""

    tokens: int
    exact: bool


@lru_cache(4096)
def estimate(text: str) -> int:
    """Tokens of a text by rule: one for seven letters of a word, a digit, a sign, or a character beyond ASCII. Within a quarter for prose."""
    return sum(ceil(len(piece) / 7) if piece[0].isascii() and piece[0].isalpha() else 1 for piece in _PIECES.findall(text))


def estimate_request(request: Generation) -> int:
    """Tokens of its prompt by rule, its tools' schemas included."""
    if request.messages is None:
        return estimate(request.prompt or "")
    extra = sum(estimate(_encode(item).decode()) for item in (*request.tools, *([request.response_format] if request.response_format else [])))
    return sum(map(estimate_message, request.messages)) + MESSAGE + extra


def estimate_message(message: Message) -> int:
    calls = message.get("tool_calls")
    return MESSAGE + estimate(_text(message)) + (estimate(_encode(calls).decode()) if calls else 0)


class Counter:
    """Counts for one model: as the model itself does where it can be asked, else by a rule that its answers' usage corrects."""

    def __init__(self, counting: Counting | None = None) -> None:
        self._counting = counting
        self.factor = 1.0  # its tokens for one of the rule's

    async def count(self, request: Generation) -> Count:
        if self._counting is not None:
            return Count(await self._counting.count(request), True)
        return Count(ceil(estimate_request(request) * self.factor), False)

    def learn(self, request: Generation, used: Tokens) -> None:
        """What the model said its prompt was long. One that lies cannot move it beyond a half or the double at once."""
        known = estimate_request(request)
        if used.prompt and known:
            seen = min(2.0, max(0.5, used.prompt / known / self.factor)) * self.factor
            self.factor += LEARNING * (seen - self.factor)


class History(msgspec.Struct, omit_defaults=True):
    """A conversation as a session keeps it: all that was said, how much of it is no longer told, and what is told instead."""

    messages: list[Message] = []
    dropped: int = 0  # messages from the beginning
    summary: str = ""
    by: str = ""  # who wrote the summary: `model`, or `rule`
    saved: int = 0  # tokens that were not sent again, over all requests
    used: Tokens = Tokens()  # over all answers


class Window(NamedTuple):
    """A request that fits. `left_out` messages are told as a summary, if at all; `saved` tokens by that."""

    request: Generation
    tokens: int
    exact: bool
    left_out: int
    saved: int


class Context:
    """Keeps one conversation within `limit` tokens, of which `answer` are left for the answer. `summarise` where a model may do that."""

    def __init__(
        self, history: History, limit: int, *, answer: int = 512, counter: Counter | None = None, summarise: Summarise | None = None
    ) -> None:
        self.history = history
        self.room = max(1, limit - answer)
        self.counter = counter or Counter()
        self._limit, self._answer = limit, answer
        self._summarise = summarise

    def add(self, *messages: Message) -> None:
        self.history.messages.extend(messages)

    async def window(self, system: str = "", **fields: Any) -> Window:
        """The request to send now, with the other `fields` of a `Generation`. Raises `ContextTooLong`."""
        history = self.history
        found, count = await self._made(system, history.messages[history.dropped :], fields)
        if count.tokens > self.room:
            await self._cut(system, fields)
            found, count = await self._made(system, history.messages[history.dropped :], fields)
        left_out = history.dropped
        if count.tokens > self.room:
            found, count, more = await self._shorten(system, history.messages[history.dropped :], fields)
            left_out += more
        saved = self._saved(found)
        history.saved += saved
        return Window(found, count.tokens, count.exact, left_out, saved)

    def settle(self, window: Window, used: Tokens) -> None:
        """What an answer used, as its model says."""
        before = self.history.used
        self.history.used = Tokens(before.prompt + used.prompt, before.completion + used.completion, before.cached + used.cached)
        self.counter.learn(window.request, used)

    async def _made(self, system: str, messages: Sequence[Message], fields: dict[str, Any]) -> tuple[Generation, Count]:
        summary = self.history.summary
        prompt = system + (_EARLIER + summary if summary else "")
        first = [{"role": "system", "content": prompt.strip("\n") if not system else prompt}] if prompt else []
        request = Generation(messages=[*first, *messages], **fields)
        return request, await self.counter.count(request)

    def _saved(self, request: Generation) -> int:
        """Tokens between what was said and what is told of it."""
        told = sum(map(estimate_message, request.messages or []))
        system = sum(estimate_message(message) for message in (request.messages or [])[:1] if message["role"] == "system")
        said = sum(map(estimate_message, self.history.messages)) + system
        return max(0, ceil((said - told) * self.counter.factor))

    async def _cut(self, system: str, fields: dict[str, Any]) -> None:
        """Leave out the oldest turns."""
        history = self.history
        turns = turns_of(history.messages[history.dropped :])
        going: list[Message] = []
        low = int(self.room * LOW)
        size = (await self._made(system, history.messages[history.dropped :], fields))[1].tokens
        while len(turns) > 1 and size > low:
            turn = turns.pop(0)
            going += turn
            size -= ceil(sum(map(estimate_message, turn)) * self.counter.factor)
        if not going:
            return
        longest = max(32, int(self.room * SUMMARY))
        history.dropped += len(going)
        before, history.by = history.summary, "rule"
        history.summary = summary_of(before, going, longest)
        if self._summarise is not None:
            try:
                written = clipped(await self._summarise(before, going, longest), longest)
            except OpenRuntimeError as error:
                log.warning("a conversation is shortened by rule, because its model could not: %s", error)
            else:
                history.summary, history.by = written, "model"

    async def _shorten(self, system: str, messages: Sequence[Message], fields: dict[str, Any]) -> tuple[Generation, Count, int]:
        """The last turn without its oldest steps, then with shorter tool results. These are not remembered: the turn ends soon."""
        steps = steps_of(messages)
        kept, dropped = steps, 0
        request, count = await self._made(system, messages, fields)
        while count.tokens > self.room and len(kept) > 2:
            dropped += len(kept[1])
            kept = [kept[0], *kept[2:]]
            request, count = await self._made(system, [message for step in kept for message in step], fields)
        told = [message for step in kept for message in step]
        while count.tokens > self.room:
            longest = max(
                (index for index, message in enumerate(told) if message["role"] == "tool" and len(_text(message)) > TRIMMED),
                key=lambda index: len(_text(told[index])), default=None,
            )  # fmt: skip
            if longest is None:
                raise ContextTooLong(
                    f"the prompt has {'' if count.exact else 'about '}{count.tokens} tokens, and {self.room} is the most: "
                    f"the model reads {self._limit}, of which {self._answer} are for the answer",
                    field="messages",
                )
            told[longest] = {**told[longest], "content": without_middle(_text(told[longest]))}
            request, count = await self._made(system, told, fields)
        return request, count, dropped


def turns_of(messages: Sequence[Message]) -> list[list[Message]]:
    """Each begins where a user speaks; tool calls and their results are in one."""
    turns: list[list[Message]] = []
    for message in messages:
        if not turns or (message["role"] == "user" and turns[-1][-1]["role"] != "user"):
            turns.append([])
        turns[-1].append(message)
    return turns


def steps_of(turn: Sequence[Message]) -> list[list[Message]]:
    """What the user said, then each word of the assistant with the results of its tool calls."""
    steps: list[list[Message]] = []
    for message in turn:
        if not steps or message["role"] == "assistant":
            steps.append([])
        steps[-1].append(message)
    return steps


def summary_of(before: str, messages: Sequence[Message], longest: int) -> str:
    """By rule: a line for what each turn asked and was answered, the first sentence of each; the oldest lines go where there are too many."""
    lines = before.split("\n") if before else []
    for turn in turns_of(messages):
        asked = next((_text(message) for message in turn if message["role"] == "user"), "")
        answered = next((_text(message) for message in reversed(turn) if message["role"] == "assistant" and _text(message)), "")
        used = [call["function"]["name"] for message in turn for call in message.get("tool_calls") or ()]
        line = f"- asked: {sentence(asked)}" if asked else "-"
        line += f" used: {', '.join(dict.fromkeys(used))}." if used else ""
        lines.append(line + (f" answered: {sentence(answered)}" if answered else ""))
    while len(lines) > 1 and estimate("\n".join(lines)) > longest:
        lines.pop(0)
    return clipped("\n".join(lines), longest)


def sentence(text: str, longest: int = 160) -> str:
    """Its first sentence, on one line."""
    text = text.strip()
    end = _SENTENCE.search(text)
    first = " ".join((text[: end.end()] if end else text).split())
    return first if len(first) <= longest else first[: longest - 1] + "…"


def clipped(text: str, longest: int) -> str:
    """Of a text, as much as `longest` tokens by rule."""
    text = text.strip()
    while (size := estimate(text)) > longest:
        text = text[: min(len(text) - 1, len(text) * longest // size)].rstrip()
    return text


def without_middle(text: str) -> str:
    """Half of it: its beginning and its end, and how much is not there."""
    keep = max(TRIMMED // 2, len(text) // 4)
    return f"{text[:keep]}\n[{len(text) - 2 * keep} characters left out]\n{text[-keep:]}" if len(text) > 2 * keep + 40 else text[:TRIMMED]


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content)
    return content or ""
