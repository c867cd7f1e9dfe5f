"""Memory around kernels: known bytes on both sides, and beyond them the end of the process."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from openruntime.backends.fences import ALIGNMENT, GUARD, Fenced


@pytest.mark.parametrize("nbytes", [0, 1, 255, 4000, 4096, 1 << 20, (1 << 23) + 3])
def test_the_array_is_zeros_between_guards(nbytes: int) -> None:
    memory = Fenced(nbytes)
    assert (memory.array.nbytes, memory.view.nbytes) == (nbytes, nbytes + 2 * GUARD)
    whole = np.frombuffer(memory.view, np.uint8)
    assert (whole[GUARD:].ctypes.data % ALIGNMENT, whole[GUARD : GUARD + nbytes].any()) == (0, False)
    memory.array[:] = b"\xa5" * nbytes
    assert memory.breach() is None
    memory.close()
    memory.close()


def test_it_can_lie_at_many_places_of_a_page() -> None:
    places = set()
    for guard, shift in ((512, 0), (1024, 256), (2560, 0), (4096, 256)):
        memory = Fenced(100, guard=guard, shift=shift)
        assert memory.view.nbytes == 100 + 2 * guard
        places.add(np.frombuffer(memory.array, np.uint8).ctypes.data % 4096)
        memory.view[guard + 100] ^= 1
        assert memory.breach() == "past its end"
        memory.close()
    assert len(places) == 4
    assert {place % ALIGNMENT for place in places} == {0}


@pytest.mark.parametrize(
    ("offset", "where"), [(-1, "before its beginning"), (-GUARD, "before its beginning"), (100, "past its end"), (611, "past its end")]
)
def test_a_byte_outside_is_seen(offset: int, where: str) -> None:
    memory = Fenced(100)
    memory.view[GUARD + offset] ^= 1
    assert memory.breach() == where
    memory.close()


@pytest.mark.parametrize(
    ("offset", "laid"), [(5_000, ""), (1 << 31, ""), (-5_000, ""), (-(1 << 33), ""), (-1, ", guard=0, shift=None"), (256, ", guard=0")]
)
def test_further_out_the_process_ends(offset: int, laid: str) -> None:
    program = (
        f"import ctypes, numpy\nfrom openruntime.backends.fences import Fenced\nm = Fenced(100{laid})\n"
        f"ctypes.memset(numpy.frombuffer(m.array, 'u1').ctypes.data + {offset}, 1, 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == -signal.SIGSEGV
