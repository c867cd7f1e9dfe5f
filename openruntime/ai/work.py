"""AI work as tasks, for those in this process who are no HTTP client."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from openruntime.ai.hosting import local
from openruntime.contracts.ai import Generation, Models, ModelSpec
from openruntime.contracts.errors import Unavailable
from openruntime.contracts.interfaces import Tasks
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.records import LOCAL, Principal, Task


class ModelTasks:
    """Implements `ModelWork`."""

    def __init__(self, models: Models, tasks: Tasks, accepts: Callable[[str], bool] = lambda device: True) -> None:
        self._models = models
        self._tasks = tasks
        self._accepts = accepts

    def begins(self, spec: ModelSpec) -> None:
        if local(spec) and not self._accepts("cpu:0"):
            raise Unavailable(f"{spec.id} runs on cpu:0, which is draining and begins nothing new; ask again when it is ready", retry_after=30)

    async def submit(
        self, model: str, request: Generation | Sequence[str], *, principal: Principal = LOCAL, priority: int = 5, timeout: float | None = None,
        max_retries: int = 0, tags: Sequence[str] = (), cache: str = "", idempotency: str | None = None, traceparent: str | None = None,
    ) -> Task:  # fmt: skip
        spec = self._models.resolve(model)
        self.begins(spec)
        parameters: dict[str, Any] = msgspec.to_builtins(request) if isinstance(request, Generation) else {"input": list(request)}
        asked = TaskRequest(
            operation=spec.id, parameters=parameters, priority=priority, timeout=timeout, max_retries=max_retries, tags=list(tags),
            cancel_on_disconnect=False,
        )  # fmt: skip
        return await self._tasks.submit(asked, principal=principal, promised=False, idempotency=idempotency, cache=cache, traceparent=traceparent)
