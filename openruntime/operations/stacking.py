"""How an operation says that calls of it which are alike but for their arrays' values may run as one: rules for `@operation(batch=rule)`.

A rule gets the parameters of one call as `check` does, and returns what the stacked call has in their place: for an array the shape in which it
is stacked, whose first axis is multiplied by the number of calls (a new axis is a 1 in front); for anything else its value. An array that is not
named has to be the same in all calls. None: such calls run one by one. The stacked call must be a call of the operation like any other, so that
every backend can run it, and its outputs the calls' outputs one behind the other; the shapes of each are those of a call by itself.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from openruntime.contracts.payload import Spec

Rule = Callable[..., Mapping[str, Any] | None]


def apart(shape: tuple[int, ...], rank: int = 0) -> tuple[int, ...]:
    """`shape` behind a new first axis, with ones between that make it `rank` long without that axis: so stacks of different rank broadcast."""
    return (1, *(1,) * (rank - len(shape)), *shape)


def each(**parameters: Any) -> Mapping[str, Any]:
    """Every array with a new first axis: for what works on the last axes and takes any before them."""
    return {name: apart(value.shape) for name, value in parameters.items() if isinstance(value, Spec)}


def elementwise(**parameters: Any) -> Mapping[str, Any]:
    """Every array with a new first axis, made equally long: for what broadcasts its arrays."""
    rank = max((len(value.shape) for value in parameters.values() if isinstance(value, Spec)), default=0)
    return {name: apart(value.shape, rank) for name, value in parameters.items() if isinstance(value, Spec)}


def along(field: str = "axis", array: str = "x") -> Rule:
    """`array` with a new first axis, and the axes in `field` counted from the last; where that is null, all numbers in one row."""

    def rule(**parameters: Any) -> Mapping[str, Any]:
        shape, axes = parameters[array].shape, parameters[field]
        rank = len(shape)
        if axes is None:
            return {array: (1, prod(shape)), field: -1}
        return {array: apart(shape), field: axes % rank - rank if isinstance(axes, int) else tuple(axis % rank - rank for axis in axes)}

    return rule
