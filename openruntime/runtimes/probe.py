"""Asks a backend which devices it drives and what it cannot do. Started as `python -m openruntime.runtimes.probe NAME`.

In a process of its own: the gateway imports no library that drives a device, and a plugin that crashes or hangs there harms nobody.
"""

import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable

import msgspec

from openruntime.contracts.errors import MissingExtra, NoSuchDevice, OpenRuntimeError
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.records import Abilities, Probe
from openruntime.contracts.registry import BACKENDS
from openruntime.runtimes.process import STDERR_KEPT, describe_exit, last_lines, worker_environment

TIMEOUT = 60.0  # seconds; importing a large library from a cold disk takes long


class Report(msgspec.Struct, frozen=True):
    """What came of asking: what it drives, and of each platform among that what it can do there.

    Neither probes nor failure: it works, and drives nothing here; `nothing` says why, if it knows. Both: it fails on some platform only.
    `extra` is what would bring a missing library.
    """

    backend: str
    probes: list[Probe] = []
    abilities: dict[str, Abilities] = {}
    failure: str | None = None
    extra: str | None = None
    nothing: str | None = None


def abilities(backend: ComputeBackend) -> Abilities:
    """What a backend says of itself, as plain data."""
    return Abilities(frozenset(backend.get_capabilities()), dict(backend.unsupported), dict(backend.lacks))


def look(name: str) -> Report:
    """Import the backend's library here and ask."""
    try:
        found: type[ComputeBackend] = BACKENDS.load(name)
        probes = [msgspec.structs.replace(probe, backend=name) for probe in found.probe()]
    except MissingExtra as error:
        return Report(name, failure=error.message.partition(":")[0], extra=error.extra)
    except NoSuchDevice as error:
        return Report(name, nothing=error.message)
    except Exception as error:  # it is a third party's code
        return Report(name, failure=_told(name, error))
    told: dict[str, Abilities] = {}
    broken = [probe.failure for probe in probes if probe.failure is not None]
    probes = [probe for probe in probes if probe.failure is None]
    failures: dict[str, str] = {}
    for probe in probes:
        if probe.platform not in told and probe.platform not in failures:
            try:
                told[probe.platform] = abilities(make(found, probe))
            except Exception as error:
                failures[probe.platform] = _told(name, error)
    working = [probe for probe in probes if probe.platform in told]
    return Report(name, working, told, "; ".join([*broken, *failures.values()]) or None)


def make(backend: type[ComputeBackend], probe: Probe) -> ComputeBackend:
    """The backend on what one of its probes names."""
    own = {} if probe.platform == "cpu" else {"index": probe.index}
    return backend(device=f"{probe.platform}:{probe.index}", threads=1, **own)  # type: ignore[call-arg]  # every backend takes them


def _told(name: str, error: Exception) -> str:
    if isinstance(error, OpenRuntimeError):
        return error.message
    return f"backend {name} cannot be used: {type(error).__name__}: {error}"[:1000]


async def discover(names: Iterable[str]) -> list[Report]:
    """Ask each backend, one after the other. Never raises for what a backend does."""
    return [await _asked(name) for name in names]


async def _asked(name: str) -> Report:
    try:
        return await ask(name)
    except OSError as error:  # no process can be started now
        return Report(name, failure=f"backend {name} cannot be asked which devices it drives: {error}")


async def ask(name: str, timeout: float = TIMEOUT) -> Report:
    """Ask one backend in a process of its own, which is gone when this returns."""
    command = [sys.executable, "-P", "-m", "openruntime.runtimes.probe", name, str(timeout)]
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=said, env=os.environ | worker_environment(1)
        )
        assert process.stdout is not None, "asked for above"
        try:
            async with asyncio.timeout(timeout):
                answer = await process.stdout.read()
                await process.wait()
        except TimeoutError:
            return Report(name, failure=f"backend {name} did not say within {timeout:g} s which devices it drives")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            return msgspec.json.decode(answer, type=Report)
        except msgspec.DecodeError:
            said.seek(max(0, said.seek(0, os.SEEK_END) - STDERR_KEPT))
            how = describe_exit(process.returncode or 0, last_lines(said.read()))
            return Report(name, failure=f"backend {name} cannot be asked which devices it drives: {how}")


def _end_with_gateway() -> None:
    """The gateway holds the other end of the standard input, and says nothing: it is over when that closes."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    name, timeout = sys.argv[1], float(sys.argv[2])
    signal.alarm(int(timeout) + 5)  # where it hangs with the interpreter's lock
    threading.Thread(target=_end_with_gateway, daemon=True).start()
    os.nice(10)  # tasks run beside it
    answer = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not look like the answer
    with open(answer, "wb") as out:
        out.write(msgspec.json.encode(look(name)))
    os._exit(0)  # no library's clean-up is needed, and some hang


if __name__ == "__main__":
    main()
