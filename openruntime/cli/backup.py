"""`openruntime backup` and `restore`: whole, verified copies of a data directory."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, console, show_json, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openruntime.stores.backup import Copied

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory: OPENRUNTIME_DATA_DIR or XDG's unless set.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)


def backup(
    dest: Annotated[Path, typer.Argument(help="A directory that is not there yet, or empty.", show_default=False)],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Copy a data directory, whole and verified, while its server runs or not.

    What the server acknowledged before this began is in the copy: waiting tasks with their inputs, results, tensors. Exit code 1 when the
    data directory itself lacks results that its database names; the rest is copied then.
    """
    from openruntime.stores import backup as copies

    source = _data_dir(data_dir)
    with _progress(f"backing up {source}") as tell:
        copied = copies.backup(source, dest, tell)
    _tell(copied, dest, json)


def restore(
    source: Annotated[Path, typer.Argument(help="A directory that `openruntime backup` wrote.", show_default=False)],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Copy a backup to a data directory that is not there yet, or empty; a server started on it goes on from there."""
    from openruntime.stores import backup as copies

    target = _data_dir(data_dir)
    with _progress(f"restoring {target}") as tell:
        copied = copies.restore(source, target, tell)
    _tell(copied, target, json)


def _data_dir(given: Path | None) -> Path:
    from openruntime.contracts.errors import InvalidParameter
    from openruntime.core.config import Settings

    settings = Settings.load({"data_dir": given})
    if settings.store != "sqlite":
        kept = "nothing that outlives the server" if settings.store == "memory" else "its tasks in Redis, which is backed up by its own means"
        raise InvalidParameter(f"the store is set to `{settings.store.partition(':')[0]}`: it keeps {kept}", field="store")
    return settings.data_dir


@contextmanager
def _progress(what: str) -> "Iterator[Callable[[float], None]]":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda done: bar.update(task, completed=done)


def _tell(copied: "Copied", target: Path, json: bool) -> None:
    from dataclasses import asdict

    if json:
        show_json({"directory": str(target), **asdict(copied)})
    else:
        found = f"{copied.waiting} waiting and {copied.ended} ended tasks, {copied.files} files, {size(copied.bytes)}: verified"
        console().print(f"{target}: {found}", soft_wrap=True, markup=False)
        for path in copied.missing:
            console(stderr=True).print(f"missing: {path}, which the database names", soft_wrap=True, markup=False)
    if copied.missing:
        raise typer.Exit(1)
