"""Debugger: finds out why a task failed, was slow or gave a wrong result."""

from openruntime.ai.agents.tools import LOOKING, cancel_task, run_operation, set_device_state
from openruntime.contracts.agents import Role
from openruntime.contracts.models import WorkflowType

ROLE = Role(
    name="debugger",
    summary="Finds out why a task failed, was slow or gave a wrong result.",
    workflows=(WorkflowType.DEBUGGING,),
    prompt="You find out why a task of a compute system went wrong. Name only causes that a tool's answer shows; say what you do not know.",
    scopes=frozenset({"tasks:read", "tasks:write"}),
    asks=frozenset({"tasks:manage", "devices:write"}),
    tools=(*LOOKING, run_operation, cancel_task, set_device_state),
)
