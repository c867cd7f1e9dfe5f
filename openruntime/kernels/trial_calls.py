"""What a request to verify or tune a kernel may say, and the call that it becomes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from openruntime.contracts.errors import InvalidParameter, UnknownOperation, nearest
from openruntime.contracts.kernels import TUNE, VERIFY
from openruntime.contracts.payload import Spec
from openruntime.contracts.records import Call, Estimate
from openruntime.contracts.tunables import tunables

if TYPE_CHECKING:
    from openruntime.kernels.catalogue import Kernel

REPORT = Spec("uint8", (1 << 20,), exact=False)  # the most that a report may have

Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] | None  # None: drawn anew, so that no kernel can know its inputs
Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class VerifyOptions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`sizes` to try besides; `launch`: seconds that one run may take, `limit`: all of it."""

    kernel: str
    seed: Seed = None
    sizes: Annotated[list[dict[str, Size]], msgspec.Meta(max_length=32)] = []
    launch: Seconds = 5.0
    limit: Seconds = 120.0


class TuneOptions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`sizes` to tune for; `baseline`: another kernel that gains are told against; `rounds`: of the last measurement."""

    kernel: str
    seed: Seed = None
    sizes: dict[str, Size] | None = None
    baseline: str | None = None
    rounds: Annotated[int, msgspec.Meta(ge=3, le=200)] = 15
    launch: Seconds = 10.0
    limit: Seconds = 300.0


def trial_call(operation: str, given: Mapping[str, Any], kernels: "Mapping[str, Kernel]") -> Call:
    """The call that verifies or tunes. Raises `InvalidParameter`, `UnknownOperation` where there is no such kernel."""
    try:
        options: VerifyOptions | TuneOptions = (
            msgspec.convert(dict(given), VerifyOptions, strict=True)
            if operation == VERIFY
            else msgspec.convert(dict(given), TuneOptions, strict=True)
        )
    except msgspec.ValidationError as error:
        what, _, path = str(error).replace("`", "").partition(" - at $.")
        field = path or (what.rpartition("field ")[2] if "field" in what else None)
        raise InvalidParameter(f"{f'`{field}`: ' if field else ''}{what[:1].lower()}{what[1:]}", field=field) from None
    kernel = _found(options.kernel, kernels, "kernel")
    if kernel.spec.reference is None:
        raise InvalidParameter(
            f"{options.kernel} names no `reference`, so there is nothing to compare it with; register it with an operation or a formula that "
            "computes the same",
            field="reference",
        )
    named: dict[str, Mapping[str, int]] = {}
    if isinstance(options, VerifyOptions):
        named = {f"sizes.{i}": sizes for i, sizes in enumerate(options.sizes)}
    elif options.sizes is not None:
        named = {"sizes": options.sizes}
    for field, sizes in named.items():
        if sizes.keys() != kernel.spec.symbols:
            wanted = ", ".join(sorted(kernel.spec.symbols)) or "nothing: its arrays have no open sizes"
            raise InvalidParameter(f"`{field}` of {options.kernel} must name {wanted}; it names {', '.join(sizes) or 'nothing'}", field=field)
    plain: dict[str, Any] = msgspec.to_builtins(options) | {"version": kernel.version}
    if isinstance(options, TuneOptions) and options.baseline is not None:
        plain |= {"against": options.baseline, "baseline": msgspec.to_builtins(_found(options.baseline, kernels, "baseline").spec)}
    elif operation == TUNE and not tunables(kernel.spec):
        raise InvalidParameter(
            f"{options.kernel} leaves nothing open: a line such as '// tune: TILE = 8, 16, 32' in its source names a constant and its values",
            field="kernel",
        )
    return Call(operation, 1, plain, {"report": REPORT}, Estimate(), False, "uint8", 0, (), kernel.program)


def _found(name: str, kernels: "Mapping[str, Kernel]", field: str) -> "Kernel":
    if name not in kernels:
        raise UnknownOperation(f"there is no kernel {name!r:.100}{nearest(name, kernels)}", field=field)
    return kernels[name]
