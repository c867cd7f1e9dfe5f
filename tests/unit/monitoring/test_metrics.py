"""Events are counted once, at their buckets, with bounded labels; Prometheus reads what comes out."""

import json
import logging
import timeit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openruntime.contracts.events import AnyEvent, TaskFinished, TaskProgressed, TaskQueued, TaskStarted, WorkerDied
from openruntime.contracts.interfaces import Devices
from openruntime.contracts.models import DeviceInfo
from openruntime.devices.manager import DeviceManager
from openruntime.monitoring.gauges import watch_devices, watch_process
from openruntime.monitoring.metrics import OPERATIONS, OTHER, Metrics, flatten


def story(operation: str = "fft", **finish: object) -> list[AnyEvent]:
    end = {"seconds": 0.02} | finish
    return [
        TaskQueued(0.0, operation=operation),
        TaskStarted(0.0, operation=operation, waited=0.002),
        TaskProgressed(0.0, operation=operation, progress=0.5),
        TaskFinished(0.0, operation=operation, **end),  # type: ignore[arg-type]
    ]


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_counts_each_event_once() -> None:
    metrics = Metrics()
    metrics.observe(story() + story() + story(status="failed", code="operation_failed"))
    metrics.observe(story("sort", status="cancelled", code="cancelled", seconds=None))
    metrics.observe([WorkerDied(0.0, device="cpu:0", backend="numpy", reason="signal 9")])
    flat = flatten(metrics.snapshot())
    assert flat['openruntime_tasks_submitted_total{operation="fft"}'] == 3
    assert flat['openruntime_tasks_finished_total{operation="fft",status="completed"}'] == 2
    assert flat['openruntime_tasks_finished_total{operation="fft",status="failed"}'] == 1
    assert flat['openruntime_tasks_finished_total{operation="sort",status="cancelled"}'] == 1
    assert flat['openruntime_task_failures_total{code="operation_failed"}'] == 1
    assert flat['openruntime_worker_deaths_total{device="cpu:0",backend="numpy"}'] == 1
    assert flat["openruntime_task_wait_seconds_count"] == 4
    assert flat['openruntime_task_execution_seconds_count{operation="fft"}'] == 3
    assert flat['openruntime_task_execution_seconds_sum{operation="fft"}'] == pytest.approx(0.06)
    assert 'openruntime_task_execution_seconds_count{operation="sort"}' not in flat


def test_what_did_not_run_has_no_execution_time() -> None:
    metrics = Metrics()
    metrics.observe([TaskFinished(0.0, operation="fft", cached=True, seconds=5.0)])
    assert 'openruntime_task_execution_seconds_count{operation="fft"}' not in flatten(metrics.snapshot())


def test_a_second_attempt_waits_no_second_time() -> None:
    metrics = Metrics()
    metrics.observe([TaskStarted(0.0, waited=1.0, attempt=1), TaskStarted(0.0, waited=9.0, attempt=2)])
    assert flatten(metrics.snapshot())["openruntime_task_wait_seconds_sum"] == 1.0


def test_prometheus_reads_the_text() -> None:
    metrics = Metrics()
    metrics.observe(story())
    metrics.gauge("openruntime_queue_depth", "Waiting tasks.", lambda: {"any": 3, 'l"a\\ne\n': 1}, "lane")
    metrics.counter("openruntime_cache_hits_total", "Hits.", lambda: 7)
    seen = scraped(metrics)
    assert seen["openruntime_tasks_submitted_total", (("operation", "fft"),)] == 1
    assert seen["openruntime_queue_depth", (("lane", "any"),)] == 3
    assert seen["openruntime_queue_depth", (("lane", 'l"a\\ne\n'),)] == 1
    assert seen["openruntime_cache_hits_total", ()] == 7
    wait = {labels[0][1]: value for (name, labels), value in seen.items() if name == "openruntime_task_wait_seconds_bucket"}
    assert (wait["0.001"], wait["0.003"], wait["+Inf"]) == (0, 1, 1)  # 2 ms
    assert seen["openruntime_task_wait_seconds_sum", ()] == 0.002


def test_a_bound_belongs_to_its_bucket() -> None:
    metrics = Metrics()
    metrics.observe([TaskStarted(0.0, waited=0.001), TaskStarted(0.0, waited=5000.0)])
    [sample] = metrics.snapshot()["openruntime_task_wait_seconds"]["samples"]
    assert (sample["buckets"]["0.0003"], sample["buckets"]["0.001"], sample["buckets"]["1000.0"], sample["buckets"]["+Inf"]) == (0, 1, 1, 2)


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for i in range(OPERATIONS + 50):
        metrics.observe(story(f"kernel-{i}"))
    samples = metrics.snapshot()["openruntime_tasks_submitted_total"]["samples"]
    assert len(samples) == OPERATIONS + 1
    assert {s["labels"]["operation"]: s["value"] for s in samples}[OTHER] == 50


def test_brings_the_latest_events_before_it_answers() -> None:
    waiting = story()
    metrics = Metrics(flush=lambda: (metrics.observe(waiting), waiting.clear())[0])
    assert flatten(metrics.snapshot())['openruntime_tasks_submitted_total{operation="fft"}'] == 1
    assert flatten(metrics.snapshot())['openruntime_tasks_submitted_total{operation="fft"}'] == 1


def test_one_broken_figure_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()

    def broken() -> float:
        raise RuntimeError("gone")

    metrics.gauge("broken", "Cannot be read.", broken)
    metrics.gauge("unknown", "Not known now.", lambda: None)
    metrics.gauge("sound", "Can.", lambda: 1.5)
    with caplog.at_level(logging.ERROR):
        flat = flatten(metrics.snapshot())
    assert flat["sound"] == 1.5
    assert "broken" not in flat
    assert "unknown" not in flat
    assert "the metric broken cannot be read" in caplog.text


def test_a_name_is_taken_once() -> None:
    metrics = Metrics()
    metrics.gauge("x", "X.", lambda: 1)
    with pytest.raises(ValueError, match="registered already"):
        metrics.counter("x", "X.", lambda: 1)


def test_the_snapshot_is_json() -> None:
    metrics = Metrics()
    metrics.observe(story())
    watch_process(metrics)
    snapshot = json.loads(json.dumps(metrics.snapshot()))
    assert snapshot["openruntime_tasks_submitted_total"] == {
        "type": "counter",
        "help": "Tasks accepted.",
        "samples": [{"labels": {"operation": "fft"}, "value": 1}],
    }
    assert flatten(snapshot)["process_resident_memory_bytes"] > 1 << 20
    assert flatten(snapshot)["process_cpu_seconds_total"] > 0


def test_devices_are_watched() -> None:
    class Platform:
        backends = {"cpu:0": ["numpy"]}  # noqa: RUF012

        def devices(self) -> list[DeviceInfo]:
            return [DeviceInfo(id="cpu:0", name="", type="cpu", capabilities=[], memory_total=0, memory_available=0, status="ready", slots=3)]

        def capabilities(self, device: str, backend: str) -> list[str]:
            return ["fft"]

    class Silence:
        def publish(self, event: AnyEvent) -> None:
            pass

    devices: Devices = DeviceManager([Platform()], Silence())
    metrics = Metrics()
    watch_devices(metrics, devices)
    before = flatten(metrics.snapshot())
    assert before['openruntime_device_slots{device="cpu:0"}'] == 3
    assert before['openruntime_device_ready{device="cpu:0"}'] == 1
    assert 0 < before['openruntime_device_memory_available_bytes{device="cpu:0"}'] <= before['openruntime_device_memory_bytes{device="cpu:0"}']
    devices.set_state("cpu:0", "draining")
    assert scraped(metrics)["openruntime_device_ready", (("device", "cpu:0"),)] == 0


def test_counting_is_cheap() -> None:
    metrics, events = Metrics(), story() * 250
    assert min(timeit.repeat(lambda: metrics.observe(events), number=1, repeat=20)) / len(events) < 4e-6  # 0.2 µs on a quiet machine
