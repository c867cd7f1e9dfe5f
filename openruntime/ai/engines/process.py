"""An engine as the gateway sees it: a process that holds a model's weights. Starts it, knows how it ended, ends it; it ends when its gateway does."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.errors import OpenRuntimeError, Unavailable, WorkerCrashed, error_class
from openruntime.runtimes.channel import FrameReader, frame
from openruntime.runtimes.process import LINGER, STDERR_KEPT, describe_exit, last_lines, worker_environment

log = logging.getLogger(__name__)

START_TIMEOUT = 600.0  # seconds: weights may be many gigabytes, and lie on a slow disk
LONGEST_FRAME = 1 << 30  # bytes
LONGEST_PATH = 90  # characters of a socket's path; macOS takes 103
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}


class Ready(msgspec.Struct, frozen=True):
    """What an engine says when it has loaded, before anything else; or that it could not, with an error's code and sentence."""

    about: dict[str, Any] = {}
    memory: int = 0  # bytes
    seconds: float = 0.0  # since its start
    code: str = ""
    error: str = ""


def needs(library: str) -> None:
    """For the top of an adapter's file whose engine imports `library`, which its gateway should not. `ModuleNotFoundError` as of an import."""
    if importlib.util.find_spec(library) is None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)


class Engine:
    """A process of `python -m MODULE`, told `settings` as JSON. What it answers to is at `folder`, which only this user can enter.

    A channel between the two stays open as long as both live: `receive` reads what the engine says there, and each ends when the other has.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], *, threads: int, name: str) -> None:
        self._module = module
        self._settings = settings
        self._threads = threads
        self._name = name
        self._stderr = bytearray()
        self._frames: asyncio.Queue[memoryview | None] = asyncio.Queue()
        self._reading = FrameReader(LONGEST_FRAME)
        self._ended = asyncio.Event()
        self._why = ""
        self._end_asked = False
        self.ready = Ready()
        self.pid = 0

    async def start(self) -> None:
        """Raises what the engine said it cannot load for, and `Unavailable` with its last words."""
        loop = asyncio.get_running_loop()
        parent = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="openruntime-", dir=parent if len(parent) < LONGEST_PATH - 30 else "/tmp"))
        ours, theirs = socket.socketpair()
        settings = msgspec.json.encode({**self._settings, "folder": str(self.folder), "threads": self._threads, "begun": time.monotonic()})
        spawning = asyncio.ensure_future(asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-P", "-m", self._module, str(theirs.fileno()), settings.decode()],
            pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, **_environment(self._threads), **OFFLINE},
            process_group=0,
        ))  # fmt: skip
        try:
            self._process = await asyncio.shield(spawning)
            theirs.close()
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:  # above all a cancel: the thread goes on all the same, and what it starts would be nobody's
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_discard, await spawning)
            ours.close()
            theirs.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.pid = self._process.pid
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        loop.add_reader(self._process.stderr.fileno(), self._read_stderr)
        self._listening = loop.create_task(self._listen())
        try:
            async with asyncio.timeout(START_TIMEOUT):
                said = await self.receive()
        except TimeoutError:
            await self.end()
            raise Unavailable(f"{self._name} did not load within {START_TIMEOUT:.0f} s") from None
        except WorkerCrashed:
            raise Unavailable(f"{self._name} did not load: {self._why}") from None
        except BaseException:
            await self.end()
            raise
        self.ready = msgspec.msgpack.decode(said, type=Ready)
        if self.ready.error:
            await self.end()
            error: OpenRuntimeError = error_class(self.ready.code or "unavailable")(self.ready.error)
            error.retryable = False
            raise error

    @property
    def alive(self) -> bool:
        return self.pid > 0 and not self._ended.is_set()

    def memory(self) -> int:
        """Bytes that it holds now; where the system does not say, what it held when it had loaded."""
        if not self.alive:
            return 0
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return self.ready.memory

    def send(self, message: Any) -> None:
        """Raises `WorkerCrashed` when it has ended."""
        if not self.alive:
            raise self.crashed()
        self._writer.write(frame(message))

    async def receive(self) -> memoryview:
        """The next frame that it said. Raises `WorkerCrashed` when it has ended."""
        said = await self._frames.get()
        if said is None:
            self._frames.put_nowait(None)  # for whoever asks after this
            await self._ended.wait()
            raise self.crashed()
        return said

    async def log(self) -> str:
        """The last that it wrote to stderr, a moment ago too."""
        await asyncio.sleep(0.05)
        self._read_stderr()
        return self._stderr.decode(errors="replace")

    async def ending(self) -> WorkerCrashed | None:
        """Why it has ended, if it is ending: known a moment after its sockets have closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * LINGER):
                await self._ended.wait()
        return self.crashed() if self._ended.is_set() else None

    def crashed(self) -> WorkerCrashed:
        if self._end_asked:
            return WorkerCrashed(f"{self._name} was unloaded while it worked; try again")
        return WorkerCrashed(f"the engine of {self._name} ended: {self._why}; it starts again with the next request")

    async def end(self) -> None:
        """Within a second; what it was doing ends too."""
        self._end_asked = True
        if self.pid and not self._ended.is_set():
            self._writer.close()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # it holds nothing that would have to be put in order
            await self._ended.wait()

    async def _listen(self) -> None:
        try:
            while data := await self._reader.read(1 << 18):
                for body in self._reading.feed(data):
                    self._frames.put_nowait(memoryview(bytes(body)))
        except (OSError, ValueError) as error:
            log.warning("the channel of %s (process %d) broke: %s", self._name, self.pid, error)
        await asyncio.shield(self._reap())

    async def _reap(self) -> None:
        try:
            status = await asyncio.to_thread(self._process.wait, LINGER)
        except subprocess.TimeoutExpired:
            status = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if status is None:
            status = await asyncio.to_thread(self._process.wait)
        pipe = self._process.stderr
        assert pipe is not None
        self._read_stderr()
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        pipe.close()
        self._writer.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, True)
        self._why = describe_exit(status, last_lines(bytes(self._stderr)))
        if not self._end_asked:
            log.warning("the engine of %s (process %d) ended: %s", self._name, self.pid, self._why)
        self._ended.set()
        self._frames.put_nowait(None)

    def _read_stderr(self) -> None:
        pipe = self._process.stderr
        if pipe is None or pipe.closed:
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(pipe.fileno(), 65536)
            if not data:
                asyncio.get_running_loop().remove_reader(pipe.fileno())
            self._stderr += data  # a crash's report comes a word at a time
            del self._stderr[: -4 * STDERR_KEPT]


def _discard(process: "subprocess.Popen[bytes]") -> None:
    with process:  # waits, and closes its pipe
        process.kill()


def _environment(threads: int) -> dict[str, str]:
    """As a worker's, but threads may spin while they wait for each other: sleeping at each of a token's many barriers takes three times as long."""
    return {name: value for name, value in worker_environment(threads).items() if name != "OMP_WAIT_POLICY"}
