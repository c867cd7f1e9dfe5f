"""Where a task runs: a pure decision over candidates. No clock, no I/O: everything it weighs is passed in."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from operator import itemgetter
from typing import Any

import msgspec

from openruntime.contracts.errors import InvalidParameter, nearest

TRY_WITHIN = 1.5  # of the best prediction
TRY_BEYOND = 10.0  # times the price of trying what is predicted to be worse than that: predictions of what was never seen may be far off


class Candidate(msgspec.Struct, gc=False):
    """A slot that could run the task. Times are seconds from now, memory is bytes, `capacity` bounds `outstanding`."""

    device: str
    backend: str
    slot: int = 0
    warm: bool = True
    backlog: float = 0.0  # predicted work already there
    outstanding: int = 0
    capacity: int = 64
    start_cost: float = 0.0  # until a worker is up, where there is none
    predicted: float = 0.0  # transfer and compute of this task
    transfer: float = 0.0  # of that
    first_cost: float = 0.0  # this call's share of what a first one costs more: compiling, loading
    untried: bool = False  # the prediction comes from elsewhere
    hope: float = 0.0  # what it may yet turn out to be predicted, where few were seen; 0 where that is settled
    memory_free: int = 0
    memory_needed: int = 0

    @property
    def finish(self) -> float:
        """When this task would be done there."""
        wait = self.backlog + self.predicted + self.first_cost
        return wait if self.warm else wait + self.start_cost


class Decision(msgspec.Struct, gc=False):
    """`choice` takes the task now; None leaves it in the queue. `finishes` are the candidates' predicted finishes, in their order."""

    choice: Candidate | None
    reason: str
    candidates: Sequence[Candidate]
    finishes: Sequence[float]
    price: float = 0.0  # predicted seconds that trying something else costs

    def rows(self) -> list[tuple[Any, ...]]:
        """The candidates, soonest first, as short as a record keeps them; `COLUMNS` names what stands where."""
        return sorted(
            (
                (c.device, c.backend, c.slot, finish, c.predicted, c.transfer, c.first_cost, c.backlog, 0.0 if c.warm else c.start_cost,
                 c.warm, c.outstanding, c.memory_needed <= c.memory_free, c is self.choice)
                for c, finish in zip(self.candidates, self.finishes, strict=True)
            ),
            key=itemgetter(3),
        )  # fmt: skip

    def explain(self) -> list[dict[str, Any]]:
        """The candidates as `GET /tasks/{id}/explain` shows them."""
        return [dict(zip(COLUMNS, row, strict=True)) for row in self.rows()]


COLUMNS = (
    "device", "backend", "slot", "predicted_finish", "predicted", "transfer", "first_cost", "backlog", "start_cost",
    "warm", "outstanding", "fits", "chosen",
)  # fmt: skip


def _price(candidate: Candidate, finish: float, soonest: float) -> float:
    """Predicted seconds that trying it costs, as the allowance has to bear them; endless where it is not to be tried."""
    hopeful = 0.0 < candidate.hope < soonest
    if not (candidate.untried or hopeful) or not candidate.warm or candidate.outstanding or candidate.backlog:
        return inf
    price = finish - soonest
    return price if hopeful or finish <= TRY_WITHIN * soonest else price * TRY_BEYOND


def _predicted_finish(candidate: Candidate, position: int) -> tuple[float, ...]:
    return candidate.finish, candidate.outstanding


def _least_loaded(candidate: Candidate, position: int) -> tuple[float, ...]:
    return candidate.backlog, candidate.outstanding / candidate.capacity, candidate.finish


def _round_robin(candidate: Candidate, position: int) -> tuple[float, ...]:
    return (position,)


def _best_fit(candidate: Candidate, position: int) -> tuple[float, ...]:
    return candidate.memory_free - candidate.memory_needed, candidate.finish


# name -> what makes a candidate good, smallest first; `position` counts from the one whose turn it is
STRATEGIES: Mapping[str, Callable[[Candidate, int], tuple[float, ...]]] = {
    "predicted_finish": _predicted_finish,
    "least_loaded": _least_loaded,
    "round_robin": _round_robin,
    "best_fit": _best_fit,
}


class DeviceAllocator:
    """Chooses among candidates by a strategy.

    `predicted_finish` (the default) takes the slot that ends the task soonest, and leaves the task in the queue while a full slot would
    still be sooner than every free one; what was not tried yet is tried where that
    costs less than the `allowance`. The others take the best slot with room: `least_loaded` by work already there, `best_fit` by the
    least memory left over, `round_robin` in turn (the caller counts the turns).
    """

    def __init__(self, strategy: str = "predicted_finish") -> None:
        """Raises `InvalidParameter` for an unknown strategy."""
        if strategy not in STRATEGIES:
            raise InvalidParameter(f"there is no placement strategy {strategy!r}{nearest(strategy, STRATEGIES)}", field="strategy")
        self.strategy = strategy
        self._score = STRATEGIES[strategy]
        self._may_wait = strategy == "predicted_finish"

    def decide(self, candidates: Sequence[Candidate], turn: int = 0, allowance: float = 0.0) -> Decision:
        """Run it here and now, or keep it in the queue. Ties go to the earlier candidate; `turn` counts decisions for `round_robin`.

        `allowance`: seconds that learning may cost now.
        """
        if len(candidates) == 1:
            only = candidates[0]
            if only.outstanding < only.capacity and only.memory_needed <= only.memory_free:
                return Decision(only, "the only candidate", candidates, (only.finish,))
        finishes = [c.finish for c in candidates]
        fitting = [i for i, c in enumerate(candidates) if c.memory_needed <= c.memory_free]
        if not fitting:
            return Decision(None, self._nowhere(candidates), candidates, finishes)
        score, count = self._score, len(candidates)
        if not self._may_wait:
            fitting = [i for i in fitting if candidates[i].outstanding < candidates[i].capacity]
            if not fitting:
                return Decision(None, "every slot is full", candidates, finishes)
        first = min(fitting, key=lambda i: score(candidates[i], (i - turn) % count))
        best = candidates[first]
        if allowance > 0 and self._may_wait and not best.untried:
            tries = [(price, i) for i in fitting if (price := _price(candidates[i], finishes[i], finishes[first])) <= allowance]
            if tries:
                price, chosen = min(tries)
                return Decision(candidates[chosen], "not tried yet, and worth a try", candidates, finishes, price)
        if best.outstanding >= best.capacity:
            return Decision(None, f"{best.device}/{best.backend} is full, and still the soonest to finish it", candidates, finishes)
        return Decision(best, self.strategy, candidates, finishes)

    @staticmethod
    def _nowhere(candidates: Sequence[Candidate]) -> str:
        if not candidates:
            return "no device takes this task now"
        needed, free = min(((c.memory_needed, c.memory_free) for c in candidates), key=lambda pair: pair[0] - pair[1])
        return f"it needs {needed} bytes, and {free} are free now where most is left"
