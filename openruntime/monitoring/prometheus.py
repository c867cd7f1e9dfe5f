"""Metrics for Prometheus: the text it scrapes, and a file for node_exporter's textfile collector."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from openruntime.contracts.interfaces import MetricsExporter


class _Snapshot(Collector):
    def __init__(self, snapshot: Mapping[str, Any]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, family in self._snapshot.items():
            samples = family["samples"]
            labels = list(samples[0]["labels"]) if samples else []
            if family["type"] == "histogram":
                histogram = HistogramMetricFamily(name, family["help"], labels=labels)
                for sample in samples:
                    histogram.add_metric(list(sample["labels"].values()), list(sample["buckets"].items()), sample["sum"])
                yield histogram
            else:
                metric = (CounterMetricFamily if family["type"] == "counter" else GaugeMetricFamily)(name, family["help"], labels=labels)
                for sample in samples:
                    metric.add_metric(list(sample["labels"].values()), sample["value"])
                yield metric


def render(snapshot: Mapping[str, Any]) -> str:
    """The text exposition format 0.0.4 of what `Metrics.snapshot` gives."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry).decode()


class PrometheusExporter(MetricsExporter):
    """Writes the text to the file `target`, replaced as a whole so that nobody reads half of it."""

    def __init__(self, target: str) -> None:
        if not target:
            raise ValueError("the prometheus exporter needs a file: `prometheus:/path/openruntime.prom`")
        self._path = Path(target)

    def export_metrics(self, metrics: dict[str, Any]) -> None:
        """Raises `OSError`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(render(metrics), encoding="utf-8")
        part.replace(self._path)
