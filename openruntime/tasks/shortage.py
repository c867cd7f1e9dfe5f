"""Out of memory on one device: the task is tried elsewhere once, then it fails with the figures."""

import logging

from openruntime.contracts.records import Task
from openruntime.devices.manager import DeviceManager
from openruntime.tasks.ends import about
from openruntime.tasks.slots import Slot

log = logging.getLogger(__name__)


def shortage(devices: DeviceManager, task: Task, slot: Slot, message: str) -> str:
    """What the worker said, with what was estimated, what is free, and where it was tried before. Bytes."""
    free, needed = devices.usage(slot.device.id).memory_available, task.call.estimate.memory
    said = f"{message}; the task was estimated to need {needed} bytes, and the device has {free} free now"
    return f"{said}; before that it was tried elsewhere: {task.short}" if task.short is not None else said


def spilled(devices: DeviceManager, task: Task, slot: Slot, message: str) -> bool:
    """Put a task that has not been tried twice yet into the lane of the other places it may run at; whether there is one."""
    lane = None if task.short is not None else devices.elsewhere(task.lane, task.call, slot.device.id, slot.backend)
    if lane is None:
        return False
    log.info("out of memory on %s/%s, so the task is tried elsewhere: %s", slot.device.id, slot.backend, message, extra=about(task))
    task.short, task.lane = f"{slot.device.id}/{slot.backend}: {message}", lane
    return True
