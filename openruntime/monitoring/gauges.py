"""Figures that are read rather than counted: of the devices, and of this process."""

from collections.abc import Callable, Mapping
from typing import Protocol

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


class ModelFigures(Protocol):
    """What is told of models, by name."""

    def figures(self) -> Mapping[str, Mapping[str, float]]:
        """`prompt`, `completion`, `cached` tokens and `requests` since the start; `running` requests and `bytes` of memory now."""

    def loads(self) -> Mapping[str, float]:
        """How often any was `loaded` and `unloaded`."""


def watch_models(metrics: Metrics, models: ModelFigures) -> None:
    """What each model was asked for, and takes."""

    def each(figure: str) -> Callable[[], dict[str, float | None]]:
        return lambda: {name: found[figure] for name, found in models.figures().items()}

    metrics.counter("openruntime_model_requests_total", "Requests that a model was asked.", each("requests"), "model")
    metrics.counter("openruntime_model_prompt_tokens_total", "Tokens that a model was given.", each("prompt"), "model")
    metrics.counter("openruntime_model_completion_tokens_total", "Tokens that a model wrote.", each("completion"), "model")
    metrics.counter("openruntime_model_cached_tokens_total", "Tokens given that the engine still knew.", each("cached"), "model")
    metrics.gauge("openruntime_model_requests", "Requests that a model answers now.", each("running"), "model")
    metrics.gauge("openruntime_model_memory_bytes", "Memory that a model has taken on this machine.", each("bytes"), "model")
    metrics.counter("openruntime_model_loads_total", "Models loaded and unloaded.", models.loads, "event")


def watch_process(metrics: Metrics) -> None:
    """Memory and processor time of this process, under the names that Prometheus' clients use."""
    metrics.gauge("process_resident_memory_bytes", "Resident memory of the gateway's process.", process_memory)
    metrics.counter("process_cpu_seconds_total", "Processor time of the gateway's process.", process_seconds)
