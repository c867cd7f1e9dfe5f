"""What tests of MCP share: the revisions, how tools are called, and how a task's end is seen past them."""

import asyncio
import json
import os
import sys
import time
from typing import Any

import httpx
from mcp import Client, StdioServerParameters

from benchmarks.servers import Server

CURRENT, BEFORE = "2026-07-28", "2025-11-25"
MODES = {CURRENT: "auto", BEFORE: "legacy"}
TOOLS = {
    "list_devices", "get_device", "list_operations", "describe_operation", "run_operation", "submit_task", "get_task", "list_tasks", "cancel_task",
    "explain_task", "list_kernels", "get_kernel", "register_kernel", "verify_kernel", "list_models", "generate", "get_metrics",
}  # fmt: skip
ENDLESS = {"operation": "monte_carlo_pi", "parameters": {"samples": 10**12, "seed": 1}}
KERNEL: dict[str, Any] = {
    "name": "doubled", "language": "opencl", "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}],
    "source": "kernel void doubled(global const float *x, global float *y, int n) { int i = get_global_id(0); if (i < n) y[i] = 2 * x[i]; }",
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["n"]}], "scalars": [{"name": "n", "dtype": "int32"}], "grid": ["n"],
    "reference": {"operation": "expression", "parameters": {"formula": "2*x"}},
}  # fmt: skip
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": BEFORE, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def call(client: Client, tool: str, /, *, refused: bool = False, **arguments: Any) -> dict[str, Any]:
    """The structured answer, which the text repeats."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error is refused, answer.content
    assert json.loads(answer.content[0].text) == answer.structured_content
    found: dict[str, Any] = answer.structured_content
    return found


def task(server: Server, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/tasks/{task_id}").raise_for_status().json()
    return found


async def ended(server: Server, task_id: str, seconds: float = 5.0) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while (found := task(server, task_id))["status"] in ("queued", "running", "cancelling") and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return found


async def newest(server: Server, operation: str, seconds: float = 5.0) -> dict[str, Any]:
    """The newest task of the operation, once it runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found: list[dict[str, Any]] = httpx.get(f"{server.url}/tasks", params={"operation": operation, "limit": 1}).json()["tasks"]
        if found and found[0]["status"] == "running":
            return found[0]
        await asyncio.sleep(0.05)
    raise AssertionError(f"no task of {operation} runs")


def stdio(*arguments: str) -> StdioServerParameters:
    environment = {**os.environ, "OPENRUNTIME_BACKENDS": "numpy", "OPENRUNTIME_CALIBRATE": "false"}
    return StdioServerParameters(command=sys.executable, args=["-m", "openruntime.cli.main", "mcp", *arguments], env=environment)
