"""Options that many commands share, and the client they ask for."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from openruntime.client.sync import Runtime

Server = Annotated[str | None, typer.Option("--server", envvar="OPENRUNTIME_SERVER", help="The server's address, such as http://gpu-box:8000.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Priority = Annotated[int, typer.Option(min=1, max=10, help="1 to 10; 10 runs first.")]
Device = Annotated[str | None, typer.Option(help="Where it must run: cuda:0, gpu, torch, cpu:0/torch. Open unless given.")]

LOCAL = "http://127.0.0.1:8000"
PATIENCE = 2.0  # seconds: a person waits at the terminal


@contextmanager
def client(server: str | None, *, embedded: bool = False) -> Iterator["Runtime"]:
    """A client of the server; without an address of an embedded runtime, or of the local server where one makes no sense."""
    from openruntime.core.connect import connect

    with connect(server or (None if embedded else LOCAL), token=os.environ.get("OPENRUNTIME_TOKEN"), patience=PATIENCE) as runtime:
        yield runtime


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, right: frozenset[str] = frozenset()) -> Any:
    """Strings are shown as they are; what is styled is a `Text`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        found.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        found.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
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
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
