"""Which slot takes a task: with the runtime's real parts, and workers that are only said to be there."""

import time
from collections.abc import Callable

import pytest

from openruntime.contracts.payload import Array
from openruntime.contracts.records import Abilities, Call, Estimate, Probe, Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime
from openruntime.runtimes.probe import Report
from openruntime.runtimes.process import Answer
from openruntime.tasks.placement import ADVANCE, REPEATS, TRIED, Placement, signature
from openruntime.tasks.slots import Slot, SlotState

CPU = "cpu:0"
ABLE = Abilities(frozenset({"matmul", "fft"}))
Warm = Callable[..., Slot]


@pytest.fixture
def runtime() -> Runtime:
    """NumPy and a `swift` that can matmul and fft, two seats."""
    made = Runtime(Settings.load({"store": "memory", "slots": 2, "threads": 1, "calibrate": False}))
    made.devices.adopt([Report("swift", [Probe("swift", "cpu")], {"cpu": ABLE})])
    made.executor.add_slots()
    return made


@pytest.fixture
def placement(runtime: Runtime) -> Placement:
    return runtime.executor._placement


@pytest.fixture
def warm(runtime: Runtime) -> Warm:
    def up(backend: str, index: int = 0) -> Slot:
        slot = next(slot for slot in runtime.executor.slots if (slot.backend, slot.index) == (backend, index))
        slot.state = SlotState.READY
        return slot

    return up


def call(operation: str = "matmul", n: int = 512) -> Call:
    x = Array("float32", (n, n), bytes(0))
    return Call(operation, 1, {"a": x}, {}, Estimate(2.0 * n**3, 12.0 * n * n), dtype="float32", elements=3 * n * n)


def task(runtime: Runtime, name: str = "t", lane: str = "any", rank: float = 0.0, **given: object) -> Task:
    found = call(**given)  # type: ignore[arg-type]
    return Task(name, found, "local", lane, 5, time.time(), rank, predicted=runtime.cost.predict(found, CPU, "numpy"))


def learn(runtime: Runtime, backend: str, seconds: float, times: int = 20, **given: object) -> None:
    for _ in range(times):
        runtime.cost.record(call(**given), CPU, backend, seconds)  # type: ignore[arg-type]


def test_the_faster_backend_takes_it_and_the_other_leaves_it(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    numpy, swift = warm("numpy"), warm("swift")
    learn(runtime, "numpy", 0.02)
    learn(runtime, "swift", 0.01)
    asked = task(runtime)
    assert (placement.here(asked, numpy), placement.here(asked, swift)) == (False, True)
    placement.claimed(asked)
    assert asked.predicted == pytest.approx(0.01, rel=0.1)
    assert [row[:2] for row in asked.placement["candidates"]] == [(CPU, "swift"), (CPU, "numpy")]  # type: ignore[index]


def test_tiny_tasks_are_not_compared(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    numpy, swift = warm("numpy"), warm("swift")
    learn(runtime, "numpy", 2e-5, n=16)
    learn(runtime, "swift", 1e-6, n=16)
    asked = task(runtime, n=16)
    assert (placement.here(asked, numpy), placement.here(asked, swift)) == (True, False)
    placement.claimed(asked)
    assert asked.placement is None
    wished = task(runtime, n=16, lane=f"{CPU}/swift")
    assert (placement.here(wished, numpy), placement.here(wished, swift)) == (False, True)


def test_small_tasks_are_compared_where_another_backend_is_faster(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    numpy, swift = warm("numpy"), warm("swift")
    learn(runtime, "numpy", 5e-4, n=64)
    learn(runtime, "swift", 6e-4, n=64)
    assert (placement.here(task(runtime, n=64), numpy), placement._last) == (True, None)
    learn(runtime, "swift", 1e-4, 40, n=64)
    assert placement.here(task(runtime, n=64), swift)


def test_seats_are_shared(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    first, second, swift = warm("numpy"), warm("numpy", 1), warm("swift")
    assert [slot.room(64) for slot in (first, second, swift)] == [64, 64, 64]
    first.add(1, task(runtime))
    second.add(2, task(runtime))
    assert (swift.seats(), swift.room(64)) == (0, 0)
    second.take(2)
    assert swift.room(64) == 64


async def test_the_seat_goes_to_the_task_that_comes_first(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    numpy, swift = warm("numpy"), warm("swift")
    urgent, other = task(runtime, "u", f"{CPU}/swift", rank=1.0), task(runtime, "o", f"{CPU}/numpy", rank=2.0)
    for waiting in (urgent, other):
        await runtime.store.submit([waiting], promised=False)
    assert placement.turns() == [swift, numpy]
    numpy.add(1, task(runtime, n=4))
    assert not placement.owes(numpy, other), "there is a seat"
    warm("numpy", 1).add(2, task(runtime, n=4))
    assert placement.owes(numpy, other), "it would be refilled for ever"
    assert not placement.owes(numpy, task(runtime, rank=0.5))


def test_what_was_slowed_by_others_is_known(runtime: Runtime, warm: Warm) -> None:
    numpy, swift = warm("numpy"), warm("swift")
    for slot in runtime.executor.slots:
        slot.idle_since = 0.0
    swift.idle_since = 10.0
    assert (numpy.alone(9.0), numpy.alone(11.0)) == (False, True)
    swift.add(1, task(runtime))
    assert not numpy.alone(11.0)


def test_a_worker_is_started_when_the_gain_pays(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    numpy = warm("numpy")
    swift = next(slot for slot in runtime.executor.slots if slot.backend == "swift")
    learn(runtime, "numpy", 0.5)
    learn(runtime, "swift", 0.1)
    runtime.cost.started(CPU, "swift", 1.0)
    for number in range(3):
        assert not placement.pays(swift), number
        asked = task(runtime, str(number))
        assert placement.here(asked, numpy)
        placement.claimed(asked)
    assert placement.pays(swift), "three times 0.4 s"
    assert not placement.pays(swift), "it is asked for once"


def answer(seconds: float, compile: float = 0.0) -> Answer:
    return Answer(1, {}, None, seconds, 100.0, 100.0 + seconds + compile, compile=compile)


def test_compiling_is_spread_over_the_repeats_that_may_come(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    warm("numpy")
    swift = warm("swift")
    learn(runtime, "numpy", 0.02)
    placement.learn(task(runtime), swift, answer(0.01, compile=0.5))
    placement.learn(task(runtime), swift, answer(0.01))
    other = call(n=400)
    assert placement.here(task(runtime, n=400), next(iter(runtime.executor.slots))) in (True, False)
    shown = {c.backend: c for c in placement._candidates(task(runtime, n=400), swift, time.monotonic())}
    assert shown["swift"].first_cost == pytest.approx(0.5 / REPEATS)
    assert shown["numpy"].first_cost < shown["swift"].first_cost / 5
    for _ in range(REPEATS):
        placement.learn(task(runtime, n=400), next(s for s in runtime.executor.slots if s.backend == "numpy"), answer(0.02))
    shown = {c.backend: c for c in placement._candidates(task(runtime, n=400), swift, time.monotonic())}
    assert shown["swift"].first_cost == pytest.approx(0.5 / REPEATS / 2)
    swift.met.add(signature(other))
    assert placement._candidates(task(runtime, n=400), swift, time.monotonic())[-1].first_cost == 0.0


def test_what_was_not_tried_is_tried_on_a_budget(runtime: Runtime, placement: Placement, warm: Warm) -> None:
    numpy, swift = warm("numpy"), warm("swift")
    learn(runtime, "numpy", 0.2)
    learn(runtime, "swift", 0.115, n=400)  # another size: a guess for this one
    asked = task(runtime)
    guess = runtime.cost.predict(asked.call, CPU, "swift")
    assert 0.2 < guess < 0.3, guess
    assert placement.here(asked, swift)
    placement.claimed(asked)
    assert asked.placement is not None
    assert "not tried" in asked.placement["reason"]
    assert placement._allowance < ADVANCE
    placement._allowance = 0.0
    assert placement.here(task(runtime, "later"), numpy)
    placement._allowance = 1.0
    learn(runtime, "swift", 0.25, TRIED)
    assert placement.here(task(runtime, "known"), numpy)


def test_shapes_are_told_apart_and_numbers_are_not() -> None:
    def of(**parameters: object) -> int:
        return signature(Call("f", 1, dict(parameters), {}, Estimate()))

    small, large = Array("float32", (2,), b""), Array("float32", (3,), b"")
    assert of(x=small) == of(x=Array("float32", (2,), bytes(8)))
    assert len({of(x=small), of(x=large), of(x=Array("float64", (2,), b"")), of(x=[small, large]), of(x=small, mode="full")}) == 5
    assert of(x=small, seed=1) == of(x=small, seed=2)
    assert of(shape=[2, 3]) != of(shape=[3, 2])
