"""What is judged by a request's head, before anybody looks at what it asks for: who is addressed, how it is coded, which ids it carries."""

import re
from typing import Final
from urllib.parse import urlsplit

from uuid_utils import uuid7

from openruntime.contracts.errors import Forbidden, UnsupportedMediaType

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
_REMEMBERED = 256


def request_id(sent: bytes | None) -> str:
    """The id the client gave, if it is harmless wherever it may be shown; else a fresh one."""
    return sent.decode() if sent is not None and _ID(sent) else str(uuid7())


def check_coding(header: bytes) -> None:
    """Raises `UnsupportedMediaType`: bodies are read as they are."""
    if header.strip().lower() not in (b"", b"identity"):
        raise UnsupportedMediaType(
            f"the Content-Encoding {header[:60].decode('latin-1')!r} is not read here; send the body as it is", field="Content-Encoding"
        )


def own_page(origin: str | None, host: str | None) -> bool:
    """Whether a request comes from no page, or from one that this server itself could have shown."""
    return origin is None or urlsplit(origin).netloc == host


class Hosts:
    """The names by which this server may be called. A page whose name was bound to this address after it was loaded calls it by its own."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names
        self._good: set[bytes | None] = {None}  # without a Host header (HTTP/1.0) it is no browser

    def check(self, host: bytes | None) -> None:
        """Raises `Forbidden` unless it is one of our names, with any port."""
        if self._names is None or host in self._good:
            return
        assert host is not None
        text = host.decode("latin-1").lower()
        name = text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
        if name not in self._names and not any(known[0] == "*" and name.endswith(known[1:]) for known in self._names):
            raise Forbidden(
                f"the Host header says {name[:100]!r}: this server listens on this machine only, and is called by a name of that", field="Host"
            )
        if len(self._good) < _REMEMBERED:
            self._good.add(host)
