"""uvicorn's WebSocket protocol, with one addition: many messages in one write, as frames that all readers share.

The scope carries it as `openruntime.frames`: await it with whole frames. Nothing is compressed (core/server.py says so to uvicorn): a
compressor for each socket would cost more memory and time than the rest of sending.
"""

from collections.abc import Sequence

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_TEXT = 0x81  # the last and only frame of a message (RFC 6455, section 5.2)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    async def run_asgi(self) -> None:
        self.scope["openruntime.frames"] = self.write_frames  # type: ignore[typeddict-unknown-key]
        await super().run_asgi()

    async def write_frames(self, frames: Sequence[bytes]) -> None:
        """Once the client has taken in what was sent before. Raises `ClientDisconnected`."""
        await self.writable.wait()
        if self.disconnected or self.close_sent:
            raise ClientDisconnected
        self.transport.write(b"".join(frames))


def text_frame(text: bytes) -> bytes:
    """One message as a server sends it: whole and unmasked."""
    size = len(text)
    if size < 126:
        return bytes((_TEXT, size)) + text
    if size < 1 << 16:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + text
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + text
