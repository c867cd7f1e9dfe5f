"""Fair share: a tag given at submission that spreads one client's tasks over the time they will take, so that others come in between.

Start-time fair queueing (Goyal, Vin, Cheng 1996) in wall-clock seconds, so that a tag takes the place of the arrival in one static rank.
"""

from math import inf

from openruntime.contracts.records import Task

LEAST = 1e-3  # seconds a task counts at least: predictions of tiny ones leave out what it costs to hand them over
PRIORITIES = 11
MOST = 1000  # clients, before those of long ago are forgotten


class Client:
    """What one client has waiting, in all and by priority: how many, the tags of the first and the last, and the next one's."""

    __slots__ = ("first", "last", "next", "total", "waiting")

    def __init__(self) -> None:
        self.total = 0
        self.waiting = [0] * PRIORITIES
        self.first = [0.0] * PRIORITIES
        self.last = [0.0] * PRIORITIES
        self.next = [0.0] * PRIORITIES


class FairShare:
    """Tags for tasks as they are submitted; told of those that stop waiting, wherever that happens. `step`: seconds that one priority counts."""

    def __init__(self, step: float) -> None:
        self._step = step
        self._clients: dict[str, Client] = {}
        self._most = MOST
        self._waiting = [0] * PRIORITIES
        self._served = [0.0] * PRIORITIES  # how far each priority has come: the greatest tag claimed

    def tag(self, client: str, priority: int, now: float, seconds: float) -> float:
        """When the task would arrive, had its client sent its tasks one after the other, each when that before was done.

        The first of a client comes behind what is served now, not behind all that others have sent, as long as that is less than
        a step before its arrival: more would count for more than priority.
        """
        known = self._clients.get(client)
        if known is None:
            if len(self._clients) >= self._most:
                self._forget(now - self._step)
            known = self._clients[client] = Client()
        start, served = now, self._served[priority]
        if served < now:
            if self._waiting[priority]:
                start = max(served, now - self._step)
            else:
                self._served[priority] = now  # nobody is behind
        tag, last = start, 0.0
        if known.waiting[priority]:
            last = known.last[priority]
            tag = max(start, known.next[priority])
        elif known.next[priority] > start and self._waiting[priority]:  # it had its turn just now
            tag = min(known.next[priority], now + self._step)
        if known.total != known.waiting[priority]:
            tag = max(start, last, self._among_its_own(known, priority, tag))
        if not known.waiting[priority]:
            known.first[priority] = tag
        known.last[priority] = tag
        known.next[priority] = tag + (seconds if seconds > LEAST else LEAST)
        known.total += 1
        known.waiting[priority] += 1
        self._waiting[priority] += 1
        return tag

    def _among_its_own(self, client: Client, priority: int, tag: float) -> float:
        """The tag behind its more urgent tasks and before its less urgent ones: that they are many must not turn their order."""
        before = inf
        for other in range(1, PRIORITIES):
            if client.waiting[other]:
                gap = (priority - other) * self._step
                if gap < 0:
                    tag = max(tag, client.last[other] + gap)
                elif gap > 0:
                    before = min(before, client.first[other] + gap - LEAST)
        return min(tag, before)

    def entered(self, task: Task) -> None:
        """It waits again."""
        known = self._clients.setdefault(task.client, Client())
        known.total += 1
        known.waiting[task.priority] += 1
        self._waiting[task.priority] += 1

    def passed(self, priority: int, tag: float) -> None:
        """A task is claimed that was not tagged here: others' tasks come behind its tag."""
        if tag > self._served[priority]:
            self._served[priority] = tag

    def served(self, task: Task, tag: float) -> None:
        """It is claimed: others' tasks come behind its tag."""
        priority = task.priority
        if tag > self._served[priority]:
            self._served[priority] = tag
        known = self._clients.get(task.client)
        if known is not None:
            known.first[priority] = tag
            self._left(known, priority)

    def left(self, task: Task) -> None:
        """It waits no more."""
        known = self._clients.get(task.client)
        if known is not None:
            self._left(known, task.priority)

    def _left(self, known: Client, priority: int) -> None:
        if not known.waiting[priority]:
            return  # it came from before a restart
        known.waiting[priority] -= 1
        self._waiting[priority] -= 1
        known.total -= 1
        if not known.waiting[priority] and known.first[priority] != known.last[priority]:
            known.next[priority] = known.first[priority]  # what was taken back does not count

    def _forget(self, before: float) -> None:
        """Clients whose tags do not count any more."""
        for name, client in list(self._clients.items()):
            if max(client.next) < before:
                del self._clients[name]
                self._waiting = [mine - theirs for mine, theirs in zip(self._waiting, client.waiting, strict=True)]
        self._most = max(MOST, 2 * len(self._clients))
