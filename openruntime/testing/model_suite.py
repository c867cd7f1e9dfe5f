"""What every model's adapter must do. Subclass `ModelSuite` or `EmbeddingSuite`, give it `make`, and run it with pytest and pytest-asyncio.

class TestMine(ModelSuite):
    def make(self) -> TextModel: return MyAdapter(ModelSpec(name="mine", adapter="mine", ...))

A suite's adapter is made once: a model's weights are slow to load.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import pytest
import pytest_asyncio

from openruntime.contracts.ai import Completion, Delta, EmbeddingModel, Generation, TextModel
from openruntime.contracts.errors import ContextTooLong, InvalidParameter
from openruntime.contracts.models import ModelInfo

CANCEL = 0.25  # seconds after which nothing of a cancelled request may be computed
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather in a city now.",
        "parameters": {
            "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"], "additionalProperties": False,
        },
    },
}  # fmt: skip
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}
PERSON = {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer"}},
    "required": ["name", "kind", "legs"], "additionalProperties": False,
}  # fmt: skip
# field -> what is wrong with it; the refusal names the field
BAD: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 3.0},
    "top_p": {"top_p": 1.5},
    "max_tokens": {"max_tokens": 0},
    "seed": {"seed": -1},
    "stop[1]": {"stop": ["a", ""]},
    "messages": {"messages": []},
    "messages[0].role": {"messages": [{"role": "narrator", "content": "Hi"}]},
    "messages[0].content": {"messages": [{"role": "user"}]},
    "messages[0].content[0]": {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
    "response_format.type": {"response_format": {"type": "xml"}},
    "response_format.json_schema": {"response_format": {"type": "json_schema"}},
    "response_format.json_schema.schema.type": {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "text"}}}},
    "response_format.json_schema.schema.minimum": {
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "minimum": 9, "maximum": 1}}}
    },
    "response_format.json_schema.schema.enum": {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": []}}}},
    "tools[0].type": {"tools": [{"type": "hammer"}]},
    "tools[0].function": {"tools": [{"type": "function"}]},
    "tools[0].function.name": {"tools": [{"type": "function", "function": {"name": "get weather"}}]},
    "tools[0].function.parameters": {"tools": [{"type": "function", "function": {"name": "f", "parameters": "city"}}]},
    "tools[0].function.parameters.required": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": "city"}}}]
    },
    "tool_choice": {"tools": [WEATHER], "tool_choice": "sometimes"},
    "tool_choice.function.name": {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_whether"}}},
}


def asking(text: str = "Name three colours.", **fields: Any) -> Generation:
    """A short question; deterministic unless told otherwise."""
    return Generation(**{"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0.0, **fields})


async def gathered(stream: AsyncIterator[Delta]) -> list[Delta]:
    return [delta async for delta in stream]


class _Suite:
    def make(self) -> Any:
        raise NotImplementedError("a subclass says which adapter is tested")

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def model(cls) -> AsyncIterator[Any]:
        model = cls().make()
        yield model
        await model.close()

    async def test_says_what_it_is(self, model: TextModel) -> None:
        info = model.get_model_info()
        assert isinstance(info, ModelInfo)
        assert info.id == f"{info.name}:{info.version}"
        assert info.provider
        assert info.context_length is None or info.context_length > 0


class _Text(_Suite):
    context: ClassVar[int | None] = None
    parallel: ClassVar[int] = 4
    schemas: ClassVar[bool] = True  # whether it can be held to a JSON schema
    tools: ClassVar[bool | None] = True  # None: it depends on what is upstream
    prompts: ClassVar[bool] = True  # whether it continues a prompt

    async def computed(self, model: TextModel) -> float | None:
        """Seconds that it has computed so far, on any core; None where that cannot be seen."""
        return None


@pytest.mark.asyncio(loop_scope="class")
class _Answers(_Text):
    async def test_writes(self, model: TextModel) -> None:
        answer = await model.complete(asking())
        assert isinstance(answer, Completion)
        assert answer.text
        assert answer.model
        assert answer.finish in ("stop", "length")
        assert answer.usage.prompt > 0
        assert 0 < answer.usage.completion <= 16
        assert 0 <= answer.usage.cached <= answer.usage.prompt

    async def test_generate_is_the_text_of_it(self, model: TextModel) -> None:
        said = await model.generate("Name three colours.", max_tokens=16, temperature=0.0)
        assert said == (await model.complete(asking())).text

    async def test_continues_a_prompt(self, model: TextModel) -> None:
        if not self.prompts:
            pytest.skip("it takes messages only")
        answer = await model.complete(Generation(prompt="One, two, three,", max_tokens=8, temperature=0.0))
        assert answer.text
        assert answer.usage.completion <= 8

    async def test_pieces_are_the_whole(self, model: Any) -> None:
        whole = await model.complete(asking(max_tokens=24))
        pieces = await gathered(model.stream(asking(max_tokens=24)))
        assert "".join(delta.text for delta in pieces) == whole.text
        assert len(pieces) > 2
        *before, last = pieces
        assert last.usage is not None
        assert last.finish == whole.finish
        assert (last.usage.prompt, last.usage.completion) == (whole.usage.prompt, whole.usage.completion)
        assert all(delta.finish is None and delta.usage is None for delta in before)

    async def test_stops_where_told(self, model: TextModel) -> None:
        whole = (await model.complete(asking(max_tokens=24))).text
        at = next(word for word in whole.split()[2:] if len(word) > 2)
        answer = await model.complete(asking(max_tokens=24, stop=[at]))
        assert answer.text == whole[: whole.index(at)]
        assert answer.finish == "stop"

    async def test_ends_at_max_tokens(self, model: TextModel) -> None:
        answer = await model.complete(asking("Count from one to a hundred.", max_tokens=5))
        assert answer.finish == "length"
        assert answer.usage.completion == 5

    async def test_the_same_seed_says_the_same(self, model: TextModel) -> None:
        said = [(await model.complete(asking(temperature=1.5, seed=seed))).text for seed in (7, 7, 8, 9)]
        assert said[0] == said[1]
        assert len(set(said)) > 1


@pytest.mark.asyncio(loop_scope="class")
class _Forms(_Text):
    async def test_a_longer_prompt_is_more_tokens(self, model: TextModel) -> None:
        short, long = [(await model.complete(asking("Yes. " * times, max_tokens=1))).usage.prompt for times in (2, 40)]
        assert long - short >= 38

    async def test_counts_as_it_will_be_charged(self, model: Any) -> None:
        if not hasattr(model, "count"):
            pytest.skip("it does not count")
        for request in (asking(), asking("Où est la gare ? 🚉"), *([asking(tools=[WEATHER])] if self.tools else [])):
            assert await model.count(request) == (await model.complete(msgspec.structs.replace(request, max_tokens=64))).usage.prompt

    async def test_holds_to_a_schema(self, model: TextModel) -> None:
        shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        if not self.schemas:
            with pytest.raises(InvalidParameter) as caught:
                await model.complete(asking(response_format=shape))
            assert caught.value.field == "response_format"
            return
        for seed in (1, 2):
            answer = await model.complete(asking("Describe a pet as JSON.", max_tokens=200, temperature=1.0, seed=seed, response_format=shape))
            if answer.finish == "length":
                continue  # it found no end
            found = json.loads(answer.text)
            assert found.keys() == {"name", "kind", "legs"}
            assert found["kind"] in ("cat", "dog")
            assert type(found["legs"]) is int

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
    async def test_calls_a_tool(self, model: Any, choice: Any) -> None:
        if not self.tools:
            pytest.skip("it calls no tools")
        request = asking(
            "What is the weather in Rome?", max_tokens=128, tools=[WEATHER, CLOCK][: 1 if choice == "required" else 2], tool_choice=choice
        )
        whole = await model.complete(request)
        assert whole.finish == "tool_calls"
        (call,) = whole.tool_calls
        assert call["id"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "get_weather"
        arguments = json.loads(call["function"]["arguments"])
        assert arguments["city"] in ("Paris", "Rome")
        assert type(arguments["days"]) is int
        pieces = await gathered(model.stream(request))
        assert "".join(each["function"].get("arguments", "") for delta in pieces for each in delta.tool_calls) == call["function"]["arguments"]
        assert pieces[-1].finish == "tool_calls"

    async def test_a_call_of_a_tool_that_is_cut_off_says_so(self, model: TextModel) -> None:
        if not self.tools:
            pytest.skip("it calls no tools")
        whole = await model.complete(asking("What is the weather in Rome?", max_tokens=3, tools=[WEATHER], tool_choice="required"))
        assert whole.finish == "length"

    async def test_goes_on_after_a_tool(self, model: TextModel) -> None:
        if not self.tools:
            pytest.skip("it calls no tools")
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 1}'}}
        messages = [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is the weather in Rome?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 24 degrees"},
        ]
        answer = await model.complete(asking(messages=messages, tools=[WEATHER], tool_choice="none"))
        assert answer.text
        assert not answer.tool_calls


@pytest.mark.asyncio(loop_scope="class")
class _Limits(_Text):
    async def test_a_cancelled_request_computes_no_more(self, model: Any) -> None:
        stream = model.stream(asking("Write a long story about a river.", max_tokens=1000))
        task = asyncio.ensure_future(gathered(stream))
        first = model.stream(asking("Write a long story about a mountain.", max_tokens=1000))
        await anext(first)
        before, begun = await self.computed(model), time.perf_counter()
        task.cancel()
        await first.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.perf_counter() - begun < CANCEL
        await asyncio.sleep(3 * CANCEL)
        after = await self.computed(model)
        if before is not None and after is not None:
            assert after - before < CANCEL

    async def test_many_at_once(self, model: TextModel) -> None:
        asked = [asking(f"Say {word}.", max_tokens=6) for word in ("one", "two", "three", "four", "five", "six")[: self.parallel + 2]]
        answers = await asyncio.gather(*(model.complete(request) for request in asked))
        assert all(answer.text for answer in answers)

    async def test_a_prompt_too_long_says_how_long(self, model: TextModel) -> None:
        if self.context is None:
            pytest.skip("how long a prompt may be is not known here")
        with pytest.raises(ContextTooLong, match=rf"\b{self.context}\b") as caught:
            await model.complete(asking("word " * (self.context + 10)))
        assert any(int(number) > self.context for number in caught.value.message.replace(",", "").split() if number.isdigit())

    @pytest.mark.parametrize("field", BAD)
    async def test_refuses(self, model: TextModel, field: str) -> None:
        with pytest.raises(InvalidParameter) as caught:
            await model.complete(asking(**BAD[field]))
        assert caught.value.field == field
        assert len(caught.value.message) > 10

    async def test_refuses_messages_beside_a_prompt(self, model: TextModel) -> None:
        with pytest.raises(InvalidParameter) as caught:
            await model.complete(asking(prompt="Hi"))
        assert caught.value.field == "messages"

    async def test_refuses_unknown_fields_by_name(self, model: TextModel) -> None:
        with pytest.raises(InvalidParameter) as caught:
            await model.generate("Hi", temprature=1.0)
        assert caught.value.field == "temprature"

    async def test_works_again_after_close(self, model: TextModel) -> None:
        before = await model.complete(asking())
        await model.close()
        assert model.resident() == 0
        await model.open()
        assert (await model.complete(asking())).text == before.text


@pytest.mark.asyncio(loop_scope="class")
class ModelSuite(_Answers, _Forms, _Limits):
    """`context`: tokens that it reads at most, where a prompt can be longer than that in a test; `parallel`: how many requests at once are tried."""

    def make(self) -> TextModel:
        raise NotImplementedError("a subclass says which adapter is tested")


@pytest.mark.asyncio(loop_scope="class")
class EmbeddingSuite(_Suite):
    """`dimensions` of a vector, where they are known."""

    dimensions: ClassVar[int | None] = None

    def make(self) -> EmbeddingModel:
        raise NotImplementedError("a subclass says which adapter is tested")

    async def test_one_vector_a_text_in_order(self, model: EmbeddingModel) -> None:
        texts = ["a cat", "a kitten", "interest rates", "Où ? 🚉"]
        found = await model.embed(texts)
        assert len(found.vectors) == 4
        assert len({len(vector) for vector in found.vectors}) == 1
        assert self.dimensions in (None, len(found.vectors[0]))
        assert all(math.isfinite(number) for vector in found.vectors for number in vector)
        assert found.usage.prompt >= 4
        assert found.usage.completion == 0
        assert found.model
        for text, vector in zip(texts, found.vectors, strict=True):
            (alone,) = (await model.embed([text])).vectors
            assert _cosine(alone, vector) > 0.999

    async def test_what_means_alike_is_near(self, model: EmbeddingModel) -> None:
        cat, kitten, rates = (await model.embed(["a cat", "a kitten", "interest rates"])).vectors
        assert _cosine(cat, kitten) > _cosine(cat, rates)

    async def test_many_at_once(self, model: EmbeddingModel) -> None:
        found = await asyncio.gather(*(model.embed([f"text {number}"]) for number in range(8)))
        assert all(len(each.vectors) == 1 for each in found)

    @pytest.mark.parametrize("texts", [[], [""], ["fine", ""], [7]], ids=str)
    async def test_refuses(self, model: EmbeddingModel, texts: Any) -> None:
        with pytest.raises(InvalidParameter) as caught:
            await model.embed(texts)
        assert caught.value.field == "input"

    async def test_writes_no_text(self, model: EmbeddingModel) -> None:
        with pytest.raises(InvalidParameter, match=r"embed|vector"):
            await model.complete(asking())

    async def test_works_again_after_close(self, model: EmbeddingModel) -> None:
        before = (await model.embed(["a cat"])).vectors[0]
        await model.close()
        assert model.resident() == 0
        assert _cosine((await model.embed(["a cat"])).vectors[0], before) > 0.9999


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
