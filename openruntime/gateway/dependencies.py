"""What the gateway needs from the rest of the program, as one value that core wires, and who is asking."""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from openruntime.ai.agents.manager import AIAgentManager
from openruntime.contracts.ai import ModelWork, Streams
from openruntime.contracts.interfaces import Catalogue, Devices, EventLog, Kernels, Tasks, Tensors
from openruntime.contracts.kernels import KernelTrials
from openruntime.contracts.records import LOCAL, Principal
from openruntime.models.repository import ModelRepository
from openruntime.security.access import Access


class Metrics(Protocol):
    def text(self) -> str:
        """Prometheus' exposition format."""

    def snapshot(self) -> dict[str, Any]:
        """The same as JSON."""


class History(Protocol):
    def view(self, names: Sequence[str] = (), seconds: float | None = None) -> dict[str, Any]:
        """How the metrics went: `times`, `every` and by name the `series`."""


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
    kernels: Kernels
    trials: KernelTrials
    models: ModelRepository
    work: ModelWork
    streams: Streams
    events: EventLog
    metrics: Metrics
    history: History
    ready: Callable[[], str | None]  # None, or the reason why not
    allocate: Callable[[int], memoryview]  # writable shared memory for a large body
    access: Access
    agents: AIAgentManager
    limits: Limits = Limits()
    version: str = "0"


def principal(scope: MutableMapping[str, Any]) -> Principal:
    """Who asks: what a token of this server (`gateway/doors.py`) or an authentication in front has put into the scope, else `local`."""
    found = scope.get("openruntime.principal")
    return found if isinstance(found, Principal) else local(host_of(scope.get("client")), headers(scope).get(b"x-client"))


def host_of(address: Sequence[Any] | None) -> str:
    """Of a peer's address and port; empty where there is none, as with a socket in the file system."""
    return str(address[0]) if address else ""


@lru_cache(1024)
def local(host: str, name: bytes | None) -> Principal:
    """Without authentication everybody is `local`; clients are told apart by the machine they call from and the name they give themselves.

    `name`: the header `X-Client`, of which 100 bytes count."""
    where = "" if not host or host.startswith("127.") or host == "::1" else f"@{host}"
    return Principal(id=f"local{where}/{name[:100].decode('latin-1')}") if name else Principal(id=f"local{where}") if where else LOCAL


def headers(scope: MutableMapping[str, Any]) -> dict[bytes, bytes]:
    """The request's headers by lower-case name, made once a request."""
    found: dict[bytes, bytes] | None = scope.get("openruntime.headers")
    if found is None:
        found = scope["openruntime.headers"] = dict(scope["headers"])
    return found
