"""Reading a request's body within its bounds: size before memory, progress before time."""

import asyncio
from collections.abc import Callable

from openruntime.contracts.errors import InvalidRequest, PayloadTooLarge, RequestTimeout
from openruntime.contracts.payload import Buffer
from openruntime.gateway.dependencies import Limits, headers
from openruntime.gateway.errors import Disconnected
from openruntime.gateway.wire import Receive, Scope

SHARED = 1 << 20  # bytes from which a body of known length goes straight into shared memory


async def read_body(scope: Scope, receive: Receive, limits: Limits, allocate: Callable[[int], memoryview]) -> Buffer:
    """The whole body. Raises `PayloadTooLarge`, `RequestTimeout`, `InvalidRequest`, or `Disconnected`.

    A server that reads large bodies into shared memory itself offers them as the awaitable extension `openruntime.body`.
    """
    length = _length(headers(scope).get(b"content-length"), limits)
    direct = scope.get("extensions", {}).get("openruntime.body")
    if direct is not None:
        try:
            view: memoryview = await direct
        except ConnectionResetError:
            raise Disconnected from None
        return view
    first, more = await _next(receive, limits)
    if not more:
        return first
    if length is not None and length >= SHARED:
        target = allocate(length)[:length]
        end = len(first)
        target[:end] = first
        while more:
            chunk, more = await _next(receive, limits)
            if end + len(chunk) > length:
                raise InvalidRequest("the body is longer than its Content-Length says")
            target[end : end + len(chunk)] = chunk
            end += len(chunk)
        if end != length:
            raise InvalidRequest(f"the body ended after {end} bytes; its Content-Length says {length}")
        return target
    gathered = bytearray(first)
    while more:
        chunk, more = await _next(receive, limits)
        gathered += chunk
        if len(gathered) > limits.body_bytes:
            raise _too_large(limits)
    return gathered


def _length(header: bytes | None, limits: Limits) -> int | None:
    if header is None:
        return None
    if not header.isdigit():
        raise InvalidRequest("the Content-Length header is not a number", field="Content-Length")
    length = int(header) if len(header) < 20 else limits.body_bytes + 1
    if length > limits.body_bytes:
        raise _too_large(limits)
    return length


def _too_large(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than the limit of {limits.body_bytes} bytes; send large arrays one by one to /tensors")


async def _next(receive: Receive, limits: Limits) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(limits.body_timeout):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout(f"no byte of the body came for {limits.body_timeout:g} seconds") from None
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message.get("body", b""), message.get("more_body", False)


async def drain(receive: Receive, limit: int = 64 << 20, seconds: float = 2.0) -> None:
    """Takes in what a refused client is still sending: closing at once would make it lose the answer to a reset."""
    try:
        async with asyncio.timeout(seconds):
            while limit > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                limit -= len(message.get("body", b""))
    except TimeoutError:
        return
