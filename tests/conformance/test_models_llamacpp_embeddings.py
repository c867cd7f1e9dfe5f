"""llama.cpp turns texts into vectors: SmolLM2-135M, which was never taught to, under the published suite."""

from typing import Any

import pytest

from openruntime.ai.adapters.llamacpp import LlamaCppAdapter
from openruntime.contracts.ai import EmbeddingModel
from openruntime.contracts.errors import ContextTooLong, Unavailable
from openruntime.testing.model_suite import EmbeddingSuite
from tests.conformance.test_models_llamacpp import spec


class TestSmolLM2(EmbeddingSuite):
    dimensions = 576

    def make(self) -> EmbeddingModel:
        return LlamaCppAdapter(spec(kind="embedding"))

    @pytest.mark.asyncio(loop_scope="class")
    async def test_long_texts(self, model: EmbeddingModel) -> None:
        found = await model.embed(["The river went on. " * 150, "a cat"])
        assert found.usage.prompt > 600
        with pytest.raises(ContextTooLong, match="1024") as caught:
            await model.embed(["a cat", "The river went on. " * 400])
        assert caught.value.field == "input"

    @pytest.mark.asyncio(loop_scope="class")
    async def test_lengths_are_one(self, model: EmbeddingModel) -> None:
        (vector,) = (await model.embed(["a cat"])).vectors
        assert sum(number * number for number in vector) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("pooling", ["max", "rank", 7])
async def test_a_pooling_that_is_none(pooling: Any) -> None:
    with pytest.raises(Unavailable, match="mean, cls, last") as caught:
        await LlamaCppAdapter(spec(kind="embedding", options={"pooling": pooling})).embed(["a cat"])
    assert not caught.value.retryable
