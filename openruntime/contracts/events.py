"""What happens, as slim records; they travel up only. `type` is the wire's name for it (design §11)."""

import msgspec


class Event(msgspec.Struct, gc=False, tag_field="type"):
    """`time` in seconds since the epoch; `seq` is stamped by the event log and orders all events of a server."""

    time: float
    seq: int = 0


class TaskEvent(Event, tag="task"):
    task_id: str = ""
    operation: str = ""
    tenant: str = "local"


class TaskQueued(TaskEvent, tag="task.queued"):
    priority: int = 5


class TaskStarted(TaskEvent, tag="task.started"):
    device: str = ""
    backend: str = ""
    attempt: int = 1
    waited: float = 0.0


class TaskProgressed(TaskEvent, tag="task.progress"):
    progress: float = 0.0
    message: str | None = None


class TaskSaid(TaskEvent, tag="task.said"):
    """Pieces of a model's answer from the number `first` on, encoded; from gateway to gateway, and shown to nobody."""

    attempt: int = 1
    first: int = 0
    pieces: bytes = b""


class TaskFinished(TaskEvent, tag="task.finished"):
    """`status` is completed, failed or cancelled; on the wire the type is `task.<status>`."""

    status: str = "completed"
    device: str | None = None
    backend: str | None = None
    seconds: float | None = None
    code: str | None = None
    error: str | None = None
    cached: bool = False
    waited: float = 0.0  # from submission to start


class DeviceChanged(Event, tag="device.changed"):
    device: str = ""
    status: str = ""
    reason: str | None = None


class WorkerDied(Event, tag="worker.died"):
    device: str = ""
    backend: str = ""
    reason: str = ""


class MetricsSampled(Event, tag="metrics"):
    """`values` is empty once newer samples have made this one worthless."""

    values: dict[str, float] = {}


class Gap(Event, tag="gap"):
    """A reader missed events: they were dropped because it was slow, or are older than the log."""

    missed: int | None = None


AnyEvent = TaskQueued | TaskStarted | TaskProgressed | TaskSaid | TaskFinished | DeviceChanged | WorkerDied | MetricsSampled | Gap
