"""The process that a kernel under trial runs in, and its side in the judge's. Started as `python -m openruntime.backends.verification.stage`.

What a kernel does to its process it does to this one: the data, the reference and the verdict are elsewhere.
"""

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from openruntime.backends.fences import Fenced
from openruntime.contracts.errors import CompileError, OpenRuntimeError, TaskFailed, error_class
from openruntime.contracts.kernels import Compiled, KernelRunner, Number, decoded
from openruntime.contracts.registry import KERNELS

START = 60.0  # seconds for the library to be imported and the device to be found
COMPILING = 120.0
_LENGTH = struct.Struct("<I")


class Build(msgspec.Struct, tag=True):
    """Compile `program` and keep it as `key`."""

    key: int
    program: bytes


class Built(msgspec.Struct, tag=True):
    seconds: float
    cached: bool
    log: str


class Memory(msgspec.Struct, tag=True):
    """Take these arrays, inputs first, each with `guard` bytes before and after, laid in its pages as `Fenced` says of `shift`; answered with
    `Ran` of 0 seconds."""

    arrays: list[bytes]
    guard: int
    shift: int | None = 0


class Run(msgspec.Struct, tag=True):
    """Run `key` on the memory. `answer`: send back what stands in it then."""

    key: int
    scalars: list[Number]
    grid: list[int]
    local: list[int]
    answer: bool


class Ran(msgspec.Struct, tag=True):
    seconds: float
    arrays: list[bytes] = []


class Refused(msgspec.Struct, tag=True):
    code: str
    message: str
    log: str = ""
    lines: list[dict[str, Any]] = []


class Ready(msgspec.Struct, tag=True):
    in_place: bool
    identity: str


Request = Build | Memory | Run
Reply = Built | Ran | Refused | Ready
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)


class Died(TaskFailed):
    """The process ended, or had to be ended: `finding` is `crashed` or `timeout`."""

    def __init__(self, finding: str, message: str) -> None:
        super().__init__(message)
        self.finding = finding


class Stage:
    """The judge's side. One process at a time; `start` makes a new one. `close` it."""

    def __init__(self, backend: str, device: str, threads: int, index: int = 0) -> None:
        self._command = [sys.executable, "-P", "-m", "openruntime.backends.verification.stage", backend, device, str(threads), str(index)]
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self.in_place = False
        self.identity = ""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Raises `Died` with its last words where it does not come up."""
        self.close()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        # in this process's group, so that it ends with a worker that is killed
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)
        ready = self._read(START)
        if isinstance(ready, Refused):
            raise error_class(ready.code)(ready.message)
        assert isinstance(ready, Ready)
        self.in_place, self.identity = ready.in_place, ready.identity

    def build(self, key: int, program: bytes) -> Built:
        """Raises `CompileError`."""
        built = self._ask(Build(key, program), COMPILING)
        assert isinstance(built, Built)
        return built

    def memory(self, arrays: Sequence[bytes], guard: int, shift: int | None = 0) -> None:
        self._ask(Memory(list(arrays), guard, shift), COMPILING)

    def run(
        self, key: int, scalars: Sequence[Number], grid: Sequence[int], local: Sequence[int], timeout: float, *, answer: bool = True
    ) -> tuple[float, list[bytes]]:
        """Seconds on the device, and the memory as it is then. Raises `Died`, or what the device refuses it with."""
        ran = self._ask(Run(key, list(scalars), list(grid), list(local), answer), timeout)
        assert isinstance(ran, Ran)
        return ran.seconds, ran.arrays

    def _ask(self, request: Request, timeout: float) -> Reply:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        data = msgspec.msgpack.encode(request)
        try:
            process.stdin.write(_LENGTH.pack(len(data)))
            process.stdin.write(data)
            process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        reply = self._read(timeout)
        if isinstance(reply, Refused):
            if reply.code == CompileError.code:
                raise CompileError(reply.message, log=reply.log, lines=reply.lines)
            raise error_class(reply.code, task=True)(reply.message)
        return reply

    def _read(self, timeout: float) -> Reply:
        end = time.monotonic() + timeout
        (length,) = _LENGTH.unpack(self._bytes(_LENGTH.size, end, timeout))
        reply: Reply = _replies.decode(self._bytes(length, end, timeout))
        return reply

    def _bytes(self, count: int, end: float, timeout: float) -> bytearray:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        data = bytearray()
        fd = process.stdout.fileno()
        while len(data) < count:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                self.close()
                raise Died("timeout", f"it had not ended after {timeout:g} s")
            part = os.read(fd, min(1 << 20, count - len(data)))
            if not part:
                raise self._dead()
            data += part
        return data

    def _dead(self) -> Died:
        process, said = self._process, self._said
        assert process is not None
        assert said is not None
        status = process.wait(10)
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
        words = said.read().decode(errors="replace").partition("Fatal Python error")[0].strip().splitlines()[-3:]
        self.close()
        return Died("crashed", "; ".join([f"its process died of {how}", *words]))

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None


class _Host:
    """The kernel's side."""

    def __init__(self, runner: KernelRunner) -> None:
        self._runner = runner
        self._programs: dict[int, Compiled] = {}
        self._memories: list[Fenced] = []
        self._guard = 0

    def answer(self, request: Request) -> Reply:
        try:
            match request:
                case Build(key, program):
                    compiled = self._programs[key] = self._runner.compile(decoded(program))
                    return Built(compiled.seconds, compiled.cached, compiled.log)
                case Memory(arrays, guard, shift):
                    self._take(arrays, guard, shift)
                    return Ran(0.0)
                case Run():
                    return self._run(request)
        except CompileError as error:
            return Refused(error.code, error.message, error.log, [dict(line) for line in error.lines])
        except OpenRuntimeError as error:
            return Refused(error.code, error.message)
        except MemoryError as error:
            return Refused("out_of_memory", f"no memory: {error}")

    def _take(self, arrays: Sequence[bytes], guard: int, shift: int | None) -> None:
        for memory in self._memories:
            memory.close()
        self._guard = guard
        self._memories = [Fenced(len(array) - 2 * guard, guard=guard, shift=shift) for array in arrays]
        for memory, array in zip(self._memories, arrays, strict=True):
            memory.view[:] = array

    def _run(self, request: Run) -> Ran:
        compiled = self._programs[request.key]
        views, count = [memory.view for memory in self._memories], len(compiled.spec.inputs)
        seconds = self._runner.run(compiled, views[:count], views[count:], request.scalars, request.grid, request.local, guard=self._guard)
        return Ran(seconds, [bytes(view) for view in views] if request.answer else [])


def main() -> None:
    backend, device, threads, index = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a kernel prints must not look like an answer

    def reply(message: Reply) -> None:
        data = msgspec.msgpack.encode(message)
        out.write(_LENGTH.pack(len(data)))
        out.write(data)
        out.flush()

    try:
        runner: KernelRunner = KERNELS.load(backend).runner_class(device=device, threads=threads, index=index)
        runner.fetch_inputs = True
    except OpenRuntimeError as error:
        reply(Refused(error.code, error.message))
        return
    reply(Ready(runner.in_place, runner.identity))
    host = _Host(runner)
    while len(head := sys.stdin.buffer.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        reply(host.answer(_requests.decode(sys.stdin.buffer.read(length))))
    os._exit(0)


if __name__ == "__main__":
    main()
