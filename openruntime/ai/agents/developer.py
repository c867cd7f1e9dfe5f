"""Developer: writes operations, backends, kernels and client code."""

from openruntime.ai.agents.tools import LOOKING, run_operation
from openruntime.contracts.agents import Role
from openruntime.contracts.models import WorkflowType

ROLE = Role(
    name="developer",
    summary="Writes an operation, a backend plugin, client code or a kernel from a request.",
    workflows=(WorkflowType.CODE_GENERATION,),
    prompt="You write code for a compute system. Look up the operations and kernels there are before you write one.",
    scopes=frozenset({"tasks:read", "tasks:write", "kernels:write"}),
    asks=frozenset({"kernels:manage"}),
    tools=(*LOOKING, run_operation),
)
