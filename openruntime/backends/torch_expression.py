"""Formulas on PyTorch: on the processor in blocks that stay in its cache, each going through all steps before the next one is read."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from openruntime.backends.torch_namespace import SIGNED, carried, uncarried, xp
from openruntime.contracts.errors import OperationFailed
from openruntime.operations.dtypes import KIND
from openruntime.operations.formula import Constant, Signature, Step, program, signature

Function = Callable[..., Any]

BLOCK = 1 << 17  # elements for each thread: two or three values of them stay in its cache, and a call costs little beside its work
_HIGHEST, _LOWEST = (1 << 63) - 1, -(1 << 63)
_NAMES = {
    "bitwise_invert": "bitwise_not", "conj": "conj_physical", "equal": "eq", "greater": "gt", "greater_equal": "ge", "less": "lt",
    "less_equal": "le", "not_equal": "ne",
}  # fmt: skip


def expression(formula: str, *, empty: Callable[[tuple[int, ...], str], torch.Tensor], **arrays: Any) -> torch.Tensor:
    """The operation `expression`; its result is computed into `empty(shape, dtype)`."""
    inputs, steps, result, dtype = _plan(formula, signature(arrays))
    values = [carried(arrays[name]) for name in inputs]
    shape = broadcast(*values)
    out = empty(shape, dtype)
    place = (
        out if out.dtype not in SIGNED else out.view(torch.int64) if dtype == "uint64" else torch.empty(shape, dtype=torch.int64, device=out.device)
    )
    if not steps:
        place.copy_(values[result] if isinstance(result, int) else result)
    elif out.device.type != "cpu" or out.numel() <= BLOCK:
        _run(steps, values, result, place)
    else:
        _run_blocks(steps, values, result, place)
    if place.dtype != out.dtype and dtype != "uint64":
        out.copy_(uncarried(place, out.dtype))
    return out


def broadcast(*arrays: torch.Tensor) -> tuple[int, ...]:
    """Their common shape; PyTorch's own function for this takes longer than adding two numbers."""
    shapes = {tuple(array.shape) for array in arrays}
    return shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)


def _run_blocks(steps: Sequence[Any], values: list[Any], result: int, out: torch.Tensor) -> None:
    whole = out
    if all(value.numel() == 1 or value.shape == out.shape for value in values):
        whole = out.view(-1)
        values = [value.reshape(() if value.numel() == 1 else -1) for value in values]
    rows = whole.shape[0]
    sliced = [value.ndim == whole.ndim and value.shape[0] == rows for value in values]
    step = max(1, BLOCK * torch.get_num_threads() // max(1, whole.numel() // rows))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        _run(steps, [value[part] if cut else value for value, cut in zip(values, sliced, strict=True)], result, whole[part])


def _run(steps: Sequence[Any], values: list[Any], result: int, out: torch.Tensor) -> None:
    values = values.copy()
    for function, args, done in steps:
        operands = [values[arg] if isinstance(arg, int) else arg for arg in args]
        if len(values) == result and function in _WRITERS and any(x.shape == out.shape for x in operands):
            values.append(function(*operands, out=out))
        else:
            values.append(function(*operands))
        for arg in done:
            values[arg] = None  # its memory is needed no more
    if values[result] is not out:
        out.copy_(values[result])


@lru_cache(maxsize=512)
def _plan(formula: str, types: Signature) -> tuple[Sequence[str], Sequence[tuple[Function, tuple[Any, ...], tuple[int, ...]]], Any, str]:
    found = program(formula, types)
    last = {arg: at for at, step in enumerate(found.steps) for arg in step.args if isinstance(arg, int)}
    dtypes = [dtype for _, dtype, *_ in types if isinstance(dtype, str)] + [step.dtype for step in found.steps]
    steps = []
    for at, step in enumerate(found.steps):
        args = tuple(_constant(arg.value, "bool" if step.function == "where" and i == 0 else step.common) if isinstance(arg, Constant) else arg
                     for i, arg in enumerate(step.args))  # fmt: skip
        done = tuple(arg for arg, end in last.items() if end == at and arg != found.result)
        steps.append((_function(step, dtypes), args, done))
    result = _constant(found.result.value, found.dtype) if isinstance(found.result, Constant) else found.result
    return found.inputs, tuple(steps), result, found.dtype


def _constant(value: Any, dtype: str) -> torch.Tensor:
    """A number on the processor, which arrays of any device meet as it is."""
    if KIND[dtype][0] in "fc":  # beyond the dtype's largest is infinity
        return torch.tensor(value, dtype=torch.float64 if KIND[dtype][0] == "f" else torch.complex128, device="cpu").to(getattr(torch, dtype))
    return torch.tensor(value - (1 << 64) if value > _HIGHEST else value, dtype=_stored(dtype), device="cpu")


def _stored(dtype: str) -> torch.dtype:
    return torch.int64 if dtype in ("uint16", "uint32", "uint64") else getattr(torch, dtype)


def _function(step: Step, dtypes: Sequence[str]) -> Function:
    """The step as a function of tensors, in which unsigned integers are carried in int64."""
    kind, bits = KIND[step.common]
    if step.function == "cast":
        source = dtypes[step.args[0]] if isinstance(step.args[0], int) else step.common
        return _cast(source, step.dtype)
    if kind == "u" and bits == 64:
        return _UINT64.get(step.function) or _named(step.function, step.common)
    if kind == "u" and bits > 8 and step.dtype == step.common:
        function, mask = _named(step.function, step.common), (1 << bits) - 1
        return lambda *args: function(*args) & mask
    return _named(step.function, step.common)


@lru_cache(maxsize=512)
def _named(name: str, common: str) -> Function:
    kind = KIND[common][0]
    if kind == "b" and name in ("add", "multiply"):
        return torch.logical_or if name == "add" else torch.logical_and
    if kind in "iu" and name in _WHOLE:
        return _WHOLE[name]
    if name == "pow" and kind == "c":
        return lambda a, b: torch.where(b == 0, 1, torch.pow(a, b))  # its own 0 to the power 0 is NaN
    if name == "nextafter" and common == "float16":
        return _next_half
    if (name, kind) in (("sign", "f"), ("sign", "c"), ("round", "c")):
        return getattr(xp, name)  # type: ignore[no-any-return]
    if name == "imag" and kind != "c":
        return torch.zeros_like
    return getattr(torch, _NAMES.get(name, name))  # type: ignore[no-any-return]


def _cast(source: str, dtype: str) -> Function:
    target = _stored(dtype)
    if source == "uint64" and KIND[dtype][0] in "fc":
        return lambda x: x.view(torch.uint64).to(target)
    return lambda x: x.to(target)


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """0 where `b` is; the smallest integer divided by -1, which ends the process in C, wraps around."""
    if not b.dtype.is_signed:
        return torch.where(b == 0, 0, torch.floor_divide(a, torch.where(b == 0, 1, b)))
    found = torch.floor_divide(a, torch.where((b == 0) | (b == -1), 1, b))
    return torch.where(b == 0, 0, torch.where(b == -1, -a, found))


def _remainder(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    trivial = (b == 0) | (b == -1) if b.dtype.is_signed else b == 0
    return torch.where(trivial, 0, torch.remainder(a, torch.where(trivial, 1, b)))


def _power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if bool((b < 0).any()):
        raise OperationFailed("expression failed: an integer to a negative power is no integer; give one of the two as float64")
    return torch.pow(a, b)


def _next_half(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IEEE 754's nextUp and nextDown on the bits: away from 0 is the next integer."""
    bits = a.view(torch.int16)
    moved = torch.where((b > a) == (bits >= 0), bits + 1, bits - 1).view(torch.float16)
    least = torch.copysign(torch.tensor(2.0**-24, dtype=a.dtype, device="cpu"), b)
    found = torch.where(a == b, b, torch.where(a == 0, least, moved))
    return torch.where(torch.isnan(a) | torch.isnan(b), a + b, found)


# uint64 by the bits of int64. Source of the division: Warren, Hacker's Delight, 2nd edition, section 9-3.


def _below(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a ^ _LOWEST) < (b ^ _LOWEST)


def _shifted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Zeros come in from the left. A shift of 64 or more, which as int64 may be negative, leaves none."""
    rest = torch.bitwise_right_shift(torch.bitwise_right_shift(a, 1) & _HIGHEST, b - 1)
    return torch.where(b == 0, a, torch.where((b < 0) | (b > 63), 0, rest))


def _quotient64(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    small = torch.where(b <= 0, 1, b)
    found = torch.floor_divide(torch.bitwise_right_shift(a, 1) & _HIGHEST, small) << 1
    found = found + ~_below(a - found * small, small)
    return torch.where(b == 0, 0, torch.where(b < 0, (~_below(a, b)).to(torch.int64), found))


def _power64(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """An odd number's 2⁶³-th power is 1, an even one's 0 (modulo 2⁶⁴)."""
    return torch.where((b < 0) & (a & 1 == 0), 0, torch.pow(a, b & _HIGHEST))


_WHOLE: dict[str, Function] = {"floor_divide": _quotient, "remainder": _remainder, "pow": _power}
_UINT64: dict[str, Function] = {
    "floor_divide": _quotient64,
    "remainder": lambda a, b: torch.where(b == 0, 0, a - _quotient64(a, b) * b),
    "pow": _power64,
    "bitwise_right_shift": _shifted,
    "less": _below,
    "greater": lambda a, b: _below(b, a),
    "less_equal": lambda a, b: ~_below(b, a),
    "greater_equal": lambda a, b: ~_below(a, b),
    "maximum": lambda a, b: torch.where(_below(a, b), b, a),
    "minimum": lambda a, b: torch.where(_below(a, b), a, b),
    "abs": torch.clone,
    "sign": lambda a: (a != 0).to(torch.int64),
}
_WRITERS = frozenset(
    getattr(torch, name) for name in (
        "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign", "cos", "cosh", "divide", "eq", "exp",
        "expm1", "floor", "floor_divide", "ge", "gt", "hypot", "le", "log", "log10", "log1p", "log2", "logaddexp", "lt", "maximum", "minimum",
        "multiply", "ne", "negative", "nextafter", "pow", "reciprocal", "remainder", "round", "sin", "sinh", "sqrt", "square", "subtract", "tan",
        "tanh", "trunc",
    )
)  # fmt: skip
