"""Name -> class, imported at first use. Built-in parts and plugins stand in the same table; only here is a missing
library caught, and answered with the extra that brings it, and whatever else a plugin's import may raise."""

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from openruntime.contracts.errors import BrokenPlugin, MissingExtra, NotFound, nearest

log = logging.getLogger(__name__)


def _is_backend(name: str, found: Any) -> None:
    from openruntime.contracts.interfaces import ComputeBackend  # what only reads names need not pay for the models

    if not (isinstance(found, type) and issubclass(found, ComputeBackend)):
        raise TypeError(f"{found!r:.100} is no ComputeBackend")


def _anything(name: str, found: Any) -> None:
    """The check of a registry that has none."""


class Registry:
    """`builtin`: name -> (`module:attribute`, extra). `group`: the entry point group third parties register under.

    `check(name, found)` raises when a plugin's object is not what is registered here. `tell` hears, once, of each plugin that is
    left out.
    """

    def __init__(
        self,
        group: str,
        builtin: dict[str, tuple[str, str]],
        *,
        check: Callable[[str, Any], None] = _anything,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        self.group = group
        self.kind = group.rpartition(".")[2].removesuffix("s")
        self._builtin = builtin
        self._check = check
        self._tell = tell
        self._loaded: dict[str, Any] = {}
        self._reasons: dict[str, str] = {}
        self._found: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """All that are registered, whether or not they can be loaded."""
        return [*self._builtin, *self._plugins()]

    def builtin(self, name: str) -> bool:
        """Whether it is a part of OpenRuntime, no plugin's."""
        return name in self._builtin

    def broken(self) -> dict[str, str]:
        """Of each plugin that cannot be loaded: why. Imports every plugin."""
        for name in self._plugins():
            if name not in self._loaded and name not in self._reasons:
                self._try(name)
        return dict(self._reasons)

    def load(self, name: str) -> Any:
        """The object registered as `name`. Raises `NotFound`, `MissingExtra` when a built-in's library is not installed, `BrokenPlugin`."""
        if name in self._loaded:
            return self._loaded[name]
        if name in self._builtin:
            self._loaded[name] = self._builtin_part(name)
        elif name not in self._plugins():
            raise NotFound(f"nothing is registered as {name!r:.100} in {self.group}{nearest(name, self.names())}")
        elif name not in self._reasons:
            self._try(name)
        if name in self._reasons:
            raise BrokenPlugin(self._reasons[name])
        return self._loaded[name]

    def _builtin_part(self, name: str) -> Any:
        target, extra = self._builtin[name]
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "openruntime":
                raise
            raise MissingExtra(f"{name} ({error.name} is not installed)", extra) from error

    def _try(self, name: str) -> None:
        point = self._plugins()[name]
        try:
            found = point.load()
            self._check(name, found)
        except (Exception, SystemExit) as error:  # it is a third party's code
            reason = f"{self.kind} {name} of package {_package(point)} cannot be loaded: {type(error).__name__}: {error}"
            self._reasons[name] = " ".join(reason.split())[:1000]
            self._tell(self._reasons[name])
        else:
            self._loaded[name] = found

    def _plugins(self) -> dict[str, EntryPoint]:
        """By name: a built-in part goes before plugins, and of two plugins the one whose package's name comes first."""
        if self._found is None:
            self._found = {}
            for point in sorted(entry_points(group=self.group), key=_package):
                other = self._found.get(point.name)
                if point.name in self._builtin:
                    self._tell(f"{self.kind} {point.name} of package {_package(point)} is left out: the built-in one has that name")
                elif other is None:
                    self._found[point.name] = point
                elif (_package(other), other.value) != (_package(point), point.value):
                    self._tell(f"{self.kind} {point.name} of package {_package(point)} is left out: package {_package(other)} has that name")
        return self._found


def _package(point: EntryPoint) -> str:
    return str(point.dist.name) if point.dist else point.value


BACKENDS = Registry(
    "openruntime.backends",
    {
        "numpy": ("openruntime.backends.cpu:NumpyBackend", ""),
        "torch": ("openruntime.backends.torch:TorchBackend", "torch"),
        "jax": ("openruntime.backends.jax:JaxBackend", "jax"),
        "mlx": ("openruntime.backends.mlx:MlxBackend", "mlx"),
        "cuda": ("openruntime.backends.cuda:CudaBackend", "cuda"),
        "metal": ("openruntime.backends.webgpu:MetalBackend", "webgpu"),
        "webgpu": ("openruntime.backends.webgpu:WebgpuBackend", "webgpu"),
        "opencl": ("openruntime.backends.opencl:OpenCLBackend", "opencl"),
    },
    check=_is_backend,
)
# what runs users' kernels in a language; see `contracts/kernels.py`
KERNELS = Registry(
    "openruntime.kernels",
    {
        "opencl-kernels": ("openruntime.backends.opencl_kernels:OpenCLKernels", "opencl"),
        "wgsl-kernels": ("openruntime.backends.wgsl_kernels:WGSLKernels", "webgpu"),
        "cuda-kernels": ("openruntime.backends.cuda_kernels:CudaKernels", "cuda"),
        "metal-kernels": ("openruntime.backends.metal_kernels:MetalKernels", "torch"),
    },
    check=_is_backend,
)


def registry_of(backend: str) -> Registry:
    """Where a worker finds what it hosts: a backend, or what runs users' kernels."""
    return KERNELS if backend.endswith("-kernels") else BACKENDS


EXPORTERS = Registry(
    "openruntime.exporters",
    {"prometheus": ("openruntime.monitoring.prometheus:PrometheusExporter", ""), "json": ("openruntime.monitoring.exporters:JSONExporter", "")},
)
# platform -> what reads its cards' memory and load; asked in the gateway's process, so it must be light and hold no device
METERS = Registry("openruntime.meters", {"cuda": ("openruntime.backends.nvml:NvmlMeter", "cuda")})
BLOBS = Registry("openruntime.blobs", {"shared": ("openruntime.stores.shared_blobs:SharedBlobs", "s3")})
STORES = Registry("openruntime.stores", {"redis": ("openruntime.stores.redis_store:RedisStore", "redis")})
# what speaks to a model; see `contracts/ai.py`
MODELS = Registry(
    "openruntime.models",
    {
        "openai": ("openruntime.ai.adapters.openai:OpenAIAdapter", "openai"),
        "llamacpp": ("openruntime.ai.adapters.llamacpp:LlamaCppAdapter", "llamacpp"),
        "embeddings": ("openruntime.ai.adapters.embeddings:SentenceEmbeddings", "embeddings"),
    },
)
# what an agent is; see `contracts/agents.py`
AGENTS = Registry(
    "openruntime.agents",
    {
        "developer": ("openruntime.ai.agents.developer.role:ROLE", ""),
        "analyst": ("openruntime.ai.agents.analyst.role:ROLE", ""),
        "optimizer": ("openruntime.ai.agents.optimizer.role:ROLE", ""),
        "debugger": ("openruntime.ai.agents.debugger.role:ROLE", ""),
    },
)
# how a model uses a role's tools; see `ai/agents/mind.py`
MINDS = Registry("openruntime.minds", {"agents": ("openruntime.ai.agents.mind:converse", "agents")})
# protocols whose library is optional: what builds their server
PROTOCOLS = Registry("openruntime.protocols", {"mcp": ("openruntime.gateway.mcp_server:McpServer", "mcp")})
