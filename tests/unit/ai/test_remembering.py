"""What agents' models are told of long conversations."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from openruntime.ai.agents.budget import Meter
from openruntime.ai.agents.sessions import BLOCK, RECALLED, Session, Turn, recalled
from openruntime.ai.agents.writing import ModelWriter
from openruntime.ai.context import estimate_request
from openruntime.contracts.agents import Budget, Spent
from openruntime.contracts.ai import Delta, Generation, ModelSpec, Tokens
from openruntime.contracts.records import LOCAL


class Model:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Generation] = []

    async def submit(self, model: str, request: Generation, **options: Any) -> Any:
        self.asked.append(request)
        return SimpleNamespace(id="t", cached=False, status=SimpleNamespace(ended=True))

    async def follow(self, task: Any) -> AsyncIterator[Delta]:
        yield Delta("yes", finish="stop", usage=Tokens(estimate_request(self.asked[-1]), 1))


def writer(model: Model, **spec: Any) -> tuple[ModelWriter, Spent]:
    spent = Spent()
    request = SimpleNamespace(max_tokens=100, temperature=0.0, parameters={})
    run: Any = SimpleNamespace(meter=Meter(Budget(), spent), request=request, principal=LOCAL, spent=spent, feed=None, own=None)
    work: Any = model
    return ModelWriter(run, ModelSpec(**{"name": "m", "adapter": "openai", **spec}), work, work), spent


async def test_a_conversation_is_kept_within_what_the_model_reads() -> None:
    model = Model()
    asking, spent = writer(model, context_length=600)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are brief."}]
    begins = set()
    for number in range(40):
        messages.append({"role": "user", "content": f"Question number {number}, which has a few words more than it needs."})
        await asking.complete(Generation(messages=list(messages)))
        told = model.asked[-1].messages
        assert told is not None
        assert estimate_request(model.asked[-1]) <= 500
        assert told[-1] == messages[-1]
        assert told[0]["content"].startswith("You are brief.")
        begins.add(told[1]["content"])
        messages.append({"role": "assistant", "content": f"Answer number {number}, as brief as it should be."})
    assert "Earlier in this conversation" in model.asked[-1].messages[0]["content"]  # type: ignore[index]
    assert len(begins) < 10  # else no engine could know the beginning again
    assert spent.saved > 1000


async def test_another_conversation_begins_anew() -> None:
    model = Model()
    asking, spent = writer(model, context_length=400)
    turns = [{"role": role, "content": f"{role} {number} " * 10} for number in range(15) for role in ("user", "assistant")]
    await asking.complete(Generation(messages=[*turns, {"role": "user", "content": "now"}]))
    assert spent.saved > 0
    await asking.write("Something else.")
    assert model.asked[-1].messages == [{"role": "user", "content": "Something else."}]


async def test_where_nobody_says_what_a_model_reads_all_is_told() -> None:
    model = Model()
    asking, _ = writer(model)
    messages = [{"role": "user", "content": "word " * 5000}]
    await asking.complete(Generation(messages=messages))
    assert model.asked[-1].messages == messages


def test_sessions_recall_from_the_same_turn_on_for_a_while() -> None:
    session = Session(id="s", tenant="local", title="", created=0.0, used=0.0)
    begins = []
    for number in range(80):
        session.turns += [Turn("user", f"{number} " + "q" * 400, "r", 0.0), Turn("assistant", "a" * 200, "r", 0.0)]
        told = recalled(session)
        assert sum(len(message["content"]) for message in told) <= RECALLED
        assert told[-1]["role"] == "assistant"
        begins.append(told[0]["content"].split()[0])
    assert len(set(begins)) <= 80 * 2 // BLOCK + 1
    assert begins[-1] != "0"
    session.turns[-1] = Turn("assistant", "a" * (RECALLED + 1), "r", 0.0)
    assert recalled(session) == []
    session.turns[-1] = Turn("assistant", "a" * (RECALLED - 1000), "r", 0.0)
    assert [message["role"] for message in recalled(session)] == ["user", "assistant"]
