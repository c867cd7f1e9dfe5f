"""OpenRuntime turns the machines you own into one compute and AI service.

`connect()` gives the synchronous client, `connect_async()` its asyncio twin; without an address both run an embedded runtime.
`errors` holds what they raise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openruntime.errors as errors
    from openruntime.client.runtime import AsyncRuntime
    from openruntime.client.sync import Runtime
    from openruntime.core.connect import connect, connect_async

__all__ = ["AsyncRuntime", "Runtime", "connect", "connect_async", "errors"]

_PLACES = {
    "AsyncRuntime": "openruntime.client.runtime",
    "Runtime": "openruntime.client.sync",
    "connect": "openruntime.core.connect",
    "connect_async": "openruntime.core.connect",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name == "errors":
        return import_module("openruntime.errors")
    raise AttributeError(f"module 'openruntime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
