"""Every operation as a method. Their types stand in `operations.pyi`, made from the catalogue by `python -m openruntime.cli.stubs`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from openruntime.client.signatures import signature
from openruntime.contracts.errors import InvalidParameter, nearest


class Operations:
    """`rt.matmul(a, b)` is `rt.run("matmul", a, b)`, and waits for the answer."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        entry = self._entry(name)

        def call(*args: Any, **given: Any) -> Any:
            return self.run(name, *args, **given)

        call.__name__ = call.__qualname__ = name
        if entry is None:  # an asyncio client that has not asked for the catalogue yet
            return call
        call.__doc__ = entry["doc"]
        call.__signature__ = signature(entry["parameters"])  # type: ignore[attr-defined]
        self.__dict__[name] = call
        return call

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names()]


AsyncOperations = Operations


def unknown(name: str, known: Mapping[str, Any]) -> AttributeError:
    return AttributeError(f"there is no operation {name!r}{nearest(name, known)}")


def check_names(operation: str, schema: Mapping[str, Any], given: Iterable[str], options: Iterable[str]) -> None:
    """Raises `InvalidParameter` for a name that is neither a parameter nor an option, with the nearest of both."""
    if schema.get("additionalProperties"):
        return
    for name in given:
        if name not in schema["properties"]:
            near = nearest(name, [*schema["properties"], *options])
            takes = "" if near else f"; it takes {', '.join(schema['properties'])}"
            raise InvalidParameter(f"{operation} has no parameter `{name}`{near or takes}", field=name)


def arguments(operation: str, schema: Mapping[str, Any], positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name, items of a list of arrays as `x.0`, ... Raises `InvalidParameter` for too many positional ones, or one given twice."""
    order = list(schema["properties"])
    if len(positional) > len(order):
        raise InvalidParameter(f"{operation} takes at most {len(order)} positional arguments ({', '.join(order)}), and got {len(positional)}")
    given = dict(zip(order, positional, strict=False))
    twice = given.keys() & named.keys()
    if twice:
        field = min(twice)
        raise InvalidParameter(f"`{field}` of {operation} is given twice: by position and by name", field=field)
    given.update(named)
    found: dict[str, Any] = {}
    for name, value in given.items():
        about = schema["properties"].get(name)
        if about is not None and about.get("x-kind") == "arrays" and isinstance(value, list | tuple) and value:
            found |= {f"{name}.{index}": item for index, item in enumerate(value)}  # each travels its own way: as bytes, or as a reference
        else:
            found[name] = _scalar(value) if _is_scalar(about) else value
    return found


def _is_scalar(schema: Mapping[str, Any] | None) -> bool:
    return schema is not None and "x-kind" not in schema


def _scalar(value: Any) -> Any:
    """NumPy's numbers are plain ones where the operation wants no array; so are arrays of them."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
