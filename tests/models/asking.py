"""An adapter of a told upstream, and how it has to fail."""

import asyncio
from typing import Any

import pytest

from openruntime.ai.adapters.openai import OpenAIAdapter
from openruntime.contracts.ai import Generation, ModelSpec
from openruntime.contracts.errors import OpenRuntimeError
from tests.models.lying_upstream import Upstream

KEY = "sk-very-secret-0123456789"
HI = Generation(messages=[{"role": "user", "content": "Hi"}])


def adapter(server: Upstream, **options: Any) -> OpenAIAdapter:
    return OpenAIAdapter(ModelSpec(name="remote", adapter="openai", source=server.url, upstream="small", options={"timeout": 0.4, **options}))


async def fails(server: Upstream, kind: type[OpenRuntimeError], match: str, within: float = 2.0, **options: Any) -> OpenRuntimeError:
    model = adapter(server, **options)
    try:
        async with asyncio.timeout(within):
            with pytest.raises(kind, match=match) as caught:
                await model.complete(HI)
    finally:
        await model.close()
    assert type(caught.value) is kind
    assert KEY not in f"{caught.value!r} {caught.value.message}"
    return caught.value
