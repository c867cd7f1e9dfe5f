"""The rings of samples: what they keep, how much, and how they are read."""

import tracemalloc
from itertools import pairwise
from typing import Any

from openruntime.monitoring.history import COARSE, EVERY, FINE, SERIES, History
from openruntime.monitoring.metrics import Metrics


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def figures(**values: float) -> dict[str, Any]:
    return {name: {"type": "gauge", "help": "", "samples": [{"labels": {}, "value": value}]} for name, value in values.items()}


def test_values_stand_beside_their_times_and_what_came_later_is_none_before() -> None:
    clock, metrics = Clock(), Metrics()
    metrics.gauge("now", "", lambda: 7.0)
    history = History(metrics, clock)
    history.export_metrics(figures(a=1.0))
    clock.now += 15
    history.export_metrics(figures(a=2.0, b=5.0))
    clock.now += 15
    found = history.view()
    assert found["times"] == [1000.0, 1015.0, 1030.0]
    assert found["every"] == 15.0
    assert found["series"]["a"] == [1.0, 2.0, None]
    assert found["series"]["b"] == [None, 5.0, None]
    assert found["series"]["now"] == [None, None, 7.0]
    assert list(history.view(["b"])["series"]) == ["b"]
    assert history.view(["a"], seconds=15)["times"] == [1015.0, 1030.0]
    assert history.view(["c"])["series"] == {}


def test_an_hour_is_kept_closely_and_a_day_in_steps() -> None:
    clock = Clock()
    history = History(Metrics(), clock)
    for i in range(FINE + EVERY * COARSE):
        history.export_metrics(figures(a=float(i)))
        clock.now += 15
    times = history.view()["times"][:-1]
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert steps[-FINE + 1 :] == [15.0] * (FINE - 1)
    assert set(steps[:200]) == {300.0}
    assert times[-1] - times[0] > 23 * 3600


def test_memory_is_bounded_whatever_names_there_are() -> None:
    clock = Clock()
    history = History(Metrics(), clock)
    tracemalloc.start()
    for i in range(FINE + COARSE):
        history.export_metrics(figures(**{f"name_{(i * 100 + j) % 5000}": 1.0 for j in range(100)}))
        clock.now += 1
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 << 20
    assert len(history.view()["series"]) <= SERIES
