"""Every operation by name: the built-in families, imported at first use, and those of installed plugins."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.errors import NotFound, Unavailable, UnknownOperation, nearest
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Call, Estimate
from openruntime.contracts.registry import Registry
from openruntime.operations.operation import Operation

FAMILIES: dict[str, tuple[str, ...]] = {
    "expression": ("expression",),
    "linalg": ("matmul", "einsum", "norm", "solve", "lstsq", "inv", "det", "cholesky", "qr", "svd", "eigh"),
    "fourier": ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "convolve"),
    "reductions": ("sum", "mean", "std", "var", "min", "max", "argmin", "argmax", "quantile", "histogram", "cumulative_sum"),
    "sorting": ("sort", "argsort", "top_k", "unique"),
    "random": ("uniform", "normal", "integers"),
    "neural": ("linear", "conv2d", "softmax", "layer_norm", "attention"),
    "learning": ("kmeans", "knn", "pca"),
    "images": ("gaussian_blur", "sharpen", "resize", "sobel"),
    "simulation": ("heat2d", "nbody", "monte_carlo_pi", "black_scholes"),
}
_SHADOWING = {"sum", "min", "max"}  # their functions carry a trailing underscore


class _Bound(msgspec.Struct, frozen=True, gc=False):
    """What `bind` found out, all but the arrays themselves."""

    version: int
    arrays: tuple[str, ...]
    scalars: dict[str, Any]
    outputs: dict[str, Spec]
    estimate: Estimate
    cacheable: bool
    dtype: str
    elements: int


class OperationCatalogue:
    """Implements contracts' `Catalogue`. `remembered` is how many bound calls are kept, so that a repeated one costs microseconds."""

    def __init__(self, *, remembered: int = 2048, longest_key: int = 2000) -> None:
        attribute = {name: f"{name}_" if name in _SHADOWING else name for names in FAMILIES.values() for name in names}
        builtin = {name: (f"openruntime.operations.{family}:{attribute[name]}", "") for family, names in FAMILIES.items() for name in names}
        self._registry = Registry("openruntime.operations", builtin)
        self._names: tuple[str, ...] = ()
        self._operations: dict[str, Operation] = {}
        self._memory: OrderedDict[tuple[Any, ...], _Bound] = OrderedDict()
        self._remembered = remembered
        self._longest_key = longest_key

    def names(self) -> Sequence[str]:
        if not self._names:
            self._names = tuple(self._registry.names())
        return self._names

    def get(self, name: str) -> Operation:
        """The operation called `name`. Raises `UnknownOperation`, or `Unavailable` when a plugin's cannot be loaded."""
        found = self._operations.get(name)
        if found is None:
            try:
                found = self._registry.load(name)
            except NotFound:
                raise UnknownOperation(f"there is no operation {name!r:.100}{nearest(name, self.names())}", field="operation") from None
            if not isinstance(found, Operation):
                raise Unavailable(f"the plugin that registers {name!r} does not register an operation; its function lacks @operation")
            self._operations[name] = found
        return found

    def describe(self, name: str) -> dict[str, Any]:
        return self.get(name).describe()

    def first_array(self, name: str) -> str:
        return self.get(name).first_array

    def bind(self, name: str, parameters: Mapping[str, Any]) -> Call:
        """Check names, types, shapes and dtypes; remembers the answer by operation, specs and scalars."""
        key = _key(name, parameters)
        if key is not None:
            found = self._memory.get(key)
            if found is not None:
                self._memory.move_to_end(key)
                known = {array: parameters[array] for array in found.arrays}
                known.update(found.scalars)
                return Call(name, found.version, known, found.outputs, found.estimate, found.cacheable, found.dtype, found.elements)
        call = self.get(name).bind(parameters)
        if key is not None and sum(len(part) for part in key if isinstance(part, str)) <= self._longest_key:
            self._remember(key, call)
        return call

    def _remember(self, key: tuple[Any, ...], call: Call) -> None:
        arrays = tuple(name for name, value in call.parameters.items() if isinstance(value, Array))
        scalars = {name: value for name, value in call.parameters.items() if not isinstance(value, Array)}
        self._memory[key] = _Bound(call.version, arrays, scalars, call.outputs, call.estimate, call.cacheable, call.dtype, call.elements)
        if len(self._memory) > self._remembered:
            self._memory.popitem(last=False)


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
