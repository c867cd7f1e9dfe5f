"""The one table of routes and scopes: every route stands in it, and what is not in it is open to no bounded principal."""

from typing import Any

import pytest

from openruntime.contracts.errors import Forbidden
from openruntime.contracts.records import LOCAL, Call, Estimate, Principal, Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime
from openruntime.gateway.app import create_gateway
from openruntime.security.access import OPEN, RULES, SCOPES, Access, rule_for
from openruntime.security.tokens import TokenIssuer

ACCESS = Access(TokenIssuer(lambda: b"secret"))


def agent(*scopes: str) -> Principal:
    return Principal("local/tester:1", "local", frozenset(scopes))


@pytest.fixture(scope="module")
def routes() -> list[tuple[str, str]]:
    """Every route there is, its parameters filled in."""
    front = create_gateway(Runtime(Settings.load({"store": "memory"})).services())
    found = [(method.upper(), path) for path, methods in front.rest.openapi()["paths"].items() for method in methods]
    return [*found, ("GET", "/ws"), ("GET", "/docs"), ("GET", "/openapi.json")]


def test_every_route_stands_in_the_table(routes: list[tuple[str, str]]) -> None:
    missing = [(method, path) for method, path in routes if rule_for(method, path) is None]
    assert missing == []


def test_every_scope_is_known_and_every_known_one_used() -> None:
    used = {scope for rule in RULES for scope in (rule.scope, rule.beyond) if scope not in (OPEN, None)}
    assert used == SCOPES.keys()


def test_what_changes_something_needs_more_than_looking(routes: list[tuple[str, str]]) -> None:
    for method, path in routes:
        rule = rule_for(method, path)
        assert rule is not None
        if method != "GET" and not path.startswith("/mcp"):
            assert rule.scope not in (OPEN, "tasks:read"), (method, path)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin"), ("PATCH", "/tasks/1"), ("POST", "/tasks/1"), ("GET", "/tasks/1/2/3"), ("PUT", "/"), ("GET", "//tasks")]
)
def test_what_is_not_in_the_table_is_refused(method: str, path: str) -> None:
    with pytest.raises(Forbidden):
        ACCESS.enter(agent(*SCOPES), method, path)
    ACCESS.enter(LOCAL, method, path)


def test_looking_opens_what_shows_and_nothing_else() -> None:
    ACCESS.enter(agent("tasks:read"), "HEAD", "/tasks")
    ACCESS.enter(agent(), "GET", "/health/live")
    for method, path in (
        ("POST", "/tasks"),
        ("DELETE", "/tasks/1"),
        ("GET", "/ai/tasks"),
        ("POST", "/v1/chat/completions"),
        ("DELETE", "/tensors/1"),
    ):
        with pytest.raises(Forbidden, match="needs the scope"):
            ACCESS.enter(agent("tasks:read"), method, path)


def test_ones_own_task_may_be_cancelled_and_anothers_not() -> None:
    def task(client: str) -> Task:
        return Task("1", Call("sum", 1, {}, {}, Estimate()), "local", "any", 5, 0.0, 0.0, client=client)

    who = agent("tasks:write")
    ACCESS.task(who, task(who.id))
    with pytest.raises(Forbidden) as refused:
        ACCESS.task(who, task("local"))
    assert refused.value.field == "tasks:manage"
    ACCESS.task(agent("tasks:manage"), task("local"))


def test_a_kernel_is_whose_it_was_first_until_a_person_replaces_it() -> None:
    who, other = agent("kernels:write"), Principal("local/tester:2", "local", frozenset({"kernels:write"}))
    access = Access(TokenIssuer(lambda: b"secret"))
    access.registered(who, "mine", anew=True)
    access.kernel(who, "mine", "to tune it")
    for refused in (other, Principal(who.id, "elsewhere", who.scopes)):
        with pytest.raises(Forbidden):
            access.kernel(refused, "mine", "to tune it")
    granted = Principal(other.id, "local", frozenset({"kernels:write", "kernels:manage"}))
    access.registered(granted, "mine", anew=False)  # a person approved one replacement
    with pytest.raises(Forbidden):
        access.kernel(other, "mine", "to replace it again")
    access.registered(LOCAL, "mine", anew=False)
    with pytest.raises(Forbidden):
        access.kernel(who, "mine", "to tune it")
    assert not access.may_replace(who, "mine")


@pytest.mark.parametrize(
    ("operation", "parameters", "needs"),
    [
        ("compile_kernel", {}, "kernels:write"),
        ("tune_kernel", {"kernel": "theirs"}, "kernels:manage"),
        ("sum", {}, None),
        ("verify_kernel", {}, None),
    ],
)
def test_kernels_requests_under_the_name_of_a_task(operation: str, parameters: dict[str, Any], needs: str | None) -> None:
    if needs is None:
        ACCESS.operation(agent("tasks:write"), operation, parameters)
        return
    with pytest.raises(Forbidden) as refused:
        ACCESS.operation(agent("tasks:write"), operation, parameters)
    assert refused.value.field == needs
