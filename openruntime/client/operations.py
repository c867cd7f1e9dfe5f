"""Every operation as a method. Their types stand in `operations.pyi`, made from the catalogue by `python -m openruntime.cli.stubs`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from openruntime.contracts.errors import InvalidParameter, nearest


class Operations:
    """`rt.matmul(a, b)` is `rt.run("matmul", a, b)`, and waits for the answer."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        self._known(name)
        return partial(self.run, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names()]


AsyncOperations = Operations


def unknown(name: str, known: Mapping[str, Any]) -> AttributeError:
    return AttributeError(f"there is no operation {name!r}{nearest(name, known)}")


def arguments(operation: str, schema: Mapping[str, Any], positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name. Raises `InvalidParameter` for too many positional ones, or one given twice."""
    order = list(schema["properties"])
    if len(positional) > len(order):
        raise InvalidParameter(f"{operation} takes at most {len(order)} positional arguments ({', '.join(order)}), and got {len(positional)}")
    given = dict(zip(order, positional, strict=False))
    twice = given.keys() & named.keys()
    if twice:
        field = min(twice)
        raise InvalidParameter(f"`{field}` of {operation} is given twice: by position and by name", field=field)
    given.update(named)
    return {name: _scalar(value) if _is_scalar(schema["properties"].get(name)) else value for name, value in given.items()}


def _is_scalar(schema: Mapping[str, Any] | None) -> bool:
    return schema is not None and "x-kind" not in schema


def _scalar(value: Any) -> Any:
    """NumPy's numbers are plain ones where the operation wants no array; so are arrays of them."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
