"""`openruntime demo`: a real server, real data, from end to end in well under a minute."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from openruntime.cli.options import Json, console, duration, show_json, table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from openruntime.client.sync import Runtime, TaskFuture

_START_WITHIN = 60.0  # seconds


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the pictures.")] = Path("demo-output"),
    json: Json = False,
) -> None:
    """Start a server and give it real work: a photograph, handwritten digits, a simulation. Writes pictures."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from openruntime.contracts.registry import Registry
    from openruntime.core.connect import connect

    work = Registry("openruntime.demos", {"the demo": ("openruntime.cli.demo_work:jobs", "demo")}).load("the demo")()
    output.mkdir(parents=True, exist_ok=True)
    out, started = console(stderr=json), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="openruntime-demo-") as directory, server(Path(directory)) as address:
        out.print(f"[dim]a server listens at {address}, started in {duration(time.perf_counter() - started)}[/]")
        columns = TextColumn("{task.description:<44}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeElapsedColumn()
        with connect(address, patience=10.0) as runtime, Progress(*columns, console=out) as progress:
            bench = Bench(runtime, progress)
            told = [line for job in work for line in job(bench, output)]
            rows = [_row(done) for done in bench.done]
            pictures = sorted(str(path) for path in bench.pictures)
    if json:
        show_json({"tasks": [row._asdict() for row in rows], "findings": told, "pictures": pictures, "seconds": time.perf_counter() - started})
        return
    out.print()
    names = ("operation", "device", "backend", "seconds", "GFLOP/s", "GB/s")
    out.print(table(names, [row.shown() for row in rows], right=frozenset(names[3:])))
    for line in told:
        out.print(f"• {line}")
    out.print(f"\nPictures: {'  '.join(pictures)}", markup=False, soft_wrap=True)
    out.print(f"[dim]all of it in {duration(time.perf_counter() - started)}[/]")


class Row(NamedTuple):
    operation: str
    device: str
    backend: str
    seconds: float
    gflops: float | None
    gbytes: float | None

    def shown(self) -> list[str]:
        rates = ["-" if rate is None or rate < 0.005 else f"{rate:.2f}" for rate in (self.gflops, self.gbytes)]
        return [self.operation, self.device, self.backend, f"{self.seconds:.4f}", *rates]


def _row(future: "TaskFuture") -> Row:
    found = future.explain()
    achieved = found["achieved"]
    return Row(future.operation, found["device"], found["backend"], found["compute"], achieved["gflops"], achieved["gbytes"])


class Bench:
    """Where the jobs run: each submission has a line with a bar that its own events move."""

    def __init__(self, runtime: "Runtime", progress: "Progress") -> None:
        self.runtime = runtime
        self.done: list[TaskFuture] = []
        self.pictures: list[Path] = []
        self._progress = progress

    def start(self, operation: str, /, *args: Any, **given: Any) -> "TaskFuture":
        """Queue one; its output can go into the next without coming here."""
        future = self.runtime.submit(operation, *args, **given, cache="no-store")
        self.done.append(future)
        return future

    def run(self, title: str, operation: str, /, *args: Any, **given: Any) -> Any:
        return self.finish(title, self.start(operation, *args, **given))

    def finish(self, title: str, future: "TaskFuture") -> Any:
        line = self._progress.add_task(title, total=1.0)
        while not future.done():
            self._move(line, future)
            time.sleep(0.03)
        found = future.result()
        self._progress.update(line, completed=1.0)
        return found

    def _move(self, line: "TaskID", future: "TaskFuture") -> None:
        if future.progress is not None:
            self._progress.update(line, completed=future.progress)


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """`openruntime serve` on a free port, its data in `directory`; stopped on leaving. The address."""
    from openruntime.contracts.errors import Unavailable

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    flags = ["--port", str(port), "--data-dir", str(directory / "data"), "--log-level", "warning"]
    command = [sys.executable, "-m", "openruntime.cli.main", "serve", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENRUNTIME_")}
    log = directory / "server.log"
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=environment)
    try:
        until = time.monotonic() + _START_WITHIN
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > until:
                raise Unavailable(f"the server did not start: {log.read_text(errors='replace')[-2000:].strip()}")
            time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
