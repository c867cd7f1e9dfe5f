"""MCP over standard input and output, in a process of its own as assistants start it."""

import asyncio
import json

import anyio
import pytest

pytest.importorskip("fastmcp", reason="the extra mcp is not installed")
from mcp import Client

from benchmarks.servers import Server
from tests.mcp_clients import ENDLESS, INITIALIZE, MODES, TOOLS, call, ended, newest, stdio, task


async def test_stdio_with_a_runtime_of_its_own() -> None:
    async with Client(stdio()) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        assert (await call(client, "run_operation", operation="sum", parameters={"x": [1, 2, 3]}))["result"] == {"output": 6}
        assert (await call(client, "get_task", refused=True, task_id="none"))["code"] == "not_found"


async def test_stdio_in_front_of_a_server(numpy_server: Server, mode: str) -> None:
    async with Client(stdio("--server", numpy_server.url), mode=mode) as client:
        assert client.protocol_version == {mode: revision for revision, mode in MODES.items()}[mode]
        found = await call(client, "run_operation", operation="sum", parameters={"x": [1, 2, 4]})
        assert task(numpy_server, found["task_id"])["result"] == {"output": 7}
        with anyio.move_on_after(15):
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "run_operation", ENDLESS)
                running = await newest(numpy_server, "monte_carlo_pi")
                group.cancel_scope.cancel()
        assert (await ended(numpy_server, running["task_id"]))["status"] == "cancelled"


async def test_stdio_says_where_no_server_answers() -> None:
    async with Client(stdio("--server", "http://127.0.0.1:9")) as client:
        found = await call(client, "list_devices", refused=True)
        assert found["code"] == "unavailable"
        assert "openruntime serve" in found["detail"]


async def test_stdio_writes_nothing_but_the_protocol_and_ends_with_its_input(numpy_server: Server) -> None:
    started = stdio("--server", numpy_server.url)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(started.command, *started.args, env=started.env, **pipes)
    messages = [INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}]
    assert process.stdin is not None
    assert process.stdout is not None
    for message in messages:
        process.stdin.write(json.dumps(message).encode() + b"\n")
    lines = [json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) for _ in range(2)]
    assert [line["id"] for line in lines] == [1, 2]
    process.stdin.write(b"this is no message\n")
    process.stdin.close()
    rest, said = await asyncio.wait_for(process.communicate(), 30)
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert b"Traceback" not in said
    assert process.returncode == 0
