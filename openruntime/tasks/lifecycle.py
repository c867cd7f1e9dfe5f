"""The task's state machine, pure: `(life, event) -> (life, instruction)`. No clock, no I/O; tested exhaustively.

queued ──started──> running ──succeeded──> completed
  │ ^                  │ │
  │ └─ released, died, retry
  │                    │ └─failed, timed out──> failed
  └─cancel──> cancelled <──stopped── cancelling <──cancel── running
"""

from enum import StrEnum
from functools import lru_cache

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Life

POISON_DEATHS = 2  # a task that had started when this many workers died is not tried again


class Event(StrEnum):
    CLAIMED = "claimed"  # taken out of the queue for a slot
    RELEASED = "released"  # given back without having started: not counted
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the operation raised
    REFUSED = "refused"  # it can never succeed: a cause that trying again does not change
    DIED = "died"  # the worker ended while the task was running
    CANCEL = "cancel"  # somebody asked
    STOPPED = "stopped"  # the worker stopped it, or was stopped for it
    EXPIRED = "expired"  # the deadline passed


class Instruction(StrEnum):
    NOTHING = "nothing"
    REQUEUE = "requeue"
    STOP = "stop"  # ask the worker to stop it, kill the worker when it does not
    FINISH = "finish"  # record the end and tell
    FINISH_AND_STOP = "finish and stop"  # ended for the client; the device is still to be freed
    IGNORE = "ignore"  # too late to matter


_Q, _R, _X = TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.CANCELLING


@lru_cache(maxsize=4096)
def advance(life: Life, event: Event, max_retries: int = 0) -> tuple[Life, Instruction]:
    """What becomes of a task, and what is to be done. An event that cannot happen in this state is ignored."""
    status = life.status
    match event:
        case Event.CLAIMED if status is _Q:
            return _with(life, attempt=life.attempt + 1), Instruction.NOTHING
        case Event.RELEASED if status is _Q or status is _R:
            return _with(life, status=_Q), Instruction.REQUEUE
        case Event.STARTED if status is _Q:
            return _with(life, status=_R), Instruction.NOTHING
        case Event.SUCCEEDED if status is _Q or status is _R:
            return _with(life, status=TaskStatus.COMPLETED), Instruction.FINISH
        case Event.FAILED if status is _Q or status is _R:
            failed = _with(life, failures=life.failures + 1)
            if failed.failures <= max_retries:
                return _with(failed, status=_Q), Instruction.REQUEUE
            return _with(failed, status=TaskStatus.FAILED), Instruction.FINISH
        case Event.REFUSED if status is _Q or status is _R:
            return _with(life, status=TaskStatus.FAILED), Instruction.FINISH
        case Event.DIED if status is _R:
            died = _with(life, deaths=life.deaths + 1)
            if died.deaths < POISON_DEATHS:
                return _with(died, status=_Q), Instruction.REQUEUE
            return _with(died, status=TaskStatus.FAILED), Instruction.FINISH
        case Event.DIED if status is _Q:
            return life, Instruction.REQUEUE
        case Event.CANCEL if status is _Q:
            return _with(life, status=TaskStatus.CANCELLED), Instruction.FINISH
        case Event.CANCEL if status is _R:
            return _with(life, status=_X), Instruction.STOP
        case Event.SUCCEEDED | Event.FAILED | Event.REFUSED | Event.DIED | Event.STOPPED | Event.RELEASED if status is _X:
            return _with(life, status=TaskStatus.CANCELLED), Instruction.FINISH
        case Event.STOPPED if status is _Q or status is _R:
            return _with(life, status=TaskStatus.CANCELLED), Instruction.FINISH
        case Event.EXPIRED if status is _Q:
            return _with(life, status=TaskStatus.FAILED), Instruction.FINISH
        case Event.EXPIRED if status is _R or status is _X:
            return _with(life, status=TaskStatus.FAILED), Instruction.FINISH_AND_STOP
    return life, Instruction.IGNORE


def _with(
    life: Life, *, status: TaskStatus | None = None, attempt: int | None = None, failures: int | None = None, deaths: int | None = None
) -> Life:
    return Life(
        life.status if status is None else status,
        life.attempt if attempt is None else attempt,
        life.failures if failures is None else failures,
        life.deaths if deaths is None else deaths,
    )
