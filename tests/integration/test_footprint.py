"""What a running server must not have: NumPy in its own process, idle threads that spin, workers that outlive it."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks.servers import Server
from benchmarks.works import check_a


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_gateway_never_loads_numpy(server: Server) -> None:
    check_a(server.port)
    gateway, *workers = server.tree()
    assert workers
    loaded = {process.pid: Path(f"/proc/{process.pid}/maps").read_text() for process in (gateway, *workers)}
    assert "/numpy/" not in loaded[gateway.pid]
    assert "/scipy/" not in loaded[gateway.pid]
    assert any("/numpy/" in loaded[worker.pid] for worker in workers)  # or the check above would prove nothing


def test_nothing_is_left_after_a_stop(start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    with start_server(store="memory") as server:
        tree = server.tree()
        check_a(server.port)
    assert server.process.returncode == 0
    assert [process.pid for process in tree if process.is_running()] == []
