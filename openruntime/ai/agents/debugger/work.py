"""Collects what can be known of a task that failed, was slow or gave a wrong result; runs it again otherwise; makes its input smaller."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from statistics import median
from typing import Any
from urllib.parse import quote

from openruntime.ai.agents.debugger.causes import causes
from openruntime.ai.agents.debugger.findings import Diagnosis, Neighbours, Rerun, Shrunk
from openruntime.ai.agents.debugger.inputs import Looking, arrays_of, fetched, submitted
from openruntime.ai.agents.debugger.past import device_past, timeline
from openruntime.ai.agents.debugger.shrinking import FEW, Arrays, Shrinking
from openruntime.ai.agents.experiments import EPSILON, Bench, Request, problem
from openruntime.contracts import nested
from openruntime.contracts.errors import NotFound, OpenRuntimeError

RERUN = 60.0  # seconds that one more run may take at most
PATIENCE = 10  # seconds that it may take to its end, if it has not ended
LEAST = 10.0  # of these it always may
LONG = 0.1  # seconds, below which nobody complains of a task
TRIES = 120  # inputs that shrinking tries
DEADLY = 8  # of them where each ends a worker
ELSEWHERE = 3  # other places that it is run on
PAGE = 100  # tasks that are looked at around it
GONE = (
    "its inputs: history does not keep what a task was given. Send them again as `parameters` of this request (lists, tensors or tasks' outputs), "
    "and it is run again, its arrays are looked at, and its input is made smaller"
)
STRANGE = "where((x - x) == 0, 0, 1)"


class Debugging:
    """For one task. `parameters`: what it was given; `expected`: a reference operation for its result; `complaint`: failed, wrong or slow."""

    def __init__(
        self, bench: Bench, task_id: str, parameters: Mapping[str, Any] | None = None, *, complaint: str = "",
        expected: Mapping[str, Any] | None = None, found: Diagnosis | None = None, progress: Callable[[float | None, str], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        self._bench, self._parameters, self._expected, self._progress = bench, parameters, expected, progress
        self.found = found or Diagnosis(task_id)
        self.found.task_id, self.found.complaint = task_id, complaint
        self._arrays: dict[str, dict[str, Any]] = {}
        self._plain: dict[str, Any] = {}
        self._kernel: dict[str, Any] | None = None

    async def debug(self) -> Diagnosis:
        """All of it. Raises `NotFound` where there is no such task."""
        found = self.found
        await self._collect()
        try:
            await self._look()
            found.causes = causes(found)
            await self._run_again()
            found.causes = causes(found)
            await self._shrink()
        finally:
            found.causes = causes(found)
        return found

    @property
    def _operation(self) -> str:
        return str(self.found.task["operation"])

    @property
    def _failed(self) -> bool:
        return bool(self.found.task["status"] == "failed")

    async def _part(self, what: str, doing: Any) -> None:
        """What cannot be found out is said, and the rest goes on."""
        try:
            await doing
        except OpenRuntimeError as error:
            self.found.missing.append(f"{what} ({problem(error)})")

    # -- what is known

    async def _collect(self) -> None:
        found, task_id = self.found, quote(self.found.task_id, safe="")
        self._progress(0.05, "collecting what is known")
        found.task = await self._bench.client.get(f"/tasks/{task_id}", wait=PATIENCE)
        if found.task["status"] in ("queued", "running", "cancelling"):
            found.missing.append(f"its end: it is {found.task['status']}")
        found.explain = await self._bench.explain(found.task_id)
        trace = (await self._bench.client.get(f"/tasks/{task_id}/trace"))["traceEvents"]
        found.timeline = timeline(found.task, trace, found.explain)
        await self._part("what its device did meanwhile", self._neighbours())
        if found.task.get("device_used") is not None:
            await self._part("how its device has been lately", self._past(str(found.task["device_used"])))

    async def _past(self, device: str) -> None:
        past = self.found.device = await device_past(self._bench, device, self.found.task_id)
        if past.temperature is None and self.found.complaint == "slow":
            self.found.missing.append(f"the temperature of {device}: it does not tell it")

    def _took_long(self) -> bool:
        why = self.found.explain
        stages: dict[str, float] = why.get("stages") or {}
        whole = sum(stages.values())
        predicted = why.get("predicted") or 0.0
        return whole > LONG and (whole > 3 * predicted or stages.get("queue", 0.0) > 0.5 * whole)

    async def _neighbours(self) -> None:
        task = self.found.task
        device = task.get("device_used")
        begun, ended = _epoch(task.get("created_at")), _epoch(task.get("finished_at"))
        if device is None or begun is None:
            return
        near = self.found.neighbours = Neighbours(device)
        before = await self._bench.client.get("/tasks", device=device, limit=PAGE, cursor=self.found.task_id)
        newest = await self._bench.client.get("/tasks", device=device, limit=PAGE)
        listed = {other["task_id"]: other for other in (*before["tasks"], *newest["tasks"])}
        listed.pop(self.found.task_id, None)
        for other in listed.values():
            start, stop = _epoch(other.get("created_at")), _epoch(other.get("finished_at"))
            if start is None or (ended is not None and start > ended) or (stop is not None and stop < begun):
                continue
            near.overlapping += 1
            near.busy += other.get("execution_time") or 0.0
            near.examples = [*near.examples, other["task_id"]][:5]
            if other["status"] == "failed":
                near.failed[other["code"]] = near.failed.get(other["code"], 0) + 1
        alike = await self._bench.client.get("/tasks", operation=task["operation"], status="completed", limit=PAGE)
        took = [o["execution_time"] for o in alike["tasks"] if o["execution_time"] and o["task_id"] != self.found.task_id and not o["cached"]]
        if took:
            near.usual, near.usual_runs = median(took), len(took)

    # -- its arrays

    async def _look(self) -> None:
        found = self.found
        self._progress(0.2, "looking at its arrays")
        looking = Looking(self._bench, self._operation)
        if not self._failed:
            outputs = (found.task.get("result") or {}).keys()
            if not outputs and found.task["status"] == "completed":
                found.missing.append("its result: it is no longer kept")
            for name in outputs:
                await self._part(f"its output `{name}`", self._add(found.outputs, looking, name, {"task": found.task_id, "output": name}))
        if not found.complaint:
            strange = any(array.nan or array.infinite for array in found.outputs)
            found.complaint = "failed" if self._failed else "slow" if self._took_long() and not strange else "wrong"
        if self._parameters is None:
            found.missing.append(GONE)
            return
        try:
            self._arrays, self._plain = await arrays_of(self._bench, self._operation, self._parameters)
        except OpenRuntimeError as error:
            found.missing.append(f"its inputs ({problem(error)})")
            self._parameters = None
            return
        for name, reference in self._arrays.items():
            await self._part(f"its input `{name}`", self._add(found.inputs, looking, name, reference))
        await self._part("whether it is a kernel", self._is_kernel())

    async def _add(self, into: list[Any], looking: Looking, name: str, reference: Mapping[str, Any]) -> None:
        into.append(await looking.look(name, reference))

    async def _is_kernel(self) -> None:
        try:
            self._kernel = await self._bench.client.get(f"/kernels/{quote(self._operation, safe='')}")
        except NotFound:
            return

    # -- otherwise

    def _request(self, device: str | None = None) -> Request:
        return Request(self._operation, {**self._plain, **self._arrays}, device)

    async def _run_again(self) -> None:
        if self._kernel is None and self._parameters is None:
            await self._part("whether it is a kernel", self._is_kernel())
        if self._kernel is not None and self.found.complaint != "slow":
            await self._part("verifying the kernel", self._verify())
        if self._parameters is None:
            return
        self._progress(0.4, "running it again")
        here = f"{self.found.explain.get('device')}/{self.found.explain.get('backend')}" if self.found.explain.get("device") else None
        await self._part("another run", self._rerun("again", self._request(here if self._kernel is None else None)))
        if self._kernel is None:
            for place in await self._places(here):
                await self._part(f"a run on {place}", self._rerun("elsewhere", self._request(place)))
            await self._part("a run in float64", self._in_double(here))
        await self._part("the reference", self._compare())

    async def _places(self, here: str | None) -> list[str]:
        try:
            devices = (await self._bench.client.get("/devices"))["devices"]
            having = (await self._bench.client.get(f"/operations/{quote(self._operation, safe='')}")).get("backends", [])
        except OpenRuntimeError:
            return []
        places = [f"{device['id']}/{backend}" for device in devices for backend in device["backends"] if backend in having]
        if len(places) <= 1:
            self.found.missing.append("another backend: nothing else on this server runs the operation")
        return [place for place in places if place != here][:ELSEWHERE]

    @property
    def _patience(self) -> float:
        """Seconds for one more run."""
        return min(RERUN, max(LEAST, 3 * (self.found.explain.get("predicted") or 0.0)))

    async def _rerun(self, how: str, request: Request) -> None:
        if how != "again" and self.found.reruns and self.found.reruns[0].code == "timeout":
            return
        done = await self._bench.task(request, timeout=self._patience)
        run = Rerun(how, f"{done['device_used']}/{done['backend']}" if done["device_used"] else request.device or "", done["status"], done["task_id"])
        run.code, run.error, run.seconds = done.get("code"), done.get("error"), done.get("execution_time")
        self.found.reruns.append(run)
        if done["status"] != "completed":
            return
        outputs = list(done["result"])
        run.strange = 0
        for name in outputs:
            value = {"task": done["task_id"], "output": name}
            run.strange += int(await self._bench.reduced("sum", STRANGE, value))
            if self.found.task["status"] == "completed" and name in (self.found.task.get("result") or {}):
                apart = await self._bench.difference(value, {"task": self.found.task_id, "output": name})
                run.apart = max(run.apart or 0.0, apart)

    async def _in_double(self, here: str | None) -> None:
        narrow = [array for array in self.found.inputs if array.dtype in ("float16", "bfloat16", "float32", "complex64")]
        if not narrow:
            return
        wide = {**self._arrays}
        for array in narrow:
            wide[array.name] = await self._bench.widened(self._arrays[array.name], array.dtype)
        try:
            await self._rerun("float64", Request(self._operation, {**self._plain, **wide}, here))
        except OpenRuntimeError:  # a library without double precision
            await self._rerun("float64", Request(self._operation, {**self._plain, **wide}))

    async def _verify(self) -> None:
        if self._kernel is None or self._kernel.get("reference") is None:
            self.found.missing.append("whether the kernel is right: it names no `reference`")
            return
        self._progress(0.5, "verifying the kernel")
        path = f"/kernels/{quote(self._operation, safe='')}/verify"
        done = await self._bench.ended(await self._bench.client.post(path, {"limit": RERUN}))
        if done["status"] == "completed":
            report = await self._bench.client.get(path, task_id=done["task_id"])
            self.found.verification = {name: report[name] for name in ("ok", "verdict", "findings", "worst", "task_id")}

    async def _compare(self) -> None:
        """With the operation that somebody named as its reference, or the kernel's own."""
        given = self._expected
        if given is None and self._kernel is not None and self._kernel.get("reference") is not None:
            given = _as_operation(self._kernel["reference"], self._kernel, {**self._plain, **self._arrays}, self.found.inputs)
        again = next((run for run in self.found.reruns if run.how == "again" and run.status == "completed"), None)
        own = {"task": self.found.task_id} if self.found.task["status"] == "completed" else {"task": again.task} if again else None
        if given is None or own is None:
            return
        parameters = given.get("parameters") or {**self._plain, **self._arrays}
        done = await self._bench.must(Request(str(given["operation"]), dict(parameters)), timeout=RERUN)
        apart = await self._bench.difference({"task": done["task_id"]}, own)
        allowed = 1e3 * EPSILON.get(self.found.explain.get("dtype", ""), 1e-12)
        self.found.reference = {"what": str(given["operation"]), "task": done["task_id"], "apart": apart, "allowed": allowed}

    # -- smaller

    async def _shrink(self) -> None:
        found = self.found
        again = next((run for run in found.reruns if run.how == "again"), None)
        if self._parameters is None or again is None or not self._arrays or found.complaint == "slow":
            return
        if self._failed and again.code != found.task["code"]:
            return
        if again.code == "timeout" or (not self._failed and not again.strange):
            return
        whole = await fetched(self._bench, self._arrays)
        if whole is None:
            found.missing.append("a smaller input: these are too large to be fetched")
            return
        self._progress(0.7, "making its input smaller")
        place = again.place if "/" in again.place and self._kernel is None else None
        wanted = _skeleton(again.error or "")

        async def fails(arrays: Arrays) -> bool:
            done = await submitted(self._bench, Request(self._operation, dict(self._plain), place), arrays, timeout=RERUN)
            found_strange = False
            if not self._failed and done["status"] == "completed":
                for name in done["result"]:
                    found_strange |= bool(await self._bench.reduced("sum", STRANGE, {"task": done["task_id"], "output": name}))
                return found_strange
            same = done["status"] == "failed" and done.get("code") == again.code
            return self._failed and same and (again.code == "worker_crashed" or _skeleton(done.get("error") or "") == wanted)

        shrinking = Shrinking(fails, DEADLY if again.code in ("worker_crashed", "out_of_memory") else TRIES)
        try:
            small = await shrinking.shrink(whole)
        except OpenRuntimeError as error:
            found.missing.append(f"a smaller input ({problem(error)})")
            small = shrinking.best
        found.shrunk = Shrunk(
            {name: list(array.shape) for name, array in whole.items()}, {name: list(array.shape) for name, array in small.items()},
            {name: nested.from_array(array) for name, array in small.items() if array.size <= FEW}, shrinking.steps, shrinking.failing,
            note="" if shrinking.failing else "None of the smaller ones failed.",
        )  # fmt: skip


def _as_operation(reference: Mapping[str, Any], kernel: Mapping[str, Any], given: Mapping[str, Any], inputs: list[Any]) -> dict[str, Any] | None:
    """A kernel's reference as a call on these inputs; None where it is called on more than that."""
    taken: set[str] = set()
    parameters: dict[str, Any] = {}
    for name, value in reference.get("parameters", {}).items():
        if isinstance(value, Mapping) and value.keys() & {"input", "scalar"}:
            source = next(iter(value.values()))
            if source not in given:
                return None
            taken.add(source)
            parameters[name] = given[source]
        else:
            parameters[name] = value
    symbols = {size for argument in kernel["inputs"] for size in argument["shape"] if isinstance(size, str)}
    rest = {name: value for name, value in given.items() if name not in taken and name not in symbols}
    return {"operation": reference["operation"], "parameters": {**rest, **parameters}}


def _skeleton(error: str) -> str:
    """A sentence without its numbers and names: the same trouble with another input reads the same."""
    return re.sub(r"\d[\d.e+-]*|`[^`]*`", "#", error).partition("\n")[0]


def _epoch(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
