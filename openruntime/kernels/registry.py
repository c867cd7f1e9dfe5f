"""Kernels as they are registered: checked, compiled at once in a kernel worker, kept on the store's shelf."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from openruntime.contracts.errors import CompileError, Conflict, InvalidParameter, NotFound, OpenRuntimeError, Unavailable, error_class, nearest
from openruntime.contracts.interfaces import Devices, Shelf, Tasks
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.kernels import COMPILE, LANGUAGES, TUNE, VERIFY, WORKERS, KernelSpec, Report, requirement
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.records import LOCAL, Abilities, Principal, Task
from openruntime.kernels.catalogue import Kernel, signature
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.kernel_reference import check_reference
from openruntime.runtimes.probe import Report as Looked

log = logging.getLogger(__name__)

NAMESPACE = "kernel"
REPORTS = "kernel-report"
KINDS = {"verify": VERIFY, "tune": TUNE}  # of trials
TTL = 100 * 365 * 86_400.0  # seconds: for good
COMPILE_TIMEOUT = 60.0  # seconds; a compiler may be given a riddle
URGENT = 9
TRIES = 3  # waits until the backends were asked what they drive
LOOK = 1.0  # seconds between looks at whether a worker can be had
FOLLOW = 2.0  # seconds between looks at what other servers on the same store have registered
MOST = 1000  # kernels of a tenant


class KernelRegistry:
    """Implements `Kernels`. `hits` and `misses` count what the compilers' disk caches had; `kernels` is what a `KernelCatalogue` reads."""

    def __init__(self, shelf: Shelf, devices: Devices, operations: OperationCatalogue) -> None:
        self._shelf = shelf
        self._devices = devices
        self._operations = operations
        self._writing = asyncio.Lock()
        self.kernels: dict[str, dict[str, Kernel]] = {}
        self.hits = 0
        self.misses = 0
        self._tasks: Tasks

    def use(self, tasks: Tasks) -> None:
        """Where compilations are run; tasks need the kernels' names too, so they come after."""
        self._tasks = tasks

    async def load(self) -> None:
        """Read what is registered."""
        found: dict[str, dict[str, Kernel]] = {}
        after = ""
        while page := await self._shelf.items(NAMESPACE, after=after):
            for key, meta in page:
                try:
                    kernel = msgspec.msgpack.decode(meta, type=Kernel)
                    found.setdefault(kernel.tenant, {})[kernel.spec.name] = kernel
                except msgspec.MsgspecError as error:
                    log.warning("the kernel %s cannot be read, and is left out: %s", key, error)
            after = page[-1][0]
        self.kernels.clear()
        self.kernels.update(found)

    async def follow(self) -> None:
        """Hear of what other servers on this store register."""
        while True:
            await asyncio.sleep(FOLLOW)
            try:
                async with self._writing:
                    await self.load()
            except OpenRuntimeError as error:
                log.warning("what others have registered cannot be read: %s", error)

    async def add(self, document: Any, *, principal: Principal = LOCAL, replace: bool = True) -> dict[str, Any]:
        spec = read(document)
        self._check(spec, principal.tenant)
        report, task = await self._compile(document, principal)
        self.hits, self.misses = self.hits + report.cached, self.misses + (not report.cached)
        compiled = {
            "cache": "hit" if report.cached else "miss", "seconds": report.seconds, "device": task.device, "backend": task.backend,
            "log": report.log, "task_id": task.id,
        }  # fmt: skip
        async with self._writing:
            own = self.kernels.setdefault(principal.tenant, {})
            known = own.get(spec.name)
            if known is not None and not replace:  # registered by somebody else while this was compiled
                raise Conflict(f"`name`: there is a kernel {spec.name} already; call this one another", field="name")
            if known is None and len(own) >= MOST:
                raise InvalidParameter(f"`name`: there are {MOST} kernels already; delete one that is not used", field="name")
            same = known is not None and msgspec.structs.replace(known.spec, tuned=()) == spec
            if known is not None and same:  # what was found of it still holds
                kernel = msgspec.structs.replace(known, created=time.time(), compiled=compiled)
            else:
                kernel = Kernel(spec, 1 if known is None else known.version + 1, principal.tenant, time.time(), compiled)
            await self._put(kernel)
        return shown(kernel, source=True)

    async def _put(self, kernel: Kernel) -> None:
        tenant, name = kernel.tenant, kernel.spec.name
        await self._shelf.put(NAMESPACE, _key(tenant, name), msgspec.msgpack.encode(kernel), {}, ttl=TTL, tenant=tenant)
        self.kernels.setdefault(tenant, {})[name] = kernel

    async def amend(self, tenant: str, name: str, changed: Callable[[Kernel], Kernel | None]) -> bool:
        """Keep what `changed` makes of a kernel; whether it is there and was to be changed."""
        async with self._writing:
            known = self.kernels.get(tenant, {}).get(name)
            kernel = changed(known) if known is not None else None
            if kernel is None:
                return False
            if kernel != known:
                await self._put(kernel)
            return True

    def _check(self, spec: KernelSpec, tenant: str) -> None:
        if spec.name in (COMPILE, VERIFY, TUNE) or spec.name in self._operations.names():
            raise InvalidParameter(f"`name`: {spec.name!r} is an operation already; call the kernel another", field="name")
        if spec.reference is not None:
            known = self._operations.names()
            wanted = spec.reference.operation
            if wanted not in known:
                raise InvalidParameter(f"`reference`: there is no operation {wanted!r:.100}{nearest(wanted, known)}", field="reference")
            check_reference(spec, self._operations)

    async def _compile(self, document: Any, principal: Principal) -> tuple[Report, Task]:
        request = TaskRequest(operation=COMPILE, parameters={"kernel": document}, priority=URGENT, timeout=COMPILE_TIMEOUT)
        task = await self._submit(request, principal)
        try:
            while not await self._tasks.wait(task, LOOK):
                if (why := self._broken(task.call.requires)) is not None:
                    raise Unavailable(why)
        except (asyncio.CancelledError, Unavailable):  # whoever asked has gone, or nobody will come
            await asyncio.shield(self._tasks.cancel(task.id, principal=principal))
            raise
        if task.failure is not None and task.failure.code == "timeout" and task.started is None:
            raise Unavailable("every kernel worker is busy, and none came to compile this one; try again, or cancel what runs", retry_after=5)
        if task.failure is not None:
            if task.failure.code in ("timeout", "worker_crashed"):
                raise CompileError(f"`source` of {_name(document)} cannot be compiled: {task.failure.message}", log=task.failure.message)
            raise error_class(task.failure.code, task=True)(task.failure.message)
        task = await self._tasks.result(task.id, principal=principal)
        report = msgspec.json.decode(bytes((task.outputs or {})["report"].view), type=Report)
        if not report.ok:
            raise CompileError(report.message, field=report.field, log=report.log, lines=report.lines)
        return report, task

    async def _submit(self, request: TaskRequest, principal: Principal) -> Task:
        """Once it is known what runs the language; a first start on a slow machine takes a while to find out."""
        for _ in range(TRIES):
            await self._devices.found()
            with suppress(Unavailable):
                return await self._tasks.submit(request, principal=principal, promised=False, cache="no-store")
        return await self._tasks.submit(request, principal=principal, promised=False, cache="no-store")

    def _broken(self, requires: str) -> str | None:
        """Why no worker for such kernels comes up; None while one may."""
        name = requires.partition(":")[2] + WORKERS
        workers = [worker for device in self._devices.list() for worker in self._devices.get(device["id"])["workers"] if worker["backend"] == name]
        if not workers or any(worker["state"] != "failed" for worker in workers):
            return None
        return f"no worker for kernels in this language starts: {workers[0]['reason']}"

    def list(self, *, principal: Principal = LOCAL) -> Sequence[dict[str, Any]]:
        return [shown(kernel) for _, kernel in sorted(self.kernels.get(principal.tenant, {}).items())]

    def get(self, name: str, *, principal: Principal = LOCAL) -> dict[str, Any]:
        return shown(self.find(name, principal), source=True)

    async def remove(self, name: str, *, principal: Principal = LOCAL) -> None:
        self.find(name, principal)
        async with self._writing:
            await self._shelf.delete(NAMESPACE, _key(principal.tenant, name))
            for kind in KINDS:
                await self._shelf.delete(REPORTS, report_key(principal.tenant, name, kind))
            self.kernels.get(principal.tenant, {}).pop(name, None)

    def find(self, name: str, principal: Principal) -> Kernel:
        own = self.kernels.get(principal.tenant, {})
        if name not in own:
            raise NotFound(f"there is no kernel {name!r:.100}{nearest(name, own)}", field="name")
        return own[name]


def shown(kernel: Kernel, *, source: bool = False) -> dict[str, Any]:
    """A kernel as the API shows it."""
    plain = {name: value for name, value in msgspec.to_builtins(kernel.spec).items() if name != "tuned"}
    if source:
        plain["tuned"] = [{"sizes": entry.sizes, "values": entry.values} for entry in kernel.spec.tuned]
    defaults: Mapping[str, Any] = {"scalars": [], "local": [], "options": [], "reference": None}
    about = {**defaults, **plain} if source else {**defaults, **{name: value for name, value in plain.items() if name != "source"}}
    return about | {
        "version": kernel.version, "signature": signature(kernel.spec), "created_at": datetime.fromtimestamp(kernel.created, UTC).isoformat(),
        "compiled": kernel.compiled, "verified": kernel.trials.get("verify"), "tuning": kernel.trials.get("tune"),
    }  # fmt: skip


def workers(reports: Sequence[Looked]) -> list[Looked]:
    """The kernel workers that go with the backends that were found: on the same devices, without asking again."""
    found = []
    for language, backends in LANGUAGES.items():
        probes = [probe for report in reports if report.backend in backends for probe in report.probes]
        if probes:
            name, able = language + WORKERS, Abilities(frozenset({requirement(language)}))
            found.append(Looked(name, [msgspec.structs.replace(probe, backend=name) for probe in probes], {p.platform: able for p in probes}))
    return found


def _key(tenant: str, name: str) -> str:
    return f"{tenant}/{name}"


def report_key(tenant: str, name: str, kind: str) -> str:
    return f"{tenant}/{name}/{kind}"


def _name(document: Any) -> str:
    return str(document.get("name", "the kernel")) if isinstance(document, Mapping) else "the kernel"
