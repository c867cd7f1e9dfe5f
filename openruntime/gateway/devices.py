"""`/devices`: what can run work, how loaded it is, drain and resume."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from openruntime.contracts.errors import UnsupportedMediaType
from openruntime.contracts.models import DeviceInfo
from openruntime.gateway import examples
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers
from openruntime.gateway.errors import invalid
from openruntime.gateway.openapi import body, example, parameter, plain, problems
from openruntime.gateway.requests import parse_json
from openruntime.gateway.results import to_json
from openruntime.gateway.tasks import json_response
from openruntime.gateway.wire import JSON, Receive, Scope, Send, media_type, respond


class BackendInfo(BaseModel):
    """A library that drives devices. `status` is ready, looking (not asked yet), absent (nothing here for it) or failed, with the reason.

    `unsupported` says why operations do not run on it, `lacks` why dtypes do not.
    """

    name: str
    status: Literal["ready", "looking", "absent", "failed"]
    devices: list[str]
    reason: str | None = None
    remedy: str | None = None
    unsupported: dict[str, str] = {}
    lacks: dict[str, str] = {}


class DeviceList(BaseModel):
    devices: list[DeviceInfo]
    backends: list[BackendInfo]


class DeviceDetail(DeviceInfo):
    """A device with its load, its workers and what was measured as its ceilings."""

    model_config = ConfigDict(extra="allow")

    load: Any = None
    workers: Any = None
    models: Any = None
    ceilings: Any = None


class DeviceState(BaseModel, extra="forbid"):
    """`draining`: finish what runs, take nothing new. `ready`: take work again."""

    state: Literal["ready", "draining"]


def router(services: Services, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["devices"])
    devices = services.devices

    @routes.get("/devices", response_model=DeviceList, responses={200: example(examples.DEVICES), **problems(503)})
    async def list_devices() -> Response:
        """List the devices, and the backends that are installed."""
        await devices.found()
        return json_response({"devices": list(devices.list()), "backends": list(devices.backends())})

    @routes.get("/devices/{device_id}", response_model=DeviceDetail, responses={200: example(examples.DEVICE), **problems(404, 503)})
    async def get_device(device_id: Annotated[str, Path(description="The device's id, as `cpu:0`.")]) -> Response:
        """A device with load, memory and measured ceilings."""
        return json_response(devices.get(device_id))

    async def set_state(scope: Scope, receive: Receive, send: Send) -> None:
        if media_type(headers(scope).get(b"content-type")) != JSON:
            raise UnsupportedMediaType(f"the Content-Type must be {JSON}", field="Content-Type")
        found = parse_json(await bodies.read(scope, receive, 65_536))
        try:
            wanted = DeviceState.model_validate(found)
        except ValidationError as error:
            raise invalid(error, DeviceState.model_fields, "a JSON object with `state`") from None
        await respond(send, 200, JSON.encode(), [to_json(devices.set_state(scope["path_params"]["device_id"], wanted.state))])

    plain(
        routes, "PUT", "/devices/{device_id}/state", set_state, "set_device_state",
        summary="Drain a device, or let it take work again",
        response_model=DeviceDetail, responses={200: example(examples.DRAINING), **problems(400, 404, 408, 413, 415, 422, 503)},
        openapi_extra=body(DeviceState.model_json_schema(), examples={"drain": {"value": {"state": "draining"}}})
        | {"parameters": [parameter("device_id", "path", "The device's id, as `cpu:0`.", {"type": "string"})]},
    )  # fmt: skip

    return routes
