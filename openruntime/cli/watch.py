"""`openruntime watch`: devices, queue and tasks, live; or one task."""

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, Server, client, console, duration, show_json, size, table
from openruntime.cli.tasks import COLOURS

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime

_KEPT = 200  # tasks remembered for the screen
_REFRESH = 4  # a second
_DEVICES_EVERY = 1.0  # seconds
_ENDS = ("task.completed", "task.failed", "task.cancelled")


def register(app: typer.Typer) -> None:
    app.command()(watch)


def watch(
    task_id: Annotated[str | None, typer.Argument(help="Follow this task to its end.", show_default=False)] = None,
    json: Json = False,
    server: Server = None,
) -> None:
    """Show devices, queue and tasks live until Ctrl-C; with a task's id, follow that one. With --json events, one a line."""
    with client(server) as runtime:
        if task_id is not None:
            _follow(runtime, task_id, json)
        elif json:
            _stream(runtime)
        else:
            _screen(runtime)


def _follow(runtime: "Runtime", task_id: str, json: bool) -> None:
    from openruntime.cli.run import follow

    future = runtime.task(task_id)
    try:
        follow(future, cancel=False)
    finally:
        status = future.status().model_dump(exclude={"result"}, mode="json")
        if json:
            show_json(status)
        else:
            where = status["device_used"] or "no device"
            print(f"{task_id} {status['operation']}: {status['status']} after {duration(status['execution_time'])} on {where}")


def _stream(runtime: "Runtime") -> None:
    import json

    for event in runtime.events(["tasks", "devices"]):
        print(json.dumps(event), flush=True)


class Board:
    """What the screen shows: fed by events, drawn by `render`."""

    def __init__(self, devices: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> None:
        self.devices = devices
        self.tasks: OrderedDict[str, dict[str, Any]] = OrderedDict((task["task_id"], task) for task in reversed(tasks))
        self.ended = 0
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
            task |= {"status": "running", "where": f"{data.get('device')}/{data.get('backend')}"}
        elif kind == "task.progress":
            task |= {"status": "running", "progress": data.get("progress"), "message": data.get("message")}
        elif kind in _ENDS:
            self.ended += 1
            task |= {"status": kind.removeprefix("task."), "seconds": data.get("seconds"), "message": data.get("error"), "progress": None}
            if data.get("device"):
                task["where"] = "cache" if data.get("cached") else f"{data['device']}/{data.get('backend')}"
            self.tasks.move_to_end(data["task_id"])
        while len(self.tasks) > _KEPT:
            self.tasks.popitem(last=False)

    def render(self, height: int, address: str) -> Any:
        """Devices, then as many tasks as fit: those that run, those that wait, then the newest that ended."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rate = self.ended / max(time.monotonic() - self._since, 1e-9)
            tasks = list(self.tasks.values())
            devices = table(
                ("device", "name", "status", "busy", "queued", "load", "memory free"),
                [[d["id"], d["name"], d["status"], f"{d['busy']}/{d['slots']}", str(d["queued"]),
                  "-" if d.get("utilization") is None else f"{d['utilization']:.0%}", size(d["memory_available"])] for d in self.devices],
                right=frozenset({"busy", "queued", "load", "memory free"}),
            )  # fmt: skip
        order = {"running": 0, "cancelling": 0, "queued": 1}
        shown = sorted(reversed(tasks), key=lambda task: order.get(task["status"], 2))[: max(1, height - len(self.devices) - 9)]
        listed = table(("task", "operation", "status", "where", "took", "progress"), [], right=frozenset({"took"}))
        for task in shown:
            fraction = task.get("progress")
            bar: Any = Text(task.get("message") or "", overflow="ellipsis", no_wrap=True)
            if fraction is not None:
                bar = ProgressBar(total=1.0, completed=fraction, width=24)
            status = Text(task["status"], COLOURS[task["status"]])
            listed.add_row(task["task_id"], task["operation"], status, task.get("where") or "-", duration(task.get("seconds")), bar)
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        missed = f"  [yellow]{self.missed} events missed[/]" if self.missed else ""
        head.add_row(f"[bold]OpenRuntime[/] {address}{missed}", f"{rate:.1f} tasks/s  [dim]Ctrl-C leaves[/]")
        return Group(head, devices, listed)


def _screen(runtime: "Runtime") -> None:
    from rich.live import Live

    tasks = [task.model_dump(mode="json", exclude={"result"}) for task in runtime.tasks(limit=50)]
    board = Board(runtime.devices(), [_row(task) for task in tasks])
    out = console()
    address = repr(runtime).strip("<>").removeprefix("Runtime ")
    threading.Thread(target=_feed, args=(runtime, board), daemon=True).start()
    try:
        with Live(console=out, screen=out.is_terminal, auto_refresh=False, transient=True) as live:
            while board.error is None:
                board.devices = runtime.devices()
                until = time.monotonic() + _DEVICES_EVERY
                while time.monotonic() < until and board.error is None:
                    live.update(board.render(out.size.height, address), refresh=True)
                    time.sleep(1 / _REFRESH)
    except KeyboardInterrupt:
        return
    raise board.error


def _feed(runtime: "Runtime", board: Board) -> None:
    try:
        for event in runtime.events(["tasks", "devices"]):
            board.take(event)
    except Exception as error:  # it ends the screen, which raises it
        board.error = error


def _row(task: dict[str, Any]) -> dict[str, Any]:
    where = "cache" if task["cached"] else f"{task['device_used']}/{task['backend']}" if task["device_used"] else None
    return task | {"where": where, "seconds": task["execution_time"], "message": task["error"] or task["message"]}
