"""The queue of an embedded store: one heap a lane, ordered by rank, then id; entries taken out of the middle die lazily."""

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from openruntime.contracts.records import Task

Entry = tuple[float, str, str, Task]  # rank, id, lane; entries of one id hold one task, and that is never compared with itself


class LaneHeaps:
    def __init__(self) -> None:
        self._heaps: dict[str, list[Entry]] = {}
        self._entries: dict[str, Entry] = {}
        self._depths: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def push(self, task: Task) -> None:
        """Let `task` wait in its lane; O(log n). One that waits already is moved to where it belongs now."""
        if task.id in self._entries:
            self.discard(task.id)
        lane = task.lane
        entry = self._entries[task.id] = (task.rank, task.id, lane, task)
        heap = self._heaps.get(lane)
        if heap is None:
            heap = self._heaps[lane] = []
        heappush(heap, entry)
        self._depths[lane] = self._depths.get(lane, 0) + 1

    def discard(self, task_id: str) -> bool:
        """Take a task out of the middle; whether it was waiting. O(1) amortised."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return False
        lane, heap = entry[2], self._heaps[entry[2]]
        self._depths[lane] -= 1
        if len(heap) > 64 and len(heap) > 2 * self._depths[lane]:
            heap[:] = [kept for kept in heap if self._entries.get(kept[1]) is kept]
            heapify(heap)
        return True

    def pop(self, lanes: Sequence[str], limit: int) -> list[Task]:
        """Up to `limit` tasks of these lanes, smallest rank first."""
        taken: list[Task] = []
        while len(taken) < limit and (heap := self._front(lanes)) is not None:
            _, task_id, lane, task = heappop(heap)
            del self._entries[task_id]
            self._depths[lane] -= 1
            taken.append(task)
        return taken

    def best(self, lanes: Sequence[str]) -> Task | None:
        """The task that `pop` would take first."""
        heap = self._front(lanes)
        return heap[0][3] if heap else None

    def depths(self) -> dict[str, int]:
        return {lane: depth for lane, depth in self._depths.items() if depth}

    def tasks(self) -> Iterable[Task]:
        return (entry[3] for entry in self._entries.values())

    def _front(self, lanes: Sequence[str]) -> list[Entry] | None:
        """The heap whose first entry is the smallest of all; its dead entries are gone."""
        front: list[Entry] | None = None
        if not self._entries:  # asked several times a task, and a lone one leaves every lane empty
            return None
        for lane in lanes:
            heap = self._heaps.get(lane)
            while heap and self._entries.get(heap[0][1]) is not heap[0]:
                heappop(heap)
            if heap and (front is None or heap[0] < front[0]):
                front = heap
        return front
