"""The short form of `python -m benchmarks.kill9`; the long one is `make soak`."""

import json
from pathlib import Path

import pytest

from benchmarks.kill9 import kill9
from benchmarks.load import ask
from benchmarks.servers import openruntime, spawn


def _nothing_lost(kills: int, folder: Path) -> None:
    outcome = kill9(kills, data=folder / "data", limit=20_000)
    assert outcome.kills == kills
    assert outcome.acknowledged >= 10 * kills
    assert outcome.completions_seen > 0
    assert outcome.sent_again > 0, "no request was under way at any kill"
    assert (outcome.lost, outcome.wrong, outcome.committed_twice, outcome.orphans, outcome.refused) == (0, 0, 0, 0, {})
    assert max(outcome.recovery) < 20


def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    _nothing_lost(3, tmp_path)


@pytest.mark.soak
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    _nothing_lost(20, tmp_path)


def test_a_cancel_that_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    endless = json.dumps({"operation": "monte_carlo_pi", "parameters": {"samples": 10**12}}).encode()
    server = spawn(openruntime(), tmp_path / "data", tmp_path / "log")
    try:
        server.wait_ready("/health/ready")
        tasks = [ask(server.port, "POST", "/tasks", endless, {"Content-Type": "application/json"}).json()["task_id"] for _ in range(12)]
        cancelled = [task for task in tasks[4:] if ask(server.port, "DELETE", f"/tasks/{task}").json()["status"] == "cancelled"]
        server.kill()
        assert len(cancelled) == 8, "they waited behind the first four"
        server = spawn(openruntime(), tmp_path / "data", tmp_path / "log")
        server.wait_ready("/health/ready")
        assert {ask(server.port, "GET", f"/tasks/{task}").json()["status"] for task in cancelled} == {"cancelled"}
        assert {ask(server.port, "DELETE", f"/tasks/{task}").status for task in tasks} <= {200, 202}
    finally:
        server.stop()
