"""The placement decision: its strategies, and what holds for any candidates."""

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.errors import InvalidParameter
from openruntime.devices.allocator import STRATEGIES, Candidate, DeviceAllocator


def candidate(device: str = "cpu:0", **fields: object) -> Candidate:
    return Candidate(device, "numpy", **({"memory_free": 100, "capacity": 4} | fields))  # type: ignore[arg-type]


seconds = st.floats(0, 1e4)
candidates = st.lists(
    st.builds(
        Candidate, device=st.sampled_from(["cpu:0", "cuda:0", "metal:0"]), backend=st.sampled_from(["numpy", "torch"]), slot=st.integers(0, 3),
        warm=st.booleans(), backlog=seconds, outstanding=st.integers(0, 5), capacity=st.integers(1, 4), start_cost=seconds, predicted=seconds,
        memory_free=st.integers(0, 100), memory_needed=st.integers(0, 100),
    ),
    max_size=6,
)  # fmt: skip


def has_room(c: Candidate) -> bool:
    return c.outstanding < c.capacity and c.memory_needed <= c.memory_free


@given(candidates, st.sampled_from(sorted(STRATEGIES)), st.integers(0, 10))
def test_a_choice_has_room(given: list[Candidate], strategy: str, turn: int) -> None:
    decision = DeviceAllocator(strategy).decide(given, turn)
    assert decision.choice is None or has_room(decision.choice)
    assert decision.reason
    assert [round(row["predicted_finish"], 6) for row in decision.explain()] == sorted(round(c.finish, 6) for c in given)
    assert sum(row["chosen"] for row in decision.explain()) == len([c for c in given if c is decision.choice])


@given(candidates)
def test_predicted_finish_is_the_soonest_or_a_full_slot_is_sooner(given: list[Candidate]) -> None:
    decision = DeviceAllocator().decide(given)
    fitting = [c for c in given if c.memory_needed <= c.memory_free]
    soonest = min((c.finish for c in fitting), default=None)
    if decision.choice is not None:
        assert decision.choice.finish == soonest
    elif fitting:  # it waits only behind work that will end
        assert any(c.finish == soonest and c.outstanding >= c.capacity for c in fitting)


@given(candidates, st.sampled_from(["least_loaded", "round_robin", "best_fit"]), st.integers(0, 10))
def test_the_other_strategies_wait_only_when_nothing_has_room(given: list[Candidate], strategy: str, turn: int) -> None:
    assert (DeviceAllocator(strategy).decide(given, turn).choice is None) == (not any(map(has_room, given)))


@given(candidates, st.randoms(use_true_random=False))
def test_order_does_not_matter_to_the_predicted_finish(given: list[Candidate], random: object) -> None:
    shuffled = list(given)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = DeviceAllocator().decide(given).choice, DeviceAllocator().decide(shuffled).choice
    assert (one is None and other is None) or (one is not None and other is not None and one.finish == other.finish)


def test_starting_a_worker_counts() -> None:
    warm, cold = candidate(backlog=0.4, predicted=0.1), candidate("cuda:0", warm=False, start_cost=1.0, predicted=0.01)
    assert DeviceAllocator().decide([cold, warm]).choice is warm
    warm.backlog = 2.0
    assert DeviceAllocator().decide([cold, warm]).choice is cold


def test_waits_for_a_full_device_that_is_still_sooner() -> None:
    fast, slow = candidate("cuda:0", backlog=0.2, predicted=0.1, outstanding=4), candidate(predicted=5.0)
    decision = DeviceAllocator().decide([slow, fast])
    assert decision.choice is None
    assert decision.reason == "cuda:0/numpy is full, and still the soonest to finish it"


def test_least_loaded_ignores_speed() -> None:
    busy, idle = candidate("cuda:0", backlog=0.2, predicted=0.1), candidate(predicted=5.0)
    assert DeviceAllocator("least_loaded").decide([busy, idle]).choice is idle


def test_best_fit_leaves_the_least_memory_over() -> None:
    large, small = candidate("cuda:0", memory_free=90, memory_needed=30), candidate(memory_free=40, memory_needed=30)
    assert DeviceAllocator("best_fit").decide([large, small]).choice is small


def test_round_robin_takes_turns_and_skips_the_full() -> None:
    three = [candidate("a"), candidate("b", outstanding=4), candidate("c")]
    chosen = [DeviceAllocator("round_robin").decide(three, turn).choice for turn in range(4)]
    assert [c and c.device for c in chosen] == ["a", "c", "c", "a"]


def test_says_why_nothing_was_chosen() -> None:
    assert DeviceAllocator().decide([]).reason == "no device takes this task now"
    few = [candidate(memory_needed=500), candidate(memory_needed=500, memory_free=20)]
    assert DeviceAllocator().decide(few).reason == "it needs 500 bytes, and 100 are free now where most is left"
    assert DeviceAllocator("least_loaded").decide([candidate(outstanding=4)]).reason == "every slot is full"


def test_unknown_strategy() -> None:
    with pytest.raises(InvalidParameter, match="did you mean predicted_finish"):
        DeviceAllocator("predicted_finnish")


def test_the_hot_path_is_cheap() -> None:
    two = [candidate(backlog=0.1, predicted=0.01), candidate(warm=False, start_cost=0.3, predicted=0.01)]
    decide = DeviceAllocator().decide
    assert min(timeit.repeat(lambda: decide(two), number=1000, repeat=20)) / 1000 < 15e-6  # 1.3 µs on a quiet machine


def test_what_was_not_tried_is_tried_where_that_costs_less_than_the_allowance() -> None:
    known, new = candidate(predicted=0.1), candidate("cuda:0", predicted=0.14, untried=True)
    decision = DeviceAllocator().decide([known, new], allowance=1.0)
    assert decision.choice is new
    assert decision.price == pytest.approx(0.04)
    assert DeviceAllocator().decide([known, new]).choice is known
    assert DeviceAllocator().decide([known, new], allowance=0.03).choice is known, "it costs more than it may"
    for worse in ({"warm": False}, {"backlog": 0.01}, {"outstanding": 1}):
        other = candidate("cuda:0", **({"predicted": 0.14, "untried": True} | worse))
        assert DeviceAllocator().decide([known, other], allowance=1.0).choice is known
    assert DeviceAllocator("least_loaded").decide([known, new], allowance=1.0).choice is known


def test_what_is_predicted_to_be_much_worse_is_tried_where_that_costs_next_to_nothing() -> None:
    known, new = candidate(predicted=0.1), candidate("cuda:0", predicted=0.2, untried=True)
    assert DeviceAllocator().decide([known, new], allowance=0.5).choice is known
    assert DeviceAllocator().decide([known, new], allowance=1.5).choice is new
    known.untried = True
    assert DeviceAllocator().decide([known, new], allowance=9.0).choice is known, "the best comes first"


def test_the_price_of_a_first_call_counts() -> None:
    compiled, fresh = candidate(predicted=0.1), candidate("cuda:0", predicted=0.05, first_cost=0.06)
    decision = DeviceAllocator().decide([fresh, compiled])
    assert decision.choice is compiled
    assert [row["first_cost"] for row in decision.explain()] == [0.0, 0.06]


def test_what_a_pause_made_look_slow_is_tried_again() -> None:
    best = Candidate("cpu:0", "opencl", predicted=0.007, memory_free=1)
    slow = Candidate("cpu:0", "numpy", predicted=0.18, hope=0.006, memory_free=1)
    decision = DeviceAllocator().decide([best, slow], allowance=0.5)
    assert decision.choice is slow
    assert decision.price == pytest.approx(0.173)
    assert DeviceAllocator().decide([best, slow], allowance=0.1).choice is best
    settled = Candidate("cpu:0", "numpy", predicted=0.18, memory_free=1)
    assert DeviceAllocator().decide([best, settled], allowance=0.5).choice is best
