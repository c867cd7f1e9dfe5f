"""What of a conversation a model is told."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openruntime.ai.context import (
    Context,
    Counter,
    History,
    estimate,
    estimate_request,
    summary_of,
    turns_of,
    without_middle,
)
from openruntime.contracts.ai import Generation, Tokens
from openruntime.contracts.errors import ContextTooLong, OperationFailed

SYSTEM = "You are brief."


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def call(number: int, result: str) -> list[dict[str, Any]]:
    function = {"name": "look", "arguments": "{}"}
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": f"call_{number}", "content": result},
    ]


class Words:
    """A model that counts words."""

    async def count(self, request: Generation) -> int:
        return sum(len(str(message.get("content") or "").split()) for message in request.messages or [])


def paired(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether every tool result has its call before it, and every call its result behind."""
    called = [one["id"] for message in messages for one in message.get("tool_calls") or ()]
    return called == [message["tool_call_id"] for message in messages if message["role"] == "tool"]


async def test_what_fits_is_told_as_it_is() -> None:
    history = History([user("one"), said("two"), user("three")])
    window = await Context(history, 1000).window(SYSTEM, temperature=0.0)
    assert window.request == Generation(messages=[{"role": "system", "content": SYSTEM}, *history.messages], temperature=0.0)
    assert (window.left_out, window.saved, window.exact) == (0, 0, False)
    assert window.tokens == estimate_request(window.request)


async def test_the_model_counts_where_it_can() -> None:
    window = await Context(History([user("one two three")]), 1000, counter=Counter(Words())).window(SYSTEM)
    assert (window.tokens, window.exact) == (6, True)


async def test_oldest_turns_go_and_are_summarised() -> None:
    history = History()
    context = Context(history, 400, answer=100)
    for number in range(20):
        context.add(
            user(f"Question {number} is this. And more words that say nothing at all."), said(f"Answer {number}. With reasons, many of them.")
        )
    context.add(user("And now?"))
    window = await context.window(SYSTEM)
    told = window.request.messages
    assert told is not None
    assert window.tokens <= 300
    assert told[0]["content"].startswith(SYSTEM)
    assert told[-1] == user("And now?")
    assert told[1] == history.messages[history.dropped]
    assert told[1]["role"] == "user"
    assert f"- asked: Question {history.dropped // 2 - 1} is this. answered: Answer {history.dropped // 2 - 1}." in told[0]["content"]
    assert (window.left_out, history.by) == (history.dropped, "rule")
    assert window.saved == history.saved > 0


async def test_the_beginning_stays_the_same_between_cuts() -> None:
    """What an engine keeps of the request before is good for the next one."""
    history, cuts, before = History(), 0, [{"role": "system", "content": SYSTEM}]
    context = Context(history, 1000, answer=200)
    for number in range(100):
        context.add(user(f"Question number {number}: what is to be done about it, and by whom?"))
        told = (await context.window(SYSTEM)).request.messages
        assert told is not None
        if told[: len(before)] != before:
            cuts += 1
        before = told
        context.add(said(f"Answer number {number}: nothing, by nobody, as ever."))
    assert 0 < cuts < 15


async def test_of_a_long_turn_the_oldest_steps_go_in_pairs() -> None:
    history = History([user("before"), said("yes"), user("Look at all of them.")])
    for number in range(30):
        history.messages += call(number, f"result {number} " * 10)
    window = await Context(history, 600, answer=100).window(SYSTEM)
    told = window.request.messages
    assert told is not None
    assert window.tokens <= 500
    assert told[1] == user("Look at all of them.")
    assert paired(told)
    assert told[-1] == history.messages[-1]
    assert window.left_out == 2 + 60 - (len(told) - 2)


async def test_a_long_result_loses_its_middle() -> None:
    history = History([user("Read it."), *call(1, "begin " + "word " * 5000 + "end")])
    window = await Context(history, 1000, answer=100).window(SYSTEM)
    told = window.request.messages
    assert told is not None
    assert told[-1]["content"].startswith("begin word")
    assert told[-1]["content"].endswith("word end")
    assert "characters left out]" in told[-1]["content"]
    assert history.messages[-1]["content"].count("word") == 5000  # the session keeps it
    assert window.tokens <= 900


async def test_what_can_never_fit_is_refused() -> None:
    context = Context(History([user("word " * 2000)]), 1000, answer=300)
    with pytest.raises(ContextTooLong, match=r"about 20\d\d tokens, and 700 is the most: the model reads 1000, of which 300 are for the answer"):
        await context.window(SYSTEM)


async def test_a_model_summarises_and_a_rule_where_it_cannot() -> None:
    asked: list[tuple[str, int, int]] = []

    async def summarise(before: str, messages: Sequence[dict[str, Any]], longest: int) -> str:
        asked.append((before, len(messages), longest))
        if len(asked) == 2:
            raise OperationFailed("it said nothing")
        return "They spoke of numbers. " * 100

    history = History()
    context = Context(history, 400, answer=100, summarise=summarise)

    async def talk() -> None:
        for number in range(20):
            context.add(user(f"Question {number} has a few words in it, and some more."), said("So it is, and so it stays for ever."))
        context.add(user("And now?"))
        await context.window(SYSTEM)

    await talk()
    assert history.by == "model"
    assert history.summary.startswith("They spoke of numbers.")
    assert estimate(history.summary) <= 32
    await talk()
    assert history.by == "rule"
    assert asked[1][0].startswith("They spoke")


async def test_usage_is_added_up_and_corrects_the_estimate() -> None:
    context = Context(History([user("word " * 100)]), 1000)
    window = await context.window()
    for _ in range(20):
        context.settle(window, Tokens(2 * window.tokens, 10, 50))
    assert context.history.used == Tokens(40 * window.tokens, 200, 1000)
    assert (await context.window()).tokens == pytest.approx(2 * window.tokens, rel=0.02)
    context.settle(window, Tokens(10**9))  # a lie
    assert context.counter.factor < 3.5
    context.settle(window, Tokens())  # nothing said
    assert context.counter.factor < 3.5


def test_estimates_of_text() -> None:
    assert estimate("") == 0
    assert estimate("The cat sat on the mat.") == 7
    assert estimate("12345") == 5
    assert estimate("数学") == 2
    assert estimate("internationalization") == 3


def test_shortening_of_single_texts() -> None:
    text = "".join(str(number % 10) for number in range(4000))
    assert without_middle(text).startswith("0123")
    assert len(without_middle(text)) < 2100
    assert len(without_middle("x" * 401)) <= 400
    lines = summary_of("- asked: before", [user("a?"), *call(1, "r"), said("b.")], 1000).split("\n")
    assert lines == ["- asked: before", "- asked: a? used: look. answered: b."]
    assert estimate(summary_of("", [user("word " * 1000)], 20)) <= 20


turn = st.one_of(
    st.text(max_size=300).map(lambda text: [user(text or "?"), said(text or "!")]),
    st.tuples(st.integers(1, 5), st.text(max_size=2000)).map(
        lambda made: [user("look"), *(m for n in range(made[0]) for m in call(n, made[1])), said("so")]
    ),
    st.just([user("one"), user("two")]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(turn, max_size=12), st.integers(60, 2000))
async def test_whatever_was_said(turns: list[list[dict[str, Any]]], limit: int) -> None:
    history = History([message for one in turns for message in one] + [user("last")])
    context = Context(history, limit, answer=20)
    try:
        window = await context.window(SYSTEM)
    except ContextTooLong:
        assert limit < 150  # too little for the system prompt, a summary and one word
        return
    told = window.request.messages
    assert told is not None
    assert window.tokens <= limit - 20
    assert told[0]["content"].startswith(SYSTEM)
    assert told[-1] == user("last")
    assert paired(told)
    assert history.messages[-1] == user("last")


def test_turns() -> None:
    messages = [user("a"), user("b"), said("c"), user("d"), *call(1, "e"), said("f")]
    assert [len(one) for one in turns_of(messages)] == [3, 4]
