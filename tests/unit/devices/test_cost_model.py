"""Predictions: before any sample, from samples, between sizes, and across a restart."""

import json
import timeit
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.records import Call, Estimate
from openruntime.devices.cost_model import OVERHEAD, RATE, CostModel

HERE = ("cpu:0", "numpy")


def matmul(n: int, dtype: str = "float32") -> Call:
    return Call("matmul", 1, {}, {}, Estimate(2.0 * n**3, 12.0 * n * n), dtype=dtype, elements=3 * n * n)


def learned(model: CostModel, call: Call, seconds: float, times: int = 15) -> None:
    for _ in range(times):
        model.record(call, *HERE, seconds)


def test_conservative_before_any_sample() -> None:
    model = CostModel()
    assert model.predict(matmul(1024), *HERE) == pytest.approx(OVERHEAD + 2 * 1024**3 / RATE)
    assert model.predict(Call("noop", 1, {}, {}, Estimate()), *HERE) == OVERHEAD


def test_learns_and_forgets_outliers() -> None:
    model = CostModel()
    learned(model, matmul(1024), 0.013)
    model.record(matmul(1024), *HERE, 3.0)  # the machine paused
    assert model.predict(matmul(1024), *HERE) == pytest.approx(0.013, rel=0.1)
    learned(model, matmul(1024), 0.026, 32)
    assert model.predict(matmul(1024), *HERE) == pytest.approx(0.026, rel=0.1)


def test_an_unseen_size_is_scaled_from_the_nearest() -> None:
    model = CostModel()
    learned(model, matmul(1024), 0.013)
    assert model.predict(matmul(2048), *HERE) == pytest.approx(0.104, rel=0.3)
    assert model.predict(matmul(2048), *HERE) < 2 * 2048**3 / RATE  # better than the first guess
    assert model.predict(matmul(1024, "float64"), *HERE) == pytest.approx(0.013, rel=0.5)


def test_an_unseen_operation_takes_the_drivers_fit() -> None:
    model = CostModel()
    tiny = Call("sum", 1, {}, {}, Estimate(1000, 4000), dtype="float32", elements=1001)
    learned(model, tiny, 5e-6)
    other = Call("mean", 1, {}, {}, Estimate(1000, 4000), dtype="float32", elements=1001)
    assert model.predict(other, *HERE) == pytest.approx(6e-6, rel=0.5)
    assert model.predict(other, "cuda:0", "cuda") == pytest.approx(OVERHEAD, rel=0.1)  # nothing was learned about that one


def test_elements_count_where_nothing_is_estimated() -> None:
    model = CostModel()
    small, large = (Call("f", 1, {}, {}, Estimate(), dtype="float32", elements=n) for n in (10, 10_000_000))
    learned(model, small, 1e-5)
    learned(model, large, 1e-2)
    assert model.predict(small, *HERE) < model.predict(large, *HERE) / 100


def test_the_first_call_is_told_apart() -> None:
    model = CostModel()
    learned(model, matmul(64), 1e-3)
    before = model.predict(matmul(64), *HERE)
    model.record(matmul(64), *HERE, 2.0, first=True)
    assert model.predict(matmul(64), *HERE) == before
    assert model.predict_first(matmul(64), *HERE) == 2.0
    assert model.predict_first(matmul(64), "cuda:0", "cuda") == model.predict(matmul(64), "cuda:0", "cuda")


def test_survives_a_restart() -> None:
    model = CostModel()
    learned(model, matmul(1024), 0.013)
    learned(model, matmul(8), 1e-5, 3)
    model.record(matmul(8), *HERE, 0.5, first=True)
    again = CostModel()
    again.load(json.loads(json.dumps(model.dump())))
    for n in (8, 64, 1024, 4096):
        assert again.predict(matmul(n), *HERE) == model.predict(matmul(n), *HERE)
    assert again.predict_first(matmul(8), *HERE) == 0.5
    assert again.dump() == model.dump()


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"version": 2, "cells": [], "fits": [], "firsts": []},
        {"version": 1, "cells": [[["f", "float32", 1, "cpu:0", "numpy"], 1.0, 1.0, []]], "fits": [], "firsts": []},
        {"version": 1, "cells": [[["f", "float32", 1, "cpu:0", "numpy"], 1.0, 1.0, [-1.0]]], "fits": [], "firsts": []},
        {"version": 1, "cells": [[["f", "float32", 1, "cpu:0", "numpy"], -1.0, nan, [1.0]]], "fits": [], "firsts": []},
        {"version": 1, "cells": "x", "fits": [], "firsts": []},
    ],
)
def test_refuses_what_it_did_not_save(saved: dict[str, object]) -> None:
    model = CostModel()
    learned(model, matmul(8), 0.1)
    before = model.dump()
    with pytest.raises(ValueError, match="not a saved cost model"):
        model.load(saved)
    assert model.dump() == before


def test_an_estimate_that_overflowed_spoils_nothing() -> None:
    model = CostModel()
    model.record(Call("f", 1, {}, {}, Estimate(inf, inf), dtype="float32"), *HERE, 1.0)
    assert model.predict(matmul(1024), *HERE) < 1.0
    CostModel().load(model.dump() | {"cells": []})


@pytest.mark.parametrize("seconds", [nan, inf, -1.0])
def test_refuses_impossible_times(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite time"):
        CostModel().record(matmul(8), *HERE, seconds)


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 1e3)), max_size=40), st.integers(1, 2000))
def test_predictions_are_positive_finite_and_stable(samples: list[tuple[int, float]], n: int) -> None:
    model = CostModel()
    for size, seconds in samples:
        model.record(matmul(size), *HERE, seconds)
    first = model.predict(matmul(n), *HERE)
    assert 0 < first < inf
    assert model.predict(matmul(n), *HERE) == first


@given(st.floats(1e-6, 1e2), st.integers(1, 20))
def test_a_prediction_lies_between_the_fit_and_the_samples(seconds: float, times: int) -> None:
    model, untaught = CostModel(), CostModel()
    learned(model, matmul(512), seconds, times)
    low, high = sorted((seconds, untaught.predict(matmul(512), *HERE)))
    assert low * 0.9 <= model.predict(matmul(512), *HERE) <= high * 1.1


def test_the_hot_path_is_cheap() -> None:
    model, call = CostModel(), matmul(64)
    learned(model, call, 1e-4)
    assert min(timeit.repeat(lambda: model.predict(call, *HERE), number=1000, repeat=20)) / 1000 < 5e-6  # 0.2 µs on a quiet machine


def test_the_fastest_is_told_when_enough_were_seen() -> None:
    model = CostModel()
    learned(model, matmul(1024), 0.5, 2)
    assert model.fastest(matmul(1024), *HERE) == 0.0
    model.record(matmul(1024), *HERE, 0.2)
    assert model.fastest(matmul(1024), *HERE) == 0.2
    assert model.fastest(matmul(2048), *HERE) == 0.0
