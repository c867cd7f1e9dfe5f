"""Tasks that an agent runs to find something out: measured in turns, compared on the server, with figures that say how far they can be trusted."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from math import comb
from statistics import median, quantiles
from typing import Any
from urllib.parse import quote

import msgspec

from openruntime.contracts import safetensors
from openruntime.contracts.agents import Client
from openruntime.contracts.errors import OpenRuntimeError, TaskFailed, error_class
from openruntime.contracts.payload import Array, Buffer

JSON = "application/json"
SAFETENSORS = "application/x-safetensors"
WAIT = 10.0  # seconds that one request for a task's end is held
NO_CACHE = {"Cache-Control": "no-store"}
SURE = 0.95  # of an interval
BEYOND = 1.1  # of a ceiling, which is measured too
WARM = 2  # runs before those that count
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52, "complex64": 2.0**-23, "complex128": 2.0**-52}
WIDER = {"float16": "float64", "bfloat16": "float64", "float32": "float64", "complex64": "complex128"}

Parameters = Mapping[str, Any]


class Times(msgspec.Struct):
    """What one variant took, run by run: seconds that it occupied its device (transfers included), and the tasks that it was."""

    seconds: list[float] = []
    tasks: list[str] = []
    device: str = ""
    backend: str = ""
    achieved: dict[str, Any] = {}

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        return quartiles(self.seconds)


class Ratio(msgspec.Struct, frozen=True):
    """How many times faster: the median of the rounds' own ratios, and an interval that holds it in 95 of 100 cases."""

    value: float
    low: float
    high: float

    @property
    def counts(self) -> bool:
        return self.low > 1.0


class Request(msgspec.Struct, frozen=True):
    """A task to be."""

    operation: str
    parameters: dict[str, Any]
    device: str | None = None


class Bench:
    """Runs tasks through `client`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.wide: dict[str, str] = {}

    async def task(self, request: Request, **fields: Any) -> dict[str, Any]:
        """The `TaskResponse` of a task that was computed anew, whatever it ended with."""
        body: dict[str, Any] = {"operation": request.operation, "parameters": request.parameters, **fields}
        if request.device is not None:
            body["device_preference"] = request.device
        found: dict[str, Any] = await self.client.post("/tasks", body, wait=WAIT, headers=NO_CACHE)
        return await self.ended(found)

    async def ended(self, found: dict[str, Any]) -> dict[str, Any]:
        while found["status"] not in ("completed", "failed", "cancelled"):
            found = await self.client.get(f"/tasks/{found['task_id']}", wait=f"{WAIT:g}")
        return found

    async def must(self, request: Request, **fields: Any) -> dict[str, Any]:
        """The same of one that has to complete. Raises what it failed with."""
        found = await self.task(request, **fields)
        if found["status"] != "completed":
            cls = error_class(found.get("code") or "operation_failed", task=True)
            message = f"{request.operation}: {found.get('error') or found['status']}"
            raise cls(message) if issubclass(cls, TaskFailed) else TaskFailed(message)
        return found

    async def number(self, operation: str, **parameters: Any) -> float:
        """What an operation with one number as its output gives, computed on the server."""
        found = await self.must(Request(operation, parameters))
        return as_number(next(iter(found["result"].values())))

    async def explain(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.client.get(f"/tasks/{quote(task_id, safe='')}/explain")
        return found

    async def upload(self, array: Array) -> dict[str, Any]:
        """An array as a parameter."""
        body = safetensors.encode({"tensor": array})
        headers = {"Content-Type": SAFETENSORS, "Accept": JSON}
        _, _, answer = await self.client.send("POST", "/tensors", headers, body)
        return {"tensor": msgspec.json.decode(bytes(answer))["tensors"]["tensor"]["id"]}

    async def fetch(self, reference: Mapping[str, Any]) -> Array:
        """The bytes behind a parameter: a kept tensor, or a task's output. Raises `NotFound`, `Expired`."""
        if "tensor" in reference:
            path, name = f"/tensors/{quote(str(reference['tensor']), safe='')}", None
        else:
            path, name = f"/tasks/{quote(str(reference['task']), safe='')}/result", reference.get("output")
        _, _, body = await self.client.send("GET", path, {"Accept": SAFETENSORS})
        arrays, _ = safetensors.decode(body)
        return arrays[name] if name else next(iter(arrays.values()))

    async def shape(self, reference: Mapping[str, Any]) -> tuple[str, tuple[int, ...]] | None:
        """dtype and shape of a kept tensor; None where it cannot be told without fetching it."""
        if "tensor" not in reference:
            return None
        after: str | None = None
        for _ in range(10):
            page = await self.client.get("/tensors", limit=1000, cursor=after)
            for entry in page["tensors"]:
                if entry["id"] == reference["tensor"]:
                    return entry["dtype"], tuple(entry["shape"])
            if (after := page.get("next")) is None:
                break
        return None

    async def widened(self, reference: Mapping[str, Any], dtype: str) -> dict[str, Any]:
        """The same numbers in double precision, as a new task's output."""
        one: Any = [{"real": 1.0, "imag": 0.0}] if dtype.startswith("complex") else [1.0]
        found = await self.must(Request("expression", {"formula": "x * one", "x": dict(reference), "one": one}))
        return {"task": found["task_id"]}

    async def measured(self, variants: Mapping[str, Request], rounds: int, pause: float = 0.0) -> dict[str, Times]:
        """Each variant in turns, each round beginning with another, so that what slows the machine slows all alike. After some to get warm.

        Raises what a variant fails with."""
        names = list(variants)
        times = {name: Times([], []) for name in names}
        for name in names:
            for _ in range(WARM):
                await self.must(variants[name])
        for number in range(rounds):
            for place in range(len(names)):
                name = names[(number + place) % len(names)]
                found = await self.must(variants[name])
                why = await self.explain(found["task_id"])
                own = times[name]
                own.seconds.append(why["actual"])
                own.tasks.append(found["task_id"])
                own.device, own.backend = found["device_used"], found["backend"]
                achieved = believed(found.get("achieved") or {})
                if achieved.get("fraction") is not None or not own.achieved:
                    own.achieved = achieved
            if pause:
                await asyncio.sleep(pause)
        return times

    async def difference(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        """The largest difference of two arrays, over the largest magnitude of the first; infinite where NaN or infinities stand elsewhere."""
        together = {"a": dict(one), "b": dict(other)}
        odd = await self._of("sum", "((a != a) != (b != b)) | (((a - a) != 0.0) & (a == a) & (a != b))", together)
        if odd:
            return math.inf
        apart = await self._of("max", "where(((a - a) == 0.0) & ((b - b) == 0.0), abs(a - b), 0.0)", together)
        if not apart:
            return 0.0
        scale = await self._of("max", "where((a - a) == 0.0, abs(a), 0.0)", {"a": dict(one)})
        return apart / scale if scale else math.inf

    async def _of(self, reduction: str, formula: str, arrays: Mapping[str, Any]) -> float:
        """A formula over arrays, reduced to one number."""
        found = await self.must(Request("expression", {"formula": formula, **arrays}))
        return await self.number(reduction, x={"task": found["task_id"]})

    async def reduced(self, reduction: str, formula: str, x: Mapping[str, Any]) -> float:
        return await self._of(reduction, formula, {"x": dict(x)})


def as_number(value: Any) -> float:
    """As JSON has it: NaN and the infinities are words, an array of one element is a list."""
    while isinstance(value, list):
        if not value:
            return math.nan
        value = value[0]
    if isinstance(value, Mapping):
        return math.hypot(as_number(value["real"]), as_number(value["imag"]))
    return float({"Infinity": "inf", "-Infinity": "-inf"}.get(value, value)) if isinstance(value, str) else float(value)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4)
    return low, high


def ratio(baseline: Sequence[float], other: Sequence[float]) -> Ratio:
    """How many times faster `other` is, by pairs of one round each.

    The interval is that of the median by order statistics, which supposes nothing of how times are spread (Conover, "Practical Nonparametric
    Statistics", 3rd edition, section 3.2).
    """
    pairs = sorted(b / o for b, o in zip(baseline, other, strict=True) if o > 0)
    if not pairs:
        return Ratio(1.0, 0.0, math.inf)
    cut = _cut(len(pairs))
    if cut is None:
        return Ratio(median(pairs), 0.0, math.inf)
    return Ratio(median(pairs), pairs[cut], pairs[len(pairs) - 1 - cut])


def _cut(count: int) -> int | None:
    """How many of the extremes on each side lie outside of the interval; None where there are too few values for one."""
    outside, found = 0.0, None
    for k in range(count // 2):
        outside += comb(count, k) / 2.0**count
        if 2 * outside > 1 - SURE:
            break
        found = k
    return found


def problem(error: OpenRuntimeError) -> str:
    return f"{error.code}: {error.message}"


def sliced(array: Array, axis: int, start: int, stop: int) -> Array:
    """A part along one axis, from its bytes alone."""
    outer = math.prod(array.shape[:axis])
    length = array.shape[axis]
    inner = array.nbytes // (outer * length) if outer * length else 0
    data: Buffer = array.view
    part = b"".join(data[(o * length + start) * inner : (o * length + stop) * inner] for o in range(outer))
    return Array(array.dtype, (*array.shape[:axis], stop - start, *array.shape[axis + 1 :]), part)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Markdown."""

    def line(cells: Sequence[Any]) -> str:
        told = [str(cell).replace("|", "\\|") for cell in cells]
        return f"| {' | '.join(told)} |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def seconds(value: float) -> str:
    return f"{value * 1e6:.3g} µs" if value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def believed(achieved: Mapping[str, Any]) -> dict[str, Any]:
    """What a task `achieved`; without the fraction where that is beyond what can be: the ceiling was measured too low."""
    fraction = achieved.get("fraction")
    if fraction is None or fraction <= BEYOND:
        return dict(achieved)
    return {**achieved, "fraction": None, "reason": f"it is {fraction:.1f} times the ceiling that was measured, which is too low then"}


def roofline(achieved: Mapping[str, Any]) -> str:
    """What a task `achieved`, as a person reads it."""
    if achieved.get("fraction") is not None:
        return f"{achieved['fraction']:.1%} of the roofline ({achieved.get('bound')})"
    return f"not known ({achieved.get('reason') or 'no ceiling was measured'})"
