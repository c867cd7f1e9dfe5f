"""Model calls where several servers share one Redis: two runtimes in this process, a real Redis that fsyncs every write."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redis_server import RedisServer, redis_server
from openruntime.contracts.ai import Generation
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.models import TaskStatus
from openruntime.core import models
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from tests.models.few import Few, answer, ask, few, pieces, until


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def pair(redis: RedisServer, settings: Callable[..., Settings], vocal: Any) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """`front` knows the models and has none of them free to use; `back` does the work."""
    flags = {"store": redis.url, "model_memory": "100GiB", "shutdown_grace": 1.0}
    async with running(settings(**flags), few()) as front, running(settings(**flags), few()) as back:
        front.devices.set_state("cpu:0", "draining")
        yield front, back


async def test_what_another_server_says_is_followed_here(pair: tuple[Runtime, Runtime], vocal: Any) -> None:
    front, _ = pair
    task = await front.work.submit("echo", Generation(prompt="say ha 20 0.03"))
    said = [piece async for piece in front.streams.follow(task)]
    assert "".join(piece.text for piece in said) == "ha " * 20
    assert len(said) > 5, "as it is said, not at its end"
    assert (said[-1].finish, said[-1].usage and said[-1].usage.completion) == ("stop", 20)
    assert not front.streams._streams
    [whole] = await pieces(front, task)
    assert whole.text == "ha " * 20


async def test_who_follows_late_gets_the_whole(pair: tuple[Runtime, Runtime], vocal: Any) -> None:
    front, back = pair
    task = await front.work.submit("echo", Generation(prompt="say ha 20 0.03"))
    await until(lambda: len(vocal.spoken) > 5)
    assert "".join(piece.text for piece in await pieces(front, task)) == "ha " * 20
    assert not back.streams._streams


async def test_it_is_cancelled_from_another_server(pair: tuple[Runtime, Runtime], vocal: Any) -> None:
    front, back = pair
    task = await front.tasks.submit(ask("echo", "say ha 1000 0.02"))
    await until(lambda: vocal.running == 1)
    await front.tasks.cancel(task.id)
    assert await front.tasks.wait(task, 2)
    assert task.status is TaskStatus.CANCELLED
    await until(lambda: vocal.running == 0 and back.io.running == 0)


async def test_failures_and_deadlines_reach_who_follows(pair: tuple[Runtime, Runtime]) -> None:
    front, _ = pair
    with pytest.raises(OperationFailed, match="broke off"):
        await pieces(front, await front.work.submit("echo", Generation(prompt="break")))
    late = await front.tasks.submit(ask("echo", "say ha 1000 0.02", timeout=0.4))
    assert await front.tasks.wait(late, 3)
    assert late.failure is not None
    assert late.failure.code == "timeout"


async def test_a_server_without_the_model_leaves_it_to_those_that_have_it(
    redis: RedisServer, settings: Callable[..., Settings], vocal: Any, tmp_path: Path
) -> None:
    flags = {"store": redis.url, "model_memory": "100GiB"}
    async with running(settings(**flags), few()) as front, running(settings(**flags), Few()):
        front.devices.set_state("cpu:0", "draining")
        task = await front.tasks.submit(ask("echo", "say ha 1 0"))
        await asyncio.sleep(0.3)
        assert task.status is TaskStatus.QUEUED
        async with running(settings(**flags), few()) as back:
            assert (await answer(front, task)).text == "ha "
            assert task.backend == "vocal"
            assert not back.io.running


async def test_a_task_whose_model_no_server_has_any_more_is_told_so(
    redis: RedisServer, settings: Callable[..., Settings], vocal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "GONE", 1)
    flags = {"store": redis.url, "model_memory": "100GiB"}
    async with running(settings(**flags), Few()) as left:
        async with running(settings(**flags), few()) as front:
            front.devices.set_state("cpu:0", "draining")
            task = await front.tasks.submit(ask("echo", "say ha 1 0"))
            await asyncio.sleep(3.5)
            assert task.status is TaskStatus.QUEUED, "one has it, and may take it soon"
        began = asyncio.get_running_loop().time()
        while not (found := await left.tasks.status(task.id)).status.ended:
            await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() < began + 10
        assert found.failure is not None
        assert "echo" in found.failure.message


async def test_deterministic_answers_are_shared(pair: tuple[Runtime, Runtime], vocal: Any) -> None:
    front, back = pair
    asked = ask("echo", "say he 3 0.002", temperature=0)
    await answer(front, await front.tasks.submit(asked))
    await asyncio.sleep(0.1)
    said = len(vocal.spoken)
    for runtime in pair:
        task = await runtime.tasks.submit(asked)
        assert (task.cached, (await answer(runtime, task)).usage.cached) == (True, 4)
    assert len(vocal.spoken) == said
    assert back.cache.hits == front.cache.hits == 1
