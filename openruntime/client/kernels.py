"""Kernels of the user's own: `rt.kernels.add(...)`, then `rt.run(name, ...)` or `rt.name(...)` like any operation."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack
from urllib.parse import quote

from openruntime.client.connection import Connection
from openruntime.client.task import AsyncTask
from openruntime.contracts.errors import InvalidParameter

COMPILING = 110.0  # seconds that a server may take to answer: its compiler has 60, and it may only just have started

Argument = str | Mapping[str, Any]
"""`"x: float32[n, m]"`, a scalar as `"a: float32"`; or `{"name", "dtype", "shape"}`."""
Size = int | str
Reference = str | Mapping[str, Any]


class Given(TypedDict, total=False):
    """What a kernel is, beside its name; see `AsyncKernels.add`. All but scalars, local, options and reference must be given."""

    language: Required[str]
    source: Required[str]
    inputs: Required[Sequence[Argument]]
    outputs: Required[Sequence[Argument]]
    grid: Required[Sequence[Size] | Size]
    scalars: Sequence[Argument]
    local: Sequence[Size] | Size
    options: Sequence[str] | str
    reference: Reference | None


Progress = Callable[[float, str | None], None]


class VerifyOptions(TypedDict, total=False):
    """See `AsyncKernels.verify`."""

    sizes: Sequence[Mapping[str, int]]
    seed: int
    launch: float
    limit: float
    device: str | None
    priority: int


class TuneOptions(TypedDict, total=False):
    """See `AsyncKernels.tune`."""

    sizes: Mapping[str, int] | None
    baseline: str | None
    rounds: int
    seed: int
    launch: float
    limit: float
    device: str | None
    priority: int


_ARGUMENT = re.compile(r"\s*(\w+)\s*:\s*(\w+)\s*(?:\[(.*)\])?\s*", re.DOTALL)


class AsyncKernels:
    """Kernels of your own: `rt.kernels`. Each is then an operation: `await rt.run(name, ...)`."""

    def __init__(self, connection: Connection, changed: Callable[[], None]) -> None:
        self._connection = connection
        self._changed = changed

    async def add(self, name: str, **given: Unpack[Given]) -> dict[str, Any]:
        """Register a kernel, or a new version of one: it is compiled before this returns.

        Its entry point is called `name` and takes inputs, outputs and scalars in that order, each given as `"x: float32[n, m]"` (a scalar as
        `"a: float32"`), sizes as whole numbers or formulas of the symbols that inputs' shapes bind. `grid` is how many work-items run, `local`
        how many a work-group has. Answers what the server knows of it; `["compiled"]["cache"]` says whether the disk had it.

        Raises `CompileError` (its `log` and `lines` say what and where), `InvalidParameter`, `NoSuchDevice` where nothing runs the language.
        """
        document: dict[str, Any] = {"name": name, **given}
        for part in ("inputs", "outputs", "scalars"):
            if part in given:
                document[part] = [_argument(item, part, i) for i, item in enumerate(document[part])]
        for part in ("grid", "local"):
            if isinstance(document.get(part), int | str):
                document[part] = [document[part]]
        made: dict[str, Any] = await self._connection.json("POST", "/kernels", document, wait=COMPILING)
        self._changed()
        return made

    async def all(self) -> list[dict[str, Any]]:
        """Every kernel, without its source."""
        return list((await self._connection.json("GET", "/kernels"))["kernels"])

    async def get(self, name: str) -> dict[str, Any]:
        """A kernel with its source. Raises `NotFound`."""
        found: dict[str, Any] = await self._connection.json("GET", f"/kernels/{quote(name, safe='')}")
        return found

    async def remove(self, name: str) -> None:
        """Give a kernel up; tasks that were submitted before still run. Raises `NotFound`."""
        await self._connection.json("DELETE", f"/kernels/{quote(name, safe='')}")
        self._changed()

    async def verify(self, name: str, *, progress: Progress | None = None, **options: Unpack[VerifyOptions]) -> dict[str, Any]:
        """Compare a kernel with its reference, and wait: the report. `["ok"]` says whether it does what it should, `["verdict"]` why not.

        `sizes`: some to try besides, each a value for every symbol; `seed` of the inputs (a report's own repeats it; drawn anew unless given);
        `launch` and `limit`: seconds that one run and all of it may take; `progress` is called with a fraction and what is being tried.
        Raises `NotFound`, `InvalidParameter`, `TaskFailed`.
        """
        return await self._tried("verify", name, dict(options), progress)

    async def tune(self, name: str, *, progress: Progress | None = None, **options: Unpack[TuneOptions]) -> dict[str, Any]:
        """Search the best values of what a kernel leaves open, and wait: the report. Later runs on that device use `["winner"]`.

        `sizes` to tune for; `baseline`: a kernel with the same signature that gains are told against; else as `verify`.
        """
        return await self._tried("tune", name, dict(options), progress)

    async def _tried(self, kind: str, name: str, options: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
        if "device" in options:
            options["device_preference"] = options.pop("device")
        path = f"/kernels/{quote(name, safe='')}/{kind}"
        response = await self._connection.json("POST", path, options)
        task = AsyncTask(self._connection, response["task_id"], f"{kind}_kernel")
        try:
            while not task.done():
                await task.status(wait=1)
                if progress is not None and task.progress is not None:
                    progress(task.progress, task.message)
        except asyncio.CancelledError:
            await asyncio.shield(task.cancel())
            raise
        if task.error is not None:
            raise task.error
        self._changed()
        report: dict[str, Any] = await self._connection.json("GET", path, query={"task_id": task.task_id})
        return report


def _argument(given: Argument, part: str, index: int) -> dict[str, Any]:
    """As the API wants it. Raises `InvalidParameter` naming the part."""
    if isinstance(given, Mapping):
        return dict(given)
    found = _ARGUMENT.fullmatch(given) if isinstance(given, str) else None
    scalar = part == "scalars"
    if found is None or (found[3] is None) is not scalar:
        shape = "'a: float32'" if scalar else "'x: float32[n, m]'"
        raise InvalidParameter(f"`{part}.{index}` must be like {shape}, not {given!r:.80}", field=f"{part}.{index}")
    name, dtype, shape = found.groups()
    return {"name": name, "dtype": dtype} | ({} if scalar else {"shape": [_size(size) for size in _split(shape)]})


def _split(sizes: str) -> list[str]:
    """At the commas outside of parentheses."""
    return [size for size in re.split(r",(?![^(]*\))", sizes) if size.strip()]


def _size(text: str) -> Size:
    return int(text) if text.strip().isdigit() else text.strip()
