"""Operations that misbehave, for the tests: they come in like any third party's, through entry points."""

import ctypes
import os
import signal
import sys
import time

from openruntime.operations import Array, Estimate, Namespace, Spec, operation


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


@operation(family="rogue", check=_unit, estimate=_free, cacheable=False)
def rogue_noise(*, megabytes: int, xp: Namespace) -> Array:
    """Prints to stdout and stderr."""
    for _ in range(megabytes):
        sys.stderr.write("e" * (1 << 20))
        print("o" * 1000)
    return xp.ones((1,))
