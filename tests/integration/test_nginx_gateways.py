"""Three gateways on one Redis behind nginx, one of them killed under load: clients of the SDK notice nothing."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest

import openruntime
from benchmarks import nginx
from benchmarks.servers import Server

redis = pytest.importorskip("benchmarks.redis_server", reason="this version has no store that gateways share")

CLIENTS, AFTER = 6, 60  # each client goes on for that many calls after the kill

Start = Callable[..., AbstractContextManager[Server]]

pytestmark = pytest.mark.skipif(nginx.program() is None, reason="nginx is not installed")


class Client(threading.Thread):
    """Calls that wait, and tasks that are fetched later; each result is compared."""

    def __init__(self, number: int, url: str, killed: threading.Event) -> None:
        super().__init__()
        self.number = number
        self.url = url
        self.killed = killed
        self.calls = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with openruntime.connect(self.url) as runtime:
                self._work(runtime)
        except Exception as error:
            self.error = error

    def _work(self, runtime: openruntime.Runtime) -> None:
        after = 0
        while after < AFTER:
            after += self.killed.is_set()
            self.calls += 1
            x = np.arange(1000.0) + self.calls * CLIENTS + self.number
            future = runtime.submit("sum", x)
            np.testing.assert_allclose(runtime.expression("2*x+1", x=x), 2 * x + 1)
            np.testing.assert_allclose(future.result(60), x.sum())


def test_a_gateway_killed_under_load_is_no_error_of_its_clients(start_server: Start, tmp_path: Path) -> None:
    with redis.redis_server(tmp_path / "redis") as store, ExitStack() as stack:
        settings = {"OPENRUNTIME_SLOTS": "1", "OPENRUNTIME_THREADS": "1"}
        servers = [stack.enter_context(start_server(store=store.url, data_dir=tmp_path / "data", environment=settings)) for _ in range(3)]
        port = stack.enter_context(nginx.running(tmp_path, [server.port for server in servers]))
        killed = threading.Event()
        clients = [Client(number, f"http://127.0.0.1:{port}", killed) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        end = time.monotonic() + 30
        while min(client.calls for client in clients) < 20 and not any(client.error for client in clients):
            assert time.monotonic() < end
            time.sleep(0.05)
        servers[0].kill()
        killed.set()
        for client in clients:
            client.join(100)
        assert [client.error for client in clients] == [None] * CLIENTS
        assert not any(client.is_alive() for client in clients)
        assert any(" 502 " in line or ", " in line for line in (tmp_path / "access.log").read_text().splitlines()), "the kill hit nobody"
