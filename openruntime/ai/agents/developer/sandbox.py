"""Runs code that nobody has looked at: confined, bounded, ended. The doors are closed by `cell.py`; what a system cannot close is said."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from math import ceil
from pathlib import Path
from time import monotonic
from weakref import WeakKeyDictionary

import msgspec

from openruntime.contracts.agents import Context

DOORS = ("network", "files", "processes")  # what code of a model must not find open
OUTPUT = 256 << 10  # bytes that are kept of what it says
GRACE = 5.0  # seconds beyond its own time until it is ended from outside
AT_ONCE = 2  # of a server: each may take gigabytes
_PLACES: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]" = WeakKeyDictionary()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may take. Bytes and seconds; `memory` and `file` of each process, `total` of all together, `disk` of all its files."""

    seconds: float = 60.0
    cpu: int = 60
    memory: int = 4 << 30
    total: int = 2 << 30
    file: int = 64 << 20
    disk: int = 64 << 20
    files_most: int = 2000
    processes: int = 64


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. `refused`: why it was not run at all. `stopped`: why it was ended. `status`: its exit status, negative for a signal.

    `enforced` and `missing`: what kept it in, and what could not be enforced here and why. `cpu`: seconds.
    """

    status: int | None
    output: str
    errors: str
    enforced: dict[str, str] = {}
    missing: dict[str, str] = {}
    refused: str = ""
    stopped: str = ""
    cpu: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status == 0 and not self.refused and not self.stopped

    @property
    def why(self) -> str:
        """Why it is not ok, for a person."""
        if self.refused:
            return f"it was not run: {self.refused}"
        if self.stopped:
            return f"it was ended: {self.stopped}"
        how = f"it was killed by {signal.Signals(-self.status).name}" if self.status and self.status < 0 else f"it ended with status {self.status}"
        last = self.errors.strip().splitlines()[-1:] or [""]
        return "" if self.ok else f"{how}: {last[0]}".rstrip(": ")


async def run(
    files: Mapping[str, str], command: Sequence[str], *, limits: Limits | None = None, needed: Sequence[str] = DOORS,
    environment: Mapping[str, str] | None = None, payer: Context | None = None,
) -> Outcome:  # fmt: skip
    """Write `files` into an empty folder and run Python there with `command` as its arguments. Nothing of it is left behind.

    `needed`: what must be enforced, else nothing is run. The package `openruntime` and what is installed beside it can be imported.
    It waits while `AT_ONCE` others run. `payer`: the agent's run whose device seconds it is counted in, and which bound it.
    """
    async with _PLACES.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
        work = await asyncio.to_thread(tempfile.mkdtemp, prefix="openruntime-cell-")
        began, cpu = monotonic(), None
        try:
            bounds = _affordable(limits or Limits(), payer)
            outcome = await _run(_order(os.path.realpath(work), files, command, bounds, needed, environment or {}), bounds)
            cpu = outcome.cpu
            return outcome
        finally:
            if payer is not None:
                payer.spent.device_seconds += monotonic() - began if cpu is None else cpu
            await asyncio.to_thread(shutil.rmtree, work, True)


def _affordable(limits: Limits, payer: Context | None) -> Limits:
    """No more processor seconds than the payer has left."""
    if payer is None:
        return limits
    left = payer.budget.device_seconds - payer.spent.device_seconds
    return msgspec.structs.replace(limits, cpu=max(1, min(limits.cpu, ceil(left))))


async def _run(order: bytes, limits: Limits) -> Outcome:
    reads, writes = os.pipe()
    try:
        cell = Path(__file__).with_name("cell.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(cell), str(writes),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            pass_fds=(writes,), env={}, start_new_session=True,
        )  # fmt: skip
        os.close(writes)
        writes = -1
        output, errors = bytearray(), bytearray()
        try:
            async with asyncio.timeout(limits.seconds + GRACE):
                await asyncio.gather(_give(process, order), _keep(process.stdout, output), _keep(process.stderr, errors))
                await process.wait()
        except TimeoutError:
            pass
        finally:
            _end(process)
        await process.wait()
        told = await asyncio.to_thread(os.read, reads, 65536)
    finally:
        for descriptor in (reads, writes):
            if descriptor >= 0:
                os.close(descriptor)
    if not told:
        late = "it did not end in its time, and was ended from outside"
        return Outcome(status=None, stopped=late, output=_text(output), errors=_text(errors), cpu=limits.seconds)
    found = msgspec.json.decode(told)
    status = os.waitstatus_to_exitcode(found.pop("status"))
    return Outcome(status=None if found["refused"] or found["stopped"] else status, output=_text(output), errors=_text(errors), **found)


def _text(said: bytearray) -> str:
    return said.decode(errors="replace")


def _end(process: asyncio.subprocess.Process) -> None:
    """It and its session; on Linux what it has started ends with it, wherever that went."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _give(process: asyncio.subprocess.Process, order: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(order)
        await process.stdin.drain()
    process.stdin.close()


async def _keep(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    """The first of it; the rest is read and forgotten, so that it need not wait."""
    assert stream is not None
    while part := await stream.read(65536):
        into += part[: max(0, OUTPUT - len(into))]


def _order(
    work: str, files: Mapping[str, str], command: Sequence[str], limits: Limits, needed: Sequence[str], environment: Mapping[str, str]
) -> bytes:
    package = Path(next(iter(import_module("openruntime").__path__))).resolve()
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent.parent)}
    readable = [*prefixes, "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system", str(package)]
    own = {
        "PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8", "PYTHONPATH": f"{work}/site", "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENRUNTIME_BACKENDS": "numpy", "OPENRUNTIME_CALIBRATE": "false",
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    return msgspec.json.encode(
        {
            "work": work,
            "files": {name: text for name, text in files.items() if _inside(name)},
            "links": {"site/openruntime": str(package)},
            "command": [sys.executable, *command],
            "environment": own | dict(environment),
            "readable": sorted(readable),
            "needed": list(needed),
            **msgspec.structs.asdict(limits),
        }
    )


def _inside(name: str) -> bool:
    """Raises `ValueError` for a name that leads out of the folder."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise ValueError(f"{name!r:.100} is no name inside the folder")
    return True
