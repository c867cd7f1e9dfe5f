"""A worker as the gateway sees it: starts the process, sends jobs, hears outcomes, kills it, and says how it died."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec

from openruntime.contracts.errors import Unavailable
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Abilities
from openruntime.runtimes import channel
from openruntime.runtimes.channel import Began, Done, Failed, FrameReader, Hello, JobWriter, Outcome, Outgoing, Progress
from openruntime.runtimes.shared_memory import SlabPool

log = logging.getLogger(__name__)

STDERR_KEPT = 4096  # bytes: the last lines say why it died
LOGGED = 16_384  # bytes of it that go into the log for each job: an operation that prints for ever must not fill a disk
START_TIMEOUT = 60.0  # seconds; importing a large library from a cold disk takes long
READ_SIZE = 1 << 18
LONGEST_OUTCOME = 16 << 20  # bytes: large outputs come through shared memory
KEPT = 256 << 20  # bytes of freed memory that a worker may keep for its next arrays while it is at work
LINGER = 0.5  # seconds a process may take to end that has closed its channel


class Answer(msgspec.Struct, gc=False):
    """A job's outcome with its outputs as arrays; `failure` is (code, message), the times are as in `Done`."""

    job: int
    outputs: dict[str, Array] | None
    failure: tuple[str, str] | None
    seconds: float
    started: float
    finished: float
    transfer: float = 0.0
    compile: float = 0.0
    batch: tuple[int, int] | None = None


class Share(msgspec.Struct, frozen=True):
    """What a worker of a backend is told of a device that is not the processor: the backend's own number for it, and bytes it may take (0: all)."""

    index: int
    memory: int = 0


class WorkerOptions(msgspec.Struct, frozen=True):
    """How a worker runs: compute `threads`, at most `memory` bytes of its own (0: no bound), its `share` of a device that is not the processor,
    more variables in its `environment`. An `idle` one runs only while nobody else wants the processor. Up to `batch` alike jobs, of `batch_bytes`
    together, run as one."""

    threads: int = 1
    memory: int = 0
    idle: bool = False
    share: Share | None = None
    environment: Mapping[str, str] = {}
    batch: int = 64
    batch_bytes: int = 64 << 20


class WorkerProcess:
    """One process that hosts one backend on one device.

    `on_answer` and `on_progress` are called on the event loop, in order; `on_death(reason)` once. Progress of a job that waited says that it
    has begun with others.
    """

    def __init__(
        self,
        device: str,
        backend: str,
        options: WorkerOptions,
        *,
        pool: SlabPool,
        on_answer: Callable[[Answer], None],
        on_progress: Callable[[int, float, str | None], None],
        on_death: Callable[[str], None],
    ) -> None:
        self.device = device
        self.backend = backend
        self.abilities: Abilities | None = None
        self.pid: int | None = None
        self.start_seconds = 0.0
        self._options = options
        self._pool = pool
        self._on_answer = on_answer
        self._on_progress = on_progress
        self._on_death = on_death
        self._stderr: deque[bytes] = deque()
        self._stderr_bytes = 0
        self._logged = 0
        self._outgoing: deque[tuple[bytes | bytearray, list[int]]] = deque()
        self._reader = FrameReader(LONGEST_OUTCOME)
        self._incoming = memoryview(bytearray(READ_SIZE))  # one for all reads: the kernel would have to zero a new one each time
        self._writer = JobWriter(pool)
        self._held: dict[int, tuple[memoryview | None, list[Any], list[memoryview]]] = {}  # memory a job uses until it is answered
        self._hello: asyncio.Future[Hello] | None = None
        self._dead: asyncio.Event = asyncio.Event()
        self._kill_reason: str | None = None

    async def start(self) -> None:
        """Start the process and wait until it can take jobs. Raises `Unavailable` with its last words when it cannot."""
        options = self._options
        self._loop = asyncio.get_running_loop()
        self._hello = self._loop.create_future()
        self._tasks, theirs = socket.socketpair()
        self._control, their_control = socket.socketpair()
        for ours in (self._tasks, self._control):
            ours.setblocking(False)
        for end in (self._tasks, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        command = [
            sys.executable, "-P", "-m", "openruntime.runtimes.worker",
            "--backend", self.backend, "--device", self.device, "--threads", str(options.threads), "--memory", str(options.memory),
            "--batch", str(options.batch), "--batch-bytes", str(options.batch_bytes),
            "--tasks", str(theirs.fileno()), "--control", str(their_control.fileno()), "--begun", str(time.monotonic()),
            *(["--idle"] if options.idle else []),
        ]  # fmt: skip
        if options.share is not None:
            command += ["--index", str(options.share.index), "--device-memory", str(options.share.memory)]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(), their_control.fileno()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**os.environ, **worker_environment(options.threads), **options.environment},
            process_group=0,  # what an operation starts ends with it
        )  # fmt: skip
        self.pid = self._process.pid
        theirs.close()
        their_control.close()
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        self._loop.add_reader(self._process.stderr.fileno(), self._read_stderr)
        self._loop.add_reader(self._tasks.fileno(), self._read)
        try:
            hello = await asyncio.wait_for(self._hello, START_TIMEOUT)
        except TimeoutError:
            self.kill(f"it was not ready {START_TIMEOUT:.0f} s after its start")
            await self._dead.wait()
            raise Unavailable(f"the {self.backend} worker of {self.device} did not start within {START_TIMEOUT:.0f} s") from None
        except asyncio.CancelledError:
            self.kill("its start was given up")
            await self._dead.wait()
            raise
        self.abilities = hello.abilities
        self.start_seconds = hello.seconds

    def run(self, jobs: Sequence[Outgoing], threads: int = 0, alone: Sequence[int] = ()) -> list[tuple[int, Exception]]:
        """Send jobs together; those in `alone` never run as one with others. Their memory is held until each is answered, or the process is gone.

        Those that cannot be sent, and why (see `JobWriter.messages`): they do not hold up the others."""
        try:
            messages, copies = self._writer.messages(jobs, threads, alone)
        except Exception as error:
            return [(jobs[0][0], error)] if len(jobs) == 1 else [found for job in jobs for found in self.run([job], threads, alone)]
        for job, _operation, parameters, out in jobs:
            self._held[job] = (out, list(parameters.values()), copies)  # the values: the record drops its inputs when it ends
        for data, descriptors in messages:
            self._send(data, descriptors)
        return []

    def _send(self, data: bytes | bytearray, descriptors: list[int]) -> None:
        if not self._outgoing:
            try:
                data = data[self._write(data, descriptors) :]
            except OSError:
                return  # it is dying; the reader hears of it
            if not data:
                return
            descriptors = []
            self._loop.add_writer(self._tasks.fileno(), self._flush)
        self._outgoing.append((data, descriptors))

    def _write(self, data: bytes | bytearray, descriptors: list[int]) -> int:
        try:
            return socket.send_fds(self._tasks, [data], descriptors) if descriptors else self._tasks.send(data)
        except BlockingIOError:
            return 0

    def _flush(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            try:
                sent = self._write(data, descriptors)
            except OSError:
                self._outgoing.clear()
                break
            if not sent:
                return
            if sent < len(data):
                self._outgoing[0] = (data[sent:], [])
                return
            self._outgoing.popleft()
        self._loop.remove_writer(self._tasks.fileno())

    def cancel(self, job: int) -> None:
        """Ask a job to stop: skipped if it has not begun, stopped between its steps if it has any."""
        try:
            self._control.send(channel.frame(job))
        except OSError:
            log.debug("worker %s cannot be asked to cancel; it is full or dying", self.pid)

    def kill(self, reason: str) -> None:
        """End the process now, and what it started; `on_death` follows when it is gone."""
        if self._kill_reason is None and not self._dead.is_set():
            self._kill_reason = reason
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in it
            os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, grace: float = 2.0) -> None:
        """Close the channel, wait for the process to end, kill it when it does not."""
        if self._dead.is_set():
            return
        self._kill_reason = "stopped"
        self._control.close()  # the control thread ends the process
        try:
            await asyncio.wait_for(self._dead.wait(), grace)
        except TimeoutError:
            self._kill_group()
            await self._dead.wait()

    def _read(self) -> None:
        try:
            size = self._tasks.recv_into(self._incoming)
        except BlockingIOError:
            return
        except OSError:  # a dead worker with unread data gives ECONNRESET
            size = 0
        if not size:
            self._gone()
            return
        try:
            for body in self._reader.feed(self._incoming[:size]):
                self._handle(channel.outcome_decoder.decode(body))
        except (msgspec.DecodeError, ValueError, KeyError) as error:
            log.error("worker %s spoke rubbish: %s", self.pid, error)
            self.kill(f"it answered with rubbish ({error})")
            self._gone()

    def _handle(self, outcome: Outcome) -> None:
        if type(outcome) not in (Progress, Began) and self._stderr:
            self._stderr.clear()  # what earlier jobs said is none of the next one's business
            self._stderr_bytes = self._logged = 0
        if type(outcome) is Done:
            out = self._held.pop(outcome.id)[0]
            outputs = {}
            for name, wire in outcome.outputs.items():
                array = Array(wire.dtype, wire.shape)
                if min(wire.shape, default=0) < 0:
                    raise ValueError(f"output {name!r} has the shape {list(wire.shape)}")
                if wire.data is not None:
                    if len(wire.data) != array.nbytes:
                        raise ValueError(f"output {name!r} has {len(wire.data)} bytes, and should have {array.nbytes}")
                    outputs[name] = Array(wire.dtype, wire.shape, bytes(wire.data))
                else:
                    if out is None or wire.offset < 0 or wire.offset + array.nbytes > out.nbytes:
                        raise ValueError(f"output {name!r} lies outside the memory given for it")
                    outputs[name] = Array(wire.dtype, wire.shape, out[wire.offset : wire.offset + array.nbytes])
            times = outcome.seconds, outcome.started, outcome.finished, outcome.transfer, outcome.compile
            if not isfinite(sum(times)) or outcome.started > outcome.finished:
                raise ValueError(f"it took from {outcome.started} to {outcome.finished}")
            if outcome.batch is not None and not 1 <= outcome.batch[1] <= outcome.batch[0]:
                raise ValueError(f"it was number {outcome.batch[1]} of {outcome.batch[0]}")
            self._on_answer(Answer(outcome.id, outputs, None, *times, outcome.batch))
        elif type(outcome) is Failed:
            self._held.pop(outcome.id)
            self._on_answer(
                Answer(outcome.id, None, (outcome.code, outcome.message), outcome.finished - outcome.started, outcome.started, outcome.finished)
            )
        elif type(outcome) is Progress:
            self._on_progress(outcome.id, outcome.progress, outcome.message)
        elif type(outcome) is Began:
            for job in outcome.jobs:
                self._on_progress(job, 0.0, None)
        elif self._hello is not None and not self._hello.done():
            self._hello.set_result(outcome)  # type: ignore[arg-type]

    def _read_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        try:
            data = os.read(pipe.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(pipe.fileno())
            return
        self._stderr.append(data[-STDERR_KEPT:])
        self._stderr_bytes += min(len(data), STDERR_KEPT)
        while self._stderr_bytes - len(self._stderr[0]) >= STDERR_KEPT:
            self._stderr_bytes -= len(self._stderr.popleft())
        if self._logged < LOGGED:
            self._logged += len(data)
            log.warning("worker %s says:\n%s", self.pid, data[-LOGGED:].decode(errors="replace").rstrip())

    def _gone(self) -> None:
        self._loop.remove_reader(self._tasks.fileno())
        if self._outgoing:
            self._outgoing.clear()
            self._loop.remove_writer(self._tasks.fileno())
        self._reaping = self._loop.create_task(self._reap())

    async def _reap(self) -> None:
        try:
            status = await asyncio.to_thread(self._process.wait, LINGER)
        except subprocess.TimeoutExpired:
            self.kill("it closed its channel and ran on")
            status = await asyncio.to_thread(self._process.wait)
        self._kill_group()
        pipe = self._process.stderr
        assert pipe is not None
        self._read_stderr()
        self._loop.remove_reader(pipe.fileno())
        pipe.close()
        self._tasks.close()
        self._control.close()
        self._held.clear()
        self._dead.set()
        reason = self._kill_reason or describe_exit(status, self.last_words())
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(Unavailable(f"the {self.backend} worker of {self.device} did not start: {reason}"))
        self._on_death(reason)

    def last_words(self) -> str:
        """The last lines the process wrote to stderr for this job."""
        return last_lines(b"".join(self._stderr))


def last_lines(stderr: bytes) -> str:
    """The last lines of what a process wrote to stderr; of a faulthandler's report, its first line."""
    said, fatal, report = stderr[-STDERR_KEPT:].decode(errors="replace").partition("Fatal Python error")
    return "\n".join([*said.strip().splitlines()[-8:], *([fatal + report.partition("\n")[0]] if fatal else [])])


def describe_exit(status: int, last_words: str) -> str:
    """How a process ended, for a person: its signal or exit status, and its last lines."""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        how = f"it was ended by {name}"
    else:
        how = f"it exited with status {status}"
    return f"{how}; its last lines:\n{last_words}" if last_words else how


def worker_environment(threads: int) -> dict[str, str]:
    """Variables libraries read at import: as many threads as given, that do not spin when they have nothing to do."""
    count = str(threads)
    return {
        "OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "VECLIB_MAXIMUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count, "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": os.environ.get("OPENBLAS_THREAD_TIMEOUT", "20"),
        "POCL_MAX_PTHREAD_COUNT": count, "POCL_CPU_MAX_CU_COUNT": count,  # PoCL before version 4, and since
        "MALLOC_ARENA_MAX": "2", "PYTHONFAULTHANDLER": "1",
        **{name: os.environ.get(name, str(size)) for name, size in _kept().items()},
    }  # fmt: skip


def _kept() -> dict[str, int]:
    """Memory that glibc keeps for the next array: zeroing fresh pages for every temporary took NumPy's `sobel` five times its own work."""
    libc, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "" if hasattr(os, "confstr") and sys.platform == "linux" else "").partition(" ")
    if libc != "glibc":
        return {}
    lately = tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)  # an older one refuses more than half of its 64 MiB heaps
    return {"MALLOC_MMAP_THRESHOLD_": 1 << 30 if lately else 32 << 20, "MALLOC_TRIM_THRESHOLD_": KEPT}
