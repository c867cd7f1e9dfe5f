"""Metrics are sent on at intervals, whatever one exporter does."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openruntime.contracts.errors import NotFound
from openruntime.contracts.events import AnyEvent, MetricsSampled, TaskQueued
from openruntime.contracts.interfaces import MetricsExporter
from openruntime.contracts.registry import EXPORTERS
from openruntime.monitoring.exporters import EventExporter, JSONExporter, export_forever, open_exporters
from openruntime.monitoring.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.observe([TaskQueued(0.0, operation="fft")])
    made.gauge("memory", "Bytes.", lambda: 2.5)
    return made


@pytest.mark.parametrize("name", EXPORTERS.names())
def test_each_registered_exporter_exports(name: str, metrics: Metrics, tmp_path: Path) -> None:
    [exporter] = open_exporters([f"{name}:{tmp_path / 'deep' / 'metrics'}"])
    assert isinstance(exporter, MetricsExporter)
    exporter.export_metrics(metrics.snapshot())
    exporter.export_metrics(metrics.snapshot())
    assert "openruntime_tasks_submitted_total" in (tmp_path / "deep" / "metrics").read_text()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["metrics"]


def test_prometheus_file(metrics: Metrics, tmp_path: Path) -> None:
    [exporter] = open_exporters([f"prometheus:{tmp_path / 'x.prom'}"])
    exporter.export_metrics(metrics.snapshot())
    exporter.export_metrics(metrics.snapshot())
    families = {family.name: family for family in text_string_to_metric_families((tmp_path / "x.prom").read_text())}
    assert families["memory"].samples[0].value == 2.5
    assert families["openruntime_tasks_submitted"].samples[0].labels == {"operation": "fft"}


def test_json_lines(metrics: Metrics, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_file = JSONExporter(str(tmp_path / "x.jsonl"))
    to_file.export_metrics(metrics.snapshot())
    to_file.export_metrics(metrics.snapshot())
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["metrics"]["memory"] for line in lines] == [2.5, 2.5]
    JSONExporter().export_metrics(metrics.snapshot())
    assert json.loads(capsys.readouterr().err)["metrics"]["memory"] == 2.5


def test_what_cannot_be_opened() -> None:
    with pytest.raises(NotFound, match="did you mean prometheus"):
        open_exporters(["promethius:x"])
    with pytest.raises(ValueError, match="needs a file"):
        open_exporters(["prometheus"])


class Recorder(MetricsExporter):
    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self._error = error

    def export_metrics(self, metrics: dict[str, Any]) -> None:
        self.seen.append(metrics)
        if self._error is not None:
            raise self._error


async def test_one_that_fails_stops_no_other(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    full, defect, sound = Recorder(OSError("disk full")), Recorder(RuntimeError("a defect")), Recorder()
    with caplog.at_level(logging.WARNING):
        loop = asyncio.create_task(export_forever(metrics.snapshot, [full, defect, sound], 0.01))
        while len(sound.seen) < 2:
            await asyncio.sleep(0.005)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert len(full.seen) >= 2
    assert sound.seen[0]["memory"]["samples"][0]["value"] == 2.5
    assert "could not export: disk full" in caplog.text
    assert "Recorder failed" in caplog.text


async def test_those_who_follow_the_topic_get_an_event(metrics: Metrics) -> None:
    arrived: asyncio.Queue[AnyEvent] = asyncio.Queue()

    class Sink:
        def publish(self, event: AnyEvent) -> None:
            arrived.put_nowait(event)

    await asyncio.to_thread(EventExporter(Sink()).export_metrics, metrics.snapshot())
    event = await asyncio.wait_for(arrived.get(), 5)
    assert isinstance(event, MetricsSampled)
    assert event.values["memory"] == 2.5


async def test_only_the_newest_samples_keep_their_figures(metrics: Metrics) -> None:
    published: list[AnyEvent] = []

    class Sink:
        def publish(self, event: AnyEvent) -> None:
            published.append(event)

    exporter = EventExporter(Sink())
    for _ in range(EventExporter.KEPT + 5):
        exporter.export_metrics(metrics.snapshot())
    await asyncio.sleep(0.01)
    values = [event.values for event in published if isinstance(event, MetricsSampled)]
    assert values[:5] == [{}] * 5
    assert all(values[5:])
    assert len(values) == EventExporter.KEPT + 5
