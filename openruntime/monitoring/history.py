"""How the metrics went: samples in two rings of bounded memory, written by the loop that exports them anyway."""

from array import array
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import isnan, nan
from threading import Lock
from typing import Any

from openruntime.contracts.interfaces import MetricsExporter
from openruntime.monitoring.metrics import Metrics, flatten

SERIES = 1000  # remembered at most; those that came first
FINE, COARSE = 240, 288  # samples: an hour and a day, at 15 s between exports
EVERY = 20  # of the fine samples one is coarse too

Sample = tuple[float, "array[float]"]


class History(MetricsExporter):
    """The last hour sample by sample, the day before in steps of five minutes, at 15 s between exports. At most 4 MiB, as a rule a tenth."""

    def __init__(self, metrics: Metrics, clock: Any) -> None:
        self._metrics = metrics
        self._clock = clock
        self._columns: dict[str, int] = {}
        self._fine: deque[Sample] = deque(maxlen=FINE)
        self._coarse: deque[Sample] = deque(maxlen=COARSE)
        self._taken = 0
        self._lock = Lock()  # exports come from another thread

    def export_metrics(self, metrics: dict[str, Any]) -> None:
        sample = self._sample(flatten(metrics))
        with self._lock:
            self._fine.append(sample)
            if self._taken % EVERY == 0:
                self._coarse.append(sample)
            self._taken += 1

    def _sample(self, values: dict[str, float]) -> Sample:
        columns = self._columns
        with self._lock:
            for name in values:
                if name not in columns and len(columns) < SERIES:
                    columns[name] = len(columns)
            row = array("d", bytes(8 * len(columns)))
            for name, column in columns.items():
                row[column] = values.get(name, nan)
        return self._clock(), row

    def view(self, names: Sequence[str] = (), seconds: float | None = None) -> dict[str, Any]:
        """`times` (seconds since the epoch) and, by name, one value (or None) for each; the last is of now.

        names: beginnings of the series wanted, all unless given. seconds: how far back.
        """
        now = self._sample(flatten(self._metrics.snapshot()))
        with self._lock:
            fine = list(self._fine)
            first = fine[0][0] if fine else now[0]
            samples = [sample for sample in self._coarse if sample[0] < first] + fine
            columns = dict(self._columns)
        samples = [sample for sample in [*samples, now] if seconds is None or sample[0] >= now[0] - seconds]
        wanted = {name: column for name, column in columns.items() if not names or name.startswith(tuple(names))}
        series = {name: [_at(row, column) for _, row in samples] for name, column in wanted.items()}
        times = [when for when, _ in samples]
        steps = sorted(later - earlier for earlier, later in pairwise(times))
        return {
            "times": times,
            "every": steps[len(steps) // 2] if steps else None,
            "series": {name: values for name, values in series.items() if any(value is not None for value in values)},
        }


def _at(row: "array[float]", column: int) -> float | None:
    return row[column] if column < len(row) and not isnan(row[column]) else None
