"""The short form of `python -m benchmarks.chaos`; the long one is `make soak`. What it counts as lost is tested here, too."""

import json
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos.__main__ import BAD, quantile, run, summary
from benchmarks.chaos.faults import FAULTS, REDIS
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.stage import CLOCK, Redis
from benchmarks.chaos.work import expected
from benchmarks.load import Connection, ask, request
from benchmarks.servers import Server, free_port

DOZEN = 12


def _nothing_lost(found: dict, faults: int) -> None:
    assert {name: found[name] for name in BAD} == dict.fromkeys(BAD, 0), found["examples"]
    assert len(found["faults"]) == faults
    assert set(found["not_run"]) <= {*REDIS, "disk-full", "namespaces"}
    for fault in found["faults"]:
        if fault["kind"] == "disk-full":
            assert "nobody was told" not in fault["note"], "a full disk answers 507"
        if fault["kind"] == "worker-kill":
            assert "not replaced" not in fault["note"]


def test_a_dozen_faults_lose_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, seed=12, faults=DOZEN, seconds=60, quiet=0.2, size=256 << 20)
    _nothing_lost(found, DOZEN)
    ran = set(FAULTS) - set(found["not_run"])
    assert {fault["kind"] for fault in found["faults"]} == ran, "each kind that can happen here happened"
    assert found["acknowledged"] > 500
    assert found["unanswered"] > 0, "no request was under way at any fault"
    assert set(found["kinds"]) == {"tiny", "large", "long", "batch", "dependent", "tensor", "failing", "cancelled", "deadline", "overdue"}
    assert summary([found, found])["faults"] == 2 * DOZEN


WITH_REDIS = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.mark.soak
@pytest.mark.parametrize(("seed", "store", "gateways"), [
    *((seed, "sqlite", 1) for seed in range(3)), *(pytest.param(seed, "redis://", 3, marks=WITH_REDIS) for seed in range(3, 5)),
])  # fmt: skip
def test_many_faults_lose_nothing(tmp_path: Path, seed: int, store: str, gateways: int) -> None:
    found = run(tmp_path, seed=seed, faults=70, seconds=900, store=store, gateways=gateways, size=4 << 30)
    _nothing_lost(found, 70)
    replaced = [fault["replaced"] for fault in found["faults"] if fault["replaced"] is not None]
    assert quantile(replaced, 0.99) < 5


@pytest.fixture
def moved(start_server: Callable[..., AbstractContextManager[Server]], tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server whose clock is an hour ahead, and the file that says so."""
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("d", 3600.0))
    path = os.pathsep.join(filter(None, (str(CLOCK), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, "CHAOS_CLOCK": str(clock), "OPENRUNTIME_SLOTS": "2"}
    with start_server(environment=environment, store="memory") as server:
        yield server, clock


def _set_right(clock: Path) -> None:
    with clock.open("r+b") as file:
        file.write(struct.pack("d", 0.0))


def _submit(server: Server, operation: str, **parameters: object) -> str:
    body = json.dumps({"operation": operation, "parameters": parameters}).encode()
    return str(ask(server.port, "POST", "/tasks", body, {"Content-Type": "application/json"}).json()["task_id"])


def test_a_clock_set_back_keeps_no_task_from_a_second_worker(moved: tuple[Server, Path]) -> None:
    server, clock = moved
    endless = _submit(server, "monte_carlo_pi", samples=10**12)
    while ask(server.port, "GET", f"/tasks/{endless}").json()["status"] != "running":
        time.sleep(0.01)
    small = _submit(server, "sum", x=[1, 2])
    _set_right(clock)
    assert ask(server.port, "GET", f"/tasks/{small}?wait=20").json()["status"] == "completed"
    ask(server.port, "DELETE", f"/tasks/{endless}")


def test_a_task_starts_after_it_was_created_by_a_clock_that_was_set_too(moved: tuple[Server, Path]) -> None:
    server, clock = moved
    _set_right(clock)
    found = ask(server.port, "GET", f"/tasks/{_submit(server, 'sum', x=[1, 2])}?wait=20").json()
    created, started, finished = (datetime.fromisoformat(found[name]) for name in ("created_at", "started_at", "finished_at"))
    assert created - timedelta(seconds=0.1) <= started <= finished + timedelta(seconds=0.1)


def test_the_proxy_drops_and_holds_back(server: Server) -> None:
    proxy, question = Proxy(lambda: [server.port]), request("GET", "/health/live")
    try:
        with Connection(proxy.port, timeout=10) as connection:
            assert connection.ask(question).status == 200
            proxy.cut()
            connection.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.ask(question)
            proxy.mend()
            connection.socket.settimeout(10)
            while (answer := connection.feed()) is None:
                pass
            assert answer.status == 200, "what was held back went on"
            proxy.drop()
            with pytest.raises(ConnectionError):
                connection.ask(question)
    finally:
        proxy.close()


@WITH_REDIS
def test_a_redis_of_its_own_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    redis = Redis(free_port(), tmp_path / "redis")
    try:
        assert _redis(redis.port, b"SET key value") == b"+OK\r\n"
        redis.kill()
        while (answer := _redis(redis.port, b"GET key")).startswith(b"-LOADING"):
            time.sleep(0.01)
        assert answer == b"$5\r\nvalue\r\n"
    finally:
        redis.stop()


def _redis(port: int, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(100)


def _entry(number: int = 1, **fields: object) -> dict[str, object]:
    return {"task_id": "t", "status": "completed", "attempt": 1, "finished_at": "2026-01-01T00:00:00Z", "code": None} | fields


@pytest.fixture
def ledger() -> Ledger:
    found = Ledger()
    found.acknowledge("t", "tiny", 7, "key")
    return found


def test_a_task_nobody_knows_any_more_is_lost(ledger: Ledger) -> None:
    ledger.see("t", {"code": "not_found"}, None)
    assert ledger.counts["lost"] == 1


def test_a_task_whose_store_is_away_is_asked_for_again(ledger: Ledger) -> None:
    assert not ledger.see("t", {"code": "unavailable"}, None)
    assert ledger.pending() == ["t"]
    assert not ledger.wrongs


def test_a_task_that_does_not_end_is_lost(ledger: Ledger) -> None:
    assert not ledger.see("t", _entry(status="running"), None)
    assert ledger.pending() == ["t"]
    ledger.give_up("t", "too late")
    assert ledger.counts["lost"] == 1


@pytest.mark.parametrize("output", [None, np.zeros(250, np.float32), np.zeros(3, np.float32)])
def test_another_result_is_wrong(ledger: Ledger, output: np.ndarray | None) -> None:
    ledger.see("t", _entry(), output)
    assert ledger.counts["wrong"] == 1


@pytest.mark.parametrize(("status", "code", "attempt", "count"), [
    ("failed", "operation_failed", 1, "wrong"), ("cancelled", "cancelled", 1, "wrong"),
    ("failed", "worker_crashed", 1, "wrong"), ("failed", "worker_crashed", 2, "poisoned"),
])  # fmt: skip
def test_another_end_is_wrong_unless_two_workers_died_under_it(ledger: Ledger, status: str, code: str, attempt: int, count: str) -> None:
    ledger.see("t", _entry(status=status, code=code, attempt=attempt), None)
    assert ledger.counts[count] == 1
    assert ledger.counts["wrong"] + ledger.counts["poisoned"] == 1


def test_time_is_over_too_soon_only_where_another_gateway_took_the_task_up(ledger: Ledger) -> None:
    for killed in (0.0, 5.0):
        ledger.killed = killed
        ledger.acknowledge(f"d{killed}", "deadline", 1, sent=3.0)
        ledger.see(f"d{killed}", _entry(status="failed", code="timeout"), None)
    ledger.acknowledge("o", "overdue", 1)
    ledger.see("o", _entry(status="failed", code="timeout"), None)
    assert (ledger.counts["wrong"], ledger.counts["judged_by_the_time_of_day"]) == (1, 1)


@pytest.mark.parametrize("later", [{"attempt": 2}, {"finished_at": "2026-01-01T00:00:09Z"}, {"status": "running"}, {"status": "failed"}])
def test_another_end_later_is_committed_twice(ledger: Ledger, later: dict[str, object]) -> None:
    ledger.see("t", _entry(), expected("tiny", 7))
    ledger.see("t", _entry(), expected("tiny", 7))
    assert ledger.counts["committed_twice"] == 0
    ledger.see("t", _entry(**later), expected("tiny", 7))
    assert ledger.counts["committed_twice"] == 1


def test_after_a_kill_a_task_may_run_again_but_not_to_another_result(ledger: Ledger) -> None:
    ledger.see("t", _entry(), expected("tiny", 7))
    ledger.killed = float("inf")
    ledger.see("t", _entry(status="running"), None)
    ledger.see("t", _entry(finished_at="2026-01-01T00:00:09Z"), expected("tiny", 7))
    assert (ledger.counts["ran_again"], ledger.counts["committed_twice"]) == (1, 0)
    ledger.see("t", _entry(finished_at="2026-01-01T00:00:09Z"), expected("tiny", 8))
    assert ledger.counts["committed_twice"] == 1


def test_one_key_is_one_task(ledger: Ledger) -> None:
    ledger.acknowledge("t", "tiny", 7, "key")
    assert ledger.counts["committed_twice"] == 0
    ledger.acknowledge("u", "tiny", 7, "key")
    assert ledger.counts["committed_twice"] == 1


def test_quantiles_are_samples() -> None:
    assert quantile([], 0.99) is None
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert quantile([float(number) for number in range(1, 101)], 0.99) == 99.0
