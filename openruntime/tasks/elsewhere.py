"""What failed for a reason of its place is tried at another: out of memory once, what a backend finds that it cannot compute until one can."""

import logging

from openruntime.contracts.errors import OutOfMemory, UnsupportedOnDevice
from openruntime.contracts.records import Task
from openruntime.devices.manager import DeviceManager
from openruntime.tasks.ends import about
from openruntime.tasks.slots import Slot

log = logging.getLogger(__name__)


def with_figures(devices: DeviceManager, task: Task, slot: Slot, code: str, message: str) -> str:
    """What the worker said; where memory was short, with what was estimated, what is free, and where it was tried before. Bytes."""
    if code != OutOfMemory.code:
        return message
    free, needed = devices.memory_available(slot.device.id), task.call.estimate.memory
    said = f"{message}; the task was estimated to need {needed} bytes, and the device has {free} free now"
    before = _short(task)
    return f"{said}; before that it was tried elsewhere: {before}" if before is not None else said


def moved(devices: DeviceManager, task: Task, slot: Slot, code: str, message: str) -> bool:
    """Put a task into the lane of the other places that it may run at; whether it is to be tried there."""
    if code not in (OutOfMemory.code, UnsupportedOnDevice.code) or (code == OutOfMemory.code and _short(task) is not None):
        return False
    here = slot.device.id, slot.backend
    others = [place for place in devices.places(task.lane, task.call.ability) if place != here and devices.takes(*place, task.call)]
    if not others:
        return False
    log.info("the task is tried elsewhere: %s", message, extra=about(task))
    if code == OutOfMemory.code and task.timings is not None:
        task.timings.short = f"{slot.device.id}/{slot.backend}: {message}"
    task.lane = "+".join(f"{device}/{backend}" for device, backend in others)
    devices.serve([task.lane])
    return True


def _short(task: Task) -> str | None:
    return task.timings.short if task.timings is not None else None
