"""How requests reach a server: over HTTP and WebSocket. `embedded.py` has the same for an application in this process."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

import httpx
import websockets
from websockets.asyncio.client import ClientConnection, connect

from openruntime.contracts.errors import InvalidRequest, Unavailable
from openruntime.contracts.payload import Buffer

JOINED = 1 << 20  # bytes: smaller bodies are sent in one piece
GRACE = 60.0  # seconds without a byte, beyond the wait that was asked for


class Unreachable(Unavailable):
    """Nothing answered at the server's address; the request may have arrived all the same."""


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: Buffer


class Streamed(NamedTuple):
    """An answer whose body is still coming."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    async def whole(self) -> Reply:
        """With the rest of its body."""
        return Reply(self.status, self.headers, b"".join([chunk async for chunk in self.chunks]))


class Socket(Protocol):
    """An open WebSocket, text messages only."""

    async def send(self, text: str) -> None: ...

    def messages(self) -> AsyncGenerator[str]:
        """Until the other side goes away, which raises `Unreachable`."""


class Transport(Protocol):
    address: str

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer], *, wait: float) -> Reply:
        """One request, `wait` the seconds the server was asked to hold it. Raises `Unreachable`."""

    def socket(self, path: str) -> AbstractAsyncContextManager[Socket]:
        """Raises `Unreachable`, on opening and while in use."""


@runtime_checkable
class Streaming(Protocol):
    """What a transport offers besides that can read an answer as it comes."""

    def stream(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer]) -> AbstractAsyncContextManager["Streamed"]:
        """Raises `Unreachable`, on opening and while in use."""


class HTTPTransport:
    """A server at an address such as `http://gpu-box:8000`. Raises `InvalidRequest` when it is no such address."""

    def __init__(self, url: str, *, token: str | None = None, client: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"{url!r} is not a server's address; it looks like http://gpu-box:8000", field="url")
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
        if client is not None:
            self._headers["X-Client"] = client
        self._proxied = not _is_loopback(parts.hostname)
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=32)
        self._client = httpx.AsyncClient(base_url=self.address, headers=self._headers, limits=limits, trust_env=self._proxied)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def send(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer], *, wait: float) -> Reply:
        assert self._client is not None, "opened before use"
        sent, body = framed(headers, content)
        timeout = httpx.Timeout(GRACE, connect=10.0, read=wait + GRACE, pool=None)
        try:
            async with self._client.stream(method, path, headers=sent, content=body, timeout=timeout) as response:
                return Reply(response.status_code, response.headers, await _read(response))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"{self.address}{path} is not a valid address: {error}", field="url") from error

    @asynccontextmanager
    async def stream(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer]) -> AsyncIterator[Streamed]:
        assert self._client is not None, "opened before use"
        sent, body = framed(headers, content)
        timeout = httpx.Timeout(GRACE, connect=10.0, read=GRACE, pool=None)
        try:
            async with self._client.stream(method, path, headers=sent, content=body, timeout=timeout) as response:
                yield Streamed(response.status_code, response.headers, response.aiter_bytes())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[Socket]:
        url = f"ws{self.address.removeprefix('http')}{path}"
        headers = {name: value for name, value in self._headers.items() if name == "Authorization"}
        try:
            async with connect(url, additional_headers=headers, max_size=None, proxy=True if self._proxied else None) as connection:
                yield _WebSocket(connection)
        except (OSError, websockets.WebSocketException) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unreachable:
        cause = _root(error)
        return Unreachable(f"no OpenRuntime server answers at {self.address} ({cause}); start one with `openruntime serve`")


def _root(error: BaseException) -> str:
    """The operating system's word for it, below what the libraries made of it."""
    below = error.__cause__ or error.__context__
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    if isinstance(below, BaseExceptionGroup):
        below = below.exceptions[0]
    return _root(below) if below is not None else str(error) or type(error).__name__


class _WebSocket:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        await self._connection.send(text)

    async def messages(self) -> AsyncGenerator[str]:
        while True:
            message = await self._connection.recv(decode=True)
            yield str(message)


def framed(headers: Mapping[str, str], content: Sequence[Buffer]) -> tuple[dict[str, str], bytes | AsyncIterator[bytes] | None]:
    """The headers with the length of `content`, and the body as httpx takes it; no body for no content."""
    if not content:
        return dict(headers), None
    size = sum(memoryview(part).nbytes for part in content)
    return {**headers, "Content-Length": str(size)}, b"".join(content) if size <= JOINED else _pieces(content)


async def _pieces(content: Sequence[Buffer]) -> AsyncIterator[bytes]:
    """The body in slices, so that no layer below copies it whole."""
    for part in content:
        view = memoryview(part).cast("B")
        for start in range(0, view.nbytes, JOINED):
            yield bytes(view[start : start + JOINED])


async def _read(response: httpx.Response) -> Buffer:
    """Straight into one buffer where the length is known, so that arrays on it can be written to."""
    length = response.headers.get("content-length")
    if length is None or not length.isdigit():
        return bytearray(await response.aread())
    body = bytearray(int(length))
    end = 0
    async for chunk in response.aiter_raw():
        body[end : end + len(chunk)] = chunk
        end += len(chunk)
    return body


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
