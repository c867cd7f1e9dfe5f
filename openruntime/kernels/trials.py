"""Verifying and tuning kernels: each is a task of a kernel worker; what it finds is kept with the kernel."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from openruntime.contracts.errors import Expired, NotFound, OpenRuntimeError, OperationFailed
from openruntime.contracts.interfaces import Shelf, Tasks
from openruntime.contracts.kernels import TUNE, VERIFY, Tuned, digest
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.records import LOCAL, Principal, Task
from openruntime.contracts.status import TaskStatus
from openruntime.contracts.tunables import with_winner
from openruntime.kernels.catalogue import Kernel
from openruntime.kernels.registry import KINDS, REPORTS, TTL, KernelRegistry, report_key

log = logging.getLogger(__name__)

SPARE = 90.0  # seconds that a task may take beside what its limit bounds: a process to start, a case to end


class KernelTrials:
    """Implements contracts' `KernelTrials`."""

    def __init__(self, registry: KernelRegistry, shelf: Shelf) -> None:
        self._registry = registry
        self._shelf = shelf
        self._tasks: Tasks
        self._keeping: dict[str, asyncio.Task[None]] = {}

    def use(self, tasks: Tasks) -> None:
        """Where trials are run."""
        self._tasks = tasks

    async def begin(self, kind: str, name: str, options: Mapping[str, Any], run: Mapping[str, Any], *, principal: Principal = LOCAL) -> Task:
        self._registry.get(name, principal=principal)
        limit = options.get("limit", 300.0 if kind == "tune" else 120.0)
        request = TaskRequest(operation=KINDS[kind], parameters={"kernel": name, **options}, timeout=limit + SPARE, **run)
        return await self._tasks.submit(request, principal=principal, cache="no-store")

    async def report(self, kind: str, name: str, task_id: str | None = None, *, principal: Principal = LOCAL) -> dict[str, Any]:
        kernel = self._registry.find(name, principal)
        if task_id is not None:
            task = await self._tasks.result(task_id, principal=principal)
            found = _read(task) if task.call.operation == KINDS[kind] else {}
            if found.get("kernel") != name:
                raise NotFound(f"task {task_id} has not tried to {kind} {name}", field="task_id")
            if found.get("sha256") != digest(kernel.spec):
                raise NotFound(f"task {task_id} tried another {name} than is registered now", field="task_id")
            await self._keep(task)
            return found
        kept = await self._shelf.get(REPORTS, report_key(principal.tenant, name, kind))
        report: dict[str, Any] = msgspec.json.decode(kept[0]) if kept is not None else {}
        if report.get("sha256") != digest(kernel.spec):
            raise NotFound(f"{name} has not been {'verified' if kind == 'verify' else 'tuned'} yet; POST to this path does it", field="name")
        return report

    def ended(self, task: Task) -> None:
        """Hears of every task that ended here; keeps what trials found."""
        if task.call.operation in (VERIFY, TUNE) and task.life.status is TaskStatus.COMPLETED and task.outputs:
            self._keeping[task.id] = asyncio.get_running_loop().create_task(self._kept(task))
            self._keeping[task.id].add_done_callback(lambda _: self._keeping.pop(task.id, None))

    async def _kept(self, task: Task) -> None:
        try:
            await self._keep(task)
        except OpenRuntimeError as error:
            log.warning("what task %s found of a kernel is not kept: %s", task.id, error)

    async def _keep(self, task: Task) -> None:
        """Once or more often: the report on the shelf, its summary and a winner with the kernel, unless that has changed since."""
        kind = "verify" if task.call.operation == VERIFY else "tune"
        report = _read(task)
        name = report["kernel"]

        def changed(kernel: Kernel) -> Kernel | None:
            if report.get("sha256") != digest(kernel.spec):
                return None
            spec = kernel.spec
            if report.get("tuned"):
                spec = with_winner(spec, msgspec.convert(report["tuned"], Tuned))
            return msgspec.structs.replace(kernel, spec=spec, trials={**kernel.trials, kind: _summary(kind, report)})

        if await self._registry.amend(task.tenant, name, changed):
            meta = msgspec.json.encode(report)
            await self._shelf.put(REPORTS, report_key(task.tenant, name, kind), meta, {}, ttl=TTL, tenant=task.tenant)


def _read(task: Task) -> dict[str, Any]:
    outputs = task.outputs
    if not outputs or outputs["report"].data is None:
        raise Expired(f"the report of task {task.id} is no longer kept")
    report: dict[str, Any] = msgspec.json.decode(outputs["report"].view)
    if not isinstance(report, dict):
        raise OperationFailed(f"task {task.id} left no report")
    ended = None if task.finished is None else datetime.fromtimestamp(task.finished, UTC).isoformat()
    return report | {"task_id": task.id, "finished_at": ended}


def _summary(kind: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """What a list of kernels shows."""
    about = ("ok", "verdict", "findings", "worst") if kind == "verify" else ("winner", "gain", "gain_spread", "sizes", "tried", "rejected")
    return {name: report[name] for name in (*about, "device", "backend", "seconds", "task_id", "finished_at")}
