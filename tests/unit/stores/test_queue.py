import random

from openruntime.stores.queue import LaneHeaps
from openruntime.testing.store_tasks import new_task


def test_agrees_with_sorting_whatever_is_pushed_moved_and_discarded() -> None:
    chance = random.Random(7)
    heaps = LaneHeaps()
    waiting = {}
    for _ in range(3000):
        task = new_task(rank=float(chance.randrange(50)), lane=chance.choice("abc"))
        heaps.push(task)
        waiting[task.id] = task
        if chance.random() < 0.3:
            moved = waiting[chance.choice(list(waiting))]
            moved.lane, moved.rank = chance.choice("abc"), float(chance.randrange(50))
            heaps.push(moved)
        if chance.random() < 0.5:
            gone = chance.choice(list(waiting))
            assert heaps.discard(gone)
            assert not heaps.discard(gone)
            del waiting[gone]
        assert len(heaps) == len(waiting)
    expected = sorted((task for task in waiting.values() if task.lane in "ab"), key=lambda task: (task.rank, task.id))
    assert heaps.best("ab") is expected[0]
    assert heaps.pop("ab", 10_000) == expected
    assert heaps.depths() == {"c": len(waiting) - len(expected)}


def test_dead_entries_do_not_pile_up() -> None:
    heaps = LaneHeaps()
    heaps.push(new_task(rank=0.0))
    for _ in range(1000):
        task = new_task(rank=1.0)
        heaps.push(task)
        heaps.discard(task.id)
    assert len(heaps._heaps["any"]) <= 65


def test_pops_nothing_from_unknown_lanes() -> None:
    heaps = LaneHeaps()
    assert heaps.pop(["nowhere"], 3) == []
    assert heaps.best([]) is None
