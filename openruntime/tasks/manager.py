"""The front door inside the process: submit, status, cancel, result. Thin: the queue waits, the executor runs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
from uuid_utils import uuid7

from openruntime.contracts.errors import (
    Expired,
    InvalidParameter,
    KeyTaken,
    NotFound,
    NotReady,
    OpenRuntimeError,
    TooLarge,
    Unavailable,
    error_class,
)
from openruntime.contracts.interfaces import Catalogue, Devices, EventSink, Store, Tensors
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.peers import Peers
from openruntime.contracts.records import ANY, LOCAL, Call, Failure, Filter, Life, Principal, Task
from openruntime.tasks.cache import ResultCache
from openruntime.tasks.dependencies import Dependencies, references
from openruntime.tasks.dependents import Dependents
from openruntime.tasks.events import announce, finished
from openruntime.tasks.explain import explain, trace
from openruntime.tasks.idempotency import InFlight, fingerprint, member
from openruntime.tasks.lifecycle import Event
from openruntime.tasks.queue import TaskQueue

log = logging.getLogger(__name__)

NO_ARRAYS: Mapping[str, Array] = {}
SWEEP = 0.25  # seconds at most between looks at who has waited long enough
LOOK = 1.0  # seconds between looks at a task that another process may have finished
_DONE = Life(TaskStatus.COMPLETED)


class TaskManager:
    """Implements `Tasks`. `predict(call)` gives seconds, `predictions(task)` those of each device and backend;
    `wake` tells the executor; `interrupt` stops a task."""

    def __init__(
        self, catalogue: Catalogue, devices: Devices, queue: TaskQueue, store: Store, cache: ResultCache, events: EventSink, *,
        predict: Callable[[Call], float], predictions: Callable[[Task], Sequence[tuple[str, str, float]]], memory: Callable[[], int],
        wake: Callable[[], None], watch_deadline: Callable[[Task], None], interrupt: Callable[[Task, Event], Awaitable[None]],
        refuse: Callable[[Task, Failure], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._devices = devices
        self._queue = queue
        self._store = store
        self._cache = cache
        self._events = events
        self._predict = predict
        self._predictions = predictions
        self._memory = memory
        self._wake = wake
        self._watch_deadline = watch_deadline
        self._interrupt = interrupt
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._patience: dict[asyncio.Future[None], float] = {}  # loop time at which a wait gives up
        self._sweeper: asyncio.TimerHandle | None = None
        self._cache_keys: dict[str, str] = {}  # task id -> where its result will be kept
        self._background: set[asyncio.Task[Any]] = set()
        self._in_flight = InFlight()
        self._dependencies = Dependencies(self.status, catalogue)
        self._dependents = Dependents(self._dependencies, store, predict=predict, refuse=refuse, wake=wake)
        self.draining = False

    def use_tensors(self, tensors: Tensors) -> None:
        """Where `{"tensor": id}` is looked up; tensors need tasks too, so they come after."""
        self._dependencies.tensors = tensors

    # -- submitting -----------------------------------------------------------------------------------------------------------

    async def submit(
        self, request: TaskRequest, arrays: Mapping[str, Array] = NO_ARRAYS, *, principal: Principal = LOCAL, promised: bool = True,
        idempotency: str | None = None, cache: str = "", traceparent: str | None = None,
    ) -> Task:  # fmt: skip
        if idempotency is None:
            task = await self._make(request, arrays, principal, cache, traceparent, str(uuid7()))
            await self._enter([task], promised)
            return task
        [outcome] = await self._once(idempotency, [(request, arrays)], principal, promised, cache, traceparent)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def submit_many(
        self, requests: Sequence[tuple[TaskRequest, Mapping[str, Array]]], *, principal: Principal = LOCAL, promised: bool = True,
        idempotency: str | None = None, cache: str = "", traceparent: str | None = None,
    ) -> Sequence[Task | Exception]:  # fmt: skip
        if idempotency is not None:
            return await self._once(idempotency, requests, principal, promised, cache, traceparent)
        outcomes = [await self._outcome(request, arrays, principal, cache, traceparent, str(uuid7())) for request, arrays in requests]
        await self._enter([outcome for outcome in outcomes if isinstance(outcome, Task)], promised)
        return outcomes

    async def _once(
        self, key: str, requests: Sequence[tuple[TaskRequest, Mapping[str, Array]]], principal: Principal, promised: bool, cache: str,
        traceparent: str | None,
    ) -> Sequence[Task | Exception]:  # fmt: skip
        """The tasks that this key made before, or new ones. What was refused then is judged anew."""
        print_ = await fingerprint(requests)
        async with self._in_flight.hold((principal.tenant, key)):
            known = await self._store.find(principal.tenant, key)
            while True:
                if known is not None:
                    self._in_flight.check(known, print_, key)
                first = str(uuid7()) if known is None else known.id
                outcomes: list[Task | Exception] = []
                new: list[Task] = []
                for index, (request, arrays) in enumerate(requests):
                    there = known if len(requests) == 1 else await self._store.get(member(first, index)) if known is not None else None
                    outcomes.append(there or await self._outcome(request, arrays, principal, cache, traceparent, member(first, index)))
                    if there is None and isinstance(made := outcomes[-1], Task):
                        new.append(made)
                if known is None and new:
                    new[0].idempotency, new[0].fingerprint = key, print_
                try:
                    await self._enter(new, promised)
                except KeyTaken as error:
                    known = await self.status(error.message, principal=principal)
                    continue
                if promised and known is not None:
                    await asyncio.gather(*(self._store.keep(task) for task in outcomes if isinstance(task, Task) and task not in new))
                return outcomes

    async def _outcome(
        self, request: TaskRequest, arrays: Mapping[str, Array], principal: Principal, cache: str, traceparent: str | None, task_id: str
    ) -> Task | Exception:
        try:
            return await self._make(request, arrays, principal, cache, traceparent, task_id)
        except OpenRuntimeError as error:
            return error

    async def _make(
        self, request: TaskRequest, arrays: Mapping[str, Array], principal: Principal, cache: str, traceparent: str | None, task_id: str
    ) -> Task:
        """A checked task, answered from the cache where that holds its result. Nothing is queued yet."""
        if self.draining:
            raise Unavailable("the server is shutting down; try again in a moment", retry_after=2)
        operation, parameters = request.operation, request.parameters
        if arrays:
            twice = parameters.keys() & arrays.keys()
            if twice:
                name = min(twice)
                raise InvalidParameter(f"`{name}` came twice: as bytes and in `parameters`; send it once", field=name)
            parameters = {**parameters, **arrays}
        found = references(parameters)
        if found:
            call, needs = await self._dependencies.bind(operation, parameters, found, principal)
        else:
            call, needs = self._catalogue.of(principal.tenant).bind(operation, parameters), ()
        lane = self._devices.lane(request.device_preference, call)
        if call.estimate.memory > self._memory():
            raise TooLarge(
                f"{operation} would need about {call.estimate.memory} bytes, and a task may have {self._memory()}: "
                "make the arrays smaller, or split the work"
            )
        now = time.time()
        predicted = self._predict(call)
        task = Task(
            task_id, call, principal.tenant, lane, request.priority, now, 0.0,
            None if request.timeout is None else now + request.timeout, request.max_retries, tuple(request.tags) if request.tags else (),
        )  # fmt: skip
        task.client = principal.id
        task.predicted = predicted
        task.needs = needs
        task.traceparent = traceparent
        if not needs and cache != "no-store" and self._cache.worth(call, predicted):
            binding = lane if request.device_preference else "any"  # which libraries are there changes no result
            key = await self._cache.key(call, principal.tenant, binding)
            hit = await self._cache.get(key) if cache != "no-cache" else None
            if hit is None:
                self._cache_keys[task.id] = key
            else:
                self._answer_from_cache(task, *hit)
        return task

    @staticmethod
    def _answer_from_cache(task: Task, meta: Mapping[str, Any], outputs: dict[str, Array]) -> None:
        task.life, task.cached, task.outputs, task.progress = _DONE, True, outputs, 1.0
        task.device, task.backend, task.seconds = meta["device"], meta["backend"], meta["seconds"]
        task.started = task.finished = time.time()

    async def _enter(self, tasks: Sequence[Task], promised: bool) -> None:
        if not tasks:
            return
        arrived = time.monotonic()
        for task in tasks:
            task.kept, task.arrived = promised, arrived
        try:
            await self._queue.submit(tasks, promised=promised)
        except BaseException:
            for task in tasks:
                self._cache_keys.pop(task.id, None)
            raise
        for task in tasks:
            announce(self._events, task)
            if task.cached:
                self._events.publish(finished(task))
                continue
            if task.deadline is not None and not task.life.status.ended:
                self._watch_deadline(task)
        await self._dependents.hold([task for task in tasks if task.needs])
        self._wake()

    async def keep(self, task: Task) -> None:
        task.kept = True
        await self._store.keep(task)

    # -- waiting and ending ---------------------------------------------------------------------------------------------------

    def wait(self, task: Task, seconds: float) -> Coroutine[Any, Any, bool]:
        peers = self._store.peers
        return self._await_end(task, seconds) if peers is None else self._await_end_anywhere(task, seconds, peers)

    async def _await_end_anywhere(self, task: Task, seconds: float, peers: Peers) -> bool:
        end = time.monotonic() + seconds
        while not task.life.status.ended and (left := end - time.monotonic()) > 0:
            await self._await_end(task, min(left, LOOK))  # news of the others can get lost
            if not task.life.status.ended:
                await peers.refresh(task)
        return task.life.status.ended

    async def _await_end(self, task: Task, seconds: float) -> bool:
        if task.life.status.ended:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.setdefault(task.id, []).append(future)
        self._patience[future] = loop.time() + seconds
        if self._sweeper is None or (seconds < SWEEP and self._sweeper.when() > loop.time() + seconds):
            self._arm(min(seconds, SWEEP))
        peers = self._store.peers
        try:
            if peers is not None and not peers.follows(task):
                await peers.refresh(task)
            if not task.life.status.ended:
                await future
        finally:
            del self._patience[future]
            waiters = self._waiters.get(task.id, [])  # empty where `ended` has taken it out
            if future in waiters:
                waiters.remove(future)
                if not waiters:
                    del self._waiters[task.id]
        return task.life.status.ended

    def _arm(self, seconds: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = asyncio.get_running_loop().call_later(max(0.001, seconds), self._sweep)  # below, uvloop gives no TimerHandle

    def _sweep(self) -> None:
        """One timer for all who wait, because one each would cost more than the rest of waiting."""
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for future, until in self._patience.items():
            if until <= now and not future.done():
                future.set_result(None)
        if self._patience:
            self._arm(min(SWEEP, min(self._patience.values()) - now))

    def ended(self, task: Task) -> None:
        """The executor's word that a task ended: tell who waits, keep the result, let dependents go on."""
        key = self._cache_keys.pop(task.id, None)
        if key is not None and task.status is TaskStatus.COMPLETED:
            self._spawn(self._cache.put(key, task))
        self._tell(task.id)

    def _tell(self, task_id: str) -> None:
        for future in self._waiters.pop(task_id, ()):
            if not future.done():
                future.set_result(None)
        for dependent in self._dependents.released_by(task_id):
            self._spawn(self._dependents.met(dependent))

    def ended_elsewhere(self, task_id: str) -> None:
        """Another process finished a task."""
        key = self._cache_keys.pop(task_id, None)
        if key is not None:
            self._spawn(self._keep_result(key, task_id))
        self._tell(task_id)

    async def _keep_result(self, key: str, task_id: str) -> None:
        task = await self._store.get(task_id)
        if task is not None and task.status is TaskStatus.COMPLETED:
            await self._cache.put(key, task)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("not kept: %s", error, exc_info=None if isinstance(error, OpenRuntimeError) else error)

    async def recover(self, tasks: Sequence[Task]) -> None:
        """Take up tasks that the store found waiting at its start."""
        self._queue.resume(max((task.created for task in tasks), default=0.0))
        for task in tasks:
            task.predicted = self._predict(task.call)
            if task.status is TaskStatus.CANCELLING:
                await self._interrupt(task, Event.STOPPED)
                continue
            if task.deadline is not None:
                self._watch_deadline(task)
        await self._dependents.hold([task for task in tasks if task.needs])
        self._wake()

    # -- asking ---------------------------------------------------------------------------------------------------------------

    async def status(self, task_id: str, *, principal: Principal = LOCAL) -> Task:
        task = await self._store.get(task_id)
        if task is None or task.tenant != principal.tenant:
            raise NotFound(f"there is no task {task_id[:80]!r}; its record may have expired")
        return task

    async def result(self, task_id: str, *, principal: Principal = LOCAL) -> Task:
        task = await self.status(task_id, principal=principal)
        if not task.status.ended:
            raise NotReady(f"task {task_id} is {task.status.value}; wait for it with GET /tasks/{task_id}?wait=10", retry_after=1)
        if task.failure is not None:
            raise error_class(task.failure.code, task=True)(task.failure.message)
        if task.outputs is None:
            raise Expired(f"the result of task {task_id} has expired")
        return task

    async def cancel(self, task_id: str, *, principal: Principal = LOCAL) -> Task:
        task = await self.status(task_id, principal=principal)
        peers = self._store.peers
        while not task.status.ended and task.status is not TaskStatus.CANCELLING and (peers is None or not await peers.stop(task)):
            await self._interrupt(task, Event.CANCEL)
            if peers is None:
                break
            task = await self.status(task_id, principal=principal)  # claimed at this moment, it has to be asked for where it is now
        if task.kept and task.status in (TaskStatus.CANCELLING, TaskStatus.CANCELLED):
            await self._store.keep(task)  # on disk before it is answered: after a crash it would run again
        return task

    async def list(
        self, filter: Filter = ANY, *, principal: Principal = LOCAL, after: str | None = None, limit: int = 50
    ) -> tuple[Sequence[Task], str | None]:
        return await self._store.list(msgspec.structs.replace(filter, tenant=principal.tenant), after=after, limit=limit)

    async def explain(self, task_id: str, *, principal: Principal = LOCAL) -> dict[str, Any]:
        task = await self.status(task_id, principal=principal)
        return explain(task, self._queue.depths(), self._devices.achieved(task), self._predictions(task))

    async def trace(self, task_id: str, *, principal: Principal = LOCAL) -> Sequence[dict[str, Any]]:
        return trace(await self.status(task_id, principal=principal))

    async def close(self) -> None:
        """Wait for what is kept in the background."""
        self._dependents.close()
        await asyncio.gather(*self._background, return_exceptions=True)
