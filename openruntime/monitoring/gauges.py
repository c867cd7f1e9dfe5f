"""Figures that are read rather than counted: of the devices, and of this process."""

from collections.abc import Callable

from openruntime.contracts.interfaces import Devices
from openruntime.devices.host import process_memory, process_seconds
from openruntime.monitoring.metrics import Metrics


def watch_devices(metrics: Metrics, devices: Devices) -> None:
    """Memory, utilisation, slots and state of each device."""

    def each(field: str) -> Callable[[], dict[str, float | None]]:
        return lambda: {device["id"]: device[field] for device in devices.list()}

    metrics.gauge("openruntime_device_memory_bytes", "Memory of a device.", each("memory_total"), "device")
    metrics.gauge("openruntime_device_memory_available_bytes", "Memory of a device that is free.", each("memory_available"), "device")
    metrics.gauge("openruntime_device_utilization", "How busy a device is, 0 to 1.", each("utilization"), "device")
    metrics.gauge("openruntime_device_slots", "Tasks that a device can run at once.", each("slots"), "device")
    metrics.gauge("openruntime_device_busy", "Slots of a device that run something.", each("busy"), "device")
    metrics.gauge(
        "openruntime_device_ready", "1 when a device takes tasks.", lambda: {d["id"]: d["status"] == "ready" for d in devices.list()}, "device"
    )


def watch_process(metrics: Metrics) -> None:
    """Memory and processor time of this process, under the names that Prometheus' clients use."""
    metrics.gauge("process_resident_memory_bytes", "Resident memory of the gateway's process.", process_memory)
    metrics.counter("process_cpu_seconds_total", "Processor time of the gateway's process.", process_seconds)
