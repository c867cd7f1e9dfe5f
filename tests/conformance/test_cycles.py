"""1,000 cycles of allocate, run, fail and free leave a backend's memory and its pool flat: each that is there, in a process of its own."""

import pytest

from benchmarks.cycles import measure, places
from openruntime.contracts.registry import BACKENDS

BUILTIN = [name for name in BACKENDS.names() if BACKENDS.builtin(name)]


def _flat(name: str, cycles: int) -> None:
    try:
        found = [measure(name, probe, cycles, seconds=120.0) for probe in places(name)]
    except LookupError as error:
        pytest.skip(f"not run here: {error}")
    for row in found:
        assert row["flat"], row["bytes"]
        assert row["cycles"] == cycles


@pytest.mark.parametrize("name", ["numpy", "webgpu"])
def test_a_few_cycles_leave_memory_flat(name: str) -> None:
    _flat(name, 100)


@pytest.mark.soak
@pytest.mark.parametrize("name", BUILTIN)
def test_a_thousand_cycles_leave_memory_flat(name: str) -> None:
    _flat(name, 1000)
