"""What processes that share one store tell each other."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from openruntime.contracts.events import AnyEvent
from openruntime.contracts.records import Task


class Hears(Protocol):
    """What a process wants to hear of the others that share its store. Called on the loop."""

    def waiting(self) -> None:
        """There may be tasks to claim."""

    def ended(self, task_id: str) -> None:
        """Another process finished this task."""

    def stop(self, task: Task) -> None:
        """Somebody asked another process to cancel a task that this one holds."""

    def adopt(self, tasks: Sequence[Task]) -> None:
        """Tasks with `needs` whose process is gone: this one has to queue them when those are met."""

    def happened(self, events: Sequence[AnyEvent], after: int) -> None:
        """All events after the number `after`, of all processes in their order, this one's included, with the `seq` that the log gave them."""


class Peers(ABC):
    """What a store that several processes share offers besides."""

    trouble: str | None = None  # why nothing can be accepted now

    @abstractmethod
    def listen(self, hears: Hears) -> None: ...

    @abstractmethod
    def follows(self, task: Task) -> bool:
        """Whether `task` is kept up to date here, or its end is heard of."""

    @abstractmethod
    async def refresh(self, task: Task) -> None:
        """Make `task` what it has become, its result included; one that is held here is left alone."""

    @abstractmethod
    async def stop(self, task: Task) -> bool:
        """Ask the other process that holds `task` to cancel it. False when no other does."""

    @abstractmethod
    def held(self, task: Task) -> Task | None:
        """`task` as this process holds it, maybe another object; None where it does not."""

    @abstractmethod
    def publish(self, events: Sequence[AnyEvent]) -> None:
        """Tell everybody, in this order. Returns at once."""

    @abstractmethod
    def last(self) -> int:
        """The newest `seq` that `happened`."""

    @abstractmethod
    async def since(self, after: int, limit: int) -> list[AnyEvent] | None:
        """The events from `after` to `last`; None where they are no longer known, or more than `limit`."""

    @abstractmethod
    async def offer(self, names: Sequence[str], seconds: int) -> frozenset[str]:
        """Say that this process can serve tasks that require `names`; what any has said within so many seconds."""
