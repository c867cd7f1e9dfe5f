"""`openruntime backup` while a server is under load, `openruntime restore`, and a server started on what was restored."""

import json
import shutil
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
from tests.models.making import gguf

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


def test_models_are_in_a_backup(start_server: Callable[..., AbstractContextManager[Server]], tmp_path: Path) -> None:
    weights = tmp_path / "mine.gguf"
    weights.write_bytes(gguf())
    with start_server(data_dir=tmp_path / "data") as server:
        added = command("models", "add", weights, "--server", f"http://127.0.0.1:{server.port}")
        assert added.returncode == 0, added.stderr
        got = command("backup", tmp_path / "backup", "--data-dir", server.data_dir)
        bare = command("backup", tmp_path / "bare", "--data-dir", server.data_dir, "--no-weights", "--json")
    assert (got.returncode, bare.returncode) == (0, 0), got.stderr + bare.stderr
    assert "models: 1," in got.stdout
    assert json.loads(bare.stdout)["models"] == {"models": 1, "bytes": 0, "without": ["mine:1"], "damaged": []}
    shutil.rmtree(tmp_path / "data")
    got = command("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    assert got.returncode == 0, got.stderr
    checked = command("models", "check", "mine", "--data-dir", tmp_path / "restored")
    assert "PASS  mine:1" in checked.stdout, checked.stderr
    [kept] = (tmp_path / "backup" / "models" / "weights").rglob("*.gguf")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    got = command("restore", tmp_path / "backup", "--data-dir", tmp_path / "worse")
    assert got.returncode == 1
    assert "damaged: the weights of mine:1" in got.stderr


def _all_there(server: Server, tasks: dict[int, str]) -> None:
    numbers = list(tasks)
    for number, answer in zip(numbers, fetch(server.port, [tasks[number] for number in numbers], 8), strict=True):
        np.testing.assert_array_equal(output(answer), 2 * vector(number) + 1)
