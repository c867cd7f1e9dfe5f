"""What an engine in a process of its own has to stand: crashes, kills, the end of its gateway, files that are no models, hostile schemas."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openruntime.ai.adapters import llamacpp
from openruntime.ai.adapters.llamacpp import LlamaCppAdapter
from openruntime.contracts.ai import Generation, ModelSpec
from openruntime.contracts.errors import InvalidParameter, OperationFailed, Unavailable, WorkerCrashed
from openruntime.testing.model_suite import PERSON, WEATHER
from tests.conformance.test_models_llamacpp import WEIGHTS, spec

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = Generation(messages=[{"role": "user", "content": "Write a long story about a river."}], max_tokens=700, temperature=0.0)
HI = Generation(messages=[{"role": "user", "content": "Hi"}], max_tokens=8, temperature=0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[LlamaCppAdapter]:
    model = LlamaCppAdapter(spec())
    yield model
    await model.close()


def shaped(schema: Any) -> Generation:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return Generation(messages=HI.messages, max_tokens=64, temperature=0.0, response_format=shape)


async def test_many_at_once_open_it_once(model: LlamaCppAdapter) -> None:
    await model.close()
    await asyncio.gather(*(model.complete(HI) for _ in range(6)))
    running = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "engines.llamacpp"], capture_output=True, text=True, check=False).stdout.split()
    assert running == [str(model._engine.pid)]
    assert 50e6 < model.resident() < 2e9


async def test_a_prompt_said_before_is_not_read_again(model: LlamaCppAdapter) -> None:
    long = Generation(messages=[{"role": "user", "content": "The river went on. " * 30}], max_tokens=2, temperature=0.0)
    first, second = await model.complete(long), await model.complete(long)
    assert second.usage.cached > 0.8 * second.usage.prompt > first.usage.cached
    assert second.text == first.text


async def test_a_crash_fails_what_ran_and_the_next_request_starts_it_again(model: LlamaCppAdapter) -> None:
    stream = model.stream(LONG)
    await anext(stream)
    before = model._engine.pid
    os.kill(before, signal.SIGSEGV)
    with pytest.raises(WorkerCrashed, match="SIGSEGV") as caught:
        async for _ in stream:
            pass
    assert "Segmentation fault" in caught.value.message  # its last lines
    assert model.resident() == 0
    assert (await model.complete(HI)).text
    assert model._engine.pid != before


async def test_a_kill_while_many_run_fails_each_and_harms_no_later_one(model: LlamaCppAdapter) -> None:
    await model.open()
    tasks = [asyncio.ensure_future(model.complete(LONG)) for _ in range(3)]
    await asyncio.sleep(0.3)
    os.killpg(model._engine.pid, signal.SIGKILL)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [WorkerCrashed] * 3
    assert (await model.complete(HI)).text


async def test_unloaded_while_it_works_says_so(model: LlamaCppAdapter) -> None:
    stream = model.stream(LONG)
    await anext(stream)
    await model.close()
    with pytest.raises(WorkerCrashed, match="unloaded while it worked"):
        async for _ in stream:
            pass


async def test_a_cancel_while_it_reads_a_prompt(model: LlamaCppAdapter) -> None:
    await model.open()
    prompt = Generation(prompt="".join(f"{number} bottles of beer. " for number in range(130)), max_tokens=50, temperature=0.0)
    task = asyncio.ensure_future(model.complete(prompt))
    await asyncio.sleep(0.15)
    before = _seconds(model._engine.pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(1)
    assert _seconds(model._engine.pid) - before < 0.25


async def test_a_cancel_while_its_process_is_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Slow(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **options: Any) -> None:
            time.sleep(0.3)
            super().__init__(*given, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    model = LlamaCppAdapter(spec())
    opening = asyncio.ensure_future(model.open())
    await asyncio.sleep(0.1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    (process,) = started
    assert process.returncode == -signal.SIGKILL
    assert process.stderr is not None
    assert process.stderr.closed
    assert model.resident() == 0
    await model.close()


async def test_it_ends_when_its_gateway_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio
from openruntime.ai.adapters import llamacpp
from openruntime.ai.adapters.llamacpp import LlamaCppAdapter
from openruntime.contracts.ai import Generation, ModelSpec
async def main():
    model = LlamaCppAdapter(ModelSpec(name="m", adapter="llamacpp", source={str(WEIGHTS)!r}, options={{"threads": 1, "context": 512}}))
    async for piece in model.stream(Generation(prompt="One, two,", max_tokens=400, temperature=0.0)):
        print(model._engine.pid, model._engine.folder, flush=True)
asyncio.run(main())
"""
    gateway = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid, folder = (await asyncio.to_thread(gateway.stdout.readline)).split()
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    gateway.kill()
    gateway.wait()
    gateway.stdout.close()
    until = time.monotonic() + 10
    while time.monotonic() < until and (_runs(pid) or Path(folder).exists()):
        await asyncio.sleep(0.02)
    assert not _runs(pid)
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "cannot be read"),
        (b"", "cut off|no GGUF"),
        (b"<html>Sign in to download</html>" * 100, "no GGUF file"),
        (WEIGHTS.read_bytes()[:5000], "cut off|damaged"),
        (WEIGHTS.read_bytes()[: -(1 << 20)], "cut off"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 4000, "damaged|cut off"),
    ],
    ids=["gone", "empty", "a page", "header only", "truncated", "garbage"],
)
async def test_a_file_that_is_no_model(tmp_path: Path, content: bytes | None, match: str) -> None:
    path = tmp_path / "some.gguf"
    if content is not None:
        path.write_bytes(content)
    model = LlamaCppAdapter(ModelSpec(name="some", adapter="llamacpp", source=str(path)))
    with pytest.raises(Unavailable, match=match) as caught:
        await model.complete(HI)
    assert not caught.value.retryable
    assert model._engine is None


async def test_weights_that_the_engine_refuses(tmp_path: Path) -> None:
    data = bytearray(WEIGHTS.read_bytes())
    at = data.index(b"general.architecture") + len("general.architecture") + 4 + 8
    data[at : at + 5] = b"lemur"
    path = tmp_path / "lemur.gguf"
    path.write_bytes(data)
    model = LlamaCppAdapter(ModelSpec(name="lemur", adapter="llamacpp", source=str(path)))
    with pytest.raises(Unavailable, match="lemur") as caught:
        await model.complete(HI)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "object", "not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "(unclosed"}, "unclosed group"),
        ({"type": "string", "format": "no-such"}, "no-such"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"]}}}, "no end"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 5, "maxItems": 2}, "minItems of 5"),
    ],
    ids=str,
)
async def test_a_schema_that_cannot_be_met_is_refused(model: LlamaCppAdapter, schema: Any, match: str) -> None:
    with pytest.raises(InvalidParameter, match=match) as caught:
        await model.complete(shaped(schema))
    assert caught.value.field.startswith("response_format.json_schema.schema")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "required": ["x"]}}}
    if "$ref" not in schema:
        fine = {"type": "function", "function": {"name": "fine"}}
        with pytest.raises(InvalidParameter) as caught:
            await model.complete(Generation(messages=HI.messages, tools=[fine, tool]))
        assert caught.value.field.startswith("tools[1].function.parameters")


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"{number:05}" for number in range(5_000)]},
        {"type": "string", "minLength": 2000, "maxLength": 2000},
        {"type": "string", "pattern": "^(a{1,50}){1,50}$"},
        {"type": "string", "pattern": "^((((a*)*)*)*)*b$"},
        {"anyOf": [{"type": "object", "properties": {f"p{n}": {"type": "string"}}} for n in range(300)]},
    ],
    ids=["enum", "string", "repeats", "stars", "any"],
)
async def test_a_schema_that_is_hard_harms_nobody(model: LlamaCppAdapter, schema: Any) -> None:
    begun = time.monotonic()
    with contextlib.suppress(InvalidParameter, OperationFailed):
        await model.complete(shaped(schema))
    assert time.monotonic() - begun < 10
    assert (await model.complete(HI)).text


@pytest.mark.parametrize(("grammar", "said"), [('root ::= "yes" | "no"', ("yes", "no")), ('root ::= "a"{3}', ("aaa",))])
async def test_a_grammar_holds(model: LlamaCppAdapter, grammar: str, said: tuple[str, ...]) -> None:
    answer = await model.complete(Generation(messages=HI.messages, max_tokens=9, response_format={"type": "grammar", "grammar": grammar}))
    assert answer.text in said


@pytest.mark.parametrize("grammar", ['foo ::= "a"', 'root ::= root "a"', 'root ::= "a"{100000}', "%llguidance {}\nstart: x", "x" * 20_000, ""])
async def test_a_grammar_that_is_none_is_refused(model: LlamaCppAdapter, grammar: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await model.complete(Generation(messages=HI.messages, response_format={"type": "grammar", "grammar": grammar}))
    assert caught.value.field.startswith("response_format")


async def test_a_grammar_that_takes_for_ever_ends_and_the_next_request_does_not_wait(model: LlamaCppAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "SILENCE_OF_GRAMMARS", 1.0)
    grammar = "root ::= " + " ".join('"a"?' for _ in range(400))
    with pytest.raises(InvalidParameter, match="takes the engine too long") as caught:
        await model.complete(Generation(messages=HI.messages, response_format={"type": "grammar", "grammar": grammar}))
    assert caught.value.field == "response_format.grammar"
    assert (await model.complete(HI)).text


async def test_an_image_is_refused(model: LlamaCppAdapter) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(InvalidParameter, match="cannot see images") as caught:
        await model.complete(Generation(messages=[{"role": "user", "content": content}]))
    assert caught.value.field == "messages[0].content[1]"


async def test_tools_with_definitions_of_their_own(model: LlamaCppAdapter) -> None:
    def tool(name: str, kind: str) -> dict[str, Any]:
        inner = {"type": "object", "properties": {"x": {"$ref": "#/$defs/kind"}}, "required": ["x"], "additionalProperties": False}
        return {"type": "function", "function": {"name": name, "parameters": {**inner, "$defs": {"kind": {"const": kind}}}}}

    for name, kind in (("first", "one"), ("second", "two")):
        choice = {"type": "function", "function": {"name": name}}
        asked = Generation(messages=HI.messages, max_tokens=64, tools=[tool("first", "one"), tool("second", "two")], tool_choice=choice)
        (call,) = (await model.complete(asked)).tool_calls
        assert call["function"] == {"name": name, "arguments": f'{{"x": "{kind}"}}'}


async def test_it_may_answer_or_call_where_it_may_choose(model: LlamaCppAdapter) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "description": "Looks something up.", "parameters": {"type": "object"}}}
    for seed in range(3):
        asked = Generation(messages=[{"role": "user", "content": "Tell me a joke."}], max_tokens=48, seed=seed, tools=[tool], tool_choice="auto")
        try:
            answer = await model.complete(asked)
        except OperationFailed:
            continue  # a call that was cut off
        assert bool(answer.text) is not bool(answer.tool_calls)
        assert not answer.text.startswith("{")


@pytest.mark.parametrize("seed", [2**32 - 1, 2**33 - 2, 2**63 - 1])
async def test_a_seed_that_llama_cpp_takes_for_any_is_one_like_others(model: LlamaCppAdapter, seed: int) -> None:
    asked = Generation(messages=HI.messages, max_tokens=24, temperature=1.5, seed=seed)
    assert len({(await model.complete(asked)).text for _ in range(3)}) == 1


PET = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PERSON}}
TOLD = [
    {"role": "user", "content": "What is the weather in Rome?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 1}'}}
    ]},
    {"role": "tool", "tool_call_id": "c", "content": "sunny"},
]  # fmt: skip


@pytest.mark.parametrize("shape", [PET, {"type": "json_object"}], ids=["schema", "object"])
@pytest.mark.parametrize(("messages", "choice"), [(TOLD[:1], None), (TOLD, "auto"), (TOLD, "none")], ids=["free", "after a result", "none"])
async def test_beside_tools_an_answer_is_held_to_its_format(model: LlamaCppAdapter, messages: Any, choice: Any, shape: Any) -> None:
    ask = [*messages, {"role": "user", "content": "Describe a pet as JSON."}]
    for seed in range(4):
        asked = Generation(messages=ask, max_tokens=160, seed=seed, tools=[WEATHER], tool_choice=choice, response_format=shape)
        answer = await model.complete(asked)
        if answer.tool_calls and choice != "none":
            assert (answer.text, answer.finish) == ("", "tool_calls")
        elif answer.finish == "stop":
            found = json.loads(answer.text)
            assert type(found) is dict
            assert shape is not PET or found.keys() == {"name", "kind", "legs"}


async def test_an_answer_in_a_format_and_a_call_are_told_apart(model: LlamaCppAdapter) -> None:
    """Both are JSON that begins with a name."""
    said = [
        await model.complete(Generation(messages=messages, max_tokens=160, temperature=0.0, tools=[WEATHER], response_format=PET))
        for messages in ([{"role": "user", "content": "Describe a pet as JSON."}], TOLD)
    ]
    assert {bool(answer.tool_calls) for answer in said} == {True, False}
    assert all(bool(answer.text) is not bool(answer.tool_calls) for answer in said)


async def test_beside_tools_that_are_not_to_be_called_a_format_that_cannot_be_met_is_refused(model: LlamaCppAdapter) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "(unclosed"}}}
    for choice in ("none", "auto"):
        with pytest.raises(InvalidParameter, match="unclosed group") as caught:
            await model.complete(Generation(messages=HI.messages, tools=[WEATHER], tool_choice=choice, response_format=shape))
        assert caught.value.field == "response_format.json_schema.schema"


async def test_a_grammar_beside_tools_is_refused(model: LlamaCppAdapter) -> None:
    shape = {"type": "grammar", "grammar": 'root ::= "yes" | "no"'}
    with pytest.raises(InvalidParameter, match="tool_choice none") as caught:
        await model.complete(Generation(messages=HI.messages, tools=[WEATHER], response_format=shape))
    assert caught.value.field == "response_format.type"
    answer = await model.complete(Generation(messages=HI.messages, max_tokens=9, tools=[WEATHER], tool_choice="none", response_format=shape))
    assert answer.text in ("yes", "no")


async def test_a_stop_within_a_call_ends_the_answer_there(model: LlamaCppAdapter) -> None:
    asked = Generation(messages=TOLD[:1], max_tokens=64, temperature=0.0, tools=[WEATHER], tool_choice="required", stop=["}"])
    answer = await model.complete(asked)
    assert (answer.finish, answer.tool_calls) == ("stop", [])
    assert answer.text.startswith('{"name": "get_weather", "arguments": {')
    assert "}" not in answer.text


def _runs(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _seconds(pid: int) -> float:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
