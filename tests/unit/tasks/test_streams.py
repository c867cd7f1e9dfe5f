"""What is left to say of an answer to those who follow it from another gateway, and missed a part."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from openruntime.contracts.ai import ANSWER, Completion, Delta, Tokens
from openruntime.contracts.errors import Unavailable
from openruntime.contracts.events import TaskSaid
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Call, Estimate, Task
from openruntime.tasks.streams import TaskStreams, rest_of

ONE = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TWO = {"id": "call_2", "type": "function", "function": {"name": "sub", "arguments": '{"b": 2}'}}
WHOLE = Completion("Let me see.", "tool_calls", Tokens(3, 9), [ONE, TWO])


def begun(call: dict[str, Any], index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, **call, "function": {"name": call["function"]["name"], "arguments": arguments}}


def joined(pieces: Sequence[Delta]) -> tuple[str, list[dict[str, Any]]]:
    """As a client puts them together."""
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for piece in pieces for part in piece.tool_calls):
        known = calls.setdefault(part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        known["id"] = part.get("id") or known["id"]
        for name in ("name", "arguments"):
            known["function"][name] += part["function"].get(name, "")
    return "".join(piece.text for piece in pieces), [calls[index] for index in sorted(calls)]


@pytest.mark.parametrize(
    "heard",
    [
        [],
        [Delta("Let me")],
        [Delta("Let me see.")],
        [Delta("Let me see."), Delta("", [begun(ONE, 0, '{"a": 1}')])],
        [Delta("Let me see."), Delta("", [begun(ONE, 0, '{"a"')])],
        [Delta("Let me see."), Delta("", [begun(ONE, 0, '{"a": 1}')]), Delta("", [begun(TWO, 1, "")])],
    ],
    ids=len,
)  # fmt: skip
async def test_what_was_missed_comes_with_the_end(heard: list[Delta]) -> None:
    class Ended:
        async def wait(self, task: Task, seconds: float) -> bool:
            await over.wait()
            data = msgspec.json.encode(WHOLE)
            task.outputs = {ANSWER: Array("uint8", (len(data),), data)}
            return True

    over = asyncio.Event()
    streams = TaskStreams(None, shared=True)  # type: ignore[arg-type]  # it publishes nothing
    streams.tasks = Ended()  # type: ignore[assignment]
    task = Task("t", Call("echo", 1, {}, {}, Estimate()), "local", "io", 5, 0.0, 0.0)

    async def follow() -> list[Delta]:
        return [piece async for piece in streams.follow(task)]

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    encode = msgspec.msgpack.encode
    if heard:
        streams.heard([TaskSaid(0.0, 0, "t", "echo", "local", 1, 0, encode(heard))])
    lost = len(heard) + 1
    streams.heard([TaskSaid(0.0, 0, "t", "echo", "local", 1, lost, encode([Delta(finish="tool_calls", usage=Tokens(3, 9))]))])
    over.set()
    pieces = await asyncio.wait_for(following, 5)
    assert joined(pieces) == (WHOLE.text, WHOLE.tool_calls)
    assert (pieces[-1].finish, pieces[-1].usage) == ("tool_calls", WHOLE.usage)


@pytest.mark.parametrize(("text", "calls"), [("Let us", {}), ("Let me see.", {0: '{"c"'}), ("Let me see.", {2: ""})])
def test_another_answer_is_not_joined_to_it(text: str, calls: dict[int, str]) -> None:
    with pytest.raises(Unavailable, match="begun again"):
        rest_of(WHOLE, text, calls)
