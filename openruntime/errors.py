"""What OpenRuntime raises, to catch: `except openruntime.errors.TaskFailed`. Each has `message`, `code`, `field`, `retryable`, `retry_after`.

A refused request raises the class of its code (`InvalidParameter`, `QueueFull`, ...), a task without a result a `TaskFailed`
(`OperationFailed`, `TaskTimeout`, `TaskCancelled`, ...), a server that cannot be reached `Unavailable`; all are `OpenRuntimeError`.
"""

from openruntime.contracts.errors import *  # noqa: F403
from openruntime.contracts.errors import __all__ as __all__
