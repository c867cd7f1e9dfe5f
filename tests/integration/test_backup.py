"""`openruntime backup` while a server is under load, `openruntime restore`, and a server started on what was restored."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.durable import SUBMIT, fetch
from benchmarks.load import Connection, request
from benchmarks.servers import Server
from benchmarks.works import body_a, output

SMALL, LARGE = 1_000, 50_000  # elements: in the database, and in a file


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openruntime.cli.main", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


class Load(threading.Thread):
    """Submits distinct tasks until told to stop; `acknowledged` holds their ids by number. Task `n` computes 2 (n + i) + 1."""

    def __init__(self, port: int, first: int) -> None:
        super().__init__()
        self.port = port
        self.first = first
        self.acknowledged: dict[int, str] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        with Connection(self.port) as connection:
            for number in range(self.first, self.first + 100_000):
                if self.stopping.is_set():
                    return
                answer = connection.ask(request("POST", "/tasks", body_a(vector(number)), SUBMIT))
                assert answer.status == 202
                self.acknowledged[number] = answer.json()["task_id"]


def vector(number: int) -> np.ndarray:
    return np.arange(LARGE if number % 10 == 0 else SMALL, dtype=np.float32) + number


def test_what_was_acknowledged_before_a_backup_is_in_it(start_server: Callable[..., AbstractContextManager[Server]], tmp_path: Path) -> None:
    with start_server(data_dir=tmp_path / "data") as server:
        loads = [Load(server.port, first) for first in (0, 1_000_000)]
        for load in loads:
            load.start()
        try:
            while min(len(load.acknowledged) for load in loads) < 300:
                assert all(load.is_alive() for load in loads)
            before = {number: task for load in loads for number, task in list(load.acknowledged.items())}
            got = command("backup", tmp_path / "backup", "--data-dir", server.data_dir, "--json")
            during = sum(len(load.acknowledged) for load in loads) - len(before)
        finally:
            for load in loads:
                load.stopping.set()
                load.join()
        assert got.returncode == 0, got.stderr
        assert during > 0, "the server stood still"
        copied: dict[str, Any] = json.loads(got.stdout)
        assert copied["missing"] == []
        assert copied["waiting"] + copied["ended"] >= len(before)
        assert copied["files"] >= 60
        _all_there(server, {number: task for load in loads for number, task in load.acknowledged.items()})
        refused = command("restore", tmp_path / "backup", "--data-dir", server.data_dir)
        assert refused.returncode == 4
        assert "a server runs on" in refused.stderr
    got = command("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    assert got.returncode == 0, got.stderr
    with start_server(data_dir=tmp_path / "restored") as server:
        _all_there(server, before)


def _all_there(server: Server, tasks: dict[int, str]) -> None:
    numbers = list(tasks)
    for number, answer in zip(numbers, fetch(server.port, [tasks[number] for number in numbers], 8), strict=True):
        np.testing.assert_array_equal(output(answer), 2 * vector(number) + 1)
