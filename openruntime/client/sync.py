"""The synchronous facade: the asyncio client on a loop of its own, in a thread of its own."""

import asyncio
import atexit
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from openruntime.client.ai import AI
from openruntime.client.arrays import TensorHandle
from openruntime.client.kernels import AsyncKernels, Given, Progress, TuneOptions, VerifyOptions
from openruntime.client.models import Models
from openruntime.client.operations import Operations, unknown
from openruntime.client.runtime import AsyncRuntime
from openruntime.client.task import AsyncTask
from openruntime.contracts.errors import Conflict, OpenRuntimeError, TaskCancelled
from openruntime.contracts.models import TaskResponse

T = TypeVar("T")
_UNWIND = 5.0  # seconds


class Portal:
    """An event loop in a daemon thread; `run` is how other threads have something done there."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.closing = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._scheduling = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="openruntime", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise Conflict("the runtime's own thread cannot wait for it; use connect_async")
        ended = threading.Event()

        async def working() -> T:
            call = asyncio.current_task()
            assert call is not None
            self._calls.add(call)
            try:
                return await work
            finally:
                self._calls.discard(call)
                ended.set()

        with self._scheduling:  # what is scheduled before `stop` is also ended by it
            if self.closing:
                work.close()
                raise Conflict("this runtime is closed")
            future = asyncio.run_coroutine_threadsafe(working(), self.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self.closing:
                raise Conflict("this runtime was closed meanwhile") from None
            raise
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(_UNWIND)  # what it was using must be free before anybody goes on
            raise

    def iterate(self, items: AsyncGenerator[T]) -> Iterator[T]:
        """What an asynchronous generator yields there, for other threads."""

        async def following() -> tuple[bool, T | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        while True:
            more, item = self.run(following())  # when it is interrupted, so is `items`
            if not more:
                return
            try:
                yield item  # type: ignore[misc]
            except GeneratorExit:
                if not self.closing:
                    self.run(items.aclose())
                raise

    def later(self, call: Callable[[], Any]) -> None:
        """In a thread where waiting is allowed."""
        self.loop.run_in_executor(None, call)

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """End what other threads wait for, then `last`, then the loop. The second time it does nothing."""
        with self._scheduling:
            if self.closing:
                return
            self.closing = True

        async def ending() -> None:
            calls = list(self._calls)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            if last is not None:
                await last()

        try:
            asyncio.run_coroutine_threadsafe(ending(), self.loop).result()
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()


class TaskFuture(concurrent.futures.Future[Any]):
    """A submitted task as a `concurrent.futures.Future`; the standard library's `wait` and `as_completed` take it too.

    The result is fetched when it is asked for. As a parameter of another operation it stands for the task's output, which then
    does not travel.
    """

    def __init__(self, portal: Portal, task: AsyncTask) -> None:
        super().__init__()
        self._portal = portal
        self._task = task
        self.set_running_or_notify_cancel()
        task.on_end(lambda _: portal.later(self._settle))

    def __repr__(self) -> str:
        return repr(self._task)

    @property
    def task_id(self) -> str:
        """Finds the task again: `rt.task(task_id)`."""
        return self._task.task_id

    @property
    def operation(self) -> str:
        return self._task.operation

    @property
    def reference(self) -> dict[str, str]:
        return self._task.reference

    @property
    def progress(self) -> float | None:
        """0 to 1, as last heard; None before anything was."""
        return self._task.progress

    def result(self, timeout: float | None = None) -> Any:
        """The output as a NumPy array, several as a mapping. Raises why the task failed, or `TimeoutError` after `timeout` seconds."""
        return self._portal.run(self._task.result(timeout))

    def exception(self, timeout: float | None = None) -> OpenRuntimeError | None:
        """Why the task failed, None when it completed. Waits for its end, `TimeoutError` after `timeout` seconds."""
        return self._portal.run(self._task.exception(timeout))

    def done(self) -> bool:
        """Whether the task is known to have ended. Asks nobody: the server tells."""
        return self._task.done()

    def cancel(self) -> bool:
        """Stop it on the server, waiting or running. False when it had ended otherwise before."""
        return self._portal.run(self._task.cancel())

    def cancelled(self) -> bool:
        """Whether it ended by being cancelled."""
        return isinstance(self._task.error, TaskCancelled)

    def status(self) -> TaskResponse:
        """What the server knows now, without the result: status, device, times, progress, error."""
        return self._portal.run(self._task.status())

    def explain(self) -> dict[str, Any]:
        """Why this device and backend, predicted seconds against actual, its place in the queue, its attempts."""
        return self._portal.run(self._task.explain())

    def _settle(self) -> None:
        error = self._task.error
        if error is None:
            self.set_result(None)  # a mark: `result` fetches
        else:
            self.set_exception(error)


class Kernels:
    """Kernels of your own: `rt.kernels`. Each is then an operation: `rt.run(name, ...)`, `rt.submit(name, ...)` or `rt.name(...)`."""

    def __init__(self, portal: Portal, client: AsyncKernels, methods: dict[str, Any]) -> None:
        self._portal = portal
        self._client = client
        self._methods = methods

    def add(self, name: str, **given: Unpack[Given]) -> dict[str, Any]:
        """Register a kernel, or a new version of one: it is compiled before this returns.

        Its entry point is called `name` and takes inputs, outputs and scalars in that order, each given as `"x: float32[n, m]"` (a scalar as
        `"a: float32"`), sizes as whole numbers or formulas of the symbols that inputs' shapes bind. `grid` is how many work-items run, `local`
        how many a work-group has. Answers what the server knows of it; `["compiled"]["cache"]` says whether the disk had it.

        Raises `CompileError` (its `log` and `lines` say what and where), `InvalidParameter`, `NoSuchDevice` where nothing runs the language.
        """
        made = self._portal.run(self._client.add(name, **given))
        self._methods.pop(name, None)
        return made

    def all(self) -> list[dict[str, Any]]:
        """Every kernel, without its source."""
        return self._portal.run(self._client.all())

    def get(self, name: str) -> dict[str, Any]:
        """A kernel with its source. Raises `NotFound`."""
        return self._portal.run(self._client.get(name))

    def remove(self, name: str) -> None:
        """Give a kernel up; tasks that were submitted before still run. Raises `NotFound`."""
        self._portal.run(self._client.remove(name))
        self._methods.pop(name, None)

    def verify(self, name: str, *, progress: Progress | None = None, **options: Unpack[VerifyOptions]) -> dict[str, Any]:
        """Compare a kernel with its reference, and wait: the report. `["ok"]` says whether it does what it should, `["verdict"]` why not.

        `sizes`: some to try besides, each a value for every symbol; `seed` of the inputs; `launch` and `limit`: seconds that one run and all
        of it may take; `progress` is called with a fraction and what is being tried. Raises `NotFound`, `InvalidParameter`, `TaskFailed`.
        """
        return self._portal.run(self._client.verify(name, progress=progress, **options))

    def tune(self, name: str, *, progress: Progress | None = None, **options: Unpack[TuneOptions]) -> dict[str, Any]:
        """Search the best values of what a kernel leaves open, and wait: the report. Later runs on that device use `["winner"]`.

        `sizes` to tune for; `baseline`: a kernel with the same signature that gains are told against; else as `verify`.
        """
        return self._portal.run(self._client.tune(name, progress=progress, **options))


class Runtime(Operations):
    """A connection to a server, or a runtime in this process. Close it, or use it as a context manager."""

    def __init__(self, client: AsyncRuntime) -> None:
        self._client = client
        self._portal = Portal()
        self.kernels = Kernels(self._portal, client.kernels, self.__dict__)
        """Kernels of your own: `add`, `all`, `get`, `remove`."""
        self.models = Models(self._portal, client.models)
        """The server's models: `all`, `get`, `add`, `use`, `promote`, `roll_back`, `check`, `remove`."""
        self.ai = AI(self._portal, client.ai)
        """The server's agents: `ask`, `start`, `follow`, `agents`, `approvals`, sessions."""
        try:
            self._portal.run(client.__aenter__())
        except BaseException:
            self._portal.stop()
            raise
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Runtime {self._client.connection.transport.address}>"

    def close(self) -> None:
        """End the connection; an embedded runtime ends with it."""
        atexit.unregister(self.close)
        self._portal.stop(self._client.close)

    def run(self, operation: str, /, *args: Any, **given: Any) -> Any:
        """Run an operation and wait for its output. Array parameters by position or name; `Options` by name."""
        return self._portal.run(self._client.run(operation, *args, **given))

    def submit(self, operation: str, /, *args: Any, **given: Any) -> TaskFuture:
        """Queue an operation. Returns once the server has promised to run it: from then on nothing but `cancel` loses it.

        Parameters by position or name. How it is to run, by name: priority (1 to 10, 10 first; 5), device (`cuda:0`, `gpu`,
        `cpu:0/numpy`; any), timeout (seconds from submission to end; none), max_retries (0), tags (a list of strings), cache
        (`no-store`: compute it and keep it out of the cache; `no-cache`: compute it again), traceparent (the W3C trace context).
        Raises `InvalidParameter`, `UnknownOperation`, `NoSuchDevice`, `QueueFull`, `Unavailable`.
        """
        return TaskFuture(self._portal, self._portal.run(self._client.submit(operation, *args, **given)))

    def submit_many(self, requests: Iterable[Mapping[str, Any]], *, cache: str | None = None, traceparent: str | None = None) -> list[TaskFuture]:
        """Queue many at once. Each is shaped like `TaskRequest`, its `parameters` with arrays. A refused one is a future that failed."""
        submitted = self._portal.run(self._client.submit_many(requests, cache=cache, traceparent=traceparent))
        return [TaskFuture(self._portal, task) for task in submitted]

    def map(self, operation: str, /, *iterables: Iterable[Any], **given: Any) -> Iterator[Any]:
        """The outputs for each set of positional arguments, in order, like `Executor.map`. Submits in batches."""
        return self._portal.iterate(self._client.map(operation, *iterables, **given))

    def as_completed(self, futures: Iterable[TaskFuture], timeout: float | None = None) -> Iterator[TaskFuture]:
        """The futures in the order in which they end."""
        return concurrent.futures.as_completed(futures, timeout)  # type: ignore[return-value]

    def wait(self, futures: Iterable[TaskFuture], timeout: float | None = None) -> concurrent.futures._base.DoneAndNotDoneFutures[Any]:
        """Until all have ended or `timeout` seconds are over: the futures done and not done."""
        return concurrent.futures.wait(futures, timeout)

    def tensor(self, array: Any) -> TensorHandle:
        """Send an array once, to be used by many calls."""
        return self._portal.run(self._client.tensor(array))

    def fetch(self, tensor: TensorHandle | str) -> Any:
        """The array behind a handle."""
        return self._portal.run(self._client.fetch(tensor))

    def forget(self, tensor: TensorHandle | str) -> None:
        """Delete an array kept on the server."""
        self._portal.run(self._client.forget(tensor))

    def devices(self, *, backends: bool = False, detail: bool = False) -> list[dict[str, Any]]:
        """Every device: id, name, type, memory in bytes, status, backends, load; in `detail` its workers and ceilings (FLOP/s, bytes/s) too.

        `backends`: every backend instead, working or why not.
        """
        return self._portal.run(self._client.devices(backends=backends, detail=detail))

    def operations(self) -> dict[str, dict[str, Any]]:
        """Every operation by name, with its JSON Schema. Asked for once."""
        return self._portal.run(self._client.operations())

    def tasks(self, **filters: Any) -> list[TaskResponse]:
        """The newest tasks first. Filters: status, operation, device, tag, limit (50 unless given)."""
        return self._portal.run(self._client.tasks(**filters))

    def task(self, task_id: str) -> TaskFuture:
        """A task by its id, submitted by whomever."""
        return TaskFuture(self._portal, self._portal.run(self._client.task(task_id)))

    def events(self, topics: Sequence[str] | str = ("tasks",), *, after: int | str | None = None) -> Iterator[dict[str, Any]]:
        """What happens, live: `{"seq", "type", "time", "data"}`. Goes on where it stopped when the connection is lost."""
        return self._portal.iterate(self._client.events(topics, after=after))

    def _names(self) -> Iterable[str]:
        return self.operations()

    def _entry(self, name: str) -> dict[str, Any] | None:
        known = self.operations()
        if name not in known:
            raise unknown(name, known)
        return known[name]
