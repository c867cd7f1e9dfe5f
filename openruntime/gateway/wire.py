"""What stands in headers, and how answers are sent. The parsers are cached: clients repeat themselves."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from openruntime.contracts.errors import InvalidRequest, NotAcceptable
from openruntime.contracts.payload import Buffer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

JSON, SAFETENSORS, NPY = "application/json", "application/x-safetensors", "application/x-npy"
SPLIT = f"{SAFETENSORS}; complex=split"  # as an answer: complex arrays as pairs of floats
JOINED = 65_536  # bytes: smaller answers are one write
_NOSNIFF = (b"x-content-type-options", b"nosniff")


@lru_cache(256)
def media_type(header: bytes | None) -> str:
    """The type of a Content-Type header, in lower case and without parameters."""
    return (header or b"").split(b";", 1)[0].strip().lower().decode("latin-1")


@lru_cache(256)
def accepted(header: bytes | None, offered: tuple[str, ...] = (JSON, SAFETENSORS, NPY)) -> str:
    """The offered type that the Accept header likes best, or `SPLIT`; ties go to the first. Raises `NotAcceptable`."""
    if header is None or header.strip() in (b"", b"*/*"):
        return offered[0]
    wanted: dict[str, float] = {}
    split = False
    for item in header.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        coded = next((p[8:].strip('"') for p in parameters if p.startswith("complex=")), None)
        if coded is not None and name == SAFETENSORS:
            if coded != "split":
                raise NotAcceptable(f"`complex` of {SAFETENSORS} can only be `split`, not {coded[:60]!r}", field="Accept")
            split = True
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            wanted[name] = float(quality)
        except ValueError:
            wanted[name] = 0.0

    def liking(name: str) -> float:
        return wanted.get(name, wanted.get(name.split("/")[0] + "/*", wanted.get("*/*", 0.0)))

    best = max(offered, key=liking)
    if liking(best) <= 0:
        raise NotAcceptable(f"the Accept header allows none of {', '.join(offered)}", field="Accept")
    return SPLIT if split and best == SAFETENSORS else best


@lru_cache(256)
def preferred_wait(header: bytes | None, longest: float) -> float | None:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most `longest`; what cannot be read counts as not said."""
    for item in (header or b"").replace(b";", b",").split(b","):
        name, _, value = item.partition(b"=")
        if name.strip().lower() == b"wait":
            try:
                seconds = float(value.strip().strip(b'"'))
            except ValueError:
                return None
            return min(seconds, longest) if seconds >= 0 else None
    return None


def applied(wait: float) -> tuple[bytes, bytes]:
    return (b"preference-applied", b"wait=%g" % wait)


def query(text: bytes) -> list[tuple[str, str]]:
    """The query's items. Raises `InvalidRequest` when it is not UTF-8 or has too many."""
    try:
        return parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as error:
        raise InvalidRequest(f"the query cannot be read: {error}", field="query") from None


def query_wait(text: bytes, longest: float) -> float | None:
    """Seconds of `?wait=N`, at most `longest`. Raises `InvalidRequest`."""
    if not text:
        return None
    for name, value in query(text):
        if name == "wait":
            try:
                seconds = float(value)
            except ValueError:
                seconds = -1.0
            if not seconds >= 0:
                raise InvalidRequest(f"`wait` must be a number of seconds from 0 to {longest:g}, not {value[:60]!r}", field="wait")
            return min(seconds, longest)
    return None


class Answer:
    """What is sent for one request: an ASGI `send` that adds the headers every answer has, and remembers the status.

    Over our own HTTP protocol (`whole`) a small answer leaves as one piece, without ASGI's two messages.
    """

    __slots__ = ("_send", "_whole", "extra", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._whole: Callable[[int, Headers, Sequence[Buffer], int], bool] | None = getattr(getattr(send, "__self__", None), "whole", None)
        self.extra = [(b"x-request-id", request_id.encode()), _NOSNIFF]
        self.status = 0

    @property
    def ours(self) -> bool:
        """Whether it leaves over our own HTTP protocol."""
        return self._whole is not None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self.extra]
        await self._send(message)

    def whole(self, status: int, headers: Headers, body: Sequence[Buffer], total: int) -> bool:
        """Send it now, if it can be sent so."""
        if self._whole is None or not self._whole(status, [*headers, *self.extra], body, total):
            return False
        self.status = status
        return True


async def respond(send: Send, status: int, content_type: bytes, body: Sequence[Buffer], headers: Headers = ()) -> None:
    """Sends views as they are; `body` stays referenced until the last byte has left (the empty last message waits for that)."""
    total = sum([len(part) for part in body])
    start = [(b"content-type", content_type), (b"content-length", b"%d" % total), *headers]
    if total <= JOINED and type(send) is Answer and send.whole(status, start, body, total):
        return
    await send({"type": "http.response.start", "status": status, "headers": start})
    if total <= JOINED:
        await send({"type": "http.response.body", "body": body[0] if len(body) == 1 else b"".join(body)})
        return
    for part in body:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
