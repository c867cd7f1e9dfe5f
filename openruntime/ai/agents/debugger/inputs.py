"""The arrays of a task that is debugged: what they are, and what they hold, as tasks on the server find out."""

from collections.abc import Mapping
from math import isfinite
from typing import Any
from urllib.parse import quote

import msgspec

from openruntime.ai.agents.debugger.findings import Statistics
from openruntime.ai.agents.experiments import EPSILON, SAFETENSORS, Bench, Request, as_number
from openruntime.contracts import nested, safetensors
from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.payload import Array

MOST_CONDITION = 1500  # rows of a matrix whose condition number is computed: the time grows with their cube
MOST_BYTES = 64 << 20  # of an input that is fetched to be made smaller
MATRICES = frozenset({"solve", "inv", "det", "cholesky", "lstsq", "qr", "svd", "eigh"})
SYMMETRIC = frozenset({"cholesky", "eigh"})


async def arrays_of(bench: Bench, operation: str, parameters: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Array parameters as references, lists uploaded; and the others as they are."""
    schema = (await bench.client.get(f"/operations/{quote(operation, safe='')}"))["parameters"]
    known, rest = schema.get("properties", {}), schema.get("additionalProperties") or {}
    arrays: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for name, value in parameters.items():
        entry = known.get(name, rest if isinstance(rest, Mapping) else {})
        is_array = "x-kind" in entry or (name not in known and isinstance(value, Mapping))
        if isinstance(value, Mapping) and value.keys() & {"tensor", "task"}:
            arrays[name] = dict(value)
        elif is_array and entry.get("x-kind") != "arrays" and isinstance(value, list):
            arrays[name] = await bench.upload(nested.to_array(value, name))
        else:
            plain[name] = value
    return arrays, plain


class Looking:
    """Statistics by tasks. `operation` says whether matrices matter."""

    def __init__(self, bench: Bench, operation: str) -> None:
        self._bench = bench
        self._operation = operation

    async def look(self, name: str, reference: Mapping[str, Any]) -> Statistics:
        """Raises what the server refuses: an array that is gone."""
        x = dict(reference)
        same = await self._bench.must(Request("expression", {"formula": "x == x", "x": x}))
        value = next(iter(same["result"].values()))
        dtype = await self._dtype(x)
        found = Statistics(name, dtype, _shape(value), tasks=[same["task_id"]])
        if not found.size:
            found.note = "it is empty"
            return found
        if dtype.startswith("complex"):
            x = {"task": (await self._bench.must(Request("expression", {"formula": "abs(x)", "x": x})))["task_id"]}
            found.note = "complex: least and largest are of magnitudes"
        if dtype == "bool":
            found.zeros = int(await self._bench.reduced("sum", "where(x, 0, 1)", x))
            return found
        await self._numbers(found, x, floating="int" not in dtype)
        if len(found.shape) >= 2 and self._operation in MATRICES and not dtype.startswith("complex") and name in ("a", "x"):
            await self._matrix(found, reference)
        return found

    async def _dtype(self, x: Mapping[str, Any]) -> str:
        """Of a call whose arrays all have it."""
        done = await self._bench.must(Request("expression", {"formula": "where(x == x, x, x)", "x": dict(x)}))
        dtype: str = (await self._bench.explain(done["task_id"]))["dtype"]
        return dtype

    async def _numbers(self, found: Statistics, x: dict[str, Any], *, floating: bool) -> None:
        reduced = self._bench.reduced
        finite = "((x - x) == 0)" if floating else "(x == x)"
        if floating:
            found.nan = int(await reduced("sum", "where(x != x, 1, 0)", x))
            found.infinite = int(await reduced("sum", f"where({finite}, 0, 1)", x)) - found.nan
        found.zeros = int(await reduced("sum", "where(x == 0, 1, 0)", x))
        count = found.size - found.nan - found.infinite
        if not count:
            return
        if not floating:
            found.low, found.high = await reduced("min", "x + 0", x), await reduced("max", "x + 0", x)
            found.mean = await self._bench.number("mean", x=await self._bench.widened(x, "float32"))
            return
        found.low = await reduced("min", f"where({finite}, x, inf)", x)
        found.high = await reduced("max", f"where({finite}, x, -inf)", x)
        if found.zeros < count:
            found.smallest = await reduced("min", f"where({finite} & (x != 0), abs(x), inf)", x)
        wide = await self._bench.widened(x, "float32")
        found.mean = await reduced("sum", "where((x - x) == 0, x, 0.0)", wide) / count
        squares = await self._of_mean(wide, found.mean)
        found.std = (squares / count) ** 0.5 if isfinite(squares) else None

    async def _of_mean(self, wide: dict[str, Any], mean: float) -> float:
        formula = "where((x - x) == 0, (x - m)*(x - m), 0.0)"
        done = await self._bench.must(Request("expression", {"formula": formula, "x": wide, "m": mean}))
        return await self._bench.number("sum", x={"task": done["task_id"]})

    async def _matrix(self, found: Statistics, reference: Mapping[str, Any]) -> None:
        """Condition, rank, symmetry. In double precision."""
        rows, columns = found.shape[-2:]
        if found.nan or found.infinite:
            found.note = "no condition number: it holds NaN or infinities"
            return
        if max(rows, columns) > MOST_CONDITION or not rows or not columns:
            found.note = f"no condition number: more than {MOST_CONDITION} rows or columns"
            return
        wide = await self._bench.widened(reference, "float32")
        done = await self._bench.must(Request("svd", {"x": wide}))
        values = {"task": done["task_id"], "output": "s"}
        found.tasks.append(done["task_id"])
        least = await self._bench.must(Request("min", {"x": values, "axis": -1}))
        most = await self._bench.must(Request("max", {"x": values, "axis": -1}))
        small, large = {"task": least["task_id"]}, {"task": most["task_id"]}
        ratio = await self._bench.must(Request("expression", {"formula": "where(s > 0.0, l/s, inf)", "s": small, "l": large}))
        found.condition = await self._bench.number("max", x={"task": ratio["task_id"]})
        if len(found.shape) == 2:
            cut = max(rows, columns) * EPSILON.get(found.dtype, EPSILON["float64"]) * as_number(next(iter(most["result"].values())))
            over = await self._bench.must(Request("expression", {"formula": "where(s > c, 1, 0)", "s": values, "c": cut}))
            found.rank = int(await self._bench.number("sum", x={"task": over["task_id"]}))
        if rows == columns and self._operation in SYMMETRIC and len(found.shape) == 2:
            turned = await self._bench.must(Request("einsum", {"subscripts": "ij->ji", "a": wide}))
            found.symmetric = await self._bench.difference(wide, {"task": turned["task_id"]}) <= 8 * EPSILON.get(found.dtype, 0.0)
            if found.symmetric:
                done = await self._bench.must(Request("eigh", {"x": wide}))
                found.eigenvalue = await self._bench.number("min", x={"task": done["task_id"], "output": "eigenvalues"})


def _shape(value: Any) -> list[int]:
    if isinstance(value, Mapping) and "shape" in value:
        return list(value["shape"])
    found = []
    while isinstance(value, list):
        found.append(len(value))
        value = value[0] if value else None
    return found


async def fetched(bench: Bench, arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, Array] | None:
    """Their bytes; None where they are too many. Raises `Expired` and the like."""
    found: dict[str, Array] = {}
    for name, reference in arrays.items():
        array = await bench.fetch(reference)
        found[name] = Array(array.dtype, array.shape, bytes(array.view))
        if sum(each.nbytes for each in found.values()) > MOST_BYTES:
            return None
    return found


async def submitted(bench: Bench, request: Request, arrays: Mapping[str, Array], **fields: Any) -> dict[str, Any]:
    """A task with arrays as bytes, which stay nowhere; waited for. One that is refused is `failed` with the refusal's code."""
    body = {"operation": request.operation, "parameters": request.parameters, **fields}
    if request.device is not None:
        body["device_preference"] = request.device
    headers = {"Content-Type": SAFETENSORS, "Accept": "application/json", "Prefer": "wait=10", "Cache-Control": "no-store"}
    content = safetensors.encode(arrays, {"task": msgspec.json.encode(body).decode()})
    try:
        _, _, answer = await bench.client.send("POST", "/tasks", headers, content)
    except OpenRuntimeError as error:
        return {"status": "failed", "code": error.code, "error": error.message, "task_id": ""}
    return await bench.ended(msgspec.json.decode(bytes(answer)))
