"""Tasks that use other tasks' results: what they need, and their calls with those outputs as inputs."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from openruntime.contracts.errors import DependencyFailed, Expired, InvalidParameter, NotFound, OpenRuntimeError
from openruntime.contracts.interfaces import Catalogue, Tensors
from openruntime.contracts.payload import Array, Reference, Spec
from openruntime.contracts.records import LOCAL, Call, Principal, Task
from openruntime.tasks.tensors import output_of


def references(parameters: Mapping[str, Any]) -> dict[str, Reference]:
    """The parameters that stand for a tensor or another task's output, by name; items of a list have names of their own."""
    return {name: value for name, value in parameters.items() if type(value) is Reference}


class Dependencies:
    """Binds calls whose inputs are references."""

    tensors: Tensors  # set by core: tensors ask for tasks, and tasks for tensors

    def __init__(self, status: Callable[..., Awaitable[Task]], catalogue: Catalogue) -> None:
        self._status = status
        self._catalogue = catalogue

    async def bind(
        self, operation: str, parameters: Mapping[str, Any], found: Mapping[str, Reference], principal: Principal
    ) -> tuple[Call, tuple[str, ...]]:
        """The call, and the ids of tasks that must end first (then `parameters` still hold their references)."""
        ready: dict[str, Any] = dict(parameters)
        pending: dict[str, Reference] = {}
        for name, reference in found.items():
            try:
                there = await self.tensors.resolve(reference, principal=principal)
            except (NotFound, Expired, DependencyFailed) as error:
                raise InvalidParameter(f"`{name}`: {error.message}", field=name) from None
            if isinstance(there, Array):
                ready[name] = there
            else:
                ready[name] = _expected(name, there, reference)
                pending[name] = reference
        call = self._catalogue.of(principal.tenant).bind(operation, ready)
        for name, reference in pending.items():
            base, _, index = name.rpartition(".")
            if base in call.parameters:  # an item of a list
                call.parameters[base][int(index)] = reference
            else:
                call.parameters[name] = reference
        return call, tuple({str(reference.task): None for reference in pending.values()})

    async def resolve(self, task: Task) -> Call | OpenRuntimeError | None:
        """The call with its inputs in place; the error it fails with; None while something is still to end, or cannot be read now."""
        parameters = dict(task.call.parameters)
        principal = Principal(tenant=task.tenant) if task.tenant != LOCAL.tenant else LOCAL
        try:
            for name, value in parameters.items():
                items = list(value) if type(value) is list else [value]
                for index, item in enumerate(items):
                    if type(item) is Reference:
                        other = await self._status(item.task, principal=principal)
                        if not other.status.ended:
                            return None
                        items[index] = output_of(other, item)
                parameters[name] = items if type(value) is list else items[0]
            return self._catalogue.of(task.tenant).bind(task.call.operation, parameters, task.call)
        except OpenRuntimeError as error:
            return None if error.retryable else error


def _expected(name: str, task: Task, reference: Reference) -> Spec:
    """What an unfinished task's output is declared to be."""
    outputs = task.call.outputs
    if reference.output is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    if reference.output is None:
        raise InvalidParameter(
            f'`{name}`: {task.call.operation} has several outputs; name one: {{"task": id, "output": {" or ".join(outputs)}}}', field=name
        )
    if reference.output not in outputs:
        raise InvalidParameter(f"`{name}`: {task.call.operation} has no output {reference.output!r}; it has {', '.join(outputs)}", field=name)
    return outputs[reference.output]
