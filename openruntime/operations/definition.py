"""`@operation`: a plain function of arrays becomes a named, typed, checked operation. The signature is the schema."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, TypedDict, Union, Unpack, get_args, get_origin, get_type_hints, overload

import msgspec

from openruntime.contracts import nested
from openruntime.contracts.errors import InvalidParameter, OperationFailed, TooLarge, nearest
from openruntime.contracts.interfaces import Steps
from openruntime.contracts.payload import Array as Payload
from openruntime.contracts.payload import Reference, Spec, check_dtype
from openruntime.contracts.records import Call, Estimate, Stacking

__all__ = ["Array", "Estimate", "InvalidParameter", "Namespace", "Number", "Operation", "OperationFailed", "Spec", "Steps", "operation"]

Array = Annotated[Any, "array"]
"""Annotates an array parameter: inside the function an array of `xp`'s library, inside `check` and `estimate` its `Spec`.

`list[Array]` annotates a list of at least one: a list of arrays, or of specs."""

Number = Annotated[Any, "number"]
"""An array, or a bare JSON number that is weak like a Python scalar in NumPy: it never decides a dtype's width."""

Namespace: TypeAlias = Any
"""The Array API namespace the backend injects as `xp`."""

Outputs = Spec | dict[str, Spec]
Function = Callable[..., Any]

_INJECTED = ("xp", "steps")
_RESERVED = {*_INJECTED, "allocate", "empty"}  # what a backend is handed beside the parameters
_LARGEST = 1 << 60  # bytes: beyond any machine, below what a 64-bit integer on the wire holds
_ARRAYS = {"array": "an array", "arrays": "a list of arrays", "number": "an array or a number"}
_NONFINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_REFERENCES = [
    {"type": "object", "properties": {key: {"type": "string"}}, "required": [key], "title": title}
    for key, title in (("tensor", "a tensor kept on the server"), ("task", "the output of a task"))
]
_COMPLEX = {"type": "object", "properties": {"real": {}, "imag": {}}, "required": ["real", "imag"], "title": "a complex array"}
_NESTED = {"type": "array", "title": "nested lists"}


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of an operation. `kind` is `array`, `arrays` (a list), `number` or `scalar`; `type` is what a scalar is converted to."""

    name: str
    kind: str
    type: Any
    required: bool
    default: Any = None

    def read(self, operation: str, value: Any) -> Any:
        """`value` as the function will see it, arrays as `Array` or `Spec`. Raises `InvalidParameter`."""
        if self.kind == "scalar":
            return self._scalar(operation, value)
        if self.kind == "arrays":
            return self._list(operation, value)
        if isinstance(value, Payload | Spec):
            check_dtype(value.dtype, self.name)
            return value
        if isinstance(value, list | tuple) or (isinstance(value, dict) and value.keys() == {"real", "imag"}):
            return nested.to_array(value, self.name)
        if self.kind == "number" and isinstance(value, str):
            value = _NONFINITE.get(value, value)
        if isinstance(value, bool | int | float):
            if self.kind == "number":
                plain = next(kind for kind in (bool, int, float) if isinstance(value, kind))  # NumPy's float64 is a float too
                return _bounded(operation, self.name, plain(value))
            hint = f"; for an array of one element write [{str(value).lower()}]"
        elif isinstance(value, dict | Reference):
            hint = '; an object stands for an array only as {"tensor": id}, {"task": id} or {"real": ..., "imag": ...}'
        else:
            hint = ""
        raise InvalidParameter(f"`{self.name}` of {operation} must be {_ARRAYS[self.kind]}, and is {_kind(value)}{hint}", field=self.name)

    def _list(self, operation: str, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple) or not value:
            what = "an empty one" if isinstance(value, list | tuple) else "an array" if isinstance(value, Payload | Spec) else _kind(value)
            raise InvalidParameter(f"`{self.name}` of {operation} must be a list of arrays, and is {what}", field=self.name)
        return [msgspec.structs.replace(self, name=f"{self.name}.{i}", kind="array").read(operation, item) for i, item in enumerate(value)]

    def _scalar(self, operation: str, value: Any) -> Any:
        if isinstance(value, Payload | Spec):
            raise InvalidParameter(
                f"`{self.name}` of {operation} must be a plain JSON value ({_wanted(self.type)}), and is an array of dtype {value.dtype} and shape"
                f" {list(value.shape)}",
                field=self.name,
            )
        try:
            found = msgspec.convert(value, self.type, strict=True)
        except msgspec.ValidationError as error:
            raise InvalidParameter(f"`{self.name}` of {operation}: {_sentence(error)} (it takes {_wanted(self.type)})", field=self.name) from None
        return _bounded(operation, self.name, found)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the parameter as it stands in a JSON request."""
        if self.kind == "scalar":
            found = msgspec.json.schema(self.type)
        elif self.kind == "arrays":
            several = {"type": "array", "minItems": 1, "items": {"anyOf": [_NESTED, *_REFERENCES, _COMPLEX]}, "title": "a list of arrays"}
            found = {"anyOf": [several] if self.required else [several, {"type": "null"}], "x-kind": self.kind}
        else:
            numbers = [{"type": "number"}] if self.kind == "number" else []
            nothing = [{"type": "null"}] if not self.required else []
            found = {"anyOf": [_NESTED, *numbers, *_REFERENCES, _COMPLEX, *nothing], "x-kind": self.kind}
        if not self.required:
            found["default"] = msgspec.to_builtins(self.default)
        return found


class Declared(TypedDict, total=False):
    """What an operation declares beside its function; see `operation`."""

    family: str
    check: Callable[..., Outputs]
    estimate: Callable[..., Estimate]
    version: int
    batch: Callable[..., Mapping[str, Any] | None]
    cacheable: bool
    outputs: tuple[str, ...]


class Operation:
    """A function of arrays, with everything the runtime must know before it runs. Calling it calls the function."""

    def __init__(self, function: Function, **declared: Unpack[Declared]) -> None:
        for name in declared.keys() - Declared.__annotations__.keys():
            raise TypeError(f"operation {function.__name__} cannot declare `{name}`{nearest(name, Declared.__annotations__)}")
        self.function = function
        self.name: str = function.__name__.rstrip("_")  # `sum_` is `sum`: Python's own stays usable in its module
        self.family = declared.get("family") or function.__module__.rpartition(".")[2]
        self.version = declared.get("version", 1)
        self.batch = declared.get("batch")
        self.cacheable = declared.get("cacheable", True)
        self.outputs = declared.get("outputs", ("output",))
        self.doc = inspect.getdoc(function) or ""
        signature = inspect.signature(function)
        self.takes = tuple(name for name in _INJECTED if name in signature.parameters)
        self.parameters, self.rest = _parameters(function, signature)
        self._check = declared.get("check") or self._like_first
        self._estimate = declared.get("estimate")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    @property
    def first_array(self) -> str:
        """The name of the first array parameter. Raises `InvalidParameter` when there is none to name."""
        for parameter in self.parameters.values():
            if parameter.kind in ("array", "number"):
                return parameter.name
        raise InvalidParameter(f"{self.name} has no array parameter of a fixed name for an .npy body; send application/x-safetensors")

    def describe(self) -> dict[str, Any]:
        """What `/operations` shows: the fields of `Catalogue.describe`."""
        schema = {
            "type": "object",
            "properties": {name: parameter.schema() for name, parameter in self.parameters.items()},
            "required": [name for name, parameter in self.parameters.items() if parameter.required],
            "additionalProperties": self.rest.schema() if self.rest else False,
        }
        return {
            "name": self.name,
            "family": self.family,
            "version": self.version,
            "summary": self.doc.partition("\n")[0],
            "doc": self.doc,
            "parameters": schema,
            "outputs": list(self.outputs),
            "steps": "steps" in self.takes,
            "cacheable": self.cacheable,
        }

    def bind(self, parameters: Mapping[str, Any]) -> Call:
        """Check everything that names, types, shapes and dtypes show. Raises `InvalidParameter`, or `TooLarge` beyond any machine."""
        given = self._read(parameters)
        bound = self._bound(given)
        found = self._check(**bound)
        outputs = {"output": found} if isinstance(found, Spec) else found
        if not isinstance(outputs, dict) or outputs.keys() != set(self.outputs):
            stated = ", ".join(map(str, outputs)) if isinstance(outputs, dict) else f"a {type(found).__name__}"
            raise TypeError(f"`check` of {self.name} must return a Spec of each output ({', '.join(self.outputs)}), and returned {stated}")
        specs = [spec for value in bound.values() for spec in (value if isinstance(value, list) else (value,)) if isinstance(spec, Spec)]
        size = sum(spec.nbytes for spec in specs) + sum(spec.nbytes for spec in outputs.values())
        if size > _LARGEST:
            raise TooLarge(f"{self.name} would need {size:.1e} bytes for its inputs and outputs; no machine has them")
        elements = sum(spec.size for spec in specs) + sum(spec.size for spec in outputs.values())
        if self._estimate is None:
            cost = Estimate(float(sum(spec.size for spec in outputs.values())), float(size), size)
        else:
            cost = self._estimate(**bound)
            cost = Estimate(float(cost.flops), float(cost.bytes or size), max(int(cost.memory), size))
        if cost.memory > _LARGEST:
            raise TooLarge(f"{self.name} would need {cost.memory:.1e} bytes of memory; no machine has them")
        largest = max(specs or outputs.values(), key=lambda spec: spec.nbytes, default=None)
        dtype = largest.dtype if largest else ""
        others = tuple(sorted({spec.dtype for spec in (*specs, *outputs.values())} - {dtype}))
        return Call(self.name, self.version, self._plain(given), outputs, cost, self.cacheable, dtype, elements, others)

    def stacking(self, parameters: Mapping[str, Any]) -> Stacking | None:
        """How calls with parameters like these become one; None where each has to run by itself."""
        if self.batch is None or "steps" in self.takes:
            return None
        call, bound = self.bind(parameters), self._bound(self._read(parameters))
        specs = {name: value for name, value in bound.items() if isinstance(value, Spec)}
        if not all(spec.size and spec.exact for spec in (*specs.values(), *call.outputs.values())):
            return None
        changed = self.batch(**bound)
        if changed is None:
            return None
        arrays = {name: tuple(changed[name]) for name in specs if name in changed}
        values = {name: value for name, value in changed.items() if name not in arrays}
        return Stacking(arrays, values, call.outputs, call.estimate.memory) if arrays else None

    def _bound(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter as `check` gets it."""
        bound = {name: _spec(given[name]) if name in given else parameter.default for name, parameter in self.parameters.items()}
        bound.update((name, _spec(value)) for name, value in given.items() if name not in bound)
        return bound

    def _read(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, value in self._joined(parameters).items():
            parameter = self.parameters.get(name) or self.rest
            if parameter is not None and parameter is self.rest and name in _RESERVED:
                raise InvalidParameter(f"`{name}` is a name the runtime uses itself; call this parameter of {self.name} another", field=name)
            if parameter is not None and parameter is self.rest and "." in name:
                raise InvalidParameter(f"`{name}` would be an item of a list, and {self.name} takes no lists and no names with a dot", field=name)
            if parameter is None:
                known = ", ".join(self.parameters)
                hint = nearest(name, self.parameters) or f"; it takes {known}"
                raise InvalidParameter(f"{self.name} has no parameter `{name}`{hint}", field=name)
            if value is None and not parameter.required and parameter.default is None:
                continue
            given[name] = (parameter if parameter is not self.rest else msgspec.structs.replace(parameter, name=name)).read(self.name, value)
        for name, parameter in self.parameters.items():
            if parameter.required and name not in given:
                wanted = _ARRAYS.get(parameter.kind) or _wanted(parameter.type)
                raise InvalidParameter(f"{self.name} needs the parameter `{name}`: {wanted}", field=name)
        return given

    def _joined(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters with `x.0`, `x.1`, ... as the list `x`: so come those of which some are bytes or references."""
        items: dict[str, dict[str, Any]] = {}
        for name, value in parameters.items():
            base, dot, _index = name.rpartition(".")
            if dot and base in self.parameters and name not in self.parameters:
                if self.parameters[base].kind != "arrays":
                    raise InvalidParameter(f"`{base}` of {self.name} takes no list of arrays, and `{name}` would be an item of one", field=name)
                if base in parameters:
                    raise InvalidParameter(f"`{base}` of {self.name} came twice: as a list, and as `{name}`; send it once", field=name)
                items.setdefault(base, {})[name] = value
        if not items:
            return parameters
        joined = {name: value for name, value in parameters.items() if name.rpartition(".")[0] not in items}
        for base, named in items.items():
            wanted = [f"{base}.{i}" for i in range(len(named))]
            missing = next((name for name in wanted if name not in named), None)
            if missing is not None:
                odd = next(name for name in named if name not in wanted)
                raise InvalidParameter(f"{self.name} got `{odd}` and no `{missing}`; items of a list are numbered from 0 without gaps", field=missing)
            joined[base] = [named[name] for name in wanted]
        return joined

    def _plain(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays, then scalars, in the order of the signature, defaults left out: equal calls have equal parameters."""
        names = [name for name in [*self.parameters, *sorted(given.keys() - self.parameters.keys())] if name in given]
        plain = {name: given[name] for name in names if _is_array(given[name])}
        for name in names:
            value, parameter = given[name], self.parameters.get(name)
            default = parameter is not None and not parameter.required and value == parameter.default and type(value) is type(parameter.default)
            if name not in plain and not default:
                plain[name] = list(value) if isinstance(value, tuple) else value
        return plain

    def _like_first(self, **bound: Any) -> Spec:
        """The default shape rule: shape and dtype of the first array."""
        for value in bound.values():
            first = value[0] if isinstance(value, list) else value
            if isinstance(first, Spec):
                return Spec(first.dtype, first.shape, first.exact)
        raise InvalidParameter(f"{self.name} needs at least one array")


@overload
def operation(function: Function, /) -> Operation: ...
@overload
def operation(**declared: Unpack[Declared]) -> Callable[[Function], Operation]: ...
def operation(function: Function | None = None, /, **declared: Unpack[Declared]) -> Operation | Callable[[Function], Operation]:
    """Make a function an operation.

    `check(**parameters)` gets a `Spec` for each array and returns the outputs' `Spec` or a dict of them (default: like the
    first array); `estimate(**parameters)` returns an `Estimate` (default: elementwise; bytes and memory left 0 are filled in
    from inputs and outputs). `version` goes into cache keys: raise it when the numbers change. `outputs` names what a function
    returning a dict returns. `batch(**parameters)`, called like `check`, says how alike calls become one: see `operations/stacking.py`. A
    keyword `xp` gets the Array API namespace, a keyword `steps` a `Steps`.
    """
    if function is not None:
        return Operation(function)
    return lambda f: Operation(f, **declared)


def _parameters(function: Function, signature: inspect.Signature) -> tuple[dict[str, Parameter], Parameter | None]:
    hints = get_type_hints(function, include_extras=True)
    named: dict[str, Parameter] = {}
    rest = None
    for name, given in signature.parameters.items():
        if name in _INJECTED:
            continue
        if given.kind is inspect.Parameter.VAR_POSITIONAL or name not in hints:
            raise TypeError(f"parameter {name!r} of operation {function.__name__} needs a name and an annotation")
        required = given.default is inspect.Parameter.empty
        found = Parameter(name, _kind_of(hints[name]), hints[name], required, None if required else given.default)
        if given.kind is inspect.Parameter.VAR_KEYWORD:
            if found.kind == "arrays":
                raise TypeError(f"parameter {name!r} of operation {function.__name__}: lists of arrays need names of their own")
            rest = found
        else:
            named[name] = found
    return named, rest


def _kind_of(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next((part for part in get_args(hint) if part is not type(None)), hint)
    for marker, kind in ((Array, "array"), (Number, "number"), (list[Array], "arrays")):
        if hint == marker:
            return kind
    return "scalar"


def _is_array(value: Any) -> bool:
    return isinstance(value[0] if isinstance(value, list) and value else value, Payload | Spec)


def _spec(value: Any) -> Any:
    if isinstance(value, list):
        return [_spec(item) for item in value]
    return value.spec if isinstance(value, Payload) else value


def _bounded(operation: str, name: str, value: Any) -> Any:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and not -(1 << 63) <= number < 1 << 64:
            raise InvalidParameter(f"`{name}` of {operation} has an integer beyond 64 bits", field=name)
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value!r:.40}"
    if isinstance(value, str):
        return f"the string {value!r:.60}"
    return {type(None): "null", dict: "an object", list: "a list"}.get(type(value), f"of type {type(value).__name__}")


def _wanted(hint: Any) -> str:
    """A type in JSON's words, from its schema."""
    schema = msgspec.json.schema(hint)
    options = schema.get("anyOf", [schema])
    words = []
    for option in options:
        if "enum" in option:
            words.append("one of " + ", ".join(msgspec.json.encode(value).decode() for value in option["enum"]))
        elif option.get("type") == "array":
            words.append(f"a list of {(option.get('items') or option.get('prefixItems', [{}])[0]).get('type', 'value')}s")
        else:
            low, high = option.get("minimum", option.get("exclusiveMinimum")), option.get("maximum", option.get("exclusiveMaximum"))
            bounds = [f"{sign} {bound}" for sign, bound in ((">=" if "minimum" in option else ">", low), ("<=" if "maximum" in option else "<", high))
                      if bound is not None]  # fmt: skip
            words.append(" ".join([option.get("type", "a value"), *([" and ".join(bounds)] if bounds else [])]))
    return " or ".join(words)


def _sentence(error: msgspec.ValidationError) -> str:
    text = str(error).replace("`", "").partition(" - at ")[0]
    return text[:1].lower() + text[1:]
