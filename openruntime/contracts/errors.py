"""Every error a client can meet, as one tree: a stable `code`, an HTTP status, and whether trying again can help.

OpenRuntimeError
├── request refused (nothing was queued)
│   InvalidRequest · Unauthorized · Forbidden · NotFound (ModelNotFound) · MethodNotAllowed · NotAcceptable · RequestTimeout
│   Conflict (KeyTaken) · NotReady · Expired · PayloadTooLarge · TooLarge · UnsupportedMediaType · UnknownOperation
│   InvalidParameter (ContextTooLong) · NoSuchDevice · UnsupportedOnDevice · CompileError · QueueFull · RateLimited
├── server's own: Internal · Unavailable (MissingExtra, BrokenPlugin, DamagedModel) · StorageFull
└── TaskFailed: OperationFailed · TaskTimeout · WorkerCrashed · OutOfMemory · DependencyFailed · TaskCancelled
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

# The tree, which is all that `openruntime.errors` shows.
__all__ = [
    "BrokenPlugin", "CompileError", "Conflict", "ContextTooLong", "DamagedModel", "DependencyFailed", "Expired", "Forbidden", "Internal",
    "InvalidParameter", "InvalidRequest", "KeyTaken", "MethodNotAllowed", "MissingExtra", "ModelNotFound", "NoSuchDevice", "NotAcceptable",
    "NotFound", "NotReady", "OpenRuntimeError", "OperationFailed", "OutOfMemory", "PayloadTooLarge", "QueueFull", "RateLimited", "RequestTimeout",
    "StorageFull", "TaskCancelled", "TaskFailed", "TaskTimeout", "TooLarge", "Unauthorized", "Unavailable", "UnknownOperation",
    "UnsupportedMediaType", "UnsupportedOnDevice", "WorkerCrashed",
]  # fmt: skip


class OpenRuntimeError(Exception):
    """Anything OpenRuntime refuses or fails with. `field` names the offending part of the request, if one does."""

    code = "internal"
    status = 500
    retryable = False

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after


class InvalidRequest(OpenRuntimeError):
    code, status = "invalid_request", 400


class Unauthorized(OpenRuntimeError):
    code, status = "unauthorized", 401


class Forbidden(OpenRuntimeError):
    code, status = "forbidden", 403


class NotFound(OpenRuntimeError):
    code, status = "not_found", 404


class ModelNotFound(NotFound):
    """Nothing in the model repository has that name."""


class MethodNotAllowed(OpenRuntimeError):
    code, status = "method_not_allowed", 405


class NotAcceptable(OpenRuntimeError):
    code, status = "not_acceptable", 406


class RequestTimeout(OpenRuntimeError):
    code, status = "request_timeout", 408


class Conflict(OpenRuntimeError):
    code, status = "conflict", 409


class KeyTaken(Conflict):
    """Another process accepted a task under the same idempotency key a moment before; that task's id is the message."""


class NotReady(OpenRuntimeError):
    """The answer was asked for before the task ended."""

    code, status, retryable = "not_ready", 409, True


class Expired(OpenRuntimeError):
    """The answer was there once; its time to live is over."""

    code, status = "expired", 410


class PayloadTooLarge(OpenRuntimeError):
    code, status = "payload_too_large", 413


class TooLarge(OpenRuntimeError):
    """The task could never fit into the device's memory; seen before it was queued."""

    code, status = "out_of_memory", 413


class UnsupportedMediaType(OpenRuntimeError):
    code, status = "unsupported_media_type", 415


class UnknownOperation(OpenRuntimeError):
    code, status = "unknown_operation", 422


class InvalidParameter(OpenRuntimeError):
    code, status = "invalid_parameter", 422


class ContextTooLong(InvalidParameter):
    """A prompt longer than the model can read; the sentence says how long it is, and how much is allowed, in tokens."""

    code = "context_too_long"


class NoSuchDevice(OpenRuntimeError):
    code, status = "no_such_device", 422


class UnsupportedOnDevice(OpenRuntimeError):
    code, status = "unsupported_on_device", 422


class CompileError(OpenRuntimeError):
    """A kernel's source is wrong: the compiler's whole `log`, and what it says of single `lines` (`{"line", "column", "severity", "message"}`)."""

    code, status = "compile_error", 422

    def __init__(
        self,
        message: str,
        *,
        field: str | None = "source",
        retry_after: float | None = None,
        log: str = "",
        lines: Sequence[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(message, field=field, retry_after=retry_after)
        self.log = log
        self.lines = lines


class QueueFull(OpenRuntimeError):
    code, status, retryable = "queue_full", 429, True


class RateLimited(OpenRuntimeError):
    code, status, retryable = "rate_limited", 429, True


class Internal(OpenRuntimeError):
    """A defect of the server; its cause stands in the server's log under the request id, never in the answer."""


class Unavailable(OpenRuntimeError):
    code, status, retryable = "unavailable", 503, True


class MissingExtra(Unavailable):
    """A part whose optional dependency is not installed."""

    retryable = False

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: install it with `pip install 'openruntime[{extra}]'`")
        self.extra = extra


class BrokenPlugin(Unavailable):
    """A part that an installed package registers, and that cannot be loaded."""

    retryable = False


class DamagedModel(Unavailable):
    """A model whose weights are gone, cut off, or no longer what they were when they were added: it is not served."""

    retryable = False


class StorageFull(OpenRuntimeError):
    code, status, retryable = "storage_full", 507, True


class TaskFailed(OpenRuntimeError):
    """The task was accepted, and ended without a result: what was asked for cannot be had, which is no defect of the server."""

    code, status = "operation_failed", 422


class OperationFailed(TaskFailed):
    """The operation itself raised: a singular matrix, a value out of its domain."""


class TaskTimeout(TaskFailed):
    code = "timeout"


class WorkerCrashed(TaskFailed):
    code = "worker_crashed"


class OutOfMemory(TaskFailed):
    code = "out_of_memory"


class DependencyFailed(TaskFailed):
    code, status = "dependency_failed", 409


class TaskCancelled(TaskFailed):
    code, status = "cancelled", 409


def _tree(root: type[OpenRuntimeError]) -> Iterable[type[OpenRuntimeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_class(code: str, *, task: bool = False) -> type[OpenRuntimeError]:
    """The class for a `code` seen on the wire; `task` prefers the class of a failed task (`out_of_memory` is both)."""
    found = [cls for cls in _tree(OpenRuntimeError) if cls.code == code and cls not in (OpenRuntimeError, TaskFailed)]
    ranked = sorted(found, key=lambda cls: issubclass(cls, TaskFailed) is not task)
    return ranked[0] if ranked else (TaskFailed if task else Internal)


def task_failure(code: str, message: str) -> TaskFailed:
    """What a task failed with that ended with this `code`: of a class that is no task's own it keeps the code alone, since the request that
    asks for its result met nothing of the kind."""
    cls = error_class(code, task=True)
    if issubclass(cls, TaskFailed):
        return cls(message)
    failed = TaskFailed(message)
    failed.code = code
    return failed


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence's end that offers the known names most like `name`, or all of them when there are few."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5) or (names if len(names) <= 8 else [])
    return f"; did you mean {' or '.join(close)}?" if close else ""
