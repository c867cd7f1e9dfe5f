"""`/tensors`: arrays that stay on the server under an id, so that they travel once."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from openruntime.contracts import nested, npy, safetensors
from openruntime.contracts.errors import InvalidRequest, UnsupportedMediaType
from openruntime.contracts.payload import Buffer
from openruntime.gateway import examples
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers, principal
from openruntime.gateway.openapi import BYTES, SPLIT_NOTE, arrays, body, example, parameter, plain, problems
from openruntime.gateway.results import Results, to_json
from openruntime.gateway.tasks import check_cursor, json_response
from openruntime.gateway.wire import JSON, NPY, SAFETENSORS, SPLIT, Receive, Scope, Send, accepted, media_type, query, respond

LONGEST = 31_536_000.0  # seconds a tensor may be kept: a year
_OFFERED = (NPY, SAFETENSORS, JSON)


class TensorInfo(BaseModel):
    """An array that is kept. `nbytes` in bytes, times RFC 3339 UTC."""

    id: str
    dtype: str
    shape: list[int]
    nbytes: int
    created_at: str | None = None
    expires_at: str | None = None


class TensorSet(BaseModel):
    """What became of each tensor of a safetensors body, by name."""

    tensors: dict[str, TensorInfo]


class TensorList(BaseModel):
    tensors: list[TensorInfo]
    next: str | None


class TensorApplications:
    """Those that move bytes, as plain ASGI applications."""

    def __init__(self, services: Services, bodies: BodyReader) -> None:
        self._services = services
        self._bodies = bodies

    async def put(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /tensors`."""
        media = media_type(headers(scope).get(b"content-type"))
        if media not in (NPY, SAFETENSORS):
            raise UnsupportedMediaType(
                f"the Content-Type {media[:100]!r} is not read here; send {NPY} (one tensor) or {SAFETENSORS} (several)", field="Content-Type"
            )
        ttl = _ttl(scope)
        data = await self._bodies.read(scope, receive)
        put, who = self._services.tensors.put, principal(scope)
        if media == NPY:
            info = await put(npy.decode(data), principal=who, ttl=ttl)
            await respond(send, 201, b"application/json", [to_json(info)], [(b"location", f"/tensors/{info['id']}".encode())])
            return
        found, _metadata = safetensors.decode(data)
        if not found:
            raise InvalidRequest("the safetensors body holds no tensor")
        kept = {name: await put(array, principal=who, ttl=ttl) for name, array in found.items()}
        await respond(send, 201, b"application/json", [to_json({"tensors": kept})])

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /tensors/{tensor_id}`."""
        tensor_id = scope["path_params"]["tensor_id"]
        media = accepted(headers(scope).get(b"accept"), _OFFERED)
        array = await self._services.tensors.get(tensor_id, principal=principal(scope))
        if media == JSON:
            info: dict[str, Any] = {"id": tensor_id, "dtype": array.dtype, "shape": array.shape, "nbytes": array.nbytes}
            if array.size <= self._services.limits.inline_elements and len([n for n in array.shape if n == 0]) == 0:
                info["value"] = nested.from_array(array)
            await respond(send, 200, b"application/json", [to_json(info)])
            return
        parts: list[Buffer] = npy.encode(array) if media == NPY else safetensors.encode({"tensor": array}, split=media == SPLIT)
        await respond(send, 200, NPY.encode() if media == NPY else SAFETENSORS.encode(), parts)


def _ttl(scope: Scope) -> float | None:
    given = dict(query(scope["query_string"]))
    text = given.pop("ttl", None)
    if given:
        name = next(iter(given))
        raise InvalidRequest(f"`{name}` is not known here; the query may hold `ttl`", field=name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise InvalidRequest(f"`ttl` must be a number of seconds above 0 and at most {LONGEST:.0f}, not {text[:60]!r}", field="ttl")
    return seconds


def router(services: Services, results: Results, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["tensors"])
    tensors = services.tensors
    plain_route = partial(plain, routes)
    applications = TensorApplications(services, bodies)
    ttl = parameter("ttl", "query", "Seconds to keep it.", {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST})
    tensor_id = parameter("tensor_id", "path", "The tensor's id.", {"type": "string"})
    plain_route(
        "POST", "/tensors", applications.put, "put_tensors",
        summary="Keep arrays",
        description="npy: one array, answered with its `TensorInfo`. "
        "safetensors: several, answered as `{\"tensors\": {name: TensorInfo}}`.\n\n" + SPLIT_NOTE,
        status_code=201, response_model=TensorInfo | TensorSet, responses={201: example(examples.TENSOR), **problems(400, 408, 413, 415, 503, 507)},
        openapi_extra=body(None, *BYTES) | {"parameters": [ttl]},
    )  # fmt: skip
    plain_route(
        "GET", "/tensors/{tensor_id}", applications.get, "get_tensor",
        summary="A kept array: npy unless `Accept` says otherwise; as JSON its description, and its value while it is small",
        description="410 where the id is older than tensors are usually kept (`OPENRUNTIME_TENSOR_TTL`): nothing is remembered of those that were,"
        f" so that one kept for a shorter `ttl` is 404 until then.\n\n{SPLIT_NOTE}",
        response_model=None, responses={200: arrays("The array.", *_OFFERED, shown=examples.KEPT), **problems(404, 406, 410, 503)},
        openapi_extra={"parameters": [tensor_id]},
    )  # fmt: skip

    @routes.get("/tensors", response_model=TensorList, responses={200: example(examples.TENSORS), **problems(400, 503)})
    async def list_tensors(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most arrays in the answer.")] = 100,
        cursor: Annotated[str, Query(max_length=500, description="`next` of the page before.")] = "",
    ) -> Response:
        """List the kept arrays."""
        check_cursor(cursor)
        found, after = await tensors.list(principal=principal(request.scope), after=cursor, limit=limit)
        return json_response({"tensors": found, "next": after})

    @routes.delete("/tensors/{tensor_id}", status_code=204, response_class=Response, responses=problems(404, 410, 503))
    async def delete_tensor(request: Request, tensor_id: Annotated[str, Path(description="The tensor's id.")]) -> Response:
        """Give a kept array up."""
        await tensors.delete(tensor_id, principal=principal(request.scope))
        results.forget(tensor_id)
        return Response(status_code=204)

    return routes
