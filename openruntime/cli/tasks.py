"""`openruntime tasks` and `openruntime cancel`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, Server, client, console, duration, show_json, size, styled, table

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime, TaskFuture

COLOURS = {"queued": "yellow", "running": "cyan", "cancelling": "magenta", "completed": "green", "failed": "red", "cancelled": "dim"}

Task = Annotated[str, typer.Argument(help="The task's id, or the beginning or end of a recent one's.")]
_RECENT, _WHOLE = 200, 36  # tasks; characters of an id
_WIDE = 100  # columns


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=False, help="List tasks, show one, explain where one ran.")
    group.callback(invoke_without_command=True)(newest)
    group.command("list")(listing)
    group.command()(show)
    group.command()(explain)
    app.add_typer(group, name="tasks")
    app.command()(cancel)


def newest(context: typer.Context, json: Json = False, server: Server = None) -> None:
    """List the newest tasks."""
    if context.invoked_subcommand is None:
        listing(json=json, server=server)


def listing(
    status: Annotated[str | None, typer.Option(help="Only these: queued, running, cancelling, completed, failed, cancelled.")] = None,
    operation: Annotated[str | None, typer.Option(help="Only of this operation.")] = None,
    device: Annotated[str | None, typer.Option(help="Only on this device.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    json: Json = False,
    server: Server = None,
) -> None:
    """List tasks, newest first."""
    with client(server) as runtime:
        listed = runtime.tasks(status=status, operation=operation, device=device, tag=tag, limit=limit)
        found = [task.model_dump(exclude={"result"}, mode="json") for task in listed]
    if json:
        show_json(found)
    else:
        out = console()
        out.print(rows(found, out.width))


def rows(found: list[dict[str, Any]], width: int) -> Any:
    """A table of task responses; without the priority where it would be too wide."""
    priorities = [[str(task["priority"])] if width >= _WIDE else [] for task in found]
    lines = [
        [task["task_id"], task["operation"], styled(task["status"], COLOURS), duration(task["execution_time"]), *priority,
         "cache" if task["cached"] else task["device_used"] or "-", _note(task)]
        for task, priority in zip(found, priorities, strict=True)
    ]  # fmt: skip
    columns = ("task", "operation", "status", "took", *(["priority"] if width >= _WIDE else []), "device", "")
    return table(columns, lines, right=frozenset({"priority", "took"}), whole=frozenset({"task", "status", "took"}))


def find(runtime: "Runtime", given: str) -> "TaskFuture":
    """The task with this id, or the only recent one whose id begins or ends so. Raises `InvalidParameter`, `NotFound`."""
    from openruntime.contracts.errors import InvalidParameter

    if len(given) >= _WHOLE:
        return runtime.task(given)
    known = [task.task_id for task in runtime.tasks(limit=_RECENT)]
    fitting = [known_id for known_id in known if given and (known_id.startswith(given) or known_id.endswith(given))]
    if len(fitting) > 1:
        raise InvalidParameter(f"{given!r} begins or ends the ids of {len(fitting)} recent tasks; give more of it", field="task_id")
    return runtime.task(fitting[0] if fitting else given)


def _note(task: dict[str, Any]) -> str:
    if task["error"]:
        return str(task["error"])
    return f"{task['progress']:.0%} {task['message'] or ''}" if task["progress"] is not None and task["status"] == "running" else ""


def show(task_id: Task, json: Json = False, server: Server = None) -> None:
    """Show one task."""
    with client(server) as runtime:
        _print(find(runtime, task_id).status().model_dump(mode="json"), json)


def explain(task_id: Task, json: Json = False, server: Server = None) -> None:
    """Explain where a task ran and why, predicted against actual."""
    with client(server) as runtime:
        found = find(runtime, task_id).explain()
    if json:
        show_json(found)
    else:
        _explained(found)


def _explained(found: dict[str, Any]) -> None:
    out = console()
    out.print(f"{found['operation']} {found['task_id']}: {found['status']}", style="bold", markup=False, soft_wrap=True)
    out.print(found["reason"], markup=False)
    if candidates := found["candidates"]:
        lines = [
            ["→" if row["chosen"] else "", f"{row['device']}/{row['backend']}", "" if row["slot"] is None else str(row["slot"]),
             {True: "warm", False: "cold", None: "-"}[row["warm"]], duration(row["predicted"]), duration(row["first_cost"]),
             duration(row["backlog"]), duration(row["start_cost"]), duration(row["predicted_finish"])]
            for row in candidates
        ]  # fmt: skip
        names = ("", "device", "slot", "worker", "predicted", "first call", "waiting there", "to start it", "predicted end")
        out.print(table(names, lines, right=frozenset(names[4:])))
    rows = [(name.replace("_", " "), shown) for name, shown in _facts(found) if shown]
    width = max(len(name) for name, _ in rows)
    for name, shown in rows:
        out.print(f"{name:<{width}}  {shown}", markup=False)


def _facts(found: dict[str, Any]) -> list[tuple[str, str | None]]:
    tried = f"{found['attempt']}, after {found['failures']} failures and {found['worker_deaths']} worker deaths" if found["attempt"] > 1 else None
    estimate, achieved = found["estimate"], found["achieved"]
    rates = [f"{achieved[name]:.3g} {unit}" for name, unit in (("gflops", "GFLOP/s"), ("gbytes", "GB/s")) if achieved[name] is not None]
    waiting = found["waiting_in_lane"]
    return [
        ("predicted", duration(found["predicted"]) if found["predicted"] is not None else None),
        ("actual", duration(found["actual"]) if found["actual"] is not None else None),
        ("spent", ", ".join(f"{name} {duration(seconds)}" for name, seconds in found["stages"].items())),
        ("estimate", f"{estimate['flops']:.3g} operations, {size(estimate['bytes'])} moved, {size(estimate['memory'])} of memory"),
        ("achieved", ", ".join([*rates, *_near(achieved)]) or achieved["reason"]),
        ("attempt", tried),
        ("waiting for", ", ".join(map(str, found["waiting_for"]))),
        ("in its lane", f"{waiting} waiting for {found['lane']}" if waiting else None),
    ]


def _near(achieved: dict[str, Any]) -> list[str]:
    if achieved["fraction"] is None:
        return [achieved["reason"]] if achieved["gbytes"] is not None else []
    return [f"{achieved['fraction']:.0%} of what {achieved['bound']} allows" + (f" ({achieved['reason']})" if achieved["reason"] else "")]


def _print(document: dict[str, Any], json: bool) -> None:
    from rich.markup import escape
    from rich.pretty import Pretty

    if json:
        show_json(document)
        return
    found = table(("", ""), [])
    found.show_header = False
    for name, value in document.items():
        if value not in (None, [], {}):
            found.add_row(f"[bold]{name}[/]", escape(value) if isinstance(value, str) else Pretty(value))
    console().print(found)


def cancel(task_id: Task, json: Json = False, server: Server = None) -> None:
    """Cancel a task, waiting or running. A task that has ended stays as it is."""
    with client(server) as runtime:
        future = find(runtime, task_id)
        task_id, stopped = future.task_id, future.cancel()
        status = future.status().status
    if json:
        show_json({"task_id": task_id, "cancelled": stopped, "status": status})
    else:
        print(f"{task_id} is {status}" if stopped else f"{task_id} had ended before: {status}")
