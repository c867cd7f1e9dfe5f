"""MCP as an assistant meets it: the official client, both revisions of the protocol, over HTTP to a real server."""

import asyncio
import base64
import io
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

pytest.importorskip("fastmcp", reason="the extra mcp is not installed")
from mcp import Client
from mcp.shared.exceptions import MCPError

from benchmarks.servers import Server
from tests.mcp_clients import ACCEPT, BEFORE, CURRENT, ENDLESS, INITIALIZE, MODES, TOOLS, call, ended, newest, task

Start = Callable[..., AbstractContextManager[Server]]


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
@pytest.mark.parametrize("revision", MODES)
async def test_both_revisions_are_spoken_at_both_paths(numpy_server: Server, path: str, revision: str) -> None:
    async with Client(numpy_server.url + path, mode=MODES[revision]) as client:
        assert client.protocol_version == revision
        assert client.server_info.name == "openruntime"
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == TOOLS
    for tool in tools.values():
        assert tool.input_schema["additionalProperties"] is False
        assert tool.description
    assert tools["list_devices"].input_schema.get("required", []) == []
    assert tools["get_task"].annotations.read_only_hint
    assert tools["cancel_task"].annotations.destructive_hint


def test_no_redirect_and_nothing_swallowed(numpy_server: Server) -> None:
    for path in ("/mcp", "/mcp/"):
        assert httpx.post(numpy_server.url + path, json=INITIALIZE, headers=ACCEPT).status_code == 200
        assert httpx.put(numpy_server.url + path).status_code == 405
        assert httpx.options(numpy_server.url + path).headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"
    found = httpx.get(f"{numpy_server.url}/mcp/other")
    assert (found.status_code, found.json()["code"]) == (404, "not_found")


async def test_devices_operations_and_metrics(numpy_server: Server, mode: str) -> None:
    async with Client(f"{numpy_server.url}/mcp", mode=mode) as client:
        assert [device["id"] for device in (await call(client, "list_devices"))["devices"]] == ["cpu:0"]
        assert (await call(client, "get_device", device_id="cpu:0"))["backends"] == ["numpy"]
        found = (await call(client, "list_operations", search="matmul"))["operations"]
        assert found[0]["name"] == "matmul"
        assert found[0]["parameters"] == ["a", "b"]
        assert len((await call(client, "list_operations"))["operations"]) > 40
        assert (await call(client, "describe_operation", name="matmul"))["parameters"]["required"] == ["a", "b"]
        assert all("queue" in name for name in await call(client, "get_metrics", search="queue"))


async def test_operations_run_and_results_go_on_without_travelling(numpy_server: Server, mode: str) -> None:
    async with Client(f"{numpy_server.url}/mcp", mode=mode) as client:
        first = await call(client, "run_operation", operation="matmul", parameters={"a": [[1, 2], [3, 4]], "b": [[1, 0], [0, 1]]}, priority=7)
        assert first["result"] == {"output": [[1, 2], [3, 4]]}
        assert (first["status"], first["priority"], first["device_used"]) == ("completed", 7, "cpu:0")
        second = await call(client, "run_operation", operation="sum", parameters={"x": {"task": first["task_id"]}}, device_preference="cpu:0/numpy")
        assert second["result"] == {"output": 10}
        assert (await call(client, "explain_task", task_id=second["task_id"]))["device"] == "cpu:0"
        submitted = await call(client, "submit_task", operation="sum", parameters={"x": [1.5, 2.5]})
        assert (await call(client, "get_task", task_id=submitted["task_id"], wait=5))["result"] == {"output": 4.0}
        listed = await call(client, "list_tasks", operation="sum", limit=2)
        assert [one["task_id"] for one in listed["tasks"]] == [submitted["task_id"], second["task_id"]]
        assert (listed["next"] is None) is (mode == "auto")  # the first to run has nothing before these two


async def test_long_results_are_summed_up_and_can_be_read(numpy_server: Server, mode: str) -> None:
    async with Client(f"{numpy_server.url}/mcp", mode=mode) as client:
        answer = await client.call_tool("run_operation", {"operation": "normal", "parameters": {"shape": [300, 200], "seed": 3}})
        shown = answer.structured_content["result"]["output"]
        assert (shown["dtype"], shown["shape"]) == ("float64", [300, 200])
        links = {link.name: link for link in answer.content if link.type == "resource_link"}
        read = await client.read_resource(str(links["output"].uri))
        found = np.load(io.BytesIO(base64.b64decode(read.contents[0].blob)))
        assert shown["statistics"] == pytest.approx({"min": found.min(), "max": found.max(), "mean": found.mean(), "std": found.std()})
        assert len(answer.content[0].text) < 2000
        whole = json.loads((await client.read_resource(str(links["result"].uri))).contents[0].text)
        assert whole["result"]["output"]["tensor"] == shown["tensor"]
        flags = await call(client, "run_operation", operation="expression", parameters={"formula": "x > 0", "x": shown["reference"]})
        assert flags["result"]["output"]["dtype"] == "bool"
        assert flags["result"]["output"]["statistics"] == pytest.approx({"mean": (found > 0).mean()})


async def test_what_is_too_large_to_read_says_where_it_is(numpy_server: Server) -> None:
    async with Client(f"{numpy_server.url}/mcp") as client:
        shown = (await call(client, "run_operation", operation="uniform", parameters={"shape": [1_200_000], "seed": 3}))["result"]["output"]
        with pytest.raises(MCPError, match=r"payload_too_large: it has 9,600,128 bytes.*GET /tensors/"):
            await client.read_resource(f"openruntime://tensors/{shown['tensor']}")


async def test_resources(numpy_server: Server, mode: str) -> None:
    async with Client(f"{numpy_server.url}/mcp", mode=mode) as client:
        listed = {str(one.uri) for one in (await client.list_resources()).resources}
        assert listed == {"openruntime://guide", "openruntime://operations"}
        templates = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
        assert templates == {"openruntime://operations/{name}", "openruntime://tasks/{task_id}/result", "openruntime://tensors/{tensor_id}"}
        assert "run_operation" in (await client.read_resource("openruntime://guide")).contents[0].text
        assert json.loads((await client.read_resource("openruntime://operations/fft")).contents[0].text)["name"] == "fft"
        with pytest.raises(MCPError, match="not_found: there is no operation 'nothing'"):
            await client.read_resource("openruntime://operations/nothing")
        with pytest.raises(MCPError, match="not_found"):
            await client.read_resource("openruntime://tasks/none/result")


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "field", "says"),
    [
        ("run_operation", {"operation": "matmull"}, "unknown_operation", "operation", "did you mean matmul"),
        ("run_operation", {"operation": "matmul", "parameters": {"a": [[1]]}}, "invalid_parameter", "b", "b"),
        ("run_operation", {"operation": "sum", "parameters": {"x": [1]}, "priority": 11}, "invalid_request", "priority", "at most 10"),
        ("run_operation", {"operation": "sum", "parameters": "x"}, "invalid_request", "parameters", "a JSON object"),
        ("run_operation", {"operation": "sum", "parameters": {"x": [1]}, "prority": 1}, "invalid_request", "prority", "did you mean priority"),
        ("run_operation", {}, "invalid_request", "operation", "missing"),
        ("run_operation", {"operation": "sum", "parameters": {"x": [1]}, "device_preference": "tpu"}, "no_such_device", "device_preference", "tpu"),
        ("run_operation", {"operation": "inv", "parameters": {"x": [[0.0, 0.0], [0.0, 0.0]]}}, "operation_failed", None, "singular"),
        ("get_task", {"task_id": "nothing"}, "not_found", None, "nothing"),
        ("get_task", {"task_id": "../devices"}, "not_found", None, "devices"),
        ("get_device", {"device_id": "cpu:7"}, "not_found", None, "cpu:7"),
        ("list_devices", {"all": True}, "invalid_request", "all", "not a field"),
        ("verify_kernel", {"name": "nothing"}, "not_found", "name", "nothing"),
        ("register_kernel", {"name": "k"}, "invalid_request", "language", "missing"),
    ],
)  # fmt: skip
async def test_refusals_name_code_field_and_what_would_be_right(
    numpy_server: Server, tool: str, arguments: dict[str, Any], code: str, field: str | None, says: str
) -> None:
    async with Client(f"{numpy_server.url}/mcp") as client:
        found = await call(client, tool, refused=True, **arguments)
    assert (found["code"], found.get("field")) == (code, field), found
    assert says in found["detail"]
    assert "Traceback" not in str(found)


async def test_what_is_no_message_is_refused_in_the_protocols_form(numpy_server: Server) -> None:
    async with Client(f"{numpy_server.url}/mcp") as client:
        answer = await client.call_tool("no_such_tool", {})
        assert answer.is_error
        assert "no_such_tool" in answer.content[0].text
    post = {**ACCEPT, "Content-Type": "application/json"}
    for body in (b"", b"{", b"[]", b'{"jsonrpc": "2.0"}', b'{"jsonrpc": "2.0", "id": 1, "method": "nothing"}', b"\xff"):
        for extra in ({}, {"MCP-Protocol-Version": CURRENT}, {"MCP-Protocol-Version": "1999-01-01"}, {"Mcp-Session-Id": "none"}):
            found = httpx.post(f"{numpy_server.url}/mcp", content=body, headers={**post, **extra})
            assert 400 <= found.status_code < 500
            assert "error" in found.json()
    assert httpx.post(f"{numpy_server.url}/mcp", content=b"{}", headers={**ACCEPT, "Content-Type": "text/plain"}).status_code in (400, 415)
    assert httpx.post(f"{numpy_server.url}/mcp", content=b" " * (5 << 20), headers=post).status_code == 413


def test_pages_of_others_are_refused(numpy_server: Server) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        found = httpx.post(f"{numpy_server.url}/mcp", json=INITIALIZE, headers={**ACCEPT, **headers})
        assert (found.status_code, found.json()["code"]) == (403, "forbidden")
    assert httpx.post(f"{numpy_server.url}/mcp", json=INITIALIZE, headers={**ACCEPT, "Origin": numpy_server.url}).status_code == 200


async def test_progress_and_what_goes_on_after_the_wait(numpy_server: Server, mode: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    arguments = {"operation": "monte_carlo_pi", "parameters": {"samples": 3 * 10**8, "seed": 5}, "wait": 30}
    async with Client(f"{numpy_server.url}/mcp", mode=mode) as client:
        answer = await client.call_tool("run_operation", arguments | {"wait": 0.5}, progress_callback=heard)
        assert not answer.is_error
        assert answer.structured_content["status"] in ("queued", "running")
        assert "get_task" in answer.structured_content["next"]
        assert seen
        values = [progress for progress, _, _ in seen]
        assert values == sorted(set(values))
        assert all(total == 1.0 for _, total, _ in seen)
        done = await call(client, "cancel_task", task_id=answer.structured_content["task_id"])
        assert (await ended(numpy_server, done["task_id"]))["status"] == "cancelled"


async def test_giving_up_a_call_cancels_its_task(numpy_server: Server, mode: str) -> None:
    async with Client(f"{numpy_server.url}/mcp", mode=mode) as client:
        with anyio.move_on_after(15) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "run_operation", ENDLESS)
                running = await newest(numpy_server, "monte_carlo_pi")
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert (await ended(numpy_server, running["task_id"]))["status"] == "cancelled"
        assert (await call(client, "run_operation", operation="sum", parameters={"x": [1]}))["result"] == {"output": 1}


async def test_sessions_are_apart_and_end(numpy_server: Server) -> None:
    async def one(number: int) -> float:
        async with Client(f"{numpy_server.url}/mcp", mode=list(MODES.values())[number % 2]) as client:
            found = await call(client, "run_operation", operation="sum", parameters={"x": [number, 1000]})
            return float(found["result"]["output"])

    assert await asyncio.gather(*map(one, range(12))) == [1000.0 + number for number in range(12)]
    begun = httpx.post(f"{numpy_server.url}/mcp", json=INITIALIZE, headers=ACCEPT)
    session = {**ACCEPT, "Mcp-Session-Id": begun.headers["mcp-session-id"], "MCP-Protocol-Version": BEFORE}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert httpx.post(f"{numpy_server.url}/mcp", json=ping, headers=session).status_code == 200
    assert httpx.post(f"{numpy_server.url}/mcp", json=ping, headers={**session, "X-Client": "another"}).status_code == 404
    assert httpx.delete(f"{numpy_server.url}/mcp", headers=session).status_code == 200
    assert httpx.post(f"{numpy_server.url}/mcp", json=ping, headers=session).status_code == 404


async def test_a_stop_waits_for_no_listener_and_keeps_the_tasks_of_calls(start_server: Start, tmp_path: Path) -> None:
    """A client of the revision before listens all the time, and a call waits for a task: it is not the client who gives that up."""
    environment = {"OPENRUNTIME_BACKENDS": "numpy"}
    with start_server(environment=environment | {"OPENRUNTIME_SHUTDOWN_GRACE": "1"}, data_dir=tmp_path) as server:
        async with Client(f"{server.url}/mcp", mode="legacy") as client:
            await client.list_tools()  # which the client looks up after a call otherwise
            calling = asyncio.create_task(client.call_tool("run_operation", ENDLESS))
            running = await newest(server, "monte_carlo_pi")
            began = time.monotonic()
            status, left = await asyncio.to_thread(server.stop)
            assert time.monotonic() - began < 8
            answer = (await calling).structured_content
            assert (answer["task_id"], answer["status"]) == (running["task_id"], "running")
            assert "takes the task up again" in answer["next"]
        assert (status, left) == (0, [])
        assert "ERROR" not in (said := server.log_tail(200)), said
    with start_server(environment=environment, data_dir=tmp_path) as server:
        assert task(server, running["task_id"])["status"] in ("queued", "running")
        httpx.delete(f"{server.url}/tasks/{running['task_id']}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_nothing_is_loaded_before_the_first_call(start_server: Start) -> None:
    with start_server(store="memory", environment={"OPENRUNTIME_BACKENDS": "numpy"}) as server:
        httpx.get(f"{server.url}/devices").raise_for_status()
        maps = Path(f"/proc/{server.process.pid}/maps")
        before, resident = "pydantic_core" in maps.read_text(), server.tree()[0].memory_info().rss
        assert before  # or the next line would prove nothing
        assert "httpx2" not in (loaded := await modules(server)), loaded
        async with Client(f"{server.url}/mcp") as client:
            await call(client, "list_devices")
        grown = server.tree()[0].memory_info().rss - resident
        assert 10 << 20 < grown < 120 << 20  # the library came with the call, and not before


async def modules(server: Server) -> set[str]:
    """Packages whose files the server's process has open or mapped."""
    return {part for line in Path(f"/proc/{server.process.pid}/maps").read_text().splitlines() for part in line.split()[-1].split("/")}


async def test_a_missing_extra_is_answered_with_its_name(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "fastmcp").mkdir()
    (tmp_path / "fastmcp" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'fastmcp'\", name='fastmcp')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with start_server(store="memory", environment={"OPENRUNTIME_BACKENDS": "numpy", "PYTHONPATH": path}) as server:
        found = httpx.post(f"{server.url}/mcp", json=INITIALIZE, headers=ACCEPT)
        assert (found.status_code, found.json()["code"]) == (503, "unavailable")
        assert "openruntime[mcp]" in found.json()["detail"]
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
