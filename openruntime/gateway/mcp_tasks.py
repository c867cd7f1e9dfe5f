"""Tasks as an assistant meets them: waited for with news, cancelled when it gives up, and results no longer than it can read."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from openruntime.client.connection import Connection, ended
from openruntime.contracts.errors import OpenRuntimeError

SHOWN = 16_384  # characters of an output's JSON; a longer one is summed up
LONGEST_ANSWER = 131_072  # bytes of what is no array
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two looks at a task
PATIENCE = 5.0  # seconds that statistics may take
_CANCEL = 10.0  # seconds
_STATISTICS = {"b": ("mean",), "i": ("min", "max", "mean", "std"), "u": ("min", "max", "mean", "std"), "f": ("min", "max", "mean", "std")}
_ENDED = ("completed", "failed", "cancelled")
_encode = msgspec.json.Encoder().encode


class Caller(Protocol):
    """Who called a tool: the way to the server in his name, and the way back to him."""

    connection: Connection

    async def progress(self, fraction: float, message: str) -> None:
        """From 0 to 1, never less than before."""

    async def log(self, message: str) -> None: ...

    def leaving(self) -> bool:
        """Whether the server is about to stop: then no call waits any more, and one that ends was not given up by its caller."""


class Link(msgspec.Struct, frozen=True):
    """Where more of an answer can be read."""

    uri: str
    name: str
    description: str
    media: str


class Told(msgspec.Struct, frozen=True):
    """A tool's answer."""

    content: dict[str, Any]
    links: Sequence[Link] = ()


async def run(caller: Caller, request: Mapping[str, Any], seconds: float) -> Told:
    """Submit and wait. A caller who gives up cancels the task; when the seconds are over it goes on, and the answer says so.

    Raises what the task failed with.
    """
    submitting = asyncio.ensure_future(submit(caller, request))
    task_id = ""
    try:
        task_id = (await asyncio.shield(submitting))["task_id"]
        return await told(caller, await followed(caller, task_id, seconds), raising=True)
    except asyncio.CancelledError:
        if not caller.leaving():
            await asyncio.shield(asyncio.ensure_future(_give_up(caller, submitting)))
        raise


async def submit(caller: Caller, request: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = await caller.connection.json("POST", "/tasks", request)
    return found


async def _give_up(caller: Caller, submitting: "asyncio.Future[dict[str, Any]]") -> None:
    try:
        async with asyncio.timeout(_CANCEL):
            await caller.connection.json("DELETE", f"/tasks/{(await submitting)['task_id']}")
    except (OpenRuntimeError, TimeoutError):
        return  # it was refused, or has ended, or nobody answers: there is nobody to tell


async def followed(caller: Caller, task_id: str, seconds: float) -> dict[str, Any]:
    """The task once it has ended, or as it is when the seconds are over or the server stops."""
    clock = asyncio.get_running_loop().time
    until, pause, reached, running = clock() + seconds, FIRST_PAUSE, 0.0, False
    while True:
        wait = max(0.0, min(pause, until - clock()))
        found: dict[str, Any] = await caller.connection.json("GET", f"/tasks/{quote(task_id, safe='')}", query={"wait": wait}, wait=wait)
        if found["status"] in _ENDED or clock() >= until or caller.leaving():
            return found
        if found["started_at"] and not running:
            running = True
            await caller.log(f"task {task_id} runs on {found['device_used']} with {found['backend']}")
        reached = max(reached + 1e-6, found["progress"] or 0.0)  # the protocol wants it to grow with each
        await caller.progress(reached, found["message"] or f"{found['operation']}: {found['status']}")
        pause = min(pause * 1.5, LONGEST_PAUSE)


async def told(caller: Caller, task: Mapping[str, Any], *, raising: bool = False) -> Told:
    """A task as it is shown: without what is not known, its long outputs summed up."""
    failed = ended(task)
    if raising and failed is not None:
        raise failed
    content = {name: value for name, value in task.items() if value not in (None, [], "") and name not in ("result", "achieved", "cached")}
    if task["status"] not in _ENDED:
        again = "the server is stopping and takes the task up again when it starts" if caller.leaving() else "it goes on"
        content["next"] = f"{again}; get_task with this task_id and `wait` waits for it, cancel_task ends it"
    if not task["result"]:
        return Told(content)
    outputs, links = {}, []
    for name, value in task["result"].items():
        outputs[name] = value
        if _tensor(value) or (isinstance(value, list) and len(_encode(value)) > SHOWN):
            outputs[name] = await _summary(caller, task["task_id"], name, value)
        elif len(text := _encode(value)) > LONGEST_ANSWER:  # a model's, which is no array
            outputs[name] = {"begins": text[:SHOWN].decode(errors="ignore"), "bytes": len(text)}
        if _tensor(value):
            uri = f"openruntime://tensors/{value['tensor']}"
            links.append(Link(uri, name, f"{value['dtype']} {value['shape']}, as npy", "application/x-npy"))
    uri = f"openruntime://tasks/{task['task_id']}/result"
    return Told(content | {"result": outputs}, [Link(uri, "result", "all outputs as JSON", "application/json"), *links] if links else ())


def _tensor(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"tensor", "dtype", "shape"}


async def _summary(caller: Caller, task_id: str, name: str, value: Any) -> dict[str, Any]:
    """Shape, dtype and statistics. They are computed as tasks of the caller's own: the gateway has no arithmetic."""
    if _tensor(value):
        known = dict(value)
        wanted = _STATISTICS.get({"bool": "b"}.get(value["dtype"], value["dtype"].removeprefix("b")[0]), ())
    else:
        known = {"shape": _shape(value), "begins": str(value)[:200]}
        wanted = _STATISTICS["f"]
    known["reference"] = {"task": task_id, "output": name}
    if not wanted or 0 in known["shape"]:
        return known
    requests = [{"operation": one, "parameters": {"x": known["reference"]}, "tags": ["mcp"]} for one in wanted]
    try:
        reply = await caller.connection.call(
            "POST", "/tasks/batch", headers={"Content-Type": "application/json", "Accept": "application/json", "Prefer": f"wait={PATIENCE:g}"},
            content=[_encode({"tasks": requests})], wait=PATIENCE,
        )  # fmt: skip
    except OpenRuntimeError as error:
        return known | {"statistics": None, "reason": error.message}
    made = msgspec.json.decode(bytes(reply.body))["tasks"]
    found = {one: answer["result"]["output"] for one, answer in zip(wanted, made, strict=True) if answer.get("result")}
    missing = next((answer.get("error") or answer.get("detail") or "they took too long" for answer in made if not answer.get("result")), None)
    return known | {"statistics": found} | ({"reason": missing} if missing else {})


def _shape(value: Any) -> list[int]:
    """Of nested lists."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape
