"""What a run may still spend. Every bound is hard: what would go beyond it is not begun, what does while it runs is stopped."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any

import msgspec

from openruntime.contracts.agents import Budget, BudgetSpent, Spent
from openruntime.contracts.ai import Tokens
from openruntime.contracts.errors import InvalidParameter, nearest

LETTERS = 4  # a token has about so many, where nobody counts better
MOST = Budget(tokens=1_000_000, seconds=3600.0, device_seconds=3600.0, tasks=10_000)


def chosen(usual: Budget, wanted: Any) -> Budget:
    """The role's `usual` budget with what a request wants otherwise. Raises `InvalidParameter` naming the field."""
    if wanted is None:
        return usual
    if not isinstance(wanted, Mapping):
        raise InvalidParameter("`parameters.budget` must be an object of tokens, seconds, device_seconds and tasks", field="parameters.budget")
    for name, value in wanted.items():
        field = f"parameters.budget.{name}"
        if name not in Budget.__struct_fields__:
            raise InvalidParameter(f"there is no budget of {name!r:.60}{nearest(name, Budget.__struct_fields__)}", field=field)
        most = getattr(MOST, name)
        whole = isinstance(most, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 <= value <= most:
            kind = "a whole number" if whole else "a number"
            raise InvalidParameter(f"`{field}` must be {kind} from 0 to {most:g}, not {value!r:.60}", field=field)
    return msgspec.structs.replace(usual, **{name: type(getattr(MOST, name))(value) for name, value in wanted.items()})


class Strand:
    """A tool or a request that goes on; `inside`: others that it waits for."""

    inside = 0


_strand: ContextVar[Strand | None] = ContextVar("strand", default=None)


class Meter:
    """Counts what a run spends. `over` is why it must end, once it must."""

    def __init__(self, budget: Budget, spent: Spent, clock: Callable[[], float] = monotonic) -> None:
        self.budget = budget
        self.spent = spent
        self.over: BudgetSpent | None = None
        self._clock = clock
        self._since: float | None = None
        self._strands = 0  # that go on side by side
        self._waiting = 0  # of them, those that wait for a person
        self._kept = 0  # tokens that models may use whose answer is not there yet

    def start(self) -> None:
        self._since = self._clock()

    def stop(self) -> None:
        """No more time passes."""
        self._count()
        self._since = None

    @contextmanager
    def strand(self) -> Iterator[None]:
        """A tool or a request: goes on beside others, but in place of the one that it is inside."""
        self._count()
        outer = _strand.get()
        if outer is not None:
            outer.inside += 1
        self._strands += outer is None or outer.inside > 1
        token = _strand.set(Strand())
        try:
            yield
        finally:
            self._count()
            _strand.reset(token)
            if outer is not None:
                outer.inside -= 1
            self._strands -= outer is None or outer.inside > 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A person is asked: while nothing else goes on, that time is not the run's."""
        self._count()
        self._waiting += 1
        try:
            yield
        finally:
            self._count()
            self._waiting -= 1

    @contextmanager
    def keeping(self, tokens: int) -> Iterator[None]:
        """Nobody else may use so many."""
        self._kept += tokens
        try:
            yield
        finally:
            self._kept -= tokens

    @property
    def seconds_left(self) -> float:
        self._count()
        return max(0.0, self.budget.seconds - self.spent.seconds)

    @property
    def device_seconds_left(self) -> float:
        return max(0.0, self.budget.device_seconds - self.spent.device_seconds)

    @property
    def tokens_left(self) -> int:
        return max(0, self.budget.tokens - self.spent.tokens.total - self._kept)

    def check(self) -> None:
        """Raises `BudgetSpent` when nothing more may be begun."""
        if self.over is None:
            for name, left in (("seconds", self.seconds_left), ("device_seconds", self.device_seconds_left)):
                if left <= 0:
                    self.over = self.exceeded(name)
        if self.over is not None:
            raise self.over

    def tasks(self, count: int) -> None:
        """Before so many are submitted."""
        self.check()
        if self.spent.tasks + count > self.budget.tasks:
            self.over = self.exceeded("tasks")
            raise self.over
        self.spent.tasks += count

    def untask(self, count: int) -> None:
        """They were refused."""
        self.spent.tasks -= count

    def request(self, prompt: int = 0) -> int:
        """Before a model is asked: the tokens that are left for its answer. `prompt`: those it is told."""
        self.check()
        if self.tokens_left <= prompt:
            self.over = self.exceeded("tokens")
            raise self.over
        self.spent.requests += 1
        return self.tokens_left - prompt

    def tokens(self, used: Tokens) -> None:
        before = self.spent.tokens
        self.spent.tokens = Tokens(before.prompt + used.prompt, before.completion + used.completion, before.cached + used.cached)

    def exceeded(self, name: str) -> BudgetSpent:
        return BudgetSpent(name.replace("_", " "), getattr(self.budget, name))

    def _count(self) -> None:
        if self._since is not None:
            now = self._clock()
            if not self._waiting or self._waiting < self._strands:
                self.spent.seconds += now - self._since
            self._since = now
