"""`/operations`: everything that can be called by name, with its JSON Schema and where it can run."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from openruntime.contracts.errors import NotFound, UnknownOperation
from openruntime.gateway import examples
from openruntime.gateway.dependencies import Services, principal
from openruntime.gateway.openapi import example, problems
from openruntime.gateway.tasks import json_response


class OperationInfo(BaseModel):
    """`parameters` is a JSON Schema; `devices` and `backends` are those that have the operation."""

    model_config = ConfigDict(extra="allow")

    name: str
    family: str | None = None
    version: int | None = None
    summary: str | None = None
    doc: str | None = None
    parameters: dict[str, Any] = {}
    outputs: Any = None
    cacheable: bool | None = None
    devices: list[str] = []
    backends: list[str] = []


class OperationList(BaseModel):
    operations: list[OperationInfo]


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    def described(name: str, request: Request) -> dict[str, Any]:
        entry = services.catalogue.of(principal(request.scope).tenant).describe(name)
        places = list(services.devices.places("any", entry.pop("requires", name)))
        having: dict[str, Any] = {"devices": list(dict.fromkeys(device for device, _ in places)), "backends": sorted({b for _, b in places})}
        return having | entry

    @routes.get("/operations", response_model=OperationList, responses={200: example(examples.OPERATIONS), **problems(503)})
    async def list_operations(request: Request) -> Response:
        """List the operations, and the kernels among them."""
        names = services.catalogue.of(principal(request.scope).tenant).names()
        return json_response({"operations": [described(name, request) for name in names]})

    @routes.get("/operations/{name}", response_model=OperationInfo, responses={200: example(examples.OPERATION), **problems(404, 503)})
    async def get_operation(request: Request, name: Annotated[str, Path(description="The operation's name, as `matmul`.")]) -> Response:
        """An operation with its parameters and outputs."""
        try:
            return json_response(described(name, request))
        except UnknownOperation as error:
            raise NotFound(error.message, field="name") from None

    return routes
