"""Name -> class, imported at first use. Built-in parts and plugins stand in the same table; only here is a missing
library caught, and answered with the extra that brings it."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from openruntime.contracts.errors import MissingExtra, NotFound, nearest


class Registry:
    """`builtin`: name -> (`module:attribute`, extra). `group`: the entry point group third parties register under."""

    def __init__(self, group: str, builtin: dict[str, tuple[str, str]]) -> None:
        self.group = group
        self._builtin = builtin
        self._loaded: dict[str, Any] = {}

    def names(self) -> list[str]:
        return [*self._builtin, *(p.name for p in self._points() if p.name not in self._builtin)]

    def _points(self) -> Iterator[Any]:
        yield from entry_points(group=self.group)

    def load(self, name: str) -> Any:
        """The object registered as `name`. Raises `NotFound`, or `MissingExtra` when its library is not installed."""
        if name in self._loaded:
            return self._loaded[name]
        target, extra = self._builtin.get(name, ("", name))
        if not target:
            point = next((p for p in self._points() if p.name == name), None)
            if point is None:
                raise NotFound(f"nothing is registered as {name!r} in {self.group}{nearest(name, self.names())}")
            target = point.value
        module, _, attribute = target.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "openruntime":
                raise
            raise MissingExtra(f"{name} ({error.name} is not installed)", extra) from error
        self._loaded[name] = found
        return found


BACKENDS = Registry("openruntime.backends", {"numpy": ("openruntime.backends.cpu:NumpyBackend", "")})
EXPORTERS = Registry(
    "openruntime.exporters",
    {"prometheus": ("openruntime.monitoring.prometheus:PrometheusExporter", ""), "json": ("openruntime.monitoring.exporters:JSONExporter", "")},
)
