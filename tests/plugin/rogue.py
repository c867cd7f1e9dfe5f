"""Operations that misbehave, for the tests: they come in like any third party's, through entry points."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time

from openruntime.operations import Array, Estimate, Namespace, Spec, operation
from openruntime.operations.stacking import each
from openruntime.runtimes.channel import Done, Job, WireArray, frame


def _unit(**parameters: object) -> Spec:
    return Spec("float64", (1,))


def _free(**parameters: object) -> Estimate:
    return Estimate(1.0, 8.0, 8)


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_sleep(*, seconds: float, xp: Namespace) -> Array:
    """Sleeps in native code that does not look at anything."""
    time.sleep(seconds)
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_spin(*, seconds: float, xp: Namespace) -> Array:
    """A loop in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_steps(*, count: int, pause: float, xp: Namespace, steps: object) -> Array:
    """Works in steps, reports each, and stops when asked."""
    for index in range(count):
        time.sleep(pause)
        steps(index + 1, count, f"step {index + 1}")  # type: ignore[operator]
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_crash(*, how: str, xp: Namespace) -> Array:
    """Takes its process down."""
    print("these are my last words", file=sys.stderr, flush=True)
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(7)
    elif how == "raise":
        raise RuntimeError("this went wrong")
    elif how == "system_exit":
        raise SystemExit(3)
    elif how == "memory":
        raise MemoryError("no room for this")
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_once(*, path: str, xp: Namespace) -> Array:
    """Crashes the first time, works the second."""
    if not os.path.exists(path):
        with open(path, "w", encoding="ascii"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_flaky(*, path: str, failures: int, xp: Namespace) -> Array:
    """Raises the first `failures` times."""
    with open(path, "a", encoding="ascii") as file:
        file.write("x")
    if os.path.getsize(path) <= failures:
        raise RuntimeError(f"failure {os.path.getsize(path)}")
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_liar(*, elements: int, xp: Namespace) -> Array:
    """Gives more than it declared."""
    return xp.ones((elements,))


@operation(family="rogue", check=lambda elements: Spec("float64", (elements,)), estimate=_free, cacheable=False)
def rogue_dice(*, elements: int, xp: Namespace) -> Array:
    """Random without a seed."""
    return xp.full((elements,), random.random())


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_noise(*, megabytes: int, xp: Namespace) -> Array:
    """Prints to stdout and stderr."""
    for _ in range(megabytes):
        sys.stderr.write("e" * (1 << 20))
        print("o" * 1000)
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_hold(*, seconds: float, xp: Namespace) -> Array:
    """Native code that never lets go of the interpreter's lock, so that no other thread of its process runs."""
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1e6)))
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_parent(*, path: str, fork: bool, xp: Namespace) -> Array:
    """Starts a process that would outlive it, writes down its id, and sleeps."""
    if fork:
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
    else:
        child = subprocess.Popen(["sleep", "600"], close_fds=False).pid
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(str(child))
    os.rename(path + ".new", path)
    time.sleep(600)
    return xp.ones((1,))


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_channel(*, how: str, xp: Namespace) -> Array:
    """Does to its worker's task channel what only a broken worker would, then goes on as if nothing were."""
    number = int(sys.argv[sys.argv.index("--tasks") + 1])
    tasks = socket.socket(fileno=os.dup(number))
    if how == "close":
        os.close(number)
        tasks.close()
        time.sleep(600)
    elif how == "shut":
        tasks.shutdown(socket.SHUT_RDWR)
        time.sleep(600)
    elif how == "rubbish":
        tasks.sendall(b"\xff" * 1000)
    elif how == "endless":
        tasks.sendall((1 << 30).to_bytes(4, "little") + b"x" * 100_000)
    elif how == "stranger":
        tasks.sendall(frame(Done(1 << 60, {}, 0.0, 0.0, 0.0)))
    elif how == "short":
        tasks.sendall(frame(Done(_job(), {"output": WireArray("float64", (1000,), memoryview(b"1234"))}, 0.0, 0.0, 0.0)))
    elif how == "outside":
        tasks.sendall(frame(Done(_job(), {"output": WireArray("float64", (1000,), None, 1, 1 << 40)}, 0.0, 0.0, 0.0)))
    elif how == "negative":
        tasks.sendall(frame(Done(_job(), {"output": WireArray("float64", (-1000,), None, 1, 0)}, 0.0, 0.0, 0.0)))
    elif how == "none":
        tasks.sendall(frame(Done(_job(), {}, 0.0, 0.0, 0.0, batch=(0, 0))))
    elif how == "backwards":
        tasks.sendall(frame(Done(_job(), {}, 0.0, 2.0, 1.0)))
    elif how == "never":
        tasks.sendall(frame(Done(_job(), {}, float("nan"), 1.0, 2.0)))
    return xp.ones((1,))


def _job() -> int:
    """The id of the job that runs this."""
    call = sys._getframe()
    while "job" not in call.f_locals or not isinstance(call.f_locals["job"], Job):
        assert call.f_back is not None
        call = call.f_back
    return int(call.f_locals["job"].id)


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_leak(*, megabytes: int, xp: Namespace) -> Array:
    """Keeps memory that nobody gives back."""
    _LEAKED.append(b"\1" * (megabytes << 20))
    return xp.ones((1,))


_LEAKED: list[bytes] = []


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_hoard(*, megabytes: int, xp: Namespace) -> Array:
    """Takes much more memory than it declared, and touches all of it."""
    held = [b"\1" * (1 << 20) for _ in range(megabytes)]
    return xp.full((1,), float(len(held)))


@operation(family="rogue", estimate=lambda x: Estimate(1.0, 8.0, 2 * x.nbytes), batch=each, cacheable=False)
def rogue_mine(x: Array, *, xp: Namespace) -> Array:
    """`x` after a tenth of a millisecond a call, however many calls run as one. A 13 in it ends the process, a 14 fails the call."""
    time.sleep(1e-4)
    if bool(xp.any(x == 13)):
        os.kill(os.getpid(), signal.SIGKILL)
    if bool(xp.any(x == 14)):
        raise RuntimeError("there is a 14")
    return x
