"""`openruntime tasks` and `openruntime cancel`."""

from typing import Annotated, Any

import typer

from openruntime.cli.options import Json, Server, client, console, duration, show_json, styled, table

COLOURS = {"queued": "yellow", "running": "cyan", "cancelling": "magenta", "completed": "green", "failed": "red", "cancelled": "dim"}

Task = Annotated[str, typer.Argument(help="The task's id.")]


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
        console().print(rows(found))


def rows(found: list[dict[str, Any]]) -> Any:
    """A table of task responses."""
    lines = [
        [task["task_id"], task["operation"], styled(task["status"], COLOURS), str(task["priority"]),
         "cache" if task["cached"] else task["device_used"] or "-", duration(task["execution_time"]), _note(task)]
        for task in found
    ]  # fmt: skip
    return table(("task", "operation", "status", "priority", "device", "took", ""), lines, right=frozenset({"priority", "took"}))


def _note(task: dict[str, Any]) -> str:
    if task["error"]:
        return str(task["error"])
    return f"{task['progress']:.0%} {task['message'] or ''}" if task["progress"] is not None and task["status"] == "running" else ""


def show(task_id: Task, json: Json = False, server: Server = None) -> None:
    """Show one task."""
    with client(server) as runtime:
        _print(runtime.task(task_id).status().model_dump(mode="json"), json)


def explain(task_id: Task, json: Json = False, server: Server = None) -> None:
    """Explain where a task ran and why, predicted against actual."""
    with client(server) as runtime:
        _print(runtime.task(task_id).explain(), json)


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
        future = runtime.task(task_id)
        stopped = future.cancel()
        status = future.status().status
    if json:
        show_json({"task_id": task_id, "cancelled": stopped, "status": status})
    else:
        print(f"{task_id} is {status}" if stopped else f"{task_id} had ended before: {status}")
