"""Models that other servers offer: what Ollama has, what an OpenAI-compatible server lists. Short questions, asked away from the event loop."""

import http.client
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter, Unavailable
from openruntime.models.entries import VERSION
from openruntime.models.weights import plain_name

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
PATIENCE = 2.0  # seconds for a whole answer
CONNECT = 0.5  # seconds
LARGEST = 4 << 20  # bytes of an answer
MOST = 200  # models of one server
PARALLEL = 16  # requests to a server at the same time; it has a queue of its own
_EMBEDDING = ("embed", "bert", "minilm", "bge-", "e5-", "gte-")


def ollama(environment: Mapping[str, str]) -> tuple[list[ModelSpec], dict[str, str]]:
    """What an Ollama has whose address `OLLAMA_HOST` tells, or which is at the usual one."""
    told = environment.get("OLLAMA_HOST", "").strip()
    try:
        base = ollama_address(told)
        document = ask(f"{base}/api/tags")
    except (Unavailable, InvalidParameter) as error:
        return [], {"OLLAMA_HOST": f"OLLAMA_HOST={told[:100]}: {error.message}" if told else f"Ollama: {error.message}"}
    listed = document.get("models") if isinstance(document, dict) else None
    specs: list[ModelSpec] = []
    for entry in listed[:MOST] if isinstance(listed, list) else ():
        upstream = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(upstream, str):
            continue
        name, _, tag = upstream.rpartition("/")[2].partition(":")
        details = entry.get("details") if isinstance(entry.get("details"), dict) else {}
        size, digest = entry.get("size"), entry.get("digest")
        spec = _spec(
            plain_name(name), f"{base}/v1", upstream, base, version=tag or "latest", size=size if isinstance(size, int) else 0,
            digest=digest[:100] if isinstance(digest, str) else "", kind=_kind(f"{upstream} {details.get('family', '')}"),
        )  # fmt: skip
        if spec is not None:
            specs.append(spec)
    return specs, {}


def ollama_address(told: str) -> str:
    """As Ollama reads its variable: a host, a port or both, with or without a scheme."""
    parts = checked_url(told if "://" in told else f"http://{told or '127.0.0.1'}", "OLLAMA_HOST")
    host = parts.hostname or "127.0.0.1"
    host = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    port = parts.port or (11434 if "://" not in told else 80 if parts.scheme == "http" else 443)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def configured(environment: Mapping[str, str], model: str, chosen: bool) -> tuple[list[ModelSpec], dict[str, str]]:
    """What a key or an address in the environment gives. `model`: what to call there; `chosen`: somebody set that."""
    key, base = environment.get(KEY, "").strip(), environment.get("OPENAI_BASE_URL", "").strip()
    if not key and not base:
        return [], {}
    base = (base or OPENAI).rstrip("/")
    try:
        checked_url(base, "OPENAI_BASE_URL")
        names = [model] if chosen or base == OPENAI else models_of(base, key)
    except (Unavailable, InvalidParameter) as error:
        return [], {"OPENAI_BASE_URL": f"OPENAI_BASE_URL: {error.message}; name a model with OPENRUNTIME_OPENAI_MODEL to use it all the same"}
    options: dict[str, Any] = {"api_key_env": KEY} if key else {}
    specs = [_spec(plain_name(upstream), base, upstream, "environment", kind=_kind(upstream), options=options) for upstream in names]
    return list({spec.id: spec for spec in specs if spec is not None}.values()), {}


def models_of(base: str, key: str = "") -> list[str]:
    """The ids that `GET BASE/models` lists. Raises `Unavailable` saying what is wrong with the answer."""
    document = ask(f"{base.rstrip('/')}/models", key)
    listed = document.get("data") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise Unavailable(f"what answers at {base} does not list models as OpenAI's API does")
    found = [entry.get("id") for entry in listed[:MOST] if isinstance(entry, dict)]
    return [name for name in found if isinstance(name, str) and 0 < len(name) <= 200]


def checked_url(url: str, field: str = "url") -> SplitResult:
    """Raises `InvalidParameter`."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and url.isprintable() and " " not in url
    except ValueError:
        right = False
    if not right or len(url) > 1000:
        raise InvalidParameter(f"`{field}` must be an address such as http://127.0.0.1:11434/v1, not {url!r:.120}", field=field)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidParameter(f"`{field}` must be a plain address, without name, password, query or fragment", field=field)
    return parts


def _spec(name: str, base: str, upstream: str, origin: str, *, version: str = "1", **rest: Any) -> ModelSpec | None:
    if not name or not VERSION.fullmatch(version) or len(upstream) > 200:
        return None
    return ModelSpec(name=name, version=version, adapter="openai", source=base, upstream=upstream, origin=origin, parallel=PARALLEL, **rest)


def _kind(text: str) -> str:
    return "embedding" if any(mark in text.lower() for mark in _EMBEDDING) else "chat"


def ask(url: str, key: str = "") -> Any:
    """JSON from `url`; neither redirects nor proxies are followed, and a key goes nowhere else. Raises `Unavailable`."""
    parts = checked_url(url)
    where = f"{parts.scheme}://{parts.netloc}"
    secure = parts.scheme == "https"
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(parts.hostname or "", parts.port, timeout=CONNECT)
    end = time.monotonic() + PATIENCE
    try:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(PATIENCE)
        connection.request("GET", parts.path or "/", headers={"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}))
        response = connection.getresponse()
        body = b""
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > LARGEST or time.monotonic() > end:
                raise Unavailable(f"{where} answers with too much, or too slowly")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"nothing that can be used answers at {where} ({type(error).__name__})") from None
    finally:
        connection.close()
    if response.status != 200:
        refused = " (it wants a key)" if response.status in (401, 403) else ""
        raise Unavailable(f"{where} answers {parts.path} with HTTP status {response.status}{refused}")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unavailable(f"{where} answers {parts.path} with something that is no JSON") from None
