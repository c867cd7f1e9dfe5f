"""`openruntime mcp`: the Model Context Protocol over standard input and output, for assistants that start their servers themselves."""

import typer

from openruntime.cli.options import ServerOrHere


def register(app: typer.Typer) -> None:
    app.command()(mcp)


def mcp(server: ServerOrHere = None) -> None:
    """Offer devices and operations to an AI assistant, over standard input and output.

    Assistants start it themselves: {"command": "openruntime", "args": ["mcp", "--server", "http://gpu-box:8000"]}. A running server also
    speaks the protocol at /mcp.
    """
    import asyncio

    asyncio.run(_serve(server))


async def _serve(server: str | None) -> None:
    import os
    from importlib.metadata import version

    from openruntime.contracts.registry import PROTOCOLS
    from openruntime.core.connect import connect_async
    from openruntime.monitoring import logs

    build = PROTOCOLS.load("mcp")
    logs.configure("warning")  # to standard error: nothing but the protocol may stand in the output
    async with connect_async(server, token=os.environ.get("OPENRUNTIME_TOKEN"), client="mcp") as runtime:
        await build(None, version("openruntime"), connection=runtime.connection).stdio()
