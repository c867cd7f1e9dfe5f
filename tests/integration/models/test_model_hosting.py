"""Loading and unloading, the cache of deterministic answers, stopping and starting."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from openruntime.ai.hosting import Host
from openruntime.contracts.ai import Completion, Generation, ModelSpec, answer_of
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Principal
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.models import catalogue
from tests.models.few import Few, answer, ask, few, pieces, until


async def test_loading_is_shared_and_counted(runtime: Runtime, vocal: Any) -> None:
    tasks = [await runtime.tasks.submit(ask("slow", "say ha 1 0")) for _ in range(4)]
    await until(lambda: any(row["state"] == "loading" for row in runtime.devices.get("cpu:0")["models"]))
    for task in tasks:
        await answer(runtime, task)
    assert vocal.opened == ["slow:1"]
    told = await runtime.tasks.explain(tasks[0].id)
    assert 0.25 < told["compile"] < 2
    assert told["stages"]["compile"] == told["compile"]
    assert "vocal" in told["reason"]
    assert any(event["name"] == "compile" for event in await runtime.tasks.trace(tasks[0].id))
    figures = runtime.metrics.snapshot()
    counted = {row["labels"]["model"]: row["value"] for row in figures["openruntime_model_completion_tokens_total"]["samples"]}
    assert counted == {"slow": 4}
    assert {row["labels"]["event"]: row["value"] for row in figures["openruntime_model_loads_total"]["samples"]} == {"loaded": 1, "unloaded": 0}


async def test_who_cancels_while_it_loads_is_free_and_the_next_has_it(runtime: Runtime, vocal: Any) -> None:
    first = await runtime.tasks.submit(ask("slow", "say ha 1 0"))
    await until(lambda: bool(runtime.devices.get("cpu:0")["models"]))
    began = time.monotonic()
    await runtime.tasks.cancel(first.id)
    assert await runtime.tasks.wait(first, 1)
    assert time.monotonic() - began < 0.25
    await answer(runtime, await runtime.tasks.submit(ask("slow", "say ha 1 0")))
    assert vocal.opened == ["slow:1"]


async def test_an_idle_model_is_unloaded_and_comes_back(settings: Callable[..., Settings], vocal: Any) -> None:
    async with running(settings(model_idle=0.3, model_memory="100GiB"), few()) as runtime:
        await answer(runtime, await runtime.tasks.submit(ask("slow", "say ha 1 0")))
        task = await runtime.tasks.submit(ask("slow", "say ha 20 0.05"))
        await answer(runtime, task)
        assert vocal.closed == [], "one that is at work is not idle"
        await until(lambda: vocal.closed == ["slow:1"])
        assert (await answer(runtime, await runtime.tasks.submit(ask("slow", "say ha 1 0")))).text == "ha "
        assert vocal.opened == ["slow:1", "slow:1"]
    assert vocal.closed == ["slow:1", "slow:1"], "and those that are loaded at the end too"


async def test_where_memory_is_short_the_one_used_longest_ago_goes(settings: Callable[..., Settings], vocal: Any) -> None:
    sizes = [ModelSpec(name=name, adapter="vocal", source=f"/{name}", size=100 << 20, options={"bytes": 100 << 20}) for name in ("a", "b", "c")]
    huge = ModelSpec(name="huge", adapter="vocal", source="/huge", size=1 << 30)
    async with running(settings(model_memory="250MiB"), Few(*sizes, huge)) as runtime:
        for name in ("a", "b", "a", "c"):
            await answer(runtime, await runtime.tasks.submit(ask(name, "say ha 1 0")))
        assert (vocal.opened, vocal.closed) == (["a:1", "b:1", "c:1"], ["b:1"])
        busy = [await runtime.tasks.submit(ask(name, "say ha 10 0.03")) for name in ("a", "c")]
        await until(lambda: vocal.running == 2)
        await answer(runtime, await runtime.tasks.submit(ask("b", "say ha 1 0")))
        assert any(task.status is TaskStatus.COMPLETED for task in busy), "it waited for one of those that were at work"
        shown = {row["model"]: (row["state"], row["bytes"]) for row in runtime.devices.get("cpu:0")["models"]}
        assert shown["b:1"] == ("ready", 100 << 20)
        task = await runtime.tasks.submit(ask("huge", "say ha 1 0"))
        assert await runtime.tasks.wait(task, 5)
        assert task.failure is not None
        assert (task.failure.code, "model_memory" in task.failure.message) == ("out_of_memory", True)


async def test_other_weights_under_the_same_name_are_taken_up(settings: Callable[..., Settings], vocal: Any) -> None:
    models = few()
    async with running(settings(model_memory="100GiB"), models) as runtime:
        before = await runtime.tasks.submit(ask("echo", "say ha 30 0.02"))
        await until(lambda: vocal.running == 1)
        models.specs["echo:1"] = msgspec.structs.replace(models.specs["echo:1"], digest="bb")
        await answer(runtime, await runtime.tasks.submit(ask("echo", "say ha 1 0")))
        assert vocal.opened == ["echo:1", "echo:1"]
        assert (await answer(runtime, before)).text == "ha " * 30
        await until(lambda: vocal.closed == ["echo:1"])


async def test_who_waits_for_memory_does_not_hold_up_who_fits(settings: Callable[..., Settings], vocal: Any) -> None:
    sizes = {"big": 180, "busy": 100, "idle": 20, "small": 20}
    specs = [ModelSpec(name=name, adapter="vocal", source=f"/{name}", size=size << 20, options={"bytes": size << 20}) for name, size in sizes.items()]
    async with running(settings(model_memory="250MiB"), Few(*specs)) as runtime:
        await answer(runtime, await runtime.tasks.submit(ask("idle", "say ha 1 0")))
        busy = await runtime.tasks.submit(ask("busy", "say ha 40 0.03"))
        await until(lambda: vocal.running == 1)
        big = await runtime.tasks.submit(ask("big", "say ha 1 0"))
        await until(lambda: any(row["model"] == "big:1" for row in runtime.devices.get("cpu:0")["models"]))
        await answer(runtime, await runtime.tasks.submit(ask("small", "say ha 1 0")))
        assert busy.status is TaskStatus.RUNNING
        assert vocal.closed == [], "as long as that one works, closing the others would not do"
        await answer(runtime, big)
        assert busy.status is TaskStatus.COMPLETED
        assert "busy:1" in vocal.closed


async def test_replaced_weights_count_until_their_last_request_has_ended(settings: Callable[..., Settings], vocal: Any) -> None:
    made = ModelSpec(name="a", adapter="vocal", source="/a", size=100 << 20, digest="aa", options={"bytes": 100 << 20})
    models = Few(made)
    async with running(settings(model_memory="150MiB"), models) as runtime:
        before = await runtime.tasks.submit(ask("a", "say ha 20 0.03"))
        await until(lambda: vocal.running == 1)
        models.specs["a:1"] = msgspec.structs.replace(made, digest="bb")
        after = await runtime.tasks.submit(ask("a", "say ho 1 0"))
        await until(lambda: len(runtime.devices.get("cpu:0")["models"]) == 2)
        assert (await answer(runtime, after)).text == "ho ", "it waited, and was not told that there is no memory"
        assert before.status is TaskStatus.COMPLETED
        assert [row["state"] for row in runtime.devices.get("cpu:0")["models"]] == ["ready"]


async def test_an_engine_that_died_is_loaded_as_for_the_first_time(settings: Callable[..., Settings], vocal: Any) -> None:
    """Also where it was memory that it died for the lack of: not into the same shortage again."""
    from openruntime.core.repository import open_repository

    made = settings(model_memory="4GiB")
    models = open_repository(made)
    async with running(made, models) as runtime:
        name = "smollm2-135m-instruct"
        wanted = ask(name, "Hello", max_tokens=2)
        await answer(runtime, await runtime.tasks.submit(wanted), 60)
        [row] = runtime.devices.get("cpu:0")["models"]
        assert Host(models.resolve(name)).needs() == pytest.approx(row["bytes"], rel=0.3), "what it was loaded with was estimated right"
        os.kill(row["pid"], signal.SIGKILL)
        await until(lambda: runtime.devices.get("cpu:0")["models"][0]["pid"] is None)
        await answer(runtime, await runtime.tasks.submit(wanted), 60)
        assert runtime.model_backend.loads() == {"loaded": 2, "unloaded": 0}
        os.kill(runtime.devices.get("cpu:0")["models"][0]["pid"], signal.SIGKILL)
        await until(lambda: runtime.devices.get("cpu:0")["models"][0]["pid"] is None)
        runtime.model_backend._hosting._memory = 1 << 20
        task = await runtime.tasks.submit(wanted)
        assert await runtime.tasks.wait(task, 10)
        assert task.failure is not None
        assert task.failure.code == "out_of_memory"


async def test_no_tenant_notices_what_another_asked(settings: Callable[..., Settings], vocal: Any) -> None:
    from openruntime.core.repository import open_repository

    made = settings(model_memory="4GiB")
    async with running(made, open_repository(made)) as runtime:

        async def known(tenant: str, what: str) -> int:
            """Of the prompt's tokens those that the engine says it knew."""
            secret = f"The password of {what} is correct horse battery staple, and nobody else may know it."
            wanted = ask("smollm2-135m-instruct", secret, max_tokens=1)
            task = await runtime.tasks.submit(wanted, principal=Principal(tenant, tenant))
            assert await runtime.tasks.wait(task, 60)
            assert task.outputs is not None, task.failure
            return msgspec.json.decode(answer_of(task.outputs), type=Completion).usage.cached

        assert await known("a", "Alice") == 0
        assert await known("a", "Alice") > 10, "as long as it works for one tenant, prompts are reused"
        assert await known("b", "Alice") == 0
        assert await known("b", "Bob") == 0
        assert await known("a", "Bob") == 0
        assert await known("a", "Bob") == 0, "whose prompts lie where, nobody can say any more"
        await asyncio.shield(runtime.model_backend._hosting._close(runtime.model_backend._hosting.list()[0]))
        assert await known("b", "Bob") == 0
        assert await known("b", "Bob") > 10, "it was loaded anew"


async def test_deterministic_answers_are_kept_by_weights_and_all_that_was_asked(settings: Callable[..., Settings], vocal: Any) -> None:
    models = few()

    async def made(runtime: Runtime, *, cache: str = "", **more: Any) -> bool:
        said = len(vocal.spoken)
        task = await runtime.tasks.submit(ask("echo", "say ha 3 0.005", **more), cache=cache)
        found = await answer(runtime, task)
        assert found.text == "ha ha ha "
        assert task.cached is (found.usage.cached == found.usage.prompt > 0)
        await asyncio.sleep(0.02)  # written
        return len(vocal.spoken) > said

    async with running(settings(store="sqlite", model_memory="100GiB"), models) as runtime:
        assert await made(runtime)
        assert await made(runtime), "without a temperature it is not deterministic"
        assert await made(runtime, temperature=0)
        assert not await made(runtime, temperature=0)
        assert await made(runtime, temperature=0, max_tokens=9)
        assert await made(runtime, temperature=0.7, seed=1)
        assert not await made(runtime, temperature=0.7, seed=1)
        assert await made(runtime, temperature=0.7, seed=2)
        assert await made(runtime, temperature=0, cache="no-store")
        assert await made(runtime, temperature=0, cache="no-cache")
        models.specs["echo:1"] = msgspec.structs.replace(models.specs["echo:1"], digest="bb")
        assert await made(runtime, temperature=0), "other weights answer otherwise"
        took = []
        for _ in range(50):
            began = time.perf_counter()
            await runtime.tasks.submit(ask("echo", "say ha 3 0.005", temperature=0), promised=False)
            took.append(time.perf_counter() - began)
        assert sorted(took)[25] < 0.003, "1 ms is the aim; the bound leaves room for a busy machine"
        [whole] = await pieces(runtime, await runtime.work.submit("echo", Generation(prompt="say ha 3 0.005", temperature=0)))
        assert (whole.text, whole.usage and whole.usage.cached) == ("ha ha ha ", 4)


async def test_answers_of_weights_that_may_change_unseen_are_kept_for_a_short_while(
    settings: Callable[..., Settings], vocal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert catalogue.UNSEEN == 60
    monkeypatch.setattr(catalogue, "UNSEEN", 0.5)
    async with running(settings(model_memory="100GiB"), few()) as runtime:

        async def cached(model: str) -> bool:
            task = await runtime.tasks.submit(ask(model, "say ha 3 0.005", temperature=0))
            await answer(runtime, task)
            return task.cached

        for model, after in (("echo", True), ("mute", False)):
            assert not await cached(model)
            assert await cached(model)
            await asyncio.sleep(0.6)
            assert await cached(model) is after, f"{model} {'has a' if after else 'has no'} digest"


async def test_what_does_not_end_in_the_grace_runs_after_the_next_start(settings: Callable[..., Settings], vocal: Any) -> None:
    async with running(settings(store="sqlite", shutdown_grace=0.2), few()) as runtime:
        runs = await runtime.tasks.submit(ask("mute", "say ha 20 0.05"))
        soon = await runtime.tasks.submit(ask("mute", "say ha 3 0.02"))
        waits = await runtime.tasks.submit(ask("mute", "say ha 1 0"))
        await until(lambda: vocal.running == 2)
    assert soon.status is TaskStatus.COMPLETED, "it had the time"
    assert vocal.running == 0
    async with running(settings(store="sqlite"), few()) as runtime:
        for task in (runs, waits):
            again = await runtime.tasks.status(task.id)
            assert (await answer(runtime, again)).text.startswith("ha ")


async def test_a_task_whose_model_is_gone_after_a_restart_says_so(settings: Callable[..., Settings], vocal: Any) -> None:
    async with running(settings(store="sqlite", shutdown_grace=0.05), few()) as runtime:
        task = await runtime.tasks.submit(ask("mute", "say ha 20 0.05"))
        await until(lambda: vocal.running == 1)
    async with running(settings(store="sqlite"), Few()) as runtime:
        again = await runtime.tasks.status(task.id)
        assert await runtime.tasks.wait(again, 5)
        assert again.failure is not None
        assert "mute:1" in again.failure.message


async def test_a_draining_device_takes_no_more_local_models(runtime: Runtime) -> None:
    runtime.devices.set_state("cpu:0", "draining")
    local = await runtime.tasks.submit(ask("echo", "say ha 1 0"))
    await answer(runtime, await runtime.tasks.submit(ask("mute", "say hm 1 0")))
    assert local.status is TaskStatus.QUEUED
    runtime.devices.set_state("cpu:0", "ready")
    await answer(runtime, local)
