"""Reads a kernel from what a client sent: everything that needs no compiler is checked, and each refusal names its field."""

import re
import shlex
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import msgspec

from openruntime.contracts.dimensions import Dimension
from openruntime.contracts.errors import InvalidParameter, nearest
from openruntime.contracts.kernels import LANGUAGES, LONGEST_SIDE, MOST_ITEMS, KernelSpec, Typed
from openruntime.contracts.payload import ITEMSIZE, check_dtype
from openruntime.contracts.tunables import settled

LONGEST_SOURCE = 1 << 18  # bytes
MOST_ARGUMENTS = 32  # inputs, outputs and scalars together
MOST_OPTIONS = 64

# language -> dtypes its arrays cannot have, and why
LACKS: dict[str, dict[str, str]] = {
    "opencl": {"bfloat16": "OpenCL C has no bfloat16; send uint16, or float32"},
    "cuda": {},
    "metal": {name: f"Metal has no {what}" for name, what in (("float64", "double"), ("complex128", "double"))},
    "wgsl": {
        name: "WGSL's arrays hold int32, uint32, float32 (and complex64 as vec2<f32>)"
        for name in ITEMSIZE
        if name not in ("int32", "uint32", "float32", "complex64")
    },
}
# what msgspec calls JSON's kinds
_KINDS = {
    "object": "a JSON object", "array": "a list", "str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# what a call's options, a backend and the clients use beside the parameters
_RESERVED = frozenset({"steps", "allocate", "xp", "empty", "priority", "device", "timeout", "max_retries", "tags", "cache", "traceparent"})


def read(document: Any) -> KernelSpec:
    """A kernel from plain JSON values, checked in every way that needs no compiler. Raises `InvalidParameter` naming the field.

    `options` may be one string, as on a command line, and `reference` an operation's name."""
    if isinstance(document, Mapping):
        document = {name: value for name, value in document.items() if value is not None}
        if "tuned" in document:
            raise InvalidParameter("`tuned` is not a field of a kernel: tuning finds it", field="tuned")
        if isinstance(document.get("options"), str):
            document["options"] = _words(document["options"])
        if isinstance(document.get("reference"), str):
            document["reference"] = {"operation": document["reference"]}
    try:
        spec = msgspec.convert(document, KernelSpec, strict=True)
    except msgspec.ValidationError as error:
        raise _unread(str(error)) from None
    _check_names(spec)
    _check_source(spec)
    _check_arrays(spec)
    _check_scalars(spec)
    _check_launch(settled(spec))
    _check_reference(spec)
    return spec


def _words(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise InvalidParameter(f"`options` cannot be split into words ({error}); send a list of strings", field="options") from None


def _unread(complaint: str) -> InvalidParameter:
    """msgspec's sentence with the field in our spelling."""
    what, _, path = complaint.partition(" - at `$")
    field = ".".join(re.findall(r"[A-Za-z_]+|\d+|(?<=\[)\.\.\.(?=\])", path.rstrip("`")))
    named = re.search(r"(missing required|contains unknown) field `(.*?)`", what)
    if named is not None:
        field = f"{field}.{named[2]}" if field else named[2]
        known = () if "." in field else KernelSpec.__struct_fields__
        text = "is missing" if named[1].startswith("missing") else f"is not a field of a kernel{nearest(named[2], known)}"
        return InvalidParameter(f"`{field}` {text}", field=field)
    kinds = re.fullmatch(r"Expected `(.+?)`, got `(\w+)`", what)
    text = f"must be {_wish(field, kinds[1])}, not {_KINDS.get(kinds[2], kinds[2])}" if kinds else what.replace("`", "")
    return InvalidParameter(f"`{field}` {text[:1].lower()}{text[1:]}" if field else f"a kernel {text}", field=field or None)


def _wish(field: str, kind: str) -> str:
    """What would be right in this field, with an example where it is not plain."""
    part, _, rest = field.partition(".")
    asked = " or ".join(_KINDS.get(one, one) for one in kind.split(" | ") if one != "null")
    if part in ("inputs", "outputs", "scalars") and (not rest or rest.isdigit()):
        shown = (
            '{"name": "a", "dtype": "float32"}'
            if part == "scalars"
            else f'{{"name": "{"x" if part == "inputs" else "y"}", "dtype": "float32", "shape": ["n"]}}'
        )
        return f"{asked} such as {shown if rest else f'[{shown}]'}"
    if field in ("grid", "local") or rest.endswith("shape"):
        return f'{asked} such as ["n"]'
    return f'{asked} such as {{"operation": "expression", "parameters": {{"formula": "2*x"}}}}' if field == "reference" else asked


def _check_names(spec: KernelSpec) -> None:
    _identifier(spec.name, "name")
    seen: dict[str, str] = {}
    listed: tuple[tuple[str, Sequence[Typed]], ...] = (("inputs", spec.inputs), ("outputs", spec.outputs), ("scalars", spec.scalars))
    for part, arguments in listed:
        for i, argument in enumerate(arguments):
            field = f"{part}.{i}.name"
            _identifier(argument.name, field)
            if argument.name in _RESERVED:
                raise InvalidParameter(f"`{field}`: {argument.name!r} is a name the runtime uses itself; call it another", field=field)
            if argument.name in seen:
                raise InvalidParameter(f"`{field}`: {argument.name!r} is taken by `{seen[argument.name]}`", field=field)
            seen[argument.name] = field
    if not spec.outputs:
        raise InvalidParameter("`outputs` must name at least one array: what a kernel computes is what it writes there", field="outputs")
    if len(seen) > MOST_ARGUMENTS:
        raise InvalidParameter(f"`inputs`, `outputs` and `scalars` are {len(seen)}, more than {MOST_ARGUMENTS}", field="inputs")


def _identifier(name: str, field: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"`{field}` must be a name of letters, digits and _ (at most 64, no digit first), as the source has it, not {name!r:.80}", field=field
        )


def _check_source(spec: KernelSpec) -> None:
    if spec.language not in LANGUAGES:
        raise InvalidParameter(f"`language` must be one of {', '.join(LANGUAGES)}, not {spec.language!r:.60}", field="language")
    try:
        size = len(spec.source.encode())
    except UnicodeEncodeError:
        raise InvalidParameter("`source` holds half of a surrogate pair, which is no text", field="source") from None
    if size > LONGEST_SOURCE:
        raise InvalidParameter(f"`source` has {size} bytes; a kernel has at most {LONGEST_SOURCE}", field="source")
    if "\0" in spec.source or not spec.source.strip():
        raise InvalidParameter(f"`source` {'holds a zero byte' if spec.source.strip() else 'is empty'}; send the text of the kernel", field="source")
    if len(spec.options) > MOST_OPTIONS:
        raise InvalidParameter(f"`options` are {len(spec.options)}, more than {MOST_OPTIONS}", field="options")
    for i, option in enumerate(spec.options):
        if not option.strip() or "\0" in option or len(option) > 500:
            raise InvalidParameter(f"`options.{i}` must be one option of 1 to 500 characters, such as '-DTILE=16'", field=f"options.{i}")


def _check_arrays(spec: KernelSpec) -> None:
    lacks = LACKS[spec.language]
    for part, arguments in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        for i, argument in enumerate(arguments):
            field = f"{part}.{i}.dtype"
            check_dtype(argument.dtype, field)
            if argument.dtype in lacks:
                raise InvalidParameter(f"`{field}`: {argument.dtype} does not go with {spec.language}: {lacks[argument.dtype]}", field=field)
            for axis, size in enumerate(spec.shapes[argument.name]):
                _bound(spec, size, f"{part}.{i}.shape.{axis}", least=0)
    taken = {argument.name for argument in (*spec.inputs, *spec.outputs)}
    for symbol in sorted(spec.symbols & taken):
        raise InvalidParameter(f"`inputs`: {symbol!r} is an array and a symbol of the shapes; call one of them another", field="inputs")


def _bound(spec: KernelSpec, size: Dimension, field: str, least: int) -> None:
    free = sorted(size.names - spec.symbols)
    if free:
        offer = f"it binds {', '.join(sorted(spec.symbols))}" if spec.symbols else "no input's shape binds a symbol"
        raise InvalidParameter(
            f"`{field}`: {free[0]!r} is not bound: a symbol stands alone as one of the sizes of an input ({offer}){nearest(free[0], spec.symbols)}",
            field=field,
        )
    if (value := size.constant) is not None and value < least:
        raise InvalidParameter(f"`{field}` must be at least {least}, not {value}", field=field)


def _check_scalars(spec: KernelSpec) -> None:
    for i, scalar in enumerate(spec.scalars):
        field = f"scalars.{i}.dtype"
        check_dtype(scalar.dtype, field)
        if scalar.dtype.startswith("complex") or scalar.dtype in ("float16", "bfloat16"):
            raise InvalidParameter(f"`{field}`: a scalar is a boolean, an integer, float32 or float64, not {scalar.dtype}", field=field)
        if (why := LACKS[spec.language].get(scalar.dtype)) is not None:
            raise InvalidParameter(f"`{field}`: {scalar.dtype} does not go with {spec.language}: {why}", field=field)
        if scalar.name in spec.symbols and "int" not in scalar.dtype:
            raise InvalidParameter(f"`{field}`: `{scalar.name}` is a size of the inputs, and must be an integer, not {scalar.dtype}", field=field)


def _check_reference(spec: KernelSpec) -> None:
    reference = spec.reference
    if reference is None:
        return
    taken = [argument.name for argument in (*spec.inputs, *spec.scalars)]
    for name in reference.domain:
        if name not in taken:
            raise InvalidParameter(f"`reference.domain`: {name!r} is no input or scalar{nearest(name, taken)}", field="reference.domain")
        domain = reference.domain[name]
        if domain.low is not None and domain.high is not None and not domain.low <= domain.high:
            raise InvalidParameter(f"`reference.domain.{name}`: low must be at most high", field=f"reference.domain.{name}")
    given = [output.name for output in spec.outputs]
    for name in reference.outputs:
        if name not in given:
            raise InvalidParameter(f"`reference.outputs`: {name!r} is no output{nearest(name, given)}", field="reference.outputs")


def _check_launch(spec: KernelSpec) -> None:
    if not 1 <= len(spec.grid) <= 3:
        raise InvalidParameter(f"`grid` must have one to three sizes, and has {len(spec.grid)}", field="grid")
    if spec.local and len(spec.local) != len(spec.grid):
        raise InvalidParameter(f"`local` must have as many sizes as `grid` ({len(spec.grid)}), and has {len(spec.local)}", field="local")
    for part, sides in spec.named_sides():
        for i, side in enumerate(sides):
            _bound(spec, side, f"{part}.{i}", least=1)
            if (value := side.constant) is not None and value > LONGEST_SIDE:
                raise InvalidParameter(f"`{part}.{i}` must be at most {LONGEST_SIDE}, not {value}", field=f"{part}.{i}")
    constants = [side.constant for side in spec.sides[0]]
    if prod(side for side in constants if side is not None) > MOST_ITEMS:
        raise InvalidParameter(f"`grid` has more than {MOST_ITEMS} work-items", field="grid")
