"""`openruntime serve`: the app under uvicorn, with large bodies read into shared memory, and signals that drain."""

import contextlib
import errno
import gc
import logging
import signal
import socket
from types import FrameType

import uvicorn

from openruntime.contracts.errors import OpenRuntimeError, Unavailable
from openruntime.core.api import Application
from openruntime.core.config import Settings
from openruntime.gateway.http_protocol import protocol_class
from openruntime.gateway.ws_protocol import WebSocketProtocol
from openruntime.monitoring import logs

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """SIGTERM and SIGINT drain: what runs is finished, nothing new is accepted. A second one stops now."""

    def __init__(self, config: uvicorn.Config, app: Application) -> None:
        super().__init__(config)
        self._app = app
        app.gateway.mcp.drained = True  # see `shutdown`

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            log.warning("second %s: stopping now", signal.Signals(sig).name)
            self._app.runtime.drain(0.0)
            self.force_exit = True
        else:
            log.info("%s: finishing what runs", signal.Signals(sig).name)
            self._app.runtime.drain(self._app.runtime.settings.shutdown_grace)
            self.should_exit = True

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("OpenRuntime listens on http://%s:%d", f"[{host}]" if ":" in host else host, port)
            # what start-up made stays; collecting it again and again costs tens of milliseconds
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.gateway.drain()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Serve until a signal. Raises `Unavailable` with the way out when it cannot start: the port or the data directory is in use."""
    logs.configure(settings.log_level, json=settings.log_json)
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))  # its news is not ours
    listening = _listen(settings)
    app = Application(settings)
    http = protocol_class(app.runtime.pool.allocate, limit=settings.body_limit, body_timeout=settings.body_timeout, gateway=app.gateway)
    config = uvicorn.Config(
        app, http=http, ws=WebSocketProtocol, ws_per_message_deflate=False, loop="uvloop", lifespan="on", access_log=False, proxy_headers=False,
        server_header=False, date_header=False, log_config=None, timeout_graceful_shutdown=max(1, int(settings.shutdown_grace)), backlog=4096,
    )  # fmt: skip
    with listening, contextlib.suppress(SystemExit):  # how uvicorn ends a start that failed
        Server(config, app).run(sockets=[listening])
    if app.failure is not None:
        raise app.failure if isinstance(app.failure, OpenRuntimeError) else Unavailable(f"the server could not start: {app.failure}")


def _listen(settings: Settings) -> socket.socket:
    """The port, taken before anything else starts."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be taken ({error.strerror})"
        raise Unavailable(f"port {settings.port} {why} on {settings.host}; choose another with --port, or 0 for any free one") from None
    return listening
