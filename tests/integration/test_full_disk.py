"""A server whose disk fills up says so (507), keeps what it acknowledged, and goes on when there is space again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.durable import FETCH, SUBMIT, fetch
from benchmarks.load import Connection, request
from benchmarks.servers import Server
from benchmarks.works import HEADERS, body_a, output

DISK = 24  # MiB
JSON = {"Content-Type": "application/json"}

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk, on Linux")
    mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Tasks:
    """Task `n` computes 2 (n + i) + 1; every third has inputs that rest in a file. `accepted`: the ids of those acknowledged."""

    def __init__(self) -> None:
        self.accepted: dict[int, str] = {}
        self.next = 0

    @staticmethod
    def vector(number: int) -> np.ndarray:
        return np.arange(40_000 if number % 3 == 0 else 1_000, dtype=np.float32) + number

    def submit(self, connection: Connection) -> int:
        """The status of one more task; where it is 507, what it must say is checked."""
        self.next += 1
        answer = connection.ask(request("POST", "/tasks", body_a(self.vector(self.next)), SUBMIT))
        if answer.status == 202:
            self.accepted[self.next] = answer.json()["task_id"]
        else:
            told = answer.json()
            assert (answer.status, told["code"]) == (507, "storage_full"), told
            assert "no space left" in told["detail"]
            assert "free some" in told["detail"]
            assert float(answer.header("Retry-After") or 0) > 0, answer.head
        return answer.status

    def check(self, server: Server) -> None:
        numbers = list(self.accepted)
        for number, answer in zip(numbers, fetch(server.port, [self.accepted[number] for number in numbers], 8), strict=True):
            np.testing.assert_array_equal(output(answer), 2 * self.vector(number) + 1)


def fill(disk: Path) -> Path:
    """A file that leaves nothing."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def complaints(server: Server) -> int:
    return sum(" ERROR " in line or " WARNING " in line for line in server.log.read_text().splitlines())


def drain(connection: Connection, state: bytes) -> None:
    answer = connection.ask(request("PUT", "/devices/cpu:0/state", b'{"state": "%b"}' % state, JSON))
    assert answer.status == 200, bytes(answer.body)


def test_a_full_disk_answers_507_and_loses_nothing(start_server: Start, disk: Path) -> None:
    tasks = Tasks()
    with start_server(data_dir=disk / "data") as server, Connection(server.port) as connection:
        for _ in range(60):
            assert tasks.submit(connection) == 202
        tasks.check(server)  # these have ended
        ended = dict(tasks.accepted)
        drain(connection, b"draining")
        for _ in range(60):
            assert tasks.submit(connection) == 202  # these wait
        ballast = fill(disk)
        assert sum(tasks.submit(connection) == 507 for _ in range(200)) > 150
        end = time.monotonic() + 2
        while time.monotonic() < end:
            tasks.submit(connection)
        assert complaints(server) == 1, server.log_tail()
        for number, task in ended.items():
            found = connection.ask(request("GET", f"/tasks/{task}/result", headers=FETCH))
            np.testing.assert_array_equal(output(found), 2 * tasks.vector(number) + 1)
        drain(connection, b"ready")  # what waits runs, and its results cannot be written yet
        x = np.arange(1000, dtype=np.float32)
        answer = connection.ask(request("POST", "/tasks", body_a(x), HEADERS))
        assert answer.status == 200, bytes(answer.body)  # nothing has to be kept for a client that waits
        time.sleep(2)
        assert complaints(server) == 1, server.log_tail()
        assert "no space left" in server.log.read_text()
        ballast.unlink()
        end = time.monotonic() + 10
        while tasks.submit(connection) != 202:
            assert time.monotonic() < end
            time.sleep(0.05)
        for _ in range(20):
            assert tasks.submit(connection) == 202
        tasks.check(server)
    with start_server(data_dir=disk / "data") as server:
        tasks.check(server)


def test_a_server_killed_and_started_on_a_full_disk_keeps_what_it_acknowledged(start_server: Start, disk: Path) -> None:
    tasks = Tasks()
    with start_server(data_dir=disk / "data") as server, Connection(server.port) as connection:
        for _ in range(60):
            assert tasks.submit(connection) == 202
        ballast = fill(disk)
        for _ in range(30):
            tasks.submit(connection)
        server.kill()
    command = [sys.executable, "-m", "openruntime.cli.main", "serve", "--port", "0", "--data-dir", str(disk / "data")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, told = process.communicate(timeout=3)
    except subprocess.TimeoutExpired:  # it could start
        process.terminate()
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0
    else:
        assert process.returncode == 4
        assert "no space left" in told
    assert "Traceback" not in told
    ballast.unlink()
    with start_server(data_dir=disk / "data") as server:
        tasks.check(server)
