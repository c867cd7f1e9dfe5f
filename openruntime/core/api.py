"""The main API definition: the ASGI app of a whole server, its parts started and stopped with the app's lifespan."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime
from openruntime.gateway.app import create_gateway

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Application:
    """An ASGI app. `runtime` holds the parts; the gateway answers."""

    def __init__(self, settings: Settings) -> None:
        self.runtime = Runtime(settings)
        self.failure: Exception | None = None  # why the start failed
        self.gateway = create_gateway(self.runtime.services(hosts=_hosts(settings)))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self.gateway(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.runtime.start()
        except Exception as error:
            log.debug("start failed", exc_info=True)
            self.failure = error
            await send({"type": "lifespan.startup.failed"})  # whoever serves the app tells why
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.gateway.close()
        await self.runtime.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _hosts(settings: Settings) -> frozenset[str] | None:
    """While only this machine can reach the server, pages of other names may not talk to it (DNS rebinding)."""
    if settings.insecure:
        return None
    bound = f"[{settings.host}]" if ":" in settings.host else settings.host.lower()
    return frozenset({"localhost", "*.localhost", "127.0.0.1", "[::1]", bound})


def create_app(settings: Settings | None = None) -> Application:
    """The app for any ASGI server. Without settings, they are read from the environment and the configuration file."""
    return Application(settings or Settings.load())
