"""Where a task stands; apart from the API's models, so that workers start without pydantic."""

from enum import StrEnum


class TaskStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    ended: bool

    def __init__(self, value: str) -> None:
        self.ended = value in ("completed", "failed", "cancelled")  # an attribute, because it is asked ten times a request
