"""The worker process: one backend on one device, one job at a time. Started as `python -m openruntime.runtimes.worker`.

The main thread computes; the control thread hears cancels, and ends the process when the gateway is gone.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from openruntime.contracts.errors import OpenRuntimeError, OutOfMemory, TaskCancelled, WorkerCrashed
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Stacking
from openruntime.contracts.registry import registry_of
from openruntime.runtimes import channel, confinement
from openruntime.runtimes.batching import Batching, joined, parted
from openruntime.runtimes.channel import ALIGNMENT, INLINE_BYTES, Began, Done, Failed, Hello, Job, Outcome, Run, WireArray
from openruntime.runtimes.probe import abilities

PROGRESS_INTERVAL = 0.05  # seconds between progress messages: a fast loop must not drown the gateway
MESSAGE = 2000  # characters
IDLE = 5.0  # seconds without a job after which pools and the allocator give back what they hold unused: another worker may need it
give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
USELESS = 70  # exit status of a process that can compute no more (EX_SOFTWARE of sysexits.h); the last lines of its stderr say why


class Mappings:
    """Slabs this worker has mapped, by id. A backend that can `pin` host memory, so that a device reaches it by itself, is told of them."""

    def __init__(self, backend: ComputeBackend) -> None:
        self._pin = getattr(backend, "pin", _nothing)
        self._unpin = getattr(backend, "unpin", _nothing)
        self._maps: dict[int, tuple[mmap.mmap, memoryview, memoryview]] = {}

    def update(self, run: Run, descriptors: "deque[int]") -> None:
        for slab in run.unmap:
            gone = self._maps.pop(slab, None)  # the mapping goes when the last array on it goes
            if gone is not None:
                self._unpin(gone[1])
        for segment in run.segments:
            fd = descriptors.popleft()
            mapped = mmap.mmap(fd, segment.size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
            os.close(fd)
            view = memoryview(mapped)
            self._maps[segment.slab] = (mapped, view, view.toreadonly())
            self._pin(view)

    def readable(self, slab: int, offset: int, nbytes: int) -> memoryview:
        return self._maps[slab][2][offset : offset + nbytes]

    def writable(self, slab: int, nbytes: int) -> memoryview:
        return self._maps[slab][1][:nbytes]


def _nothing(memory: memoryview) -> None:
    """For a backend that pins nothing."""


class OutputMemory:
    """Where a job's large outputs go: handed out front to back, so that an operation can write its result in place."""

    def __init__(self, slab: int, memory: memoryview) -> None:
        self._slab = slab
        self._memory = memory
        self._address = ctypes.addressof(ctypes.c_ubyte.from_buffer(memory)) if memory.nbytes else 0
        self._used = 0

    def allocate(self, nbytes: int) -> memoryview:
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + nbytes > self._memory.nbytes:
            raise MemoryError(f"the operation declared outputs of at most {self._memory.nbytes} bytes and asked for {start + nbytes}")
        self._used = start + nbytes
        return self._memory[start : start + nbytes]

    def place(self, view: memoryview) -> tuple[int, int]:
        """Slab and offset of `view`, copied there unless it was made there."""
        if not view.readonly and view.nbytes:
            offset = ctypes.addressof(ctypes.c_ubyte.from_buffer(view)) - self._address
            if offset >= 0 and offset + view.nbytes <= self._memory.nbytes:
                return self._slab, offset
        target = self.allocate(view.nbytes)
        target[:] = view
        return self._slab, self._used - view.nbytes


class Worker:
    """Reads jobs, runs them in order, alike ones together, answers each."""

    def __init__(self, backend: ComputeBackend, tasks: socket.socket, control: socket.socket, batching: Batching) -> None:
        self._backend = backend
        self._batching = batching
        self._tasks = tasks
        self._control = control
        self._mappings = Mappings(backend)
        self._cancelled: set[int] = set()
        self._last_progress = 0.0

    async def serve(self) -> None:
        """Until the gateway closes the channel. Blocks its loop while idle: nothing else runs here."""
        reader = channel.FrameReader()
        descriptors: deque[int] = deque()
        pools, holds = type(self._backend).trim is not ComputeBackend.trim, False
        while True:
            if holds and not select.select([self._tasks], [], [], IDLE)[0]:
                self._trim()
            jobs: list[Job] = []
            alone: set[int] = set()
            until = 0.0
            while not jobs or self._more(until):
                data, received = channel.receive(self._tasks)
                if not data:
                    return
                descriptors.extend(received)
                for body in reader.feed(data):
                    run = channel.run_decoder.decode(body)
                    self._mappings.update(run, descriptors)
                    if run.threads:
                        self._set_threads(run.threads)
                    jobs += run.jobs
                    alone.update(run.alone)
                patience = self._batching.patience(len(jobs))
                until = (until or time.monotonic() + patience) if patience else 0.0
            await self._run_all(jobs, alone)
            holds = pools or any(job.out is not None for job in jobs)  # what has no large output is not worth a look for the next job

    def _more(self, until: float) -> bool:
        """Whether more jobs come before that moment."""
        return until > 0 and bool(select.select([self._tasks], [], [], max(0.0, until - time.monotonic()))[0])

    async def _run_all(self, jobs: Sequence[Job], alone: set[int]) -> None:
        for members, size, kind in self._batching.of(jobs, alone):
            began = time.monotonic()
            if kind is None or size == 1 or not await self._run_together(members, size, kind.stacking):
                for job in members:
                    self._send(await self._run(job))
            if kind is not None:
                kind.record(size, (time.monotonic() - began) / size)

    async def _run_together(self, jobs: Sequence[Job], size: int, stacking: Stacking) -> bool:
        """Run alike jobs as one call of so many, and answer each. False, and none is answered, where they have to run one by one: one is
        cancelled, or the call failed, and it is not known of which."""
        if not self._cancelled.isdisjoint([job.id for job in jobs]):
            return False
        count = len(jobs)
        self._send(Began([job.id for job in jobs[1:]]))
        started = time.monotonic()
        try:
            calls: list[dict[str, Any]] = [{name: self._array(wire) for name, wire in job.arrays.items()} for job in jobs]
            calls[0] |= jobs[0].scalars
            result = await self._backend.execute(jobs[0].operation, joined(stacking, calls, size))
            parts = parted(stacking, result.outputs, size)
            outputs = [self._outputs(job, part, self._memory(job)) for job, part in zip(jobs, parts, strict=False)]
        except (Exception, SystemExit, KeyboardInterrupt):
            return False
        self._cancelled.difference_update([job.id for job in jobs])
        seconds = result.seconds / count, started, time.monotonic(), result.transfer / count, result.compile / count
        frames = [channel.frame(Done(job.id, mine, *seconds, (count, i))) for i, (job, mine) in enumerate(zip(jobs, outputs, strict=True), 1)]
        self._tasks.sendall(b"".join(frames))
        return True

    def _set_threads(self, threads: int) -> None:
        limit = getattr(self._backend, "set_threads", None)
        if limit is not None:
            limit(threads)

    def _send(self, outcome: Outcome) -> None:
        self._tasks.sendall(channel.frame(outcome))

    async def _run(self, job: Job) -> Done | Failed:
        started, again = time.monotonic(), False
        try:
            if job.id in self._cancelled:
                raise TaskCancelled("cancelled before it started")
            try:
                return await self._done(job, started)
            except (OutOfMemory, MemoryError):
                again = True
            self._trim()  # here: the error's traceback holds the arrays of the call
            return await self._done(job, started)
        except WorkerCrashed as error:
            print(error.message, file=sys.stderr, flush=True)
            os._exit(USELESS)
        except OpenRuntimeError as error:
            code, message = error.code, error.message
        except MemoryError as error:
            code, message = OutOfMemory.code, f"{job.operation} ran out of memory{f': {error}' if str(error) else ''}"
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            traceback.print_exc()  # for the server's log; the client sees the sentence
            code, message = "operation_failed", f"{type(error).__name__}: {error}"
        finally:
            self._cancelled.discard(job.id)
        if code == OutOfMemory.code:
            message += f"{'; tried twice, with a trim between' * again}; {confinement.held()}"
        return Failed(job.id, code, message[:MESSAGE], started, time.monotonic())

    async def _done(self, job: Job, started: float) -> Done:
        out = self._memory(job)
        result = await self._backend.execute(job.operation, self._parameters(job, out))
        outputs = self._outputs(job, result.outputs, out)
        return Done(job.id, outputs, result.seconds, started, time.monotonic(), result.transfer, result.compile)

    def _trim(self) -> None:
        gc.collect()
        self._backend.trim()
        if give_back is not None:
            give_back(0)

    def _memory(self, job: Job) -> OutputMemory | None:
        return OutputMemory(job.out.slab, self._mappings.writable(job.out.slab, job.out.size)) if job.out else None

    def _parameters(self, job: Job, out: OutputMemory | None) -> dict[str, Any]:
        parameters = dict(job.scalars)
        for name, wire in job.arrays.items():
            array = self._array(wire)
            base, dot, _index = name.partition(".")
            if dot:
                parameters.setdefault(base, []).append(array)
            else:
                parameters[name] = array
        parameters["steps"] = self._steps(job.id)
        if out is not None:
            parameters["allocate"] = out.allocate
        return parameters

    def _array(self, wire: WireArray) -> Array:
        if wire.data is not None:
            return Array(wire.dtype, wire.shape, wire.data)
        nbytes = Array(wire.dtype, wire.shape).nbytes
        return Array(wire.dtype, wire.shape, self._mappings.readable(wire.slab, wire.offset, nbytes))

    def _outputs(self, job: Job, outputs: Mapping[str, Array], out: OutputMemory | None) -> dict[str, WireArray]:
        return {name: self._output(job, name, array, out) for name, array in outputs.items()}

    def _output(self, job: Job, name: str, array: Array, out: OutputMemory | None) -> WireArray:
        view = array.view
        if view.nbytes <= INLINE_BYTES:
            return WireArray(array.dtype, array.shape, view)
        if out is None:
            raise MemoryError(f"output {name!r} of {job.operation} has {view.nbytes} bytes, more than the operation declared")
        slab, offset = out.place(view)
        return WireArray(array.dtype, array.shape, None, slab, offset)

    def _steps(self, job_id: int) -> Any:
        def steps(done: int, total: int, message: str | None = None) -> None:
            if job_id in self._cancelled:
                raise TaskCancelled("stopped between steps")
            now = time.monotonic()
            if now - self._last_progress >= PROGRESS_INTERVAL:
                self._last_progress = now
                self._send(channel.Progress(job_id, done / total if total else 1.0, message and message[:MESSAGE]))

        return steps

    def listen(self) -> None:
        """The control thread: job ids to cancel; the end of the channel ends the process at once, whatever it computes."""
        reader = channel.FrameReader()
        while True:
            try:
                data = self._control.recv(65536)
            except OSError:
                data = b""
            if not data:
                confinement.end()
            for body in reader.feed(data):
                self._cancelled.add(channel.cancel_decoder.decode(body))


def _alone(*channels: socket.socket) -> None:
    """No process that an operation starts keeps a channel open: its end tells each side that the other is gone."""
    for end in channels:
        end.set_inheritable(False)
        os.register_at_fork(after_in_child=end.close)


def main() -> None:
    parser = argparse.ArgumentParser(prog="openruntime.runtimes.worker")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True, help="descriptor of the task channel")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the control channel")
    parser.add_argument("--memory", type=int, default=0, help="bytes of private memory it may have; 0 for no bound")
    parser.add_argument("--idle", action="store_true", help="run only while nobody else wants the processor")
    parser.add_argument("--index", type=int, help="the backend's own number for a device that is not the processor")
    parser.add_argument("--device-memory", type=int, default=0, help="bytes of such a device that it may take; 0 for no bound")
    parser.add_argument("--batch", type=int, default=1, help="alike jobs that run as one at most")
    parser.add_argument("--batch-bytes", type=int, default=0, help="bytes that those may need together")
    parser.add_argument("--begun", type=float, required=True, help="monotonic seconds when the gateway started this process")
    options = parser.parse_args()
    # a terminal and a service manager signal the whole group; a worker ends when its channel closes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.idle:
        confinement.give_way()
    os.dup2(2, 1)  # what an operation prints must not look like an answer
    tasks, control = socket.socket(fileno=options.tasks), socket.socket(fileno=options.control)
    _alone(tasks, control)
    confinement.confine(options.memory)
    share = {} if options.index is None else {"index": options.index, "memory": options.device_memory}
    backend: ComputeBackend = registry_of(options.backend).load(options.backend)(device=options.device, threads=options.threads, **share)
    batching = Batching(backend.stacking, backend.batches, most=options.batch, nbytes=options.batch_bytes)
    worker = Worker(backend, tasks, control, batching)
    threading.Thread(target=worker.listen, name="control", daemon=True).start()
    gc.collect()
    gc.freeze()
    tasks.sendall(channel.frame(Hello(abilities(backend), time.monotonic() - options.begun)))
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # the gateway is gone; nobody is left to answer
        asyncio.run(worker.serve())
    sys.stderr.flush()
    confinement.end()


if __name__ == "__main__":
    main()
