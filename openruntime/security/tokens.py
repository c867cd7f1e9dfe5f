"""Tokens that this server issues itself, for its agents: signed, short-lived, and worth nothing once their run has ended.

`ort1.` + claims as JSON + `.` + HMAC-SHA256 over what stands before, both in unpadded base64url (RFC 2104, RFC 4648).
"""

import hashlib
import hmac
import os
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from openruntime.contracts.errors import Unauthorized
from openruntime.contracts.records import Principal

PREFIX = "ort1."
LONGEST = 4096  # characters
SECRET = "token-secret"  # the file, in the data directory


class Grant(msgspec.Struct, frozen=True):
    """The one request that a person approved: nothing else can be done with it. `body`: its SHA-256."""

    method: str
    path: str
    body: str


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    tenant: str
    scopes: list[str]
    expires: float
    run: str = ""  # the agent's run that it belongs to
    grant: Grant | None = None

    @property
    def principal(self) -> Principal:
        return Principal(self.id, self.tenant, frozenset(self.scopes), self.expires)


_decode = msgspec.json.Decoder(Claims).decode


class TokenIssuer:
    """Signs with the `secret`, asked for at first use, and knows which runs are going on. A grant's token is good for one use."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = cache(secret)
        self._runs: set[str] = set()
        self._used: dict[bytes, float] = {}  # grants' signatures, until they expire

    def begin(self, run: str) -> None:
        self._runs.add(run)

    def end(self, run: str) -> None:
        """Its tokens are refused from now on."""
        self._runs.discard(run)

    def issue(self, principal: Principal, *, seconds: float, run: str = "", grant: Grant | None = None) -> str:
        """A token that is `principal` for so many seconds, not longer than that one's own."""
        expires = min(time.time() + seconds, principal.expires or float("inf"))
        claims = Claims(principal.id, principal.tenant, sorted(principal.scopes), expires, run, grant)
        signed = PREFIX + _encoded(msgspec.json.encode(claims))
        return f"{signed}.{_encoded(self._signature(signed))}"

    def read(self, token: str) -> Claims | None:
        """What a bearer token says; None for one that is not ours. Raises `Unauthorized` for one of ours that is not good (any more)."""
        if not token.startswith(PREFIX):
            return None
        signed, _, signature = token.rpartition(".")
        given = _decoded(signature) if len(token) <= LONGEST else b""
        if not hmac.compare_digest(given, self._signature(signed)):
            raise Unauthorized("the bearer token was not issued by this server, or was changed: ask for a new one", field="Authorization")
        claims = _decode(_decoded(signed.removeprefix(PREFIX)))
        if claims.expires < time.time():
            raise Unauthorized("the bearer token has expired: ask for a new one", field="Authorization")
        if claims.run and claims.run not in self._runs:
            raise Unauthorized("the bearer token belongs to an agent's run that has ended", field="Authorization")
        if claims.grant is not None:
            self._once(given, claims.expires)
        return claims

    def _once(self, signature: bytes, expires: float) -> None:
        now = time.time()
        if signature in self._used:
            raise Unauthorized("the bearer token was good for one request, which was made", field="Authorization")
        self._used = {used: end for used, end in self._used.items() if end > now} | {signature: expires}

    def _signature(self, text: str) -> bytes:
        return hmac.digest(self._secret(), text.encode("utf-8", "surrogatepass"), hashlib.sha256)


def secret(directory: Path | None) -> bytes:
    """32 random bytes that only the owner of `directory` can read, made at the first start; fresh ones without a directory."""
    if directory is None:
        return secrets.token_bytes(32)
    file = directory / SECRET
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / f".{SECRET}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as writing:
            writing.write(secrets.token_bytes(32))
            writing.flush()
            os.fsync(writing.fileno())
        try:
            os.link(made, file)  # whole or not at all; another server on this directory may have been first
        except FileExistsError:
            file.chmod(0o600)
    finally:
        made.unlink(missing_ok=True)
    return file.read_bytes()


def digest(body: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(body).hexdigest()


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """Empty where it is no base64url in its one spelling."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (NotBase64, ValueError):
        return b""
    return data if _encoded(data) == text else b""
