"""Formulas on NumPy, in blocks that stay in the cache: each block goes through all steps before the next one is read."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from openruntime.operations.formula import Constant, Signature, Step, program, signature

Block = Callable[..., Any]
BLOCK = 1 << 15  # elements: the values of a few steps fit the second-level cache, and a call costs little beside its work


def expression(formula: str, *, empty: Callable[..., Any], **arrays: Any) -> Any:
    """The operation `expression`; its result is computed into `empty(shape, dtype)`."""
    inputs, steps, result, dtype = _plan(formula, signature(arrays))
    values = [arrays[name] for name in inputs]
    shapes = {value.shape for value in values}
    shape: tuple[int, ...] = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*(value.shape for value in values))
    out = empty(shape, dtype)
    if not steps:
        np.copyto(out, values[result] if isinstance(result, int) else result.value)
    elif out.size <= BLOCK:
        _run(steps, values, result, out)
    else:
        _run_blocks(steps, values, result, out)
    return out


def _run_blocks(steps: Sequence[Any], values: list[Any], result: Any, out: Any) -> None:
    whole = out
    if all(value.size == 1 or value.shape == out.shape for value in values):
        whole = out.reshape(-1)
        values = [value.reshape(() if value.size == 1 else -1) for value in values]
    rows = whole.shape[0]
    sliced = [value.ndim == whole.ndim and value.shape[0] == rows for value in values]
    step = max(1, BLOCK // max(1, whole.size // rows))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        _run(steps, [value[part] if cut else value for value, cut in zip(values, sliced, strict=True)], result, whole[part])


def _run(steps: Sequence[Any], values: list[Any], result: Any, out: Any) -> None:
    values = values.copy()
    at = len(values)
    for function, args in steps:
        operands = [values[arg] if isinstance(arg, int) else arg for arg in args]
        values.append(function(*operands, out=out) if at == result else function(*operands))
        at += 1


@lru_cache(maxsize=512)
def _plan(formula: str, types: Signature) -> tuple[Sequence[str], Sequence[tuple[Block, tuple[Any, ...]]], Any, Any]:
    found = program(formula, types)
    steps = tuple((_function(step), tuple(_operand(step, i) for i in range(len(step.args)))) for step in found.steps)
    return found.inputs, steps, found.result, np.dtype(found.dtype)


def _operand(step: Step, i: int) -> Any:
    arg = step.args[i]
    dtype = "bool" if step.function == "where" and i == 0 else step.common
    return np.array(arg.value, dtype) if isinstance(arg, Constant) else arg


def _function(step: Step) -> Block:
    match step.function:
        case "cast":
            dtype = np.dtype(step.dtype)
            return _writing(lambda x: x.astype(dtype), lambda x, out: np.copyto(out, x, casting="unsafe"))
        case "where":
            return _writing(np.where, _where)
        case "real" | "imag" as part:
            return _writing(lambda x: getattr(x, part), lambda x, out: np.copyto(out, getattr(x, part)))
        case "round":
            return np.rint
    return getattr(np, step.function)  # type: ignore[no-any-return]


def _writing(make: Block, write: Block) -> Block:
    def function(*args: Any, out: Any = None) -> Any:
        return make(*args) if out is None else write(*args, out)

    return function


def _where(condition: Any, a: Any, b: Any, out: Any) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)
