"""Whether whoever asks may: a token of this server in the Authorization header makes the principal, whose scopes must open the route."""

from openruntime.contracts.errors import Forbidden
from openruntime.contracts.records import Principal
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import headers
from openruntime.gateway.wire import Receive, Scope
from openruntime.security.access import Access
from openruntime.security.tokens import Grant, digest

GRANTED = 4 << 20  # bytes that a request may have which a person approved


class Doors:
    """In front of all routes; requests without an Authorization header do not come by here."""

    def __init__(self, access: Access, bodies: BodyReader) -> None:
        self._access = access
        self._bodies = bodies

    async def enter(self, scope: Scope, receive: Receive) -> None:
        """Raises `Unauthorized` for a token of ours that is not good, `Forbidden` for what its scopes do not open."""
        authorization = headers(scope).get(b"authorization")
        claims = self._access.identify(authorization) if authorization is not None else None
        if claims is not None:
            scope["openruntime.principal"] = claims.principal
        who = scope.get("openruntime.principal")
        if not isinstance(who, Principal):
            return
        method = "GET" if scope["type"] == "websocket" else scope["method"]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if claims is not None and claims.grant is not None:
            await self._granted(claims.grant, method, path, scope, receive)
        self._access.enter(who, method, path)

    async def _granted(self, grant: Grant, method: str, path: str, scope: Scope, receive: Receive) -> None:
        body = bytes(await self._bodies.read(scope, receive, GRANTED)) if method not in ("GET", "HEAD") else b""
        asked = f"{path}?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else path
        if (method, asked, digest(body)) != (grant.method, grant.path, grant.body):
            raise Forbidden(f"a person approved {grant.method} {grant.path[:200]}, and no other request", field="Authorization")
        scope["openruntime.body"] = body
