"""`openruntime watch`: devices, queue and tasks, live; or one task."""

import threading
import time
from collections import OrderedDict, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, Server, client, console, duration, show_json, size, table
from openruntime.cli.tasks import COLOURS, find
from openruntime.contracts.errors import TaskFailed

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime, TaskFuture

_KEPT = 200  # tasks remembered for the screen
_REFRESH = 4  # a second
_DEVICES_EVERY = 1.0  # seconds
_TIME = 9  # characters before what a line is about
_RATE_OVER = 5.0  # seconds
_ENDS = ("task.completed", "task.failed", "task.cancelled")


def register(app: typer.Typer) -> None:
    app.command()(watch)


def watch(
    task_id: Annotated[str | None, typer.Argument(help="Follow the task with this id, or beginning or end of one.", show_default=False)] = None,
    json: Json = False,
    server: Server = None,
) -> None:
    """Show devices, queue and tasks live until Ctrl-C; with a task's id, follow that one.

    In a pipe there is a line for each event; with --json each is JSON. Ctrl-C only ends the watching, with exit code 130.
    """
    with client(server) as runtime:
        if task_id is not None:
            _follow(runtime, task_id, json)
        elif json or not console().is_terminal:
            _stream(runtime, json)
        else:
            _screen(runtime)


def _follow(runtime: "Runtime", task_id: str, json: bool) -> None:
    from openruntime.cli.run import follow

    future = find(runtime, task_id)
    try:
        follow(future, cancel=False)
    except TaskFailed:
        _ended(future, json)
        raise
    _ended(future, json)


def _ended(future: "TaskFuture", json: bool) -> None:
    status = future.status().model_dump(exclude={"result"}, mode="json")
    if json:
        show_json(status)
        return
    took = duration(status["execution_time"])
    how = f"from the cache (computed in {took})" if status["cached"] else f"after {took} on {status['device_used']}" if status["device_used"] else ""
    print(f"{future.task_id} {status['operation']}: {status['status']} {how}".rstrip())


def _stream(runtime: "Runtime", as_json: bool) -> None:
    import json

    last = None
    for event in runtime.events(["tasks", "devices"]):
        line = json.dumps(event) if as_json else plain(event)
        if as_json or line[_TIME:] != last:  # progress by whole percents
            print(line, flush=True)
        last = line[_TIME:]


def plain(event: dict[str, Any]) -> str:
    """An event as a line: when, what, of what, and the rest of what it says."""
    data = event.get("data") or {}
    when = (event.get("time") or datetime.now(UTC).isoformat())[11:19]
    what = " ".join(str(data[name]) for name in ("task_id", "operation", "device") if data.get(name))
    told = [f"{data['progress']:.0%}"] if data.get("progress") is not None else []
    told += ["from the cache" if data.get("cached") else duration(data["seconds"])] if data.get("seconds") is not None else []
    told += [str(data[name]) for name in ("status", "reason", "message", "error") if data.get(name) and str(data[name]) not in event["type"]]
    return f"{when} {event['type']:<14} {what} {' '.join(told)}".rstrip()


class Board:
    """What the screen shows: fed by events, drawn by `render`."""

    def __init__(self, devices: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> None:
        self.devices = devices
        self.tasks: OrderedDict[str, dict[str, Any]] = OrderedDict((task["task_id"], task) for task in reversed(tasks))
        self.ended: deque[float] = deque(maxlen=100_000)  # when, in the last seconds
        self.missed = 0
        self.error: Exception | None = None
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def take(self, event: dict[str, Any]) -> None:
        kind, data = event["type"], event.get("data") or {}
        with self._lock:
            if kind == "gap":
                self.missed += data.get("missed") or 1
            elif kind == "device.changed":
                for device in self.devices:
                    if device["id"] == data.get("device"):
                        device["status"] = data.get("status") or device["status"]
            elif kind.startswith("task."):
                self._task(kind, data)

    def _task(self, kind: str, data: dict[str, Any]) -> None:
        task = self.tasks.setdefault(data["task_id"], {"task_id": data["task_id"], "operation": data["operation"], "status": "queued"})
        if kind == "task.started":
            task |= {"status": "running", "where": f"{data.get('device')}/{data.get('backend')}", "since": time.time()}
        elif kind == "task.progress":
            task |= {"status": "running", "progress": data.get("progress"), "message": data.get("message")}
        elif kind in _ENDS:
            self.ended.append(time.monotonic())
            task |= {"status": kind.removeprefix("task."), "seconds": data.get("seconds"), "message": data.get("error"), "progress": None}
            if data.get("device"):
                task["where"] = "cache" if data.get("cached") else f"{data['device']}/{data.get('backend')}"
            self.tasks.move_to_end(data["task_id"])
        while len(self.tasks) > _KEPT:
            self.tasks.popitem(last=False)

    def rate(self) -> float:
        """Tasks a second that ended in the last seconds."""
        now = time.monotonic()
        while self.ended and self.ended[0] < now - _RATE_OVER:
            self.ended.popleft()
        return len(self.ended) / min(_RATE_OVER, max(now - self._since, 1.0))

    def render(self, height: int, address: str) -> Any:
        """Devices, then as many tasks as fit: those that run, those that wait, then the newest that ended."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rate = self.rate()
            tasks = list(self.tasks.values())
            devices = table(
                ("device", "name", "status", "busy", "queued", "load", "memory free"),
                [[d["id"], d["name"], d["status"], f"{d['busy']}/{d['slots']}", str(d["queued"]),
                  "-" if d.get("utilization") is None else f"{d['utilization']:.0%}", size(d["memory_available"])] for d in self.devices],
                right=frozenset({"busy", "queued", "load", "memory free"}), whole=frozenset({"device"}),
            )  # fmt: skip
        order = {"running": 0, "cancelling": 0, "queued": 1}
        shown = sorted(reversed(tasks), key=lambda task: order.get(task["status"], 2))[: max(1, height - len(self.devices) - 9)]
        rows = [
            [task["task_id"], task["operation"], Text(_status(task), COLOURS[task["status"]]), duration(_took(task)), task.get("where") or "-",
             task.get("message") or ""]
            for task in shown
        ]  # fmt: skip
        columns = ("task", "operation", "status", "took", "where", "")
        listed = table(columns, rows, right=frozenset({"took"}), whole=frozenset({"task", "status", "took"}))
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        missed = f"  [yellow]{self.missed} events missed[/]" if self.missed else ""
        head.add_row(f"[bold]OpenRuntime[/] {address}{missed}", f"{rate:.1f} tasks/s  [dim]Ctrl-C leaves[/]")
        return Group(head, devices, listed)


def _status(task: dict[str, Any]) -> str:
    fraction = task.get("progress") if task["status"] == "running" else None
    return str(task["status"]) if fraction is None else f"{task['status']} {fraction:.0%}"


def _took(task: dict[str, Any]) -> float | None:
    """Seconds, up to now where it runs."""
    if task["status"] not in ("running", "cancelling"):
        seconds: float | None = task.get("seconds")
        return seconds
    return max(0.0, time.time() - task["since"]) if task.get("since") else None


def _screen(runtime: "Runtime") -> None:
    from rich.live import Live

    tasks = [task.model_dump(mode="json", exclude={"result"}) for task in runtime.tasks(limit=50)]
    board = Board(runtime.devices(), [_row(task) for task in tasks])
    out = console()
    address = repr(runtime).strip("<>").removeprefix("Runtime ")
    threading.Thread(target=_feed, args=(runtime, board), daemon=True).start()
    with Live(console=out, screen=True, auto_refresh=False, transient=True) as live:
        while board.error is None:
            board.devices = runtime.devices()
            until = time.monotonic() + _DEVICES_EVERY
            while time.monotonic() < until and board.error is None:
                live.update(board.render(out.size.height, address), refresh=True)
                time.sleep(1 / _REFRESH)
    raise board.error


def _feed(runtime: "Runtime", board: Board) -> None:
    try:
        for event in runtime.events(["tasks", "devices"]):
            board.take(event)
    except Exception as error:  # it ends the screen, which raises it
        board.error = error


def _row(task: dict[str, Any]) -> dict[str, Any]:
    where = "cache" if task["cached"] else f"{task['device_used']}/{task['backend']}" if task["device_used"] else None
    since = datetime.fromisoformat(task["started_at"]).timestamp() if task.get("started_at") else None
    return task | {"where": where, "seconds": task["execution_time"], "message": task["error"] or task["message"], "since": since}
