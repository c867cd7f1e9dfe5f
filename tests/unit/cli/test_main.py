"""Exit codes, help, and doctor."""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from openruntime.cli.main import exit_code
from openruntime.cli.tasks import rows
from openruntime.cli.watch import Board, plain
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
    for name in ("serve", "devices", "operations", "run", "submit", "tasks", "watch", "cancel", "backup", "restore", "doctor", "demo"):
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
    assert time.monotonic() - started < 8


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
    assert findings["NVIDIA driver"]["status"] == ("ok" if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") else "absent")
    assert findings["backend numpy"]["found"] == "cpu:0"
    assert findings["backend metal"]["status"] == ("ok" if sys.platform == "darwin" else "absent")
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
    assert len(board.ended) == 1
    assert 0 < board.rate() <= 1
    assert board.devices[0]["status"] == "draining"
    for i in range(500):
        board.take({"type": "task.queued", "data": {"task_id": str(i), "operation": "fft"}})
    assert len(board.tasks) == 200


def test_the_board_says_how_far_and_how_long() -> None:
    board = Board([], [])
    board.take({"type": "task.started", "data": {"task_id": "a" * 36, "operation": "fft", "device": "cpu:0", "backend": "numpy"}})
    board.take({"type": "task.progress", "data": {"task_id": "a" * 36, "operation": "fft", "progress": 0.42}})
    board.tasks["a" * 36]["since"] = time.time() - 3
    shown = drawn(board.render(30, "http://x"), 80)
    assert "a" * 36 in shown
    assert "running 42%" in shown
    assert "3.0" in shown


def drawn(table: Any, width: int) -> str:
    out = Console(width=width, file=io.StringIO(), color_system=None)
    with out.capture() as shown:
        out.print(table)
    return shown.get()


def test_a_task_is_one_line_with_its_whole_id() -> None:
    task = {"task_id": "0" * 36, "operation": "monte_carlo_pi", "status": "completed", "priority": 5, "cached": False, "device_used": "cpu:0",
            "execution_time": 12.345, "error": "a long story " * 9, "progress": None, "message": None}  # fmt: skip
    lines = [line for line in drawn(rows([task] * 2, 80), 80).splitlines() if "0000" in line]
    assert len(lines) == 2
    assert all("0" * 36 in line and "completed" in line and "12.35 s" in line for line in lines)


def test_an_event_is_a_line_of_plain_text() -> None:
    data = {"task_id": "x1", "operation": "fft", "device": "cpu:0", "status": "completed", "seconds": 0.0117, "cached": False}
    event = {"seq": 1, "type": "task.completed", "time": "2026-01-01T10:11:12Z", "data": data}
    assert plain(event) == "10:11:12 task.completed x1 fft cpu:0 11.7 ms"
    assert plain({"type": "task.progress", "time": "2026-01-01T10:11:12Z", "data": {"task_id": "x1", "progress": 0.5}}).endswith("x1 50%")


def test_serve_offers_only_what_there_is() -> None:
    shown = command("serve", "--help").stdout
    assert "redis" not in shown
    assert "--cluster" not in shown


@pytest.mark.parametrize("absent", ["sklearn", "PIL"])
def test_the_demo_names_the_extra_it_lacks(absent: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; from openruntime.cli.main import main; main()"
    got = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, timeout=60, check=False)
    assert got.returncode == 4
    assert got.stderr.count("\n") == 1
    assert f"{absent} is not installed" in got.stderr
    assert "pip install 'openruntime[demo]'" in got.stderr
