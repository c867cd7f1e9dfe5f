"""The server's models: `rt.models.all()`, `.add(...)`, `.use(...)`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import quote

from openruntime.client.connection import Connection
from openruntime.contracts.ai import PRODUCTION

if TYPE_CHECKING:
    from openruntime.client.sync import Portal

READING = 600.0  # seconds that a server may take to read weights through, or to copy them


class Adding(TypedDict, total=False):
    """Where a model is: one of `path` (absolute, on the server's disk), `package` (installed there) and `url` (of an API like OpenAI's).

    `upstream`: what the server at `url` calls it; `api_key_env`: the server's environment variable with the key for it. `reference` leaves weights
    where they are; `digest` is the SHA-256 that they must have; `check=False` adds a model behind a `url` that does not answer now.
    """

    path: str
    package: str
    url: str
    name: str | None
    kind: str | None
    upstream: str | None
    api_key_env: str | None
    license: str | None
    context_length: int | None
    parallel: int | None
    options: Mapping[str, Any]
    reference: bool
    digest: str | None
    check: bool


class AsyncModels:
    """The model repository of the server: `rt.models`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def all(self) -> list[dict[str, Any]]:
        """Every version of every model: the repository's, then what was found. One that cannot be used says why (`reason`)."""
        return list((await self._connection.json("GET", "/ai/models"))["models"])

    async def problems(self) -> list[str]:
        """Of entries, packages and servers that cannot be used: why."""
        return list((await self._connection.json("GET", "/ai/models"))["problems"])

    async def get(self, name: str) -> dict[str, Any]:
        """By `NAME:VERSION`, `NAME` (its current version) or an alias. Raises `NotFound`."""
        found: dict[str, Any] = await self._connection.json("GET", _path(name))
        return found

    async def add(self, **given: Unpack[Adding]) -> dict[str, Any]:
        """Add a model, or the next version of one. Raises `InvalidParameter`, `StorageFull`, `Unavailable`."""
        made: dict[str, Any] = await self._connection.json("POST", "/ai/models", dict(given), wait=READING)
        return made

    async def use(self, name: str) -> dict[str, Any]:
        """Make it the model in use where a request names none. Raises `NotFound`."""
        found = await self.get(name)
        return await self.promote(found["id"], PRODUCTION[found["kind"]])

    async def promote(self, name: str, alias: str | None = None) -> dict[str, Any]:
        """Make an alias mean a model; without one as `use`. What it meant before is kept. Raises `NotFound`, `InvalidParameter`."""
        if alias is None:
            return await self.use(name)
        found: dict[str, Any] = await self._connection.json("PUT", _path("aliases", alias), {"model": name})
        return found

    async def roll_back(self, alias: str = PRODUCTION["chat"]) -> dict[str, Any]:
        """Make an alias mean what it meant before. Raises `NotFound`, `Conflict` where that is nothing."""
        found: dict[str, Any] = await self._connection.json("POST", _path("aliases", alias, "rollback"))
        return found

    async def history(self, alias: str) -> dict[str, Any]:
        """What an alias means, and meant before. Raises `NotFound`."""
        found: dict[str, Any] = await self._connection.json("GET", _path("aliases", alias))
        return found

    async def check(self, name: str) -> dict[str, Any]:
        """Have the weights read through, or its server asked: `["reason"]` says what is wrong. Raises `NotFound`."""
        found: dict[str, Any] = await self._connection.json("POST", _path(name, "check"), wait=READING)
        return found

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Give a version up. Raises `NotFound`; `Conflict` while an alias means it, unless `force`."""
        await self._connection.json("DELETE", _path(name), query={"force": "true"} if force else None)

    async def remove_alias(self, alias: str) -> None:
        """Give an alias up. Raises `NotFound`."""
        await self._connection.json("DELETE", _path("aliases", alias))


class Models:
    """The model repository of the server: `rt.models`."""

    def __init__(self, portal: "Portal", client: AsyncModels) -> None:
        self._portal = portal
        self._client = client

    def all(self) -> list[dict[str, Any]]:
        """Every version of every model: the repository's, then what was found. One that cannot be used says why (`reason`)."""
        return self._portal.run(self._client.all())

    def problems(self) -> list[str]:
        """Of entries, packages and servers that cannot be used: why."""
        return self._portal.run(self._client.problems())

    def get(self, name: str) -> dict[str, Any]:
        """By `NAME:VERSION`, `NAME` (its current version) or an alias. Raises `NotFound`."""
        return self._portal.run(self._client.get(name))

    def add(self, **given: Unpack[Adding]) -> dict[str, Any]:
        """Add a model, or the next version of one. Raises `InvalidParameter`, `StorageFull`, `Unavailable`."""
        return self._portal.run(self._client.add(**given))

    def use(self, name: str) -> dict[str, Any]:
        """Make it the model in use where a request names none. Raises `NotFound`."""
        return self._portal.run(self._client.use(name))

    def promote(self, name: str, alias: str | None = None) -> dict[str, Any]:
        """Make an alias mean a model; without one as `use`. What it meant before is kept. Raises `NotFound`, `InvalidParameter`."""
        return self._portal.run(self._client.promote(name, alias))

    def roll_back(self, alias: str = PRODUCTION["chat"]) -> dict[str, Any]:
        """Make an alias mean what it meant before. Raises `NotFound`, `Conflict` where that is nothing."""
        return self._portal.run(self._client.roll_back(alias))

    def history(self, alias: str) -> dict[str, Any]:
        """What an alias means, and meant before. Raises `NotFound`."""
        return self._portal.run(self._client.history(alias))

    def check(self, name: str) -> dict[str, Any]:
        """Have the weights read through, or its server asked: `["reason"]` says what is wrong. Raises `NotFound`."""
        return self._portal.run(self._client.check(name))

    def remove(self, name: str, *, force: bool = False) -> None:
        """Give a version up. Raises `NotFound`; `Conflict` while an alias means it, unless `force`."""
        self._portal.run(self._client.remove(name, force=force))

    def remove_alias(self, alias: str) -> None:
        """Give an alias up. Raises `NotFound`."""
        self._portal.run(self._client.remove_alias(alias))


def _path(*parts: str) -> str:
    return "/ai/models/" + "/".join(quote(part, safe=":") for part in parts)
