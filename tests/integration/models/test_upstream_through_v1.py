"""The official client, a real server, and behind it an upstream that does what it is told: what reaches it, and what comes back."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from benchmarks.servers import Server
from tests.models.lying_upstream import Upstream, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENVIRONMENT = {"OPENRUNTIME_BACKENDS": "numpy", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Upstream]:
    async with upstream("eyes") as here:
        yield here


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Upstream, start_server: Callable[..., AbstractContextManager[Server]]) -> AsyncIterator[openai.AsyncOpenAI]:
    with start_server(store="memory", environment=ENVIRONMENT) as running:
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as http:
            for name, options in (("eyes", {}), ("blind", {"images": False})):
                (await http.post("/ai/models", json={"url": server.url, "upstream": "eyes", "name": name, "options": options})).raise_for_status()
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=20) as made:
            yield made


async def test_images_reach_a_model_that_can_see(client: openai.AsyncOpenAI, server: Upstream) -> None:
    for url in ("data:image/png;base64,iVBORw0KGgo=", "https://example.com/cat.jpg"):
        parts: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        answer = await client.chat.completions.create(model="eyes", messages=[{"role": "user", "content": parts}])
        assert answer.choices[0].message.content == "Fine."
        assert server.asked[-1].body["messages"] == [{"role": "user", "content": parts}]
        before = len(server.asked)
        with pytest.raises(openai.BadRequestError, match="blind:1 reads text only"):
            await client.chat.completions.create(model="blind", messages=[{"role": "user", "content": parts}])
        assert len(server.asked) == before


@pytest.mark.parametrize("allowed", [True, False, None])
async def test_whether_calls_may_come_together_reaches_it(client: openai.AsyncOpenAI, server: Upstream, allowed: bool | None) -> None:
    said: dict[str, Any] = {} if allowed is None else {"parallel_tool_calls": allowed}
    await client.chat.completions.create(model="eyes", messages=[{"role": "user", "content": "Hi"}], tools=[TOOL], **said)
    assert server.asked[-1].body.get("parallel_tool_calls") == allowed
