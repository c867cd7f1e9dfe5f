"""Where a client comes from: the server at an address, or a runtime embedded in this process. Light to import."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openruntime.client.runtime import AsyncRuntime
    from openruntime.client.sync import Runtime


def connect(
    url: str | None = None, *, data_dir: str | Path | None = None, token: str | None = None, client: str | None = None, patience: float | None = None
) -> "Runtime":
    """A client of the server at `url`; without one, of a runtime embedded in this process.

    `data_dir` keeps an embedded runtime's tasks and cache (else they are in memory). `patience` is how many seconds a call is tried
    again while the server is away or full: ten unless given, but one before anything has ever answered at `url`. `client` names
    this program among those of one machine: each has its fair share of a busy server. Raises `InvalidRequest` for an address that
    is none.
    """
    from openruntime.client.sync import Runtime

    return Runtime(connect_async(url, data_dir=data_dir, token=token, client=client, patience=patience))


def connect_async(
    url: str | None = None, *, data_dir: str | Path | None = None, token: str | None = None, client: str | None = None, patience: float | None = None
) -> "AsyncRuntime":
    """`connect` for asyncio: `async with openruntime.connect_async(...) as rt: c = await rt.matmul(a, b)`."""
    from openruntime.client.runtime import AsyncRuntime

    if url is not None:
        from openruntime.client.transport import HTTPTransport

        if data_dir is not None:
            from openruntime.contracts.errors import InvalidRequest

            raise InvalidRequest("`data_dir` belongs to an embedded runtime; a server at an address has its own", field="data_dir")
        return AsyncRuntime(HTTPTransport(url, token=token, client=client), patience=patience)
    from openruntime.client.embedded import EmbeddedTransport
    from openruntime.core.runtime import embedded

    return AsyncRuntime(EmbeddedTransport(partial(embedded, Path(data_dir) if data_dir is not None else None)), patience=patience)
