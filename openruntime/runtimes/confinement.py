"""What a worker may take and how it ends, set by itself at its start, through what each system offers."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

FIRST_TO_GO = 500  # of 1000: when the machine runs out of memory the kernel ends a worker rather than the gateway
_PR_SET_PDEATHSIG = 1


def confine(memory: int) -> None:
    """Bound this process's private memory to `memory` bytes (0: no bound), and tie its life to its parent's.

    Linux: `RLIMIT_DATA` counts private writable mappings, shared memory apart (getrlimit(2)); other systems do not enforce it.
    """
    if memory:
        with contextlib.suppress(ValueError, OSError):  # a smaller one holds already
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(FIRST_TO_GO))
    # native code that holds the interpreter's lock keeps the control thread from hearing that the gateway is gone
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def give_way() -> None:
    """Run only while nobody else wants the processor. Threads that are started later inherit it."""
    os.nice(19)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def held() -> str:
    """The most memory that this process has had, and its bound, for a person."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    bound = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return f"its worker held {peak} bytes at most" + ("" if bound == resource.RLIM_INFINITY else f", of {bound} that it may have (`worker_memory`)")


def end() -> None:
    """End this process at once, whatever it computes, and what an operation has started in its group."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
