"""1,000 cycles of allocate, run, fail and free leave a backend's memory flat: each that is there, in a process of its own."""

import json
import subprocess
import sys

import pytest

from openruntime.contracts.registry import BACKENDS
from openruntime.runtimes.probe import look

BUILTIN = [name for name in BACKENDS.names() if BACKENDS.builtin(name)]


def _rise(name: str, cycles: int) -> int:
    """Bytes that its memory rose after the warm-up."""
    report = look(name)
    if not report.probes:
        pytest.skip(f"not run here: {report.failure or report.nothing}")
    device = f"{report.probes[0].platform}:{report.probes[0].index}"
    command = [sys.executable, "-m", "benchmarks.cycles", name, "--cycles", str(cycles), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return int(found["end"] - found["warm"])


@pytest.mark.parametrize("name", ["numpy", "webgpu"])
def test_a_few_cycles_leave_memory_flat(name: str) -> None:
    assert _rise(name, 100) < 16 << 20


@pytest.mark.soak
@pytest.mark.parametrize("name", BUILTIN)
def test_a_thousand_cycles_leave_memory_flat(name: str) -> None:
    assert _rise(name, 1000) < 16 << 20
