"""What failed for a reason of its place, and where else it may be tried: over the runtime's real parts."""

import time

import pytest

from openruntime.contracts.kernels import requirement
from openruntime.contracts.records import Abilities, Call, Estimate, Probe, Program, Task, Timings
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime
from openruntime.kernels.registry import workers
from openruntime.runtimes.probe import Report
from openruntime.tasks.elsewhere import moved

OPENCL = Abilities(frozenset({"matmul"}))


@pytest.fixture
def runtime() -> Runtime:
    """OpenCL on the processor and on a card, with its kernel workers."""
    made = Runtime(Settings.load({"store": "memory", "slots": 1, "threads": 1, "calibrate": False}))
    probes = [Probe("opencl", "cpu"), Probe("opencl", "opencl", 1, "Arc", 8 << 30, 8 << 30)]
    reports = [Report("opencl", probes, {"cpu": OPENCL, "opencl": OPENCL})]
    made.devices.adopt([*reports, *workers(reports)])
    made.executor.add_slots()
    return made


@pytest.mark.parametrize(
    ("call", "backend"),
    [
        (Call("matmul", 1, {}, {}, Estimate(), dtype="float32"), "opencl"),
        (Call("saxpy", 1, {}, {}, Estimate(), dtype="float32", program=Program(requirement("opencl"))), "opencl-kernels"),
    ],
    ids=["operation", "kernel"],
)
def test_short_memory_is_tried_on_the_other_device_once(runtime: Runtime, call: Call, backend: str) -> None:
    card = next(slot for slot in runtime.executor.slots if slot.backend == backend and slot.device.type != "cpu")
    task = Task("t", call, "local", backend, 5, time.time(), 0.0, timings=Timings())
    assert moved(runtime.devices, task, card, "out_of_memory", "no more")
    assert task.lane == f"cpu:0/{backend}"
    assert not moved(runtime.devices, task, card, "out_of_memory", "no more")
