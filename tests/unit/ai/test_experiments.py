"""Figures that say how far they can be trusted, and arrays cut from their bytes."""

import random

import numpy as np
import pytest

from openruntime.ai.agents.experiments import Bench, Ratio, as_number, quartiles, ratio, sliced, table
from openruntime.ai.agents.optimizer.kernels import KernelOptimizer
from openruntime.contracts.payload import Array


def test_a_clear_gain_counts_and_chance_does_not() -> None:
    rng = random.Random(1)
    slow, fast = [rng.gauss(2.0, 0.2) for _ in range(15)], [rng.gauss(1.0, 0.1) for _ in range(15)]
    found = ratio(slow, fast)
    assert found.counts
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(2.0, rel=0.15)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(2)
    false = sum(ratio([rng.lognormvariate(0, 0.3) for _ in range(15)], [rng.lognormvariate(0, 0.3) for _ in range(15)]).counts for _ in range(2000))
    assert false / 2000 < 0.025  # on one side


def test_few_rounds_prove_nothing() -> None:
    assert not ratio([2.0] * 5, [1.0] * 5).counts
    assert ratio([2.0] * 6, [1.0] * 6) == Ratio(2.0, 2.0, 2.0)
    assert not ratio([], []).counts


@pytest.mark.parametrize(
    ("shape", "axis", "start", "stop"),
    [((7,), 0, 2, 5), ((4, 6), 0, 1, 3), ((4, 6), 1, 2, 6), ((3, 4, 5), 1, 0, 2), ((3, 4, 5), 2, 4, 5), ((2, 3), 1, 1, 1)],
)
def test_a_slice_from_bytes(shape: tuple[int, ...], axis: int, start: int, stop: int) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = sliced(Array("float32", shape, array.tobytes()), axis, start, stop)
    wanted = array.take(range(start, stop), axis=axis)
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.frombuffer(found.view, np.float32).reshape(found.shape), wanted)


def test_numbers_as_json_has_them() -> None:
    assert as_number([[2]]) == 2.0
    assert as_number("-Infinity") == -np.inf
    assert np.isnan(as_number("NaN"))
    assert as_number({"real": 3, "imag": 4}) == 5.0
    assert quartiles([1.0]) == (1.0, 1.0)


def test_a_table_is_not_broken_by_what_it_holds() -> None:
    assert table(("a",), [("x|y",)])[-1] == r"| x\|y |"


async def test_a_gains_range_holds_what_processes_differ_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of one process agree among themselves; another process may lie apart."""
    processes = iter([(2.0, [1.9, 2.1]), (3.0, [2.9, 3.1])])

    async def tuned(self: KernelOptimizer, name: str, *, rounds: int) -> dict[str, object]:
        gain, spread = next(processes)
        return {"candidates": [{"measured": {"median": 1.0}, "gain": gain, "gain_spread": spread}]}

    monkeypatch.setattr(KernelOptimizer, "_tuned", tuned)
    gain = await KernelOptimizer(Bench(None), "x")._agreed("x", None)  # type: ignore[arg-type]
    assert (gain.value, gain.low, gain.high) == (2.5, pytest.approx(1.9 / 1.5), pytest.approx(3.1 * 1.5))
