"""Predictions: before any sample, from samples, between sizes, and across a restart."""

import json
import timeit
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.records import Call, Estimate
from openruntime.devices.cost_model import OVERHEAD, RATE, START, CostModel
from openruntime.devices.profile import Document, Profile, Row, Start, shipped

HERE = ("cpu:0", "numpy")
EMPTY: dict[str, object] = {"version": 2, "cells": [], "fits": [], "firsts": [], "compilers": []}


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
    assert model.first("matmul", *HERE) == pytest.approx(2.0, rel=0.01)
    assert model.first("svd", *HERE) == pytest.approx(2.0, rel=0.01), "the like of the driver's other operations"
    assert model.first("matmul", "cuda:0", "cuda") == 0.0
    assert not model.compiles(*HERE)


def test_compiling_is_told_apart_from_computing() -> None:
    model = CostModel()
    model.record(matmul(64), *HERE, 0.501, compile=0.5)
    assert model.compiles(*HERE)
    assert model.first("matmul", *HERE) == 0.5
    assert model.predict(matmul(64), *HERE) < 0.002


def test_transfers_are_told_apart_and_hold_for_every_operation() -> None:
    model, large = CostModel(), matmul(1024)  # 12 MiB
    there = ("cuda:0", "cuda")
    for _ in range(5):
        model.record(matmul(8), *there, 3e-5, transfer=1e-5)
        model.record(large, *there, 2e-3, transfer=1.2e-3)
    moved = 4 * large.elements
    assert model.transfer(large, *there) == pytest.approx(1e-5 + 1.2e-3)
    assert model.predict(large, *there) == pytest.approx(2e-3, rel=0.1)
    fft = Call("fft", 1, {}, {}, Estimate(1e6, 1e6), dtype="float32", elements=large.elements)
    assert model.predict(fft, *there) > moved * 1.2e-3 / moved
    assert model.transfer(large, *HERE) == 0.0


def test_starts_are_learned() -> None:
    model = CostModel(Profile(Document(starts=[Start("cpu", "torch", 1.5)])))
    assert (model.start("cpu:0", "torch"), model.start("cpu:0", "unheard of")) == (1.5, START)
    for seconds in (3.0, 4.0, 90.0):
        model.started("cpu:0", "torch", seconds)
    assert model.start("cpu:0", "torch") == 4.0


def test_a_profile_of_another_machine_is_scaled_to_this_one() -> None:
    sizes = (64, 256, 1024)
    rows = [
        Row("matmul", "float32", 2.0 * n**3 + 12.0 * n * n, "cpu", backend, pace * n**3)
        for backend, pace in (("numpy", 2e-11), ("torch", 1e-11)) for n in sizes
    ]  # fmt: skip
    rows += [Row("fft", "float32", 1e6, "cpu", "numpy", 4e-3)]
    model = CostModel(Profile(Document(rows=rows)))
    assert model.predict(matmul(1024), *HERE) == pytest.approx(2e-11 * 1024**3, rel=0.01)
    assert model.predict(matmul(512), *HERE) == pytest.approx(2e-11 * 512**3, rel=0.1)  # between the sizes
    assert model.predict(matmul(512), "cpu:0", "torch") < model.predict(matmul(512), *HERE)
    assert model.knows("matmul", "cpu:1", "torch")
    assert not model.knows("matmul", "cuda:0", "torch")
    learned(model, matmul(256), 2 * 2e-11 * 256**3)  # this machine is half as fast
    fft = Call("fft", 1, {}, {}, Estimate(5e5, 5e5), dtype="float32")
    assert model.predict(fft, *HERE) == pytest.approx(8e-3, rel=0.01)
    assert model.predict(matmul(1024), *HERE) == pytest.approx(4e-11 * 1024**3, rel=0.1)


def test_what_was_slowed_down_by_others_counts_only_where_little_is_known() -> None:
    model = CostModel()
    for _ in range(3):
        model.record(matmul(64), *HERE, 1e-3)
    for _ in range(20):
        model.record(matmul(64), *HERE, 1.0, alone=False)
    assert model.predict(matmul(64), *HERE) < 2e-3
    assert model.samples(matmul(64), *HERE) == 3


def test_the_shipped_profile_can_be_read() -> None:
    assert shipped().start("cpu:0", "numpy") is not None


def test_survives_a_restart() -> None:
    model = CostModel()
    learned(model, matmul(1024), 0.013)
    learned(model, matmul(8), 1e-5, 3)
    model.record(matmul(8), *HERE, 0.5, first=True)
    model.record(matmul(8), "cpu:0", "jax", 0.6, compile=0.5, transfer=1e-3)
    model.started("cpu:0", "jax", 2.0)
    again = CostModel()
    again.load(json.loads(json.dumps(model.dump())))
    for n in (8, 64, 1024, 4096):
        assert again.predict(matmul(n), *HERE) == model.predict(matmul(n), *HERE)
    assert again.first("matmul", *HERE) == model.first("matmul", *HERE) > 0.4
    assert (again.compiles("cpu:0", "jax"), again.start("cpu:0", "jax")) == (True, 2.0)
    assert again.transfer(matmul(8), "cpu:0", "jax") == model.transfer(matmul(8), "cpu:0", "jax") > 0
    assert again.dump() == model.dump()


@pytest.mark.parametrize(
    "saved",
    [
        {},
        EMPTY | {"version": 1},
        EMPTY | {"cells": [[["f", "float32", 1], ["cpu:0", "numpy"], 1.0, 1.0, []]]},
        EMPTY | {"cells": [[["f", "float32", 1], ["cpu:0", "numpy"], 1.0, 1.0, [-1.0]]]},
        EMPTY | {"cells": [[["f", "float32", 1], ["cpu:0", "numpy"], -1.0, nan, [1.0]]]},
        EMPTY | {"fits": [[["cpu:0", "numpy"], [[1.0]]]]},
        EMPTY | {"cells": "x"},
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


def test_two_samples_are_as_good_as_the_better_and_leave_hope() -> None:
    model = CostModel()
    assert model.hope(matmul(512), *HERE) == 0.0, "nothing was seen"
    for seconds in (0.18, 0.006):
        model.record(matmul(512), *HERE, seconds)
    assert model.predict(matmul(512), *HERE) < 0.02, "a pause only ever adds"
    model.record(matmul(512), *HERE, 0.17)
    assert model.hope(matmul(512), *HERE) == 0.006
    learned(model, matmul(512), 0.17, 2)
    assert model.hope(matmul(512), *HERE) == 0.0, "that many do not err"
