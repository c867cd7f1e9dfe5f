"""Counts what happened from the events, off the hot path: events come in batches, and before each scrape."""

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import msgspec

from openruntime.contracts.events import AnyEvent, TaskFinished, TaskQueued, TaskStarted, WorkerDied

log = logging.getLogger(__name__)

OPERATIONS = 200  # names that get a label of their own; the rest are counted as OTHER, so that no client can grow the page
OTHER = "(other)"
# upper bounds, seconds
WAITS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
EXECUTIONS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)

Value = float | Mapping[str, float | None] | None
Kind = Literal["counter", "gauge", "histogram"]


class Histogram:
    """Counts by upper bound, the last one without, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def sample(self, labels: dict[str, str]) -> dict[str, Any]:
        names = [*map(repr, self.bounds), "+Inf"]
        buckets = dict(zip(names, accumulate(self.counts), strict=True))
        return {"labels": labels, "buckets": buckets, "count": buckets["+Inf"], "sum": self.total}


class _Read(msgspec.Struct, frozen=True):
    """A figure that is read when asked for, not counted here."""

    kind: Kind
    doc: str
    read: Callable[[], Value]
    label: str


class Metrics:
    """Counters and histograms made from events, and figures read from elsewhere. `flush` brings the events not yet observed."""

    def __init__(self, flush: Callable[[], None] = lambda: None) -> None:
        self._flush = flush
        self._names: dict[str, str] = {}  # operation -> its label
        self._submitted: defaultdict[str, int] = defaultdict(int)
        self._finished: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._deaths: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._waits = Histogram(WAITS)
        self._executions: dict[str, Histogram] = {}
        self._read: dict[str, _Read] = {}

    def observe(self, batch: Sequence[AnyEvent]) -> None:
        """Count events, each once. Costs under a microsecond an event."""
        names, submitted, finished, executions, waited = self._names, self._submitted, self._finished, self._executions, self._waits.add
        for event in batch:
            if isinstance(event, TaskFinished):
                operation = names.get(event.operation) or self._name(event.operation)
                finished[operation, event.status] += 1
                if event.seconds is not None and not event.cached:
                    executions[operation].add(event.seconds)
                if event.code is not None:
                    self._failures[event.code] += 1
            elif isinstance(event, TaskQueued):
                submitted[names.get(event.operation) or self._name(event.operation)] += 1
            elif isinstance(event, TaskStarted):
                if event.attempt == 1:
                    waited(event.waited)
            elif isinstance(event, WorkerDied):
                self._deaths[event.device, event.backend] += 1

    def _name(self, operation: str) -> str:
        if len(self._names) >= OPERATIONS:
            self._executions.setdefault(OTHER, Histogram(EXECUTIONS))
            return OTHER
        self._executions[operation] = Histogram(EXECUTIONS)
        return self._names.setdefault(operation, operation)

    def gauge(self, name: str, doc: str, read: Callable[[], Value], label: str = "") -> None:
        """A figure that rises and falls, read at each scrape: a number, or with `label` one for each of its values. None is left out."""
        self._register("gauge", name, doc, read, label)

    def counter(self, name: str, doc: str, read: Callable[[], Value], label: str = "") -> None:
        """As `gauge`, for a figure that only rises; by custom its name ends in `_total`."""
        self._register("counter", name, doc, read, label)

    def _register(self, kind: Kind, name: str, doc: str, read: Callable[[], Value], label: str) -> None:
        if name in self._read:
            raise ValueError(f"the metric {name} is registered already")
        self._read[name] = _Read(kind, doc, read, label)

    def text(self) -> str:
        """Prometheus' text exposition format, version 0.0.4."""
        from openruntime.monitoring.prometheus import render  # 8 ms and 1.3 MiB that a server without scrapes never pays

        return render(self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """Name -> `{"type", "help", "samples"}`; a sample has `labels` and `value`, or for a histogram cumulative `buckets`, `count`, `sum`."""
        self._flush()
        shown = {
            "openruntime_tasks_submitted_total": _family("counter", "Tasks accepted.", _counted(self._submitted, "operation")),
            "openruntime_tasks_finished_total": _family("counter", "Tasks that ended, by how.", _counted(self._finished, "operation", "status")),
            "openruntime_task_failures_total": _family(
                "counter", "Tasks that ended without a result, by error code.", _counted(self._failures, "code")
            ),
            "openruntime_worker_deaths_total": _family("counter", "Workers that died unasked.", _counted(self._deaths, "device", "backend")),
            "openruntime_task_wait_seconds": _family("histogram", "From submission to the first start.", [self._waits.sample({})]),
            "openruntime_task_execution_seconds": _family(
                "histogram",
                "Compute time of tasks that ran.",
                [histogram.sample({"operation": name}) for name, histogram in self._executions.items() if any(histogram.counts)],
            ),
        }
        return shown | {name: _family(read.kind, read.doc, _current(name, read)) for name, read in self._read.items()}


def _family(kind: Kind, doc: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": kind, "help": doc, "samples": samples}


def _counted(counts: Mapping[Any, int], *labels: str) -> list[dict[str, Any]]:
    keyed = ((key if isinstance(key, tuple) else (key,), count) for key, count in counts.items())
    return [{"labels": dict(zip(labels, key, strict=True)), "value": count} for key, count in keyed]


def _current(name: str, source: _Read) -> list[dict[str, Any]]:
    try:
        value = source.read()
    except Exception:  # one part in trouble must not hide the figures of the others
        log.exception("the metric %s cannot be read", name)
        return []
    values = value.items() if isinstance(value, Mapping) else [("", value)]
    return [{"labels": {source.label: key} if source.label else {}, "value": number} for key, number in values if number is not None]


def flatten(snapshot: Mapping[str, Any]) -> dict[str, float]:
    """A snapshot as `name{label="value"}` -> number; of histograms the count and the sum."""
    flat: dict[str, float] = {}
    for name, family in snapshot.items():
        for sample in family["samples"]:
            labels = ",".join(f'{label}="{value}"' for label, value in sample["labels"].items())
            suffix = f"{{{labels}}}" if labels else ""
            if "buckets" in sample:
                flat |= {f"{name}_count{suffix}": float(sample["count"]), f"{name}_sum{suffix}": float(sample["sum"])}
            else:
                flat[name + suffix] = float(sample["value"])
    return flat
