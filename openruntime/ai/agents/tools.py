"""Tools that several roles have: the API's own resources, cut to what a model can read. A role adds those that are its own."""

from typing import Any
from urllib.parse import quote

from openruntime.contracts.agents import Context

MOST = 50  # entries of a list
_TASK = ("task_id", "status", "operation", "device_used", "backend", "execution_time", "error", "code", "priority", "tags", "created_at", "cached")


async def list_devices(context: Context) -> Any:
    """The devices of this system with memory in bytes, state, load and the backends that drive them."""
    return (await context.client.get("/devices"))["devices"]


async def get_device(context: Context, device: str) -> Any:
    """One device with its workers, its queue and its measured ceilings (FLOP/s, bytes/s), by its id such as `cpu:0`."""
    return await context.client.get(f"/devices/{quote(device, safe=':')}")


async def list_operations(context: Context, containing: str = "") -> Any:
    """Names and one-line summaries of the operations and kernels that can be run, those whose name or summary contains a word."""
    found = (await context.client.get("/operations"))["operations"]
    rows = [{"name": entry["name"], "family": entry.get("family"), "summary": entry.get("summary")} for entry in found]
    word = containing.lower()
    return [row for row in rows if word in row["name"].lower() or word in (row["summary"] or "").lower()]


async def describe_operation(context: Context, name: str) -> Any:
    """An operation's parameters as a JSON Schema, its outputs, and where it can run."""
    return await context.client.get(f"/operations/{quote(name, safe='')}")


async def run_operation(context: Context, operation: str, parameters: dict[str, Any], device: str | None = None) -> Any:
    """Run an operation on small arrays (nested lists) and wait: its status, result, seconds and device."""
    fields = {"device_preference": device} if device else {}
    return await context.client.run(operation, parameters, **fields)


async def list_tasks(context: Context, status: str | None = None, operation: str | None = None, device: str | None = None, limit: int = 20) -> Any:
    """The newest tasks, without results; of one status (queued, running, completed, failed, cancelled), operation or device where given."""
    found = await context.client.get("/tasks", status=status, operation=operation, device=device, limit=max(1, min(limit, MOST)))
    return [{name: task[name] for name in _TASK if task.get(name) not in (None, [])} for task in found["tasks"]]


async def get_task(context: Context, task_id: str) -> Any:
    """A task with its status, error, timings and, where it completed, its result."""
    return await context.client.get(f"/tasks/{quote(task_id, safe='')}")


async def explain_task(context: Context, task_id: str) -> Any:
    """Why a task ran where it ran: candidates, predicted against actual seconds, attempts, batch."""
    return await context.client.get(f"/tasks/{quote(task_id, safe='')}/explain")


async def cancel_task(context: Context, task_id: str) -> Any:
    """Cancel a task. One that this run did not submit itself is cancelled only when a person approves."""
    return await context.client.delete(f"/tasks/{quote(task_id, safe='')}")


async def set_device_state(context: Context, device: str, state: str) -> Any:
    """Drain a device (`draining`) or let it take work again (`ready`), when a person approves."""
    return await context.client.put(f"/devices/{quote(device, safe=':')}/state", {"state": state})


async def list_kernels(context: Context) -> Any:
    """The registered kernels: signature, language, version, how verifying and tuning went."""
    return (await context.client.get("/kernels"))["kernels"]


async def get_kernel(context: Context, name: str) -> Any:
    """A kernel with its source."""
    return await context.client.get(f"/kernels/{quote(name, safe='')}")


async def get_metrics(context: Context) -> Any:
    """The system's counters, gauges and histograms now."""
    return await context.client.get("/metrics")


LOOKING = (list_devices, get_device, list_operations, describe_operation, list_tasks, get_task, explain_task, list_kernels, get_kernel, get_metrics)
"""Those that change nothing."""
