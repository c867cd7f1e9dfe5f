"""Kernels of the user's own: what one is, how a call binds it, and the runner that compiles and runs it in a worker."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from math import isfinite, prod
from typing import Any, ClassVar, Protocol

import msgspec

from openruntime.contracts.dimensions import Dimension, parse, where
from openruntime.contracts.errors import InvalidParameter, TooLarge
from openruntime.contracts.payload import ITEMSIZE, Spec
from openruntime.contracts.records import Principal, Task

# language -> the backends whose devices run it
LANGUAGES: dict[str, tuple[str, ...]] = {"opencl": ("opencl",), "cuda": ("cuda",), "metal": ("metal",), "wgsl": ("webgpu", "metal")}
WORKERS = "-kernels"
"""Kernels run in workers of their own, `opencl-kernels` and so on by language, beside those of the backends."""

COMPILE = "compile_kernel"
"""The operation that only compiles; its output `report` is a `Report` as JSON."""

VERIFY = "verify_kernel"
"""The operation that compares a kernel with its reference; its output `report` is JSON (`Judge.verify`)."""

TUNE = "tune_kernel"
"""The operation that searches the best values of what a kernel leaves open; its output `report` is JSON (`tune`)."""

PROGRAM = "$kernel"
"""Where a job has the kernel, as `encoded`, beside the parameters, none of which can be called so."""

MOST_ITEMS = 1 << 40  # work-items of a launch
LONGEST_SIDE = (1 << 31) - 1  # work-items along one dimension
_LARGEST = 1 << 60  # bytes: beyond any machine

_NONFINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}

Number = int | float | bool


class Typed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    dtype: str


class Argument(Typed, frozen=True, forbid_unknown_fields=True):
    """An array that a kernel reads or writes. `shape`: whole numbers, or formulas over symbols that the inputs' shapes bind."""

    shape: tuple[int | str, ...]


class Scalar(Typed, frozen=True, forbid_unknown_fields=True):
    """A number passed by value. One that is called like a symbol of the shapes is that symbol's value, and need not be given."""


class Domain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers that a kernel takes in an input or scalar, where it does not take all: from `low` to `high`, or with `finite` any that are."""

    low: float | None = None
    high: float | None = None
    finite: bool = False

    @property
    def bounded(self) -> bool:
        return self.low is not None or self.high is not None

    def range(self, least: float, most: float) -> tuple[float, float]:
        """`low` and `high`, where one is open the nearest of `least` and `most` that leaves a range."""
        low = min(least, self.high) if self.low is None and self.high is not None else self.low
        high = max(most, self.low) if self.high is None and self.low is not None else self.high
        return least if low is None else low, most if high is None else high


class KernelReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the kernel should compute: an operation. It gets the kernel's inputs and scalars by their names; `parameters` adds to them,
    and `{"input": name}` or `{"scalar": name}` in it stands for one under another name. `outputs`: of a kernel's output that is called
    otherwise than the operation's, that name. `domain`: by input and scalar."""

    operation: str
    parameters: dict[str, Any] = {}
    outputs: dict[str, str] = {}
    domain: dict[str, Domain] = {}


class Tuned(msgspec.Struct, frozen=True):
    """What tuning found: the best `values` of the constants left open (`contracts/tunables.py`) on the silicon `identity` for `sizes`."""

    identity: str
    sizes: dict[str, int]
    values: dict[str, int]


class Binding(msgspec.Struct, frozen=True):
    """A call's sizes. `grid`: work-items a dimension; `local`: those of a work-group, empty where the runner chooses. `scalars` by name."""

    symbols: dict[str, int]
    outputs: dict[str, Spec]
    grid: tuple[int, ...]
    local: tuple[int, ...]
    scalars: dict[str, Number]


class KernelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """A kernel as its author gives it. The entry point is called `name` and takes inputs, outputs, scalars, in that order.

    `grid`: work-items along one to three dimensions; `local`: those of a work-group, where it is not left to the runner (then the grid is
    rounded up to whole groups, so the kernel has to look where it is). `options` go to the compiler.
    """

    name: str
    language: str
    source: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    grid: tuple[int | str, ...]
    scalars: tuple[Scalar, ...] = ()
    local: tuple[int | str, ...] = ()
    options: tuple[str, ...] = ()
    reference: KernelReference | None = None
    tuned: tuple[Tuned, ...] = ()

    @property
    def requires(self) -> str:
        """What a backend must list among its capabilities to run it."""
        return requirement(self.language)

    @property
    def arguments(self) -> tuple[Typed, ...]:
        """All, in the order in which the entry point takes them."""
        return *self.inputs, *self.outputs, *self.scalars

    @cached_property
    def shapes(self) -> dict[str, tuple[Dimension, ...]]:
        """Of every array, parsed."""
        listed = (("inputs", self.inputs), ("outputs", self.outputs))
        return {
            argument.name: tuple(parse(size, f"{part}.{i}.shape.{axis}") for axis, size in enumerate(argument.shape))
            for part, arguments in listed for i, argument in enumerate(arguments)
        }  # fmt: skip

    @cached_property
    def sides(self) -> tuple[tuple[Dimension, ...], tuple[Dimension, ...]]:
        """`grid` and `local`, parsed."""
        grid = tuple(parse(side, f"grid.{i}") for i, side in enumerate(self.grid))
        return grid, tuple(parse(side, f"local.{i}") for i, side in enumerate(self.local))

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names that the inputs' shapes bind."""
        return frozenset(size.symbol for argument in self.inputs for size in self.shapes[argument.name] if size.symbol is not None)

    def bind(self, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> Binding:
        """The sizes of a call from its inputs (each with `dtype`, `shape` and maybe `exact`) and numbers.

        Raises `InvalidParameter` naming the parameter, or `grid.0`; `TooLarge` beyond any machine."""
        symbols, exact = self._symbols(arrays)
        outputs = {
            argument.name: Spec(argument.dtype, self._shape("outputs", i, argument, symbols), exact) for i, argument in enumerate(self.outputs)
        }
        size = sum(spec.nbytes for spec in outputs.values()) + sum(prod(arrays[a.name].shape) * ITEMSIZE[a.dtype] for a in self.inputs)
        if size > _LARGEST:
            raise TooLarge(f"{self.name} would need {size:.1e} bytes for its inputs and outputs; no machine has them")
        grid, local = self._launch(symbols, idle=not any(spec.size for spec in outputs.values()))
        return Binding(symbols, outputs, grid, local, self._numbers(scalars, symbols))

    def _symbols(self, arrays: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
        symbols: dict[str, int] = {}
        found: dict[str, str] = {}  # symbol -> the input that gave it
        exact = all(getattr(arrays[argument.name], "exact", True) for argument in self.inputs)
        for argument in self.inputs:
            given, sizes = arrays[argument.name], self.shapes[argument.name]
            if given.dtype != argument.dtype:
                raise self._wrong(argument.name, f"must be {argument.dtype}, and is {given.dtype}")
            if len(given.shape) != len(sizes):
                raise self._wrong(argument.name, f"must have the shape {_told(sizes)}, and has {list(given.shape)}")
            for size, length in zip(sizes, given.shape, strict=True):
                symbol = size.symbol
                if symbol is None:
                    continue
                if symbols.setdefault(symbol, length) != length and exact:
                    raise self._wrong(
                        argument.name,
                        f"has the shape {list(given.shape)}, where {symbol} of {_told(sizes)} must be {symbols[symbol]}, as in `{found[symbol]}`",
                    )
                found.setdefault(symbol, argument.name)
        for argument in self.inputs if exact else ():
            given, sizes = arrays[argument.name], self.shapes[argument.name]
            for size, length in zip(sizes, given.shape, strict=True):
                if (wanted := size.value(symbols, argument.name)) != length:
                    raise self._wrong(
                        argument.name, f"has the shape {list(given.shape)}, where {size.text} must be {wanted}{where(symbols, size.names)}"
                    )
        return symbols, exact

    def _shape(self, part: str, index: int, argument: Argument, symbols: Mapping[str, int]) -> tuple[int, ...]:
        shape = []
        for axis, size in enumerate(self.shapes[argument.name]):
            field = f"{part}.{index}.shape.{axis}"
            length = size.value(symbols, field)
            if length < 0:
                raise InvalidParameter(f"`{field}` of {self.name}: {size.text} is {length}{where(symbols, size.names)}", field=field)
            shape.append(length)
        return tuple(shape)

    def _launch(self, symbols: Mapping[str, int], *, idle: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        grid, local = (tuple(side.value(symbols, f"{part}.{i}") for i, side in enumerate(sides)) for part, sides in self.named_sides())
        for part, sides in self.named_sides():
            for i, (side, value) in enumerate(zip(sides, grid if part == "grid" else local, strict=True)):
                field, told = f"{part}.{i}", f"{side.text} is {value}{where(symbols, side.names)}" if side.names else f"is {value}"
                if value < 0 or (value == 0 and not (idle and part == "grid")):
                    what = "nothing would run, and its outputs are not empty" if value == 0 and part == "grid" else "it must be at least 1"
                    raise InvalidParameter(f"`{field}` of {self.name}: {told}; {what}", field=field)
                if value > LONGEST_SIDE:
                    raise InvalidParameter(f"`{field}` of {self.name}: {told}, more than {LONGEST_SIDE}", field=field)
        if prod(grid) > MOST_ITEMS:
            raise InvalidParameter(f"`grid` of {self.name}: {list(grid)} are {prod(grid)} work-items, more than {MOST_ITEMS}", field="grid")
        return grid, local

    def named_sides(self) -> tuple[tuple[str, tuple[Dimension, ...]], ...]:
        return ("grid", self.sides[0]), ("local", self.sides[1])

    def _numbers(self, given: Mapping[str, Any], symbols: Mapping[str, int]) -> dict[str, Number]:
        found: dict[str, Number] = {}
        for scalar in self.scalars:
            name, known = scalar.name, symbols.get(scalar.name)
            if name not in given and known is None:
                raise InvalidParameter(f"{self.name} needs the parameter `{name}`: a number ({scalar.dtype})", field=name)
            value = number(given.get(name, known), scalar.dtype, name, self.name)
            if known is not None and value != known:
                raise self._wrong(name, f"is {value}, and {name} is {known} by the shapes of its inputs; it need not be given")
            found[name] = value
        return found

    def _wrong(self, name: str, what: str) -> InvalidParameter:
        return InvalidParameter(f"`{name}` of {self.name} {what}", field=name)


class Report(msgspec.Struct, frozen=True):
    """What came of compiling: `cached` where the disk had it; `seconds` it took.

    Where it failed, `field` of the kernel is wrong, `message` says it in short, `log` is all that the compiler said, and `lines` is where:
    `{"line", "column" (or None), "severity", "message"}`, both numbers from 1."""

    ok: bool
    log: str = ""
    lines: tuple[dict[str, Any], ...] = ()
    cached: bool = False
    seconds: float = 0.0
    message: str = ""
    field: str | None = None


class Compiled(msgspec.Struct, frozen=True):
    """A kernel ready to run: what its runner made of it (`built`), and how that went."""

    spec: KernelSpec
    built: Any
    log: str = ""
    cached: bool = False
    seconds: float = 0.0


class KernelRunner(ABC):
    """Compiles and runs kernels of one language on one device. Lives in a kernel worker; runs one at a time."""

    language: ClassVar[str]
    in_place: bool = False
    """Whether kernels touch the caller's memory itself: then fences around it stop them, else they work on copies."""
    identity: str = ""
    """The silicon and its driver: what was measured on one says nothing of another."""
    fetch_inputs: bool = False
    """Whether what a kernel leaves in its inputs comes back as outputs do: nobody but verification looks at it."""

    @abstractmethod
    def __init__(self, *, device: str, threads: int, index: int) -> None:
        """`index`: the library's own number for a device other than the processor. Raises `NoSuchDevice`."""

    @abstractmethod
    def compile(self, spec: KernelSpec) -> Compiled:
        """From the disk cache where it has this (source, options, device, driver). Raises `CompileError` with the log."""

    @abstractmethod
    def run(
        self, compiled: Compiled, inputs: Sequence[memoryview], outputs: Sequence[memoryview], scalars: Sequence[Number], grid: Sequence[int],
        local: Sequence[int] = (), *, guard: int = 0,
    ) -> float:  # fmt: skip
        """Run it to its end: the seconds on the device, without copies.

        `inputs` and `outputs`: the bytes of each array, in the order of the signature, in memory that the caller allocated and filled. What the
        kernel leaves in `outputs` stands in them afterwards, `guard` bytes (a multiple of 512) before and after each array included: each view
        has them, of inputs too, and the kernel must not touch them. Arrays are aligned to 256 bytes.
        Raises `OperationFailed` where the device refuses the launch."""


class KernelTrials(Protocol):
    """Verifying (`kind` is `verify`) and tuning (`tune`) kernels: each a task whose one output is its report."""

    async def begin(self, kind: str, name: str, options: Mapping[str, Any], run: Mapping[str, Any], *, principal: Principal = ...) -> Task:
        """Submit it; `run` are `TaskRequest`'s own fields. Raises `NotFound`, `InvalidParameter` naming the option."""

    async def report(self, kind: str, name: str, task_id: str | None = None, *, principal: Principal = ...) -> dict[str, Any]:
        """The newest report, or that of a task. Raises `NotFound`, `NotReady`, `Expired`, or the `TaskFailed` that the task ended with."""


def requirement(language: str) -> str:
    return f"kernel:{language}"


def encoded(spec: KernelSpec) -> bytes:
    """A kernel as it goes with each task to a worker."""
    return msgspec.msgpack.encode(spec)


def digest(spec: KernelSpec) -> str:
    """SHA-256 of all that a kernel is, but for what tuning found of it: a trial of one digest says nothing of another."""
    return hashlib.sha256(encoded(msgspec.structs.replace(spec, tuned=()))).hexdigest()


@lru_cache(maxsize=256)
def decoded(program: bytes) -> KernelSpec:
    """The reverse; the same object for the same bytes, so that its formulas are parsed once."""
    return msgspec.msgpack.decode(program, type=KernelSpec)


def number(value: Any, dtype: str, field: str, kernel: str) -> Number:
    """`value` as a scalar of `dtype`. Raises `InvalidParameter` naming `field`."""
    if dtype == "bool":
        if isinstance(value, bool):
            return value
        raise InvalidParameter(f"`{field}` of {kernel} must be true or false, not {value!r:.60}", field=field)
    if isinstance(value, str):
        value = _NONFINITE.get(value, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidParameter(f"`{field}` of {kernel} must be a number ({dtype}), not {value!r:.60}", field=field)
    if "float" in dtype:
        return float(value) if abs(value) < 1e308 or not isinstance(value, int) else float("inf")
    if isinstance(value, float):
        if not isfinite(value) or not value.is_integer():
            raise InvalidParameter(f"`{field}` of {kernel} must be a whole number ({dtype}), not {value!r:.60}", field=field)
        value = int(value)
    whole: int = value
    bits = 8 * ITEMSIZE[dtype]
    low, high = (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not low <= whole <= high:
        raise InvalidParameter(f"`{field}` of {kernel} is {whole!r:.60}, and {dtype} holds {low} to {high}", field=field)
    return whole


def _told(sizes: Sequence[Dimension]) -> str:
    return f"[{', '.join(size.text for size in sizes)}]"
