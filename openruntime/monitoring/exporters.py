"""Sends metrics elsewhere at intervals. An exporter is built with the text behind the colon of `name:target`."""

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.events import MetricsSampled
from openruntime.contracts.interfaces import EventSink, MetricsExporter
from openruntime.contracts.registry import EXPORTERS
from openruntime.monitoring.metrics import flatten

log = logging.getLogger(__name__)


class JSONExporter(MetricsExporter):
    """One line of JSON each time, appended to the file `target`; to standard error where that is empty or `-`."""

    def __init__(self, target: str = "-") -> None:
        self._path = None if target in ("", "-") else Path(target)

    def export_metrics(self, metrics: dict[str, Any]) -> None:
        """Raises `OSError`."""
        line = msgspec.json.encode({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "metrics": flatten(metrics)}).decode()
        if self._path is None:
            print(line, file=sys.stderr, flush=True)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class EventExporter(MetricsExporter):
    """Publishes the figures as an event, for those who follow the topic `metrics`. Made on the event loop; may export from any thread.

    The event log keeps thousands of events, and one of these is as large as fifty others: only the last `KEPT` keep their figures.
    """

    KEPT = 20

    def __init__(self, events: EventSink) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._published: deque[MetricsSampled] = deque()

    def export_metrics(self, metrics: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._publish, MetricsSampled(time=time.time(), values=flatten(metrics)))

    def _publish(self, sample: MetricsSampled) -> None:
        self._events.publish(sample)
        self._published.append(sample)
        if len(self._published) > self.KEPT:
            self._published.popleft().values = {}


def open_exporters(wanted: Sequence[str]) -> list[MetricsExporter]:
    """The exporters named as `name` or `name:target`. Raises `NotFound`, `MissingExtra`, `ValueError` for a target it cannot use."""
    made: list[MetricsExporter] = []
    for item in wanted:
        name, _, target = item.partition(":")
        made.append(EXPORTERS.load(name)(target))
    return made


async def export_forever(snapshot: Callable[[], dict[str, Any]], exporters: Sequence[MetricsExporter], every: float) -> None:
    """Hand a snapshot to each exporter every so many seconds. One that fails is logged, and tried again the next time."""
    while True:
        await asyncio.sleep(every)
        metrics = snapshot()
        for exporter in exporters:
            try:
                await asyncio.to_thread(exporter.export_metrics, metrics)
            except (OSError, OpenRuntimeError) as error:
                log.warning("%s could not export: %s", type(exporter).__name__, error)
            except Exception:  # a plugin's defect must not stop the others
                log.exception("%s failed", type(exporter).__name__)
