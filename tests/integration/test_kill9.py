"""The short form of `python -m benchmarks.kill9`; the long one is `make soak`."""

import json
import time
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


@pytest.mark.parametrize("which", ["running", "waiting"])
def test_a_cancel_that_was_answered_outlives_a_kill(tmp_path: Path, which: str) -> None:
    endless = json.dumps({"operation": "monte_carlo_pi", "parameters": {"samples": 10**12}}).encode()
    server = spawn(openruntime(), tmp_path / "data", tmp_path / "log", {"OPENRUNTIME_SLOTS": "1"})
    try:
        server.wait_ready("/health/ready")
        first, *others = [ask(server.port, "POST", "/tasks", endless, {"Content-Type": "application/json"}).json()["task_id"] for _ in range(6)]
        while ask(server.port, "GET", f"/tasks/{first}").json()["status"] != "running":
            time.sleep(0.01)
        cancelled = [first] if which == "running" else others
        told = {ask(server.port, "DELETE", f"/tasks/{task}").json()["status"] for task in cancelled}
        server.kill()
        assert told <= {"cancelled", "cancelling"}
        server = spawn(openruntime(), tmp_path / "data", tmp_path / "log", {"OPENRUNTIME_SLOTS": "1"})
        server.wait_ready("/health/ready")
        assert {ask(server.port, "GET", f"/tasks/{task}").json()["status"] for task in cancelled} == {"cancelled"}
        assert {ask(server.port, "DELETE", f"/tasks/{task}").status for task in (first, *others)} == {200}
    finally:
        server.stop()
