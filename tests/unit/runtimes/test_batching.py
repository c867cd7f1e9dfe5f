"""Which jobs run together, in which order, and when it pays."""

from collections.abc import Sequence
from typing import Any

import pytest

from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Stacking
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.runtimes.batching import AGAIN, LONGEST, Batching, Kind, joined, parted
from openruntime.runtimes.channel import Job, WireArray

STACKING = Stacking({"x": (1, 2)}, {}, {"output": Spec("float64", (2,))}, 32)


def ask(operation: str, parameters: Any) -> Stacking | None:
    return OperationCatalogue().get(operation).stacking(parameters)


def job(number: int, operation: str = "sum", shape: tuple[int, ...] = (2,), **scalars: Any) -> Job:
    return Job(number, operation, scalars, {"x": WireArray("float64", shape, memoryview(bytes(8 * shape[0])))})


def learned(batching: Batching, jobs: Sequence[Job], alone: set[int] | frozenset[int] = frozenset()) -> list[list[int]]:
    """The ids of those that run together, once it is known that a batch takes no longer than one."""
    for _ in range(10):
        found = []
        for members, size, kind in batching.of(jobs, alone):
            found.append([member.id for member in members])
            if kind is not None:
                kind.record(size, 1e-4 / size)
    return found


def test_alike_jobs_are_joined_with_the_oldest_of_them():
    jobs = [job(1), job(2, "max"), job(3), job(4, shape=(3,)), job(5, "max"), job(6, keepdims=True), job(7), job(8)]
    assert learned(Batching(ask, (), most=64, nbytes=1 << 20), jobs) == [[1, 3, 7, 8], [2, 5], [4], [6]]


def test_the_order_is_kept_where_nothing_is_joined():
    jobs = [job(1), job(2, "unique"), job(3), job(4, "nosuch"), job(5, "unique")]
    assert learned(Batching(ask, (), most=1, nbytes=1 << 20), jobs) == [[1], [2], [3], [4], [5]]
    assert learned(Batching(ask, (), most=64, nbytes=0), jobs) == [[1], [2], [3], [4], [5]]
    assert learned(Batching(ask, (), most=64, nbytes=1 << 20), jobs) == [[1, 3], [2], [4], [5]]


def test_what_has_failed_before_runs_by_itself():
    assert learned(Batching(ask, (), most=64, nbytes=1 << 20), [job(i) for i in range(1, 6)], {2}) == [[1, 3, 4, 5], [2]]


def test_numbers_that_are_equal_and_of_another_kind_are_not_alike():
    jobs = [job(1, "top_k", k=1), job(2, "top_k", k=1, axis=0), job(3, "expression", formula="x*a", a=1), job(4, "expression", formula="x*a", a=1.0)]
    assert learned(Batching(ask, (), most=64, nbytes=1 << 20), jobs) == [[1], [2], [3], [4]]


def test_a_batch_is_bounded_by_number_and_bytes():
    jobs = [job(i) for i in range(1, 65)]
    assert [len(members) for members in learned(Batching(ask, (), most=16, nbytes=1 << 20), jobs)] == [16, 16, 16, 16]
    memory = ask("sum", {"x": Array("float64", (2,))}).memory
    assert [len(members) for members in learned(Batching(ask, (), most=64, nbytes=9 * memory), jobs)] == [9] * 7 + [1]


def test_arrays_that_all_must_share_tell_jobs_apart():
    def layer(number: int, weight: WireArray) -> Job:
        return Job(number, "linear", {}, {"x": WireArray("float64", (2,), memoryview(bytes(16))), "weight": weight})

    one, other = (WireArray("float64", (2, 2), memoryview(bytes([value] * 32))) for value in (1, 2))
    kept = [WireArray("float64", (2, 2), None, 7, offset) for offset in (0, 64)]
    jobs = [layer(1, one), layer(2, other), layer(3, one), layer(4, kept[0]), layer(5, kept[1]), layer(6, kept[0])]
    assert learned(Batching(ask, (), most=64, nbytes=1 << 20), jobs) == [[1, 3], [2], [4, 6], [5]]


def test_the_first_of_a_size_tells_nothing_and_alone_is_tried_first():
    kind = Kind(STACKING, 64)
    tried = []
    for seconds in (1.0, 1e-4, 1e-4, 1e-4, 1.0, 1e-5, 1e-5, 1.0, 1e-5):
        tried.append(kind.size(20))
        kind.record(tried[-1], seconds)
    assert tried == [1] * 4 + [20] * 5


@pytest.mark.parametrize(("together", "chosen"), [(5e-6, 16), (9.5e-6, 1), (2e-5, 1)])
def test_a_batch_has_to_pay(together, chosen):
    kind = Kind(STACKING, 64)
    for size, seconds in ((1, 1e-5), (16, together)):
        kind.record(size, 1.0)
        for _ in range(5):
            kind.record(size, seconds)
    sizes = [kind.size(16) for _ in range(5 * AGAIN)]
    assert sizes.count(chosen) >= 0.98 * len(sizes)
    assert len(set(sizes)) > 1, "what lost is tried again, for things change"


def test_a_batch_does_not_hold_up_others_for_long():
    kind = Kind(STACKING, 64)
    for _ in range(4):
        kind.record(1, LONGEST / 10)
    assert kind.size(64) == 8
    for _ in range(4):
        kind.record(8, LONGEST / 50)
    assert kind.size(64) == 64
    dear = Kind(STACKING, 64)
    sizes = []
    for _ in range(14):
        sizes.append(dear.size(64))
        dear.record(sizes[-1], (0.6 * LONGEST + sizes[-1] * LONGEST / 40) / sizes[-1])
    assert sizes == [1] * 4 + [2] * 4 + [16] * 6
    slow = Kind(STACKING, 64)
    sizes = []
    for _ in range(10):
        sizes.append(slow.size(64))
        slow.record(sizes[-1], 3 * LONGEST)
    assert sizes == [1] * 4 + [2] * 4 + [1] * 2, "it is no faster among others"


def test_where_each_number_is_compiled_there_are_few_and_some_calls_are_repeats():
    kind = Kind(STACKING, 64, (4, 16, 64))
    assert [kind._open(waiting) for waiting in (1, 2, 3, 8, 9, 32, 33, 100)] == [
        [1], [1], [1, 4], [1, 4], [1, 4, 16], [1, 4, 16], [1, 4, 16, 64], [1, 4, 16, 64],
    ]  # fmt: skip
    for size, seconds in ((1, 1e-4), (4, 3e-5), (16, 2e-5)):
        for _ in range(4):
            kind.record(size, seconds)
    assert [kind.size(waiting) for waiting in (1, 2, 3, 4, 9, 15, 32)] == [1, 1, 4, 4, 4, 16, 16]
    batching = Batching(ask, (4, 16), most=64, nbytes=1 << 20)
    assert learned(batching, [job(i) for i in range(1, 22)]) == [list(range(1, 17)), [17, 18, 19, 20], [21]]
    assert learned(batching, [job(i) for i in range(1, 4)]) == [[1, 2, 3]]


def test_one_waits_for_others_where_a_call_costs_much_and_others_came_just_before():
    def rounds(batching: Batching, count: int, alone: float, together: float) -> None:
        for _ in range(6):
            for members, size, kind in batching.of([job(i) for i in range(count)]):
                if kind is not None:
                    kind.record(size, alone if len(members) == 1 else together)

    dear, cheap, useless = (Batching(ask, (), most=64, nbytes=1 << 20) for _ in range(3))
    rounds(dear, 8, 6e-4, 1e-4)
    assert [dear.patience(jobs) for jobs in (1, 7, 8, 9)] == [6e-4, 6e-4, 0.0, 0.0]
    rounds(dear, 1, 6e-4, 1e-4)
    assert dear.patience(1) == 0.0, "it was alone the last time"
    rounds(cheap, 8, 3e-4, 5e-6)
    assert cheap.patience(1) == 0.0
    rounds(useless, 8, 6e-4, 4e-4)
    assert useless.patience(1) == 0.0
    rounds(slow := Batching(ask, (), most=64, nbytes=1 << 20), 4, 1.2e-3, 1e-4)
    assert slow.patience(1) == 1e-3, "never longer"


def test_a_pause_of_the_machine_decides_nothing():
    kind = Kind(STACKING, 64)
    for size, each in ((1, [1e-5] * 6), (4, [1.0, 2e-6, 2e-6, 0.5, 2e-6])):
        for seconds in each:
            kind.record(size, seconds)
    assert kind.size(4) == 4


def test_calls_are_joined_and_their_outputs_parted_byte_by_byte():
    calls = [{"x": Array("uint8", (2,), bytes([i, i + 1]))} for i in range(3)]
    stacking = Stacking({"x": (1, 2)}, {"axis": -1}, {"output": Spec("uint8", (2,))}, 4)
    parameters = joined(stacking, [call | {"axis": 0, "keepdims": True} for call in calls])
    assert (parameters["axis"], parameters["keepdims"], parameters["x"].shape) == (-1, True, (3, 2))
    assert bytes(parameters["x"].view) == bytes([0, 1, 1, 2, 2, 3])
    parts = parted(stacking, {"output": parameters["x"]}, 3)
    assert [(part["output"].shape, bytes(part["output"].view)) for part in parts] == [((2,), bytes([i, i + 1])) for i in range(3)]
    repeated = joined(stacking, calls, 5)["x"]
    assert (repeated.shape, bytes(repeated.view)) == ((5, 2), bytes([0, 1, 1, 2, 2, 3, 2, 3, 2, 3]))
    with pytest.raises(ValueError, match="8 bytes, not of uint8 and 6"):
        parted(stacking, {"output": parameters["x"]}, 4)


def test_a_broken_rule_harms_nobody():
    def broken(operation: str, parameters: Any) -> Stacking:
        raise ZeroDivisionError("a plugin's")

    assert learned(Batching(broken, (), most=64, nbytes=1 << 20), [job(1), job(2)]) == [[1], [2]]
