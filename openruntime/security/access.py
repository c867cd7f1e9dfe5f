"""Who may do what: the one table of routes and scopes, and the judgements that need to know whose a thing is.

It binds principals whose scopes are bounded, which today are the agents; `*`, which everybody has while authentication is off, is all.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from openruntime.contracts.errors import Forbidden
from openruntime.contracts.kernels import COMPILE, TUNE, VERIFY
from openruntime.contracts.records import Principal, Task
from openruntime.security.tokens import Claims, TokenIssuer

ALL = "*"
SCOPES: dict[str, str] = {
    "tasks:read": "look: tasks, results, tensors, devices, operations, kernels, models, metrics, events",
    "tasks:write": "submit tasks and model calls, upload tensors, verify kernels, cancel one's own tasks",
    "tasks:manage": "cancel others' tasks, delete tensors",
    "kernels:write": "register kernels under new names; replace, tune and delete those one registered oneself",
    "kernels:manage": "replace, tune and delete others' kernels",
    "devices:write": "drain devices, and let them take work again",
    "models:write": "add and remove models, move their aliases",
    "ai:read": "see the agents' runs and sessions",
    "ai:run": "give work to agents, cancel it, keep sessions",
    "ai:approve": "approve or refuse what agents ask for",
}
OPEN = ""


class Rule(NamedTuple):
    """`beyond`: the scope that is needed where the thing is not one's own, which is judged once it is known."""

    method: str
    path: str
    scope: str
    beyond: str | None = None


READ, WRITE = "tasks:read", "tasks:write"
RULES = (
    Rule("GET", "/", OPEN), Rule("GET", "/health", OPEN), Rule("GET", "/health/live", OPEN), Rule("GET", "/health/ready", OPEN),
    Rule("GET", "/docs", OPEN), Rule("GET", "/docs/{name}", OPEN), Rule("GET", "/openapi.json", OPEN),
    Rule("GET", "/metrics", READ), Rule("GET", "/metrics/history", READ), Rule("GET", "/ws", READ),
    Rule("GET", "/devices", READ), Rule("GET", "/devices/{device_id}", READ), Rule("PUT", "/devices/{device_id}/state", "devices:write"),
    Rule("GET", "/operations", READ), Rule("GET", "/operations/{name}", READ),
    Rule("GET", "/tasks", READ), Rule("GET", "/tasks/batch", READ), Rule("GET", "/tasks/{task_id}", READ),
    Rule("GET", "/tasks/{task_id}/result", READ), Rule("GET", "/tasks/{task_id}/explain", READ), Rule("GET", "/tasks/{task_id}/trace", READ),
    Rule("POST", "/tasks", WRITE), Rule("POST", "/tasks/batch", WRITE), Rule("DELETE", "/tasks/{task_id}", WRITE, "tasks:manage"),
    Rule("GET", "/tensors", READ), Rule("GET", "/tensors/{tensor_id}", READ), Rule("POST", "/tensors", WRITE),
    Rule("DELETE", "/tensors/{tensor_id}", "tasks:manage"),
    Rule("GET", "/kernels", READ), Rule("GET", "/kernels/{name}", READ), Rule("POST", "/kernels", "kernels:write", "kernels:manage"),
    Rule("DELETE", "/kernels/{name}", "kernels:write", "kernels:manage"),
    Rule("GET", "/kernels/{name}/verify", READ), Rule("POST", "/kernels/{name}/verify", WRITE),
    Rule("GET", "/kernels/{name}/tune", READ), Rule("POST", "/kernels/{name}/tune", "kernels:write", "kernels:manage"),
    Rule("GET", "/ai/agents", READ),
    Rule("GET", "/ai/tasks", "ai:read"), Rule("POST", "/ai/tasks", "ai:run"),
    Rule("GET", "/ai/tasks/{run_id}", "ai:read"), Rule("DELETE", "/ai/tasks/{run_id}", "ai:run"),
    Rule("GET", "/ai/tasks/{run_id}/approvals", "ai:read"), Rule("POST", "/ai/tasks/{run_id}/approvals/{approval}", "ai:approve"),
    Rule("GET", "/ai/sessions", "ai:read"), Rule("POST", "/ai/sessions", "ai:run"),
    Rule("GET", "/ai/sessions/{session}", "ai:read"), Rule("DELETE", "/ai/sessions/{session}", "ai:run"),
    Rule("GET", "/ai/models", READ), Rule("GET", "/ai/models/{name}", READ),
    Rule("GET", "/ai/models/aliases/{alias}", READ),
    Rule("*", "/ai/models", "models:write"),
    Rule("*", "/ai/models/**", "models:write"),
    Rule("GET", "/v1/models", READ), Rule("GET", "/v1/models/{model}", READ), Rule("POST", "/v1/**", WRITE),
    Rule("*", "/mcp", READ), Rule("*", "/mcp/", READ),  # each of its tools asks the API again
)  # fmt: skip
_PARTS = {"**": ".*"}
_COMPILED = [
    (rule, re.compile("/".join(_PARTS.get(part, "[^/]+" if part.startswith("{") else re.escape(part)) for part in rule.path.split("/"))))
    for rule in RULES
]
JUDGING = frozenset({COMPILE, VERIFY, TUNE})  # operations that are kernels' own requests under another name


def rule_for(method: str, path: str) -> Rule | None:
    """The first that fits; None where there is none, which is allowed to nobody with bounded scopes."""
    method = "GET" if method == "HEAD" else method
    return next((rule for rule, fits in _COMPILED if rule.method in (method, "*") and fits.fullmatch(path)), None)


class Access:
    """Judges principals. `tokens` issues and reads those of agents."""

    def __init__(self, tokens: TokenIssuer) -> None:
        self.tokens = tokens
        self._kernels: dict[tuple[str, str], str] = {}  # (tenant, name) -> who registered it, of those with bounded scopes

    def identify(self, authorization: bytes) -> Claims | None:
        """Whom an Authorization header names; None where it holds no token of ours. Raises `Unauthorized`."""
        kind, _, token = authorization.decode("latin-1").strip().partition(" ")
        return self.tokens.read(token.strip()) if kind.lower() == "bearer" else None

    def enter(self, who: Principal, method: str, path: str) -> None:
        """Raises `Forbidden` unless a scope of `who` opens the route."""
        if ALL in who.scopes:
            return
        rule = rule_for(method, path)
        if method == "OPTIONS" or (rule is not None and rule.scope == OPEN):
            return
        if rule is None:
            raise Forbidden(f"{method} {path[:200]} is open to no agent")
        need(who, rule.scope, f"{method} {path[:200]}", or_else=rule.beyond)

    def operation(self, who: Principal, operation: str, parameters: Mapping[str, Any]) -> None:
        """Whether `who` may submit it: what kernels' own routes do stands behind the same doors here."""
        if ALL in who.scopes or operation not in JUDGING:
            return
        if operation == COMPILE:
            need(who, "kernels:write", f"the operation {operation}")
        elif operation == TUNE:
            self.kernel(who, str(parameters.get("kernel")), f"the operation {operation}")

    def task(self, who: Principal, task: Task) -> None:
        """Raises `Forbidden` unless `who` may cancel it."""
        if not self.owns(who, task):
            need(who, "tasks:manage", f"to cancel task {task.id}, which this agent did not submit,")

    def kernel(self, who: Principal, name: str, what: str) -> None:
        """Whether `who` may change a kernel that is there."""
        if ALL not in who.scopes:
            need(who, "kernels:write" if self._kernels.get((who.tenant, name)) == who.id else "kernels:manage", what)

    def may_replace(self, who: Principal, name: str) -> bool:
        """Whether a kernel of this name may be there when `who` registers one."""
        return bool(who.scopes & {ALL, "kernels:manage"}) or self._kernels.get((who.tenant, name)) == who.id

    def registered(self, who: Principal, name: str, *, anew: bool) -> None:
        """One that was there stays whose it was, but that it is a person's as soon as one has replaced it."""
        if ALL in who.scopes:
            self._kernels.pop((who.tenant, name), None)
        elif anew:
            self._kernels[who.tenant, name] = who.id

    def removed(self, who: Principal, name: str) -> None:
        self._kernels.pop((who.tenant, name), None)

    def owns(self, who: Principal, task: Task) -> bool:
        """Whether `who` may cancel it."""
        return task.client == who.id or bool(who.scopes & {ALL, "tasks:manage"})


def need(who: Principal, scope: str, what: str, *, or_else: str | None = None) -> None:
    """Raises `Forbidden`, its `field` the scope that lacks, unless `who` has one of them."""
    if not who.scopes & {scope, or_else, ALL}:
        raise Forbidden(f"{what} needs the scope {scope}, which {who.id} does not have", field=scope)
