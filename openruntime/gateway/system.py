"""`/`, health and metrics."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from openruntime.contracts.errors import Unavailable
from openruntime.gateway import examples
from openruntime.gateway.dependencies import Services, headers
from openruntime.gateway.openapi import example, problems
from openruntime.gateway.tasks import json_response
from openruntime.gateway.wire import JSON, accepted

TEXT = "text/plain"


class Service(BaseModel):
    """What answers here, and where its parts are."""

    name: str
    version: str
    ready: bool
    links: dict[str, str]


class Health(BaseModel):
    status: str
    reason: str | None = None


class HealthDetail(Health):
    """`uptime` in seconds; `devices` by id to their status."""

    version: str
    uptime: float
    devices: dict[str, str]
    websockets: int


class MetricsHistory(BaseModel):
    """`times` in RFC 3339; `every` the usual seconds between two; by name one value for each time, null where the metric was not there yet.

    Names are those of the text format with their labels; of histograms the count and the sum."""

    times: list[datetime]
    every: float | None
    series: dict[str, list[float | None]]


_LINKS = {name: f"/{name}" for name in ("health", "metrics", "devices", "operations", "tasks", "tensors", "docs")} | {
    "openapi": "/openapi.json",
    "events": "/ws",
}


def router(services: Services, websockets: Callable[[], int]) -> APIRouter:
    routes = APIRouter(tags=["system"])
    started = monotonic()

    @routes.get("/", response_model=Service, responses={200: example(examples.SERVICE), **problems(503)})
    async def service() -> Response:
        """What answers here."""
        return json_response({"name": "openruntime", "version": services.version, "ready": services.ready() is None, "links": _LINKS})

    @routes.get("/health", response_model=HealthDetail, responses={200: example(examples.HEALTH), **problems(503)})
    async def health() -> Response:
        """How the parts are; always 200 while the server answers."""
        reason = services.ready()
        return json_response(
            {
                "status": "ok" if reason is None else "not_ready",
                "reason": reason,
                "version": services.version,
                "uptime": monotonic() - started,
                "devices": {device["id"]: device["status"] for device in services.devices.list()},
                "websockets": websockets(),
            }
        )

    @routes.get("/health/live", response_model=Health, responses={200: example(examples.ALIVE), **problems(503)})
    async def live() -> Response:
        """The process answers."""
        return json_response({"status": "ok", "reason": None})

    @routes.get("/health/ready", response_model=Health, responses={200: example(examples.ALIVE), **problems(503)})
    async def ready() -> Response:
        """At least one worker can take work, and the server is not draining."""
        reason = services.ready()
        if reason is not None:
            raise Unavailable(reason)
        return json_response({"status": "ok", "reason": None})

    @routes.get("/metrics", response_model=None, responses={200: _METRICS, **problems(406, 503)})
    async def metrics(request: Request) -> Response:
        """Metrics: Prometheus text, or JSON when `Accept` asks for it."""
        accept = headers(request.scope).get(b"accept")
        if accept is not None and b"openmetrics" in accept and b"text/plain" not in accept:
            accept = None
        if accepted(accept, (TEXT, JSON)) == JSON:
            return json_response(services.metrics.snapshot())
        return Response(services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/metrics/history", response_model=MetricsHistory, responses={200: example(examples.METRICS_HISTORY), **problems(400, 503)})
    async def metrics_history(
        name: Annotated[list[str], Query(max_length=50, description="Beginnings of the metrics' names; all unless given.")] = [],  # noqa: B006
        seconds: Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="How far back; all that is kept unless given.")] = None,
    ) -> Response:
        """How the metrics went: the last hour closely, the day before in larger steps; the last value is of now."""
        found = services.history.view(name, seconds)
        return json_response(found | {"times": [datetime.fromtimestamp(when, UTC) for when in found["times"]]})

    return routes


_METRICS: dict[str, Any] = {
    "description": "The metrics.",
    "content": {
        TEXT: {"schema": {"type": "string"}, "example": examples.METRICS_TEXT},
        JSON: {"schema": {"type": "object"}, "example": examples.METRICS},
    },
}
