"""Every operation by name: the built-in families, imported at first use, and those of installed plugins."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.errors import NotFound, UnknownOperation, nearest
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Call, Estimate
from openruntime.contracts.registry import Registry
from openruntime.operations.definition import Operation

FAMILIES: dict[str, tuple[str, ...]] = {
    "expression": ("expression",),
    "linalg": ("matmul", "einsum", "norm", "solve", "lstsq", "inv", "det", "cholesky", "qr", "svd", "eigh"),
    "fourier": ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "convolve"),
    "reductions": ("sum", "mean", "std", "var", "min", "max", "argmin", "argmax", "quantile", "histogram", "cumulative_sum"),
    "sorting": ("sort", "argsort", "top_k", "unique"),
    "joining": ("concat", "stack"),
    "random": ("uniform", "normal", "integers"),
    "neural": ("linear", "conv2d", "softmax", "layer_norm", "attention"),
    "learning": ("kmeans", "knn", "pca"),
    "images": ("gaussian_blur", "sharpen", "resize", "sobel"),
    "simulation": ("heat2d", "nbody", "monte_carlo_pi", "black_scholes"),
}
BUILTIN = frozenset(name for names in FAMILIES.values() for name in names)
_SHADOWING = {"sum", "min", "max"}  # their functions carry a trailing underscore


log = logging.getLogger(__name__)


class _Bound(msgspec.Struct, frozen=True, gc=False):
    """What `bind` found out, all but the arrays themselves."""

    operation: str
    version: int
    arrays: tuple[str, ...]
    scalars: dict[str, Any]
    outputs: dict[str, Spec]
    estimate: Estimate
    cacheable: bool
    dtype: str
    elements: int
    others: tuple[str, ...]


class OperationCatalogue:
    """Implements contracts' `Catalogue`. `remembered` is how many bound calls are kept, so that a repeated one costs microseconds.

    `tell` hears, once, of each plugin that is left out.
    """

    def __init__(self, *, remembered: int = 2048, longest_key: int = 2000, tell: Callable[[str], None] = log.warning) -> None:
        attribute = {name: f"{name}_" if name in _SHADOWING else name for name in BUILTIN}
        builtin = {name: (f"openruntime.operations.{family}:{attribute[name]}", "") for family, names in FAMILIES.items() for name in names}
        self._registry = Registry("openruntime.operations", builtin, check=_check_plugin, tell=tell)
        self._names: tuple[str, ...] = ()
        self._operations: dict[str, Operation] = {}
        self._memory: OrderedDict[tuple[Any, ...], _Bound] = OrderedDict()
        self._remembered = remembered
        self._longest_key = longest_key

    def names(self) -> Sequence[str]:
        """Every operation that can be used: broken plugins are left out."""
        if not self._names:
            broken = self.broken()
            self._names = tuple(name for name in self._registry.names() if name not in broken)
        return self._names

    def broken(self) -> dict[str, str]:
        """Of each plugin's operation that cannot be used: why. Imports every plugin."""
        return self._registry.broken()

    def get(self, name: str) -> Operation:
        """The operation called `name`. Raises `UnknownOperation`, or `BrokenPlugin` (503) with the reason."""
        found = self._operations.get(name)
        if found is None:
            try:
                self._operations[name] = found = self._registry.load(name)
            except NotFound:
                raise UnknownOperation(f"there is no operation {name!r:.100}{nearest(name, self.names())}", field="operation") from None
        return found

    def has(self, name: str) -> bool:
        return name in self._operations or name in self.names()

    def of(self, tenant: str) -> "OperationCatalogue":
        """Itself: these are everybody's."""
        return self

    def describe(self, name: str) -> dict[str, Any]:
        return self.get(name).describe()

    def first_array(self, name: str) -> str:
        return self.get(name).first_array

    def bind(self, name: str, parameters: Mapping[str, Any], before: Call | None = None) -> Call:
        """Check names, types, shapes and dtypes; remembers the answer by operation, specs and scalars."""
        key = _key(name, parameters)
        if key is not None:
            found = self._memory.get(key)
            if found is not None:
                self._memory.move_to_end(key)
                known = {array: parameters[array] for array in found.arrays}
                known.update(found.scalars)
                return Call(
                    found.operation, found.version, known, found.outputs, found.estimate, found.cacheable, found.dtype, found.elements, found.others
                )
        call = self.get(name).bind(parameters)
        listed = call.parameters.keys() - parameters.keys()  # a list whose items came each by its own name: they are its value
        if key is not None and not listed and sum(len(part) for part in key if isinstance(part, str)) <= self._longest_key:
            self._remember(key, call)
        return call

    def _remember(self, key: tuple[Any, ...], call: Call) -> None:
        arrays = tuple(name for name, value in call.parameters.items() if isinstance(value, Array))
        scalars = {name: value for name, value in call.parameters.items() if not isinstance(value, Array)}
        self._memory[key] = _Bound(
            call.operation, call.version, arrays, scalars, call.outputs, call.estimate, call.cacheable, call.dtype, call.elements, call.others
        )
        if len(self._memory) > self._remembered:
            self._memory.popitem(last=False)


def _check_plugin(name: str, found: Any) -> None:
    """Raises `TypeError` for what is no operation, or none that can be listed."""
    if not isinstance(found, Operation):
        raise TypeError(f"{found!r:.100} is no operation; its function lacks @operation")
    if found.name != name:
        raise TypeError(f"the entry point and its function must have one name, and the function is called {found.name}")
    msgspec.json.encode(found.describe())


def _key(name: str, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Operation, specs and scalars; None where a value is no array and no plain scalar."""
    key: list[Any] = [name]
    for parameter, value in parameters.items():
        kind = type(value)
        if kind is Array:
            key += (parameter, value.dtype, value.shape)
        elif kind is str or kind is int or kind is bool or value is None:
            key += (parameter, kind, value)
        elif kind is float:
            key += (parameter, kind, value or str(value))  # 0.0 equals -0.0, and they differ
        else:
            return None
    return tuple(key)
