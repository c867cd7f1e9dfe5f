"""`openruntime serve`: the app under uvicorn, with large bodies read into shared memory, and signals that drain."""

import gc
import logging
import signal
from types import FrameType

import uvicorn

from openruntime.core.api import Application
from openruntime.core.config import Settings
from openruntime.gateway.http_protocol import protocol_class
from openruntime.monitoring import logs

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """SIGTERM and SIGINT drain: what runs is finished, nothing new is accepted. A second one stops now."""

    def __init__(self, config: uvicorn.Config, app: Application) -> None:
        super().__init__(config)
        self._app = app

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
            host, port = self.config.host, self.servers[0].sockets[0].getsockname()[1]
            log.info("OpenRuntime listens on http://%s:%d", f"[{host}]" if ":" in host else host, port)
            # what start-up made stays; collecting it again and again costs tens of milliseconds
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)


def serve(settings: Settings) -> int:
    """Serve until a signal. The exit status: 0 after a clean stop, 3 when the start failed."""
    logs.configure(settings.log_level, json=settings.log_json)
    app = Application(settings)
    http = protocol_class(app.runtime.pool.allocate, limit=settings.body_limit, body_timeout=settings.body_timeout)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, http=http, ws="websockets-sansio", loop="uvloop", lifespan="on",
        access_log=False, proxy_headers=False, server_header=False, date_header=False, log_config=None,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace)), backlog=4096,
    )  # fmt: skip
    server = Server(config, app)
    server.run()
    return 0 if server.started else 3
