"""`openruntime serve`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at. 127.0.0.1 unless set; others need --insecure.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port, 0 for any free one. 8000 unless set.", show_default=False)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where tasks and results are kept. Follows XDG unless set.", show_default=False)] = None,
    store: Annotated[str | None, typer.Option(help="sqlite (unless set) or memory.", show_default=False)] = None,
    cluster: Annotated[str | None, typer.Option(help="Not there yet.", hidden=True)] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.", show_default=False)] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info (unless set), warning or error.", show_default=False)] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow to listen beyond this machine without authentication.")] = False,
) -> None:
    """Run the server until it is told to stop. Every option is also a variable: OPENRUNTIME_PORT and so on."""
    from openruntime.core.config import Settings
    from openruntime.core.server import serve as start

    given = {
        "host": host, "port": port, "data_dir": data_dir, "store": store, "cluster": cluster, "config": config, "log_level": log_level,
        "insecure": insecure or None,
    }  # fmt: skip
    start(Settings.load({name: value for name, value in given.items() if value is not None}))
