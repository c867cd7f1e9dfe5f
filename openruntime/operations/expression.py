"""Elementwise formulas over named arrays."""

from typing import Any

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations.definition import Estimate, Namespace, Number, Spec, operation
from openruntime.operations.formula import Constant, Operand, Program, program, signature
from openruntime.operations.shapes import broadcast
from openruntime.operations.stacking import elementwise

_COSTS = {"add": 1.0, "subtract": 1.0, "multiply": 1.0, "cast": 1.0, "square": 1.0, "where": 1.0, "divide": 4.0, "sqrt": 4.0}
_COST = 10.0  # of any other function, in additions


def _shape(formula: str, **arrays: Any) -> Spec:
    found = program(formula, signature(arrays))
    return Spec(found.dtype, broadcast("expression", [(name, value.shape) for name, value in arrays.items() if isinstance(value, Spec)]))


def _cost(formula: str, **arrays: Any) -> Estimate:
    found = program(formula, signature(arrays))
    output = _shape(formula, **arrays)
    return Estimate(output.size * max(1.0, sum(_COSTS.get(step.function, _COST) for step in found.steps)), memory=_memory(found, arrays, output))


def _memory(found: Program, arrays: dict[str, Any], output: Spec) -> int:
    """Inputs, output, and at worst two values of full size between them."""
    inputs = sum(value.nbytes for value in arrays.values() if isinstance(value, Spec))
    widest = max((ITEMSIZE[step.dtype] for step in found.steps), default=0)
    return inputs + output.nbytes + 2 * output.size * widest * (len(found.steps) > 1)


@operation(check=_shape, estimate=_cost, batch=elementwise)
def expression(formula: str, *, xp: Namespace, **arrays: Number) -> Any:
    """An elementwise formula over named arrays, such as `a*x + sin(y)**2`, computed in one pass where the backend can.

    Every other parameter is an array or a bare number of the formula. Arrays broadcast, and dtypes promote, as in NumPy 2: numbers
    written in the formula or given bare decide the kind of the result and never its width (a float32 array times 2.5 is float32),
    and so do expressions of numbers alone.

    Operators: + - * / // % ** on numbers, < <= > >= == != (chained too), & | ^ ~ on booleans and integers, << >> on integers.
    Functions: the elementwise ones of the Array API standard 2024.12 (abs, acos, ..., where), by position. Constants: pi, e, inf, nan.

    NaN and infinities follow IEEE 754. Integers wrap around on overflow; an integer divided by zero with // or % is 0; an integer
    number must fit the dtype it meets. Shape: the arrays' common shape.

    Raises `invalid_parameter` for anything but such a formula, for unknown and unused names, for more than 4,000 characters or 150
    levels of nesting; `operation_failed` for negative integer powers of integer arrays.
    """
    found = program(formula, signature(arrays))
    values: list[Any] = [arrays[name] for name in found.inputs]
    last = {arg: at for at, step in enumerate(found.steps) for arg in step.args if isinstance(arg, int)}

    def value(operand: Operand, dtype: str) -> Any:
        return xp.asarray(operand.value, dtype=getattr(xp, dtype)) if isinstance(operand, Constant) else values[operand]

    for at, step in enumerate(found.steps):
        args = [value(arg, "bool" if step.function == "where" and i == 0 else step.common) for i, arg in enumerate(step.args)]
        values.append(_apply(step.function, args, step.common, xp))
        for arg in step.args:
            if isinstance(arg, int) and last[arg] == at and arg != found.result:
                values[arg] = None  # its memory is needed no more
    return value(found.result, found.dtype)


def _apply(function: str, args: list[Any], common: str, xp: Namespace) -> Any:
    if function == "cast":
        return xp.astype(args[0], getattr(xp, common))
    if function == "imag" and not common.startswith("complex"):
        return xp.zeros_like(args[0])
    if function in ("add", "multiply") and common == "bool":
        return (xp.logical_or if function == "add" else xp.logical_and)(*args)
    if function in ("floor_divide", "remainder") and "int" in common:
        zero = args[1] == 0  # libraries disagree on what an integer divided by zero is
        return xp.where(zero, xp.zeros_like(args[1]), getattr(xp, function)(args[0], xp.where(zero, xp.ones_like(args[1]), args[1])))
    return getattr(xp, function)(*args)
