"""What schemathesis makes of the OpenAPI document, sent to a real server: answers fit the document, and none is a server's failure."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance


@schemathesis.check
def no_failure_of_the_servers(ctx: Any, response: Any, case: Any) -> bool | None:
    """503 and 507 are answers too, where the document has them (which `status_code_conformance` looks at)."""
    return None if response.status_code in (503, 507) else not_a_server_error(ctx, response, case)


CHECKS = [no_failure_of_the_servers, status_code_conformance, content_type_conformance, response_schema_conformance]


def _bytes(context: Any, value: Any) -> dict[str, Any]:
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")}


WRITERS = ("/v1/chat/completions", "/v1/completions", "/ai/tasks")  # where a model writes as long as it likes, unless it is told


for media in ("application/x-safetensors", "application/x-npy"):
    schemathesis.serializer(media)(_bytes)


def test_every_operation_with_generated_requests(start_server: Callable[..., AbstractContextManager[Any]]) -> None:
    with start_server(store="memory") as server:  # its own: generated requests may drain the device
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        document = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
        assert len(operations) == sum(map(len, document["paths"].values())) > 20
        for operation in operations:
            ready = httpx.put(f"{server.url}/devices/cpu:0/state", json={"state": "ready"}, trust_env=False)
            for run in httpx.get(f"{server.url}/ai/tasks", trust_env=False).json()["tasks"]:  # agents' runs would keep the model's seats
                httpx.delete(f"{server.url}/ai/tasks/{run['task_id']}", trust_env=False)
            assert ready.status_code == 200  # requests before may have drained it, and then models' callers wait

            @given(case=operation.as_strategy())
            @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
            def generated(case: Any) -> None:
                if case.path in WRITERS and isinstance(case.body, dict) and not {"max_tokens", "max_completion_tokens"} & case.body.keys():
                    case.body["max_tokens"] = 4
                case.call_and_validate(checks=CHECKS, timeout=60)

            generated()
        assert httpx.get(f"{server.url}/health/live", trust_env=False).status_code == 200
        assert server.process.poll() is None
