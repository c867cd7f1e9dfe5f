"""JAX's settings and namespace: `jax.numpy`, with what says when there is no answer, and what lets a check be traced."""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from platformdirs import user_cache_path

from openruntime.backends.failures import INDEFINITE, NEGATIVE_POWER, SINGULAR

log = logging.getLogger(__name__)

_SHARE = "XLA_CLIENT_MEM_FRACTION"  # of a card's memory, what XLA's pool may hold; read when a process first uses its cards
_FORMERLY = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # with both names set XLA refuses to start
_DRIVERS: dict[str, tuple[tuple[str, ...], str, str]] = {  # libraries, what their functions' names begin with, and the one for the size
    "cuda": (("libcuda.so.1",), "cu", "DeviceTotalMem_v2"),
    "rocm": (("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so"), "hip", "DeviceTotalMem"),
}


def bound(kind: str, index: int, memory: int) -> None:
    """Let XLA's pool hold at most `memory` bytes of a card (0: nearly all of it). A TPU's runtime has no such bound."""
    if not memory or kind not in _DRIVERS:
        return
    if total := total_memory(kind, index):
        os.environ[_SHARE] = str(min(1.0, memory / total))
    else:
        log.warning("JAX's memory on %s:%d is not bounded: the driver does not tell how much there is", kind, index)


def total_memory(kind: str, index: int) -> int:
    """Bytes of a card, as its driver says; 0 where none does. (JAX tells what its pool may hold, once that can be changed no more.)

    Sources: CUDA Driver API and HIP API, device management."""
    names, prefix, size = _DRIVERS.get(kind, ((), "", ""))
    device, total = ctypes.c_int(), ctypes.c_size_t()
    for name in names:
        with contextlib.suppress(OSError):
            driver = ctypes.CDLL(name)
            steps = ("Init", ctypes.c_uint(0)), ("DeviceGet", ctypes.byref(device), index), (size, ctypes.byref(total), device)
            if not any(getattr(driver, prefix + function)(*arguments) for function, *arguments in steps):
                break
    return total.value


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
    "TF_CPP_MIN_LOG_LEVEL": "2",
}.items():
    os.environ.setdefault(_name, _value)
os.environ[_SHARE] = os.environ.pop(_FORMERLY, "") or os.environ.get(_SHARE) or "0.95"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

# whatever was set: placement changes no numbers
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")


__all__ = ["CONDITIONS", "bound", "jax", "jnp", "prune", "total_memory", "xp"]


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
