"""An injected clock: put on a server's path, it moves Python's wall clock by the seconds in the file that `CHAOS_CLOCK` names.

libfaketime would reach further, but its 0.9.10 makes `time.sleep` of Python 3.11 fail with EINVAL. Monotonic time stays, as with a real step.
"""

import mmap
import os
import struct
import time

with open(os.environ["CHAOS_CLOCK"], "rb") as file:
    _offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

_time, _time_ns, _read = time.time, time.time_ns, struct.Struct("d").unpack_from


def moved() -> float:
    return float(_time() + _read(_offset)[0])


def moved_ns() -> int:
    return int(_time_ns() + _read(_offset)[0] * 1e9)


time.time, time.time_ns = moved, moved_ns
