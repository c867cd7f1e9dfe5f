"""Exit codes, help, and doctor."""

import json
import subprocess
import sys
import time

import pytest

from openruntime.cli.main import exit_code
from openruntime.cli.watch import Board
from openruntime.client.transport import Unreachable
from openruntime.contracts import errors


def command(*arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "openruntime.cli.main", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.WorkerCrashed("x"), 1), (errors.InvalidParameter("x"), 2), (errors.UnknownOperation("x"), 2), (Unreachable("x"), 3),
        (errors.Unavailable("x"), 4), (errors.QueueFull("x"), 4), (errors.StorageFull("x"), 4), (errors.Internal("x"), 4),
    ],
)  # fmt: skip
def test_exit_codes_mean_something(error: errors.OpenRuntimeError, code: int) -> None:
    assert exit_code(error) == code


def test_help_lists_every_command_without_loading_the_numerics() -> None:
    got = command("--help")
    assert got.returncode == 0
    for name in ("serve", "devices", "operations", "run", "submit", "tasks", "watch", "cancel", "doctor", "demo"):
        assert f" {name} " in got.stdout
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, openruntime.cli.main; print([m for m in ('numpy', 'fastapi', 'httpx', 'pydantic') if m in sys.modules])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip() == "[]"


def test_nobody_there_is_one_sentence_and_exit_code_3() -> None:
    started = time.monotonic()
    got = command("tasks", "--server", "http://127.0.0.1:9")
    assert got.returncode == 3
    assert got.stderr.startswith("error: no OpenRuntime server answers at http://127.0.0.1:9")
    assert got.stderr.count("\n") == 1
    assert time.monotonic() - started < 20


def test_errors_are_json_where_json_was_asked_for() -> None:
    got = command("tasks", "--json", "--server", "ftp://nowhere")
    assert got.returncode == 2
    assert json.loads(got.stderr)["code"] == "invalid_request"


def test_wrong_usage_is_exit_code_2() -> None:
    assert command("devices", "--nonsense").returncode == 2


def test_doctor_says_what_is_there_and_how_to_get_the_rest() -> None:
    got = command("doctor", "--json")
    findings = {finding["topic"]: finding for finding in json.loads(got.stdout)}
    assert findings["Python"]["found"].startswith(sys.version.split()[0])
    assert findings["extra images"]["status"] == "ok"
    for finding in findings.values():
        assert finding["status"] == "ok" or finding["remedy"], finding
    assert got.returncode == int(any(finding["status"] == "fail" for finding in findings.values()))


def test_the_board_follows_events() -> None:
    board = Board([{"id": "cpu:0", "name": "CPU", "status": "ready", "slots": 1, "busy": 0, "queued": 0, "memory_available": 1}], [])
    board.take({"type": "task.queued", "data": {"task_id": "a", "operation": "fft"}})
    board.take({"type": "task.started", "data": {"task_id": "a", "operation": "fft", "device": "cpu:0", "backend": "numpy"}})
    board.take({"type": "task.progress", "data": {"task_id": "a", "operation": "fft", "progress": 0.5}})
    assert board.tasks["a"]["status"] == "running"
    assert board.tasks["a"]["where"] == "cpu:0/numpy"
    assert board.tasks["a"]["progress"] == 0.5
    board.take({"type": "task.failed", "data": {"task_id": "a", "operation": "fft", "error": "singular"}})
    board.take({"type": "device.changed", "data": {"device": "cpu:0", "status": "draining"}})
    assert board.tasks["a"]["status"] == "failed"
    assert board.ended == 1
    assert board.devices[0]["status"] == "draining"
    for i in range(500):
        board.take({"type": "task.queued", "data": {"task_id": str(i), "operation": "fft"}})
    assert len(board.tasks) == 200


@pytest.mark.parametrize("absent", ["sklearn", "PIL"])
def test_the_demo_names_the_extra_it_lacks(absent: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; from openruntime.cli.main import main; main()"
    got = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, timeout=60, check=False)
    assert got.returncode == 4
    assert got.stderr.count("\n") == 1
    assert f"{absent} is not installed" in got.stderr
    assert "pip install 'openruntime[demo]'" in got.stderr
