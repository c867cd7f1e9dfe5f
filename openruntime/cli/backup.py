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
    weights: Annotated[bool, typer.Option(help="Whether models' weights are copied too, or only what the repository says of them.")] = True,
    json: Json = False,
) -> None:
    """Copy a data directory, whole and verified, while its server runs or not.

    What the server acknowledged before this began is in the copy: waiting tasks with their inputs, results, tensors, the model repository.
    Exit code 1 when the data directory itself lacks results that its database names, or has damaged weights; the rest is copied then.
    """
    from openruntime.stores import backup as copies

    source = _data_dir(data_dir)
    models = _Models(source, weights=weights)
    with _progress(f"backing up {source}") as tell:
        copied = copies.backup(source, dest, tell, models.copy)
    _tell(copied, models, dest, json)


def restore(
    source: Annotated[Path, typer.Argument(help="A directory that `openruntime backup` wrote.", show_default=False)],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Copy a backup to a data directory that is not there yet, or empty; a server started on it goes on from there."""
    from openruntime.stores import backup as copies

    target = _data_dir(data_dir)
    models = _Models(source, check=True)
    with _progress(f"restoring {target}") as tell:
        copied = copies.restore(source, target, tell, models.copy)
    _tell(copied, models, target, json)


class _Models:
    """The repository's part of a copy, and what came of it."""

    def __init__(self, source: Path, **how: bool) -> None:
        from openruntime.models.copies import Copied

        self._source = source
        self._how = how
        self.copied = Copied()

    def copy(self, draft: Path) -> None:
        from openruntime.core.repository import FOLDER
        from openruntime.models import copies

        self.copied = copies.copy(self._source / FOLDER, draft / FOLDER, **self._how)


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


def _tell(copied: "Copied", models: _Models, target: Path, json: bool) -> None:
    from dataclasses import asdict

    of_models = models.copied
    if json:
        show_json({"directory": str(target), **asdict(copied), "models": of_models._asdict()})
    else:
        found = f"{copied.waiting} waiting and {copied.ended} ended tasks, {copied.files} files, {size(copied.bytes)}: verified"
        console().print(f"{target}: {found}", soft_wrap=True, markup=False)
        if of_models.models:
            lack = f"; without the weights of {', '.join(of_models.without)}" if of_models.without else ""
            console().print(f"models: {of_models.models}, {size(of_models.bytes)} of weights{lack}", soft_wrap=True, markup=False)
        for path in copied.missing:
            console(stderr=True).print(f"missing: {path}, which the database names", soft_wrap=True, markup=False)
        for name in of_models.damaged:
            console(stderr=True).print(f"damaged: the weights of {name}; add them again", soft_wrap=True, markup=False)
    if copied.missing or of_models.damaged:
        raise typer.Exit(1)
