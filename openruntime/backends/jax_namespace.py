"""JAX's settings and namespace: `jax.numpy`, with what says when there is no answer, and what lets a check be traced."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from platformdirs import user_cache_path

from openruntime.backends.failures import INDEFINITE, NEGATIVE_POWER, SINGULAR


def _cache() -> Path:
    """Where compiled programs are kept: apart for each kind of processor, for a home directory may be shared by several machines."""
    try:
        told = next(line for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        told = platform.processor()
    return user_cache_path("openruntime", appauthor=False) / "xla" / f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def prune(folder: Path, most: int = 1 << 30) -> None:
    """Let the oldest programs go where they have more than `most` bytes. (JAX's own bound fails for good where a process died while writing.)"""
    with contextlib.suppress(OSError):  # another worker does the same now, or there are none yet
        found = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(folder))
        size = sum(size for _, size, _ in found)
        for _, each, path in found:
            if size <= most:
                break
            os.unlink(path)
            size -= each


for _name, _value in {  # JAX reads them when it is imported
    "JAX_COMPILATION_CACHE_DIR": str(_cache()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # other libraries drive the same card
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}.items():
    os.environ.setdefault(_name, _value)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

# whatever was set: placement changes no numbers
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")


__all__ = ["CONDITIONS", "jax", "jnp", "prune", "xp"]


class Conditions:
    """What the running call found out on the device: (sentence, whether the call has no answer for this reason).

    Without a sentence it is a guess that turned out wrong, and the call has to run again, untraced.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []

    def taken(self) -> list[tuple[str, Any]]:
        found, self.found = self.found, []
        return found


CONDITIONS = Conditions()


def refuse(sentence: str, condition: Any) -> None:
    CONDITIONS.found.append((sentence, condition))


class Guess:
    """What `all` or `any` of all elements gives where it is traced: asked for its truth, it answers what it nearly always is."""

    def __init__(self, value: Any, likely: bool) -> None:
        self._value = value
        self._likely = likely

    def __bool__(self) -> bool:
        refuse("", self._value != self._likely)
        return self._likely

    def __jax_array__(self) -> Any:
        return self._value


def _asked(function: Callable[..., Any], likely: bool) -> Callable[..., Any]:
    def call(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        found = function(x, axis=axis, keepdims=keepdims)
        return Guess(found, likely) if isinstance(found, jax.core.Tracer) and axis is None and not keepdims else found

    return call


def _solve(a: Any, b: Any, /) -> Any:
    """By LU, which tells of a singular matrix; JAX's own answers with infinities."""
    right = b[:, None] if b.ndim == 1 else b
    stack = jnp.broadcast_shapes(a.shape[:-2], right.shape[:-2])
    shape = (*a.shape[:-2], a.shape[-1]) if b.ndim == 1 else (*stack, *right.shape[-2:])
    if not a.size or not b.size:
        return jnp.zeros(shape, b.dtype)
    lu, _, order = jax.lax.linalg.lu(a)
    refuse(SINGULAR, jnp.any(jnp.diagonal(lu, axis1=-2, axis2=-1) == 0))
    lu, order = jnp.broadcast_to(lu, (*stack, *lu.shape[-2:])), jnp.broadcast_to(order, (*stack, order.shape[-1]))
    right = jnp.take_along_axis(jnp.broadcast_to(right, (*stack, *right.shape[-2:])), order[..., None], axis=-2)
    right = jax.lax.linalg.triangular_solve(lu, right, left_side=True, lower=True, unit_diagonal=True)
    return jnp.reshape(jax.lax.linalg.triangular_solve(lu, right, left_side=True, lower=False), shape)


def _inv(x: Any, /) -> Any:
    return _solve(x, jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape))


def _det(x: Any, /) -> Any:
    return jnp.linalg.det(x) if x.shape[-1] else jnp.ones(x.shape[:-2], x.dtype)


def _cholesky(x: Any, /) -> Any:
    if not x.size:
        return x
    lower = jax.lax.linalg.cholesky(x, symmetrize_input=False)  # reads the lower triangle only
    refuse(INDEFINITE, jnp.any(jnp.isnan(lower)))
    return lower


def _eigh(x: Any, /) -> Any:
    return jnp.linalg.eigh(x, UPLO="L", symmetrize_input=False)


def _pow(a: Any, b: Any, /) -> Any:
    if jnp.issubdtype(b.dtype, jnp.signedinteger):
        refuse(NEGATIVE_POWER, jnp.any(b < 0))
    return jnp.pow(a, b)


def _namespace() -> ModuleType:
    """`jax.numpy`, with what says when there is no answer; array-api-extra looks namespaces up by name."""
    linalg = ModuleType("jax.numpy.linalg")
    vars(linalg).update(vars(jnp.linalg) | {"solve": _solve, "inv": _inv, "det": _det, "cholesky": _cholesky, "eigh": _eigh})
    found = ModuleType("jax.numpy")
    vars(found).update(vars(jnp) | {"linalg": linalg, "pow": _pow, "all": _asked(jnp.all, True), "any": _asked(jnp.any, False)})
    return found


xp = _namespace()
