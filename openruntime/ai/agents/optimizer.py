"""Optimizer: makes an operation, an expression or a kernel faster."""

from openruntime.ai.agents.tools import LOOKING, run_operation
from openruntime.contracts.agents import Role
from openruntime.contracts.models import WorkflowType

ROLE = Role(
    name="optimizer",
    summary="Makes an operation, an expression or a kernel faster; only what was verified and measured counts.",
    workflows=(WorkflowType.COMPUTE_OPTIMIZATION,),
    prompt="You make computations faster. Only gains that the system has verified and measured count; never claim another.",
    scopes=frozenset({"tasks:read", "tasks:write", "kernels:write"}),
    asks=frozenset({"kernels:manage"}),
    tools=(*LOOKING, run_operation),
)
