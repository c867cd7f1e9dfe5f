"""What the gateway needs from the rest of the program, as one value that core wires, and who is asking."""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from openruntime.contracts.interfaces import Catalogue, Devices, EventLog, Tasks, Tensors
from openruntime.contracts.records import LOCAL, Principal


class Metrics(Protocol):
    def text(self) -> str:
        """Prometheus' exposition format."""

    def snapshot(self) -> dict[str, Any]:
        """The same as JSON."""


@dataclass(frozen=True)
class Limits:
    """Bounds of what one client may ask of the gateway. Bytes and seconds."""

    body_bytes: int = 1 << 30
    body_timeout: float = 30.0  # without a byte of progress
    longest_wait: float = 60.0
    inline_elements: int = 1000  # larger results are tensors in JSON
    websocket_queue: int = 10_000  # events a reader may lag behind before it gets a gap
    cors: bool = False
    hosts: frozenset[str] | None = None  # names a Host header may have, in lower case and without port; `*.` begins a suffix; None: any


@dataclass(frozen=True)
class Services:
    tasks: Tasks
    tensors: Tensors
    devices: Devices
    catalogue: Catalogue
    events: EventLog
    metrics: Metrics
    ready: Callable[[], str | None]  # None, or the reason why not
    allocate: Callable[[int], memoryview]  # writable shared memory for a large body
    limits: Limits = Limits()
    version: str = "0"


def principal(scope: Mapping[str, Any]) -> Principal:
    """Who asks: what an authentication in front has put into the scope, else `local`."""
    found = scope.get("openruntime.principal")
    return found if isinstance(found, Principal) else LOCAL


def headers(scope: MutableMapping[str, Any]) -> dict[bytes, bytes]:
    """The request's headers by lower-case name, made once a request."""
    found: dict[bytes, bytes] | None = scope.get("openruntime.headers")
    if found is None:
        found = scope["openruntime.headers"] = dict(scope["headers"])
    return found
