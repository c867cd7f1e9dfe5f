"""Options that many commands share, and the client they ask for."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from openruntime.client.sync import Runtime

LOCAL = "http://127.0.0.1:8000"
PATIENCE = 1.0  # seconds: a person waits at the terminal


def _server(otherwise: str) -> Any:
    return typer.Option("--server", envvar="OPENRUNTIME_SERVER", help=f"The server's address, such as http://gpu-box:8000. {otherwise}")


Server = Annotated[str | None, _server(f"Without it: {LOCAL}.")]
ServerOrHere = Annotated[str | None, _server("Without it there is no server: the work is done in this process.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Priority = Annotated[int, typer.Option(min=1, max=10, help="1 to 10; 10 runs first.")]
Device = Annotated[str | None, typer.Option(help="Where it must run: cuda:0, gpu, torch, cpu:0/torch. Open unless given.")]


_UNBROKEN = 10_000  # columns


@contextmanager
def client(server: str | None, *, embedded: bool = False) -> Iterator["Runtime"]:
    """A client of the server; without an address of an embedded runtime, or of the local server where one makes no sense."""
    from openruntime.core.connect import connect

    with connect(server or (None if embedded else LOCAL), token=os.environ.get("OPENRUNTIME_TOKEN"), patience=PATIENCE) as runtime:
        yield runtime


def variant(command: Callable[..., None], told: str, otherwise: Mapping[str, Any], **annotations: Any) -> Callable[..., None]:
    """`command` under another name: with the help `told`, with these annotations of single parameters, and `otherwise` where nothing is given."""

    def changed(**given: Any) -> None:
        command(**given | {name: value for name, value in otherwise.items() if not given.get(name)})

    signature = inspect.signature(command)
    same = [parameter.replace(annotation=annotations.get(name, parameter.annotation)) for name, parameter in signature.parameters.items()]
    changed.__signature__ = signature.replace(parameters=same)  # type: ignore[attr-defined]  # what Typer reads
    changed.__doc__ = told
    return changed


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        found.width = _UNBROKEN  # a pipe has no edge to break lines at
    return found


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, right: frozenset[str] = frozenset(), whole: frozenset[str] = frozenset()) -> Any:
    """Strings are shown as they are; what is styled is a `Text`.

    With `whole`, each row is one line: these columns keep their width, and the others give way to an ellipsis.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0) if whole else (0, 1))
    for column in columns:
        found.add_column(column, justify="right" if column in right else "left", overflow="ellipsis" if whole else "fold", no_wrap=column in whole)
    for row in rows:
        cells = [Text(cell) if isinstance(cell, str) else cell for cell in row]
        for cell in cells if whole else ():
            if isinstance(cell, Text):
                cell.no_wrap = True
        found.add_row(*cells)
    return found


def styled(text: str, styles: Mapping[str, str]) -> Any:
    """`text` in the style that stands for it."""
    from rich.text import Text

    return Text(text, styles[text])


def size(count: float | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 120:
        return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
