"""Where a model is added from: a file or folder of weights, an installed package, or a server that speaks OpenAI's API."""

import os
import re
import time
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.ai import PRODUCTION, ModelSpec
from openruntime.contracts.errors import InvalidParameter, Unavailable, nearest
from openruntime.models import upstreams
from openruntime.models.upstreams import checked_url, models_of
from openruntime.models.weights import digest, examine, look, plain_name

_KEY = re.compile(r"[A-Z][A-Z0-9_]{0,90}_API_KEY")
PARALLEL = 4  # requests that an engine here takes at the same time
Seen = list[tuple[str, int, int, int]]


class Addition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be added: one of `path` (on the server's disk, absolute), `package` (installed there) and `url` (of an OpenAI-compatible API).

    `upstream`: what the server at `url` calls it; `api_key_env`: the server's environment variable with the key for
    it, `…_API_KEY`. `reference` leaves weights
    where they are. `digest`: the SHA-256 that they must have. `check`: whether the server at `url` is asked if it has it.
    """

    path: str | None = None
    package: str | None = None
    url: str | None = None
    name: str | None = None
    kind: str | None = None
    upstream: str | None = None
    api_key_env: str | None = None
    license: str | None = None
    context_length: int | None = None
    parallel: int | None = None
    options: dict[str, Any] = {}
    reference: bool = False
    digest: str | None = None
    check: bool = True


def read_source(wanted: Addition, carried: ModelSpec | None = None) -> tuple[ModelSpec, Seen]:
    """The model as it is there, and what its files looked like when their digest was taken; `carried`: what `package` was found to hold.

    Raises `InvalidParameter` naming the field, `Unavailable`."""
    check(wanted)
    if wanted.url:
        return _behind(wanted), []
    return _on_disk(wanted, str(wanted.path)) if carried is None else _on_disk(wanted, carried.source, carried)


def check(wanted: Addition) -> None:
    """Raises `InvalidParameter`."""
    given = [field for field in ("path", "package", "url") if getattr(wanted, field)]
    if len(given) != 1:
        said = f"not {' and '.join(given)}" if given else "and none was given"
        raise InvalidParameter(f"exactly one of `path`, `package` and `url` says where the model is, {said}", field=given[-1] if given else "path")
    for field in () if wanted.url else ("upstream", "api_key_env"):
        if getattr(wanted, field):
            raise InvalidParameter(f"`{field}` belongs to a model behind a `url`", field=field)
    if wanted.kind not in (None, *PRODUCTION):
        raise InvalidParameter(f"`kind` is {' or '.join(PRODUCTION)}, not {wanted.kind!r:.60}", field="kind")
    if "api_key_env" in wanted.options:
        raise InvalidParameter("`options`: name the variable with the key in the field `api_key_env`", field="options")
    context = wanted.options.get("context", 1)
    if type(context) is not int or not 0 < context <= 100_000_000:
        raise InvalidParameter(f"`options`: `context` is a number of tokens, at least 1, not {context!r:.60}", field="options")
    for field in ("context_length", "parallel"):
        value = getattr(wanted, field)
        if value is not None and not 0 < value <= 100_000_000:
            raise InvalidParameter(f"`{field}` must be at least 1, not {value}", field=field)


def _on_disk(wanted: Addition, place: str, carried: ModelSpec | None = None) -> tuple[ModelSpec, Seen]:
    path = Path(place)
    if "\0" in place or not path.is_absolute():
        raise InvalidParameter(f"`path` must be absolute, on the disk of the server, not {str(path)!r:.200}", field="path")
    path = path.resolve()
    weights = examine(path)
    try:
        found = digest(weights.path)
        seen = look(weights.path)
    except OSError as error:
        raise InvalidParameter(f"{path} cannot be read: {error.strerror}", field="path") from None
    if seen != weights.seen:
        raise InvalidParameter(f"{path} changes while it is read; add it when it is complete", field="path")
    spec = ModelSpec(
        name=wanted.name or (carried.name if carried is not None else weights.name), adapter=weights.adapter, kind=wanted.kind or weights.kind,
        source=str(weights.path), digest=found, size=weights.size, origin=carried.origin if carried is not None else "file",
        license=wanted.license or (carried.license if carried is not None else weights.license),
        context_length=wanted.context_length or weights.context_length, parallel=wanted.parallel or PARALLEL, options=wanted.options,
        created=time.time(),
    )  # fmt: skip
    return spec, seen


def _behind(wanted: Addition) -> ModelSpec:
    base = str(wanted.url).rstrip("/")
    checked_url(base)
    if wanted.api_key_env and not _KEY.fullmatch(wanted.api_key_env):  # else any secret of the server could be sent anywhere
        raise InvalidParameter("`api_key_env` is the name of an environment variable like MY_API_KEY, not the key itself", field="api_key_env")
    upstream = wanted.upstream
    if wanted.check or not upstream:
        offers = _offers(base, os.environ.get(wanted.api_key_env, "") if wanted.api_key_env else "")
        if upstream is None and len(offers) == 1:
            upstream = offers[0]
        if upstream is None or upstream not in offers:
            listed = ", ".join(offers[:20]) or "nothing"
            wrong = f"{base} has no model {upstream!r:.100}{nearest(upstream, offers)}" if upstream else f"name one of what {base} has: {listed}"
            raise InvalidParameter(f"`upstream`: {wrong}", field="upstream")
    if len(upstream) > 200 or not upstream.isprintable():
        raise InvalidParameter(f"`upstream` must be up to 200 printable characters, not {upstream!r:.100}", field="upstream")
    options = wanted.options | ({"api_key_env": wanted.api_key_env} if wanted.api_key_env else {})
    return ModelSpec(
        name=wanted.name or plain_name(upstream.partition(":")[0]), adapter="openai", kind=wanted.kind or "chat", source=base, upstream=upstream,
        license=wanted.license or "", origin=base, context_length=wanted.context_length, parallel=wanted.parallel or upstreams.PARALLEL,
        options=options, created=time.time(),
    )  # fmt: skip


def _offers(base: str, key: str) -> list[str]:
    try:
        return models_of(base, key)
    except Unavailable as error:
        raise Unavailable(f"{error.message}; if it is right all the same, name `upstream` and leave the check out (`check`: false)") from None
