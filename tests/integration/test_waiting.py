"""Waits of any length, many at once."""

import json

from benchmarks.load import drive, request
from benchmarks.servers import Server


def test_many_may_wait_for_next_to_nothing_at_once(server: Server) -> None:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Cache-Control": "no-store"}
    body = json.dumps({"operation": "monte_carlo_pi", "parameters": {"samples": 500_000, "seed": 1}}).encode()
    messages = [request("POST", "/tasks", body, headers | {"Prefer": f"wait={wait}"}) for wait in (0, 0.0001, 0.0004, 0.1) * 20]
    assert {answer.status for answer in drive(server.port, messages, 32)} <= {200, 202}
