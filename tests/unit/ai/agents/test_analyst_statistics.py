"""The statistics against values worked out by hand or by NumPy."""

import random
from math import log

import numpy as np
import pytest

from openruntime.ai.agents.analyst.statistics import outliers, percentile, shift, trend


def test_percentiles_are_those_of_numpy() -> None:
    values = sorted(random.Random(1).random() for _ in range(101))
    for p in (0, 1, 50, 90, 99, 100):
        assert percentile(values, p) == pytest.approx(float(np.percentile(values, p)), rel=1e-12)
    assert percentile([3.0], 99) == 3.0


def test_an_outlier_does_not_hide_itself_or_another() -> None:
    values = [10.0, 11, 9, 10, 12, 10, 11, 9, 10, 1000, 2000]
    assert [i for i, _ in outliers(values)] == [9, 10]


def test_more_than_half_alike_still_shows_the_odd_one() -> None:
    assert [i for i, _ in outliers([5.0] * 20 + [500.0])] == [20]
    assert outliers([5.0] * 20) == []
    assert outliers([1.0, 99.0]) == []


def test_false_alarms_are_rare() -> None:
    noise = random.Random(3)
    found = sum(len(outliers([noise.gauss(0, 1) for _ in range(200)])) for _ in range(50))
    assert found < 0.005 * 50 * 200


@pytest.mark.parametrize(("n", "at", "factor"), [(40, 20, 2.0), (200, 150, 1.5), (60, 15, 0.5)])
def test_a_change_of_level_is_found_where_it_is(n: int, at: int, factor: float) -> None:
    noise = random.Random(n)
    values = [log((1.0 if i < at else factor) * noise.lognormvariate(0, 0.1)) for i in range(n)]
    found = shift(values)
    assert found is not None
    assert abs(found.at - at) <= 2
    assert found.after - found.before == pytest.approx(log(factor), abs=0.1)


def test_noise_and_single_spikes_change_no_level() -> None:
    noise = random.Random(4)
    alarms = sum(shift([noise.gauss(0, 1) for _ in range(100)]) is not None for _ in range(200))
    assert alarms <= 6
    assert shift([1.0] * 50 + [100.0] + [1.0] * 49) is None
    assert shift([1.0] * 100) is None


def test_a_sudden_failure_is_a_change_of_level_in_zeros_and_ones() -> None:
    found = shift([0.0] * 80 + [1.0] * 20)
    assert found is not None
    assert (found.at, found.before, found.after) == (80, 0.0, 1.0)
    rare = random.Random(6)
    assert shift([float(rare.random() < 0.05) for _ in range(200)]) is None


def test_a_trend_is_its_median_slope_whatever_single_values_do() -> None:
    times = [float(i) for i in range(100)]
    values = [2.0 * t + 1 for t in times]
    values[10] = values[70] = 1e6
    found = trend(times, values)
    assert found is not None
    assert found.sure
    assert found.slope == pytest.approx(2.0, rel=1e-6)
    noise = random.Random(5)
    flat = [trend(times, [noise.random() for _ in times]) for _ in range(50)]
    assert sum(found is not None and found.sure for found in flat) <= 3
    assert trend(times[:5], values[:5]) is None
    constant = trend(times, [1.0] * 100)
    assert constant is not None
    assert not constant.sure
