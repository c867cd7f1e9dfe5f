"""The state machine: every state against every event, and the promises made about it."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Life
from openruntime.tasks.lifecycle import POISON_DEATHS, Event, Instruction, advance

Q, R, X = TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.CANCELLING
DONE, FAILED, GONE = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
FINISH, REQUEUE, IGNORE, NOTHING, STOP, FREE = (
    Instruction.FINISH, Instruction.REQUEUE, Instruction.IGNORE, Instruction.NOTHING, Instruction.STOP, Instruction.FINISH_AND_STOP,
)  # fmt: skip

# (state, event) -> (state, instruction), with no retries left; what is not here changes nothing
TABLE = {
    (Q, Event.CLAIMED): (Q, NOTHING), (Q, Event.RELEASED): (Q, REQUEUE), (Q, Event.STARTED): (R, NOTHING), (Q, Event.SUCCEEDED): (DONE, FINISH),
    (Q, Event.FAILED): (FAILED, FINISH), (Q, Event.REFUSED): (FAILED, FINISH), (Q, Event.DIED): (Q, REQUEUE),
    (Q, Event.CANCEL): (GONE, FINISH), (Q, Event.STOPPED): (GONE, FINISH), (Q, Event.EXPIRED): (FAILED, FINISH),
    (R, Event.RELEASED): (Q, REQUEUE), (R, Event.SUCCEEDED): (DONE, FINISH), (R, Event.FAILED): (FAILED, FINISH),
    (R, Event.REFUSED): (FAILED, FINISH), (R, Event.DIED): (Q, REQUEUE), (R, Event.CANCEL): (X, STOP), (R, Event.STOPPED): (GONE, FINISH),
    (R, Event.EXPIRED): (FAILED, FREE),
    (X, Event.SUCCEEDED): (GONE, FINISH), (X, Event.FAILED): (GONE, FINISH), (X, Event.REFUSED): (GONE, FINISH), (X, Event.DIED): (GONE, FINISH),
    (X, Event.STOPPED): (GONE, FINISH), (X, Event.RELEASED): (GONE, FINISH), (X, Event.EXPIRED): (FAILED, FREE),
}  # fmt: skip


@pytest.mark.parametrize(("status", "event"), list(product(TaskStatus, Event)))
def test_every_state_and_event(status: TaskStatus, event: Event) -> None:
    life, instruction = advance(Life(status), event)
    assert (life.status, instruction) == TABLE.get((status, event), (status, IGNORE))


def test_a_claim_counts_an_attempt_and_nothing_else_does() -> None:
    for event in Event:
        life, _ = advance(Life(Q, attempt=3), event)
        assert life.attempt == (4 if event is Event.CLAIMED else 3)


def test_own_failures_are_retried_as_often_as_asked() -> None:
    life = Life(R)
    for failure in range(1, 3):
        life, instruction = advance(life, Event.FAILED, 2)
        assert (life.status, life.failures, instruction) == (Q, failure, REQUEUE)
    life, instruction = advance(life, Event.FAILED, 2)
    assert (life.status, instruction) == (FAILED, FINISH)


def test_a_task_that_started_when_two_workers_died_is_poison() -> None:
    life = Life(R)
    for _ in range(POISON_DEATHS - 1):
        life, instruction = advance(life, Event.DIED)
        assert instruction is REQUEUE
        life, _ = advance(life, Event.STARTED)
    life, instruction = advance(life, Event.DIED)
    assert (life.status, instruction) == (FAILED, FINISH)


def test_waiting_in_a_dead_worker_is_not_counted() -> None:
    life, instruction = advance(Life(Q, attempt=1), Event.DIED)
    assert (life, instruction) == (Life(Q, attempt=1), REQUEUE)


@given(st.lists(st.sampled_from(Event), max_size=40), st.integers(0, 3))
def test_any_history_ends_once_and_stays_ended(events: list[Event], retries: int) -> None:
    life, ends = Life(), 0
    for event in events:
        before = life
        life, instruction = advance(life, event, retries)
        if before.status.ended:
            assert life == before
            assert instruction is IGNORE
        ends += instruction in (FINISH, FREE)
        assert life.status.ended == (ends == 1)
        assert life.failures <= retries + 1
        assert life.deaths <= POISON_DEATHS
    assert ends <= 1


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_once_cancelling_it_never_completes(events: list[Event]) -> None:
    life, _ = advance(Life(R), Event.CANCEL)
    for event in events:
        life, _ = advance(life, event, 3)
    assert life.status in (X, GONE, FAILED)
