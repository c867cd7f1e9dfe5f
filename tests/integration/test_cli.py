"""The command line against a real server, and embedded."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "openruntime.cli.main"]
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}


def run(*arguments: str | Path, server: Any = None, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, **({"OPENRUNTIME_SERVER": server.url} if server else {})}
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


@pytest.fixture
def matrices(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((20, 20)).astype(np.float32))
    return tmp_path / "a.npy", tmp_path / "b.npy"


@pytest.mark.parametrize("embedded", [True, False])
def test_run_writes_what_numpy_would(server: Any, tmp_path: Path, matrices: tuple[Path, Path], embedded: bool) -> None:
    got = run("run", "matmul", *matrices, "-o", tmp_path / "c.npy", server=None if embedded else server)
    assert got.returncode == 0, got.stderr
    a, b = (np.load(path) for path in matrices)
    np.testing.assert_allclose(np.load(tmp_path / "c.npy"), a @ b, rtol=1e-4, atol=1e-5)


def test_run_sharpens_a_photograph(server: Any, tmp_path: Path) -> None:
    given = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "photo.png")
    got = run("run", "sharpen", tmp_path / "photo.png", "--amount", "1.5", "-o", tmp_path / "out.png", server=server)
    assert got.returncode == 0, got.stderr
    out = np.asarray(Image.open(tmp_path / "out.png"))
    assert out.shape == given.shape
    assert out.astype(float).std() > given.astype(float).std()


def test_run_takes_values_formulas_and_csv(server: Any, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    got = run("run", "expression", "a*x + 1", "--x", tmp_path / "x.csv", "--a", "-2.5", "-o", tmp_path / "y.csv", server=server)
    assert got.returncode == 0, got.stderr
    np.testing.assert_allclose(np.loadtxt(tmp_path / "y.csv", delimiter=","), [[-1.5, -4], [-6.5, -9]])
    shown = json.loads(run("run", "sum", "[1, 2, 3]", "--axis=-1", "--json", server=server).stdout)
    assert shown["outputs"]["output"]["value"] == 6
    assert shown["status"] == "completed"


def test_run_without_a_file_prints_what_is_small_and_sums_up_what_is_large(server: Any) -> None:
    got = run("run", "sort", "[3.0, 1.0, 2.0]", server=server)
    assert "float64 (3,)" in got.stdout
    assert "value [1.0, 2.0, 3.0]" in got.stdout
    assert "sort on cpu:0/numpy" in got.stdout
    assert "this process" not in got.stdout
    for how in ("on cpu:0/numpy in ", "from the cache (computed in "):
        assert how in run("run", "monte_carlo_pi", "--samples", "5000000", "--seed", "77", server=server).stdout
    large = run("run", "sort", json.dumps(list(range(21))), server=server)
    assert "max 20.0" in large.stdout
    assert "value" not in large.stdout


def test_run_joins_what_is_given_one_behind_the_other(tmp_path: Path, matrices: tuple[Path, Path]) -> None:
    got = run("run", "concat", *matrices, "--axis", "none", "-o", tmp_path / "c.npy")
    assert got.returncode == 0, got.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), np.concatenate([np.load(path) for path in matrices], axis=None))
    for words in (("[1]", "[2]"), ("[[1], [2]]",)):
        assert json.loads(run("run", "stack", *words, "--json").stdout)["outputs"]["output"]["value"] == [[1], [2]]


def test_run_without_a_server_says_where_it_was() -> None:
    assert ", in this process" in run("run", "sort", "[3.0, 1.0]").stdout


@pytest.mark.parametrize("words", [("--axis", "None", "--keepdims"), ("--keepdims", "True", "--axis", "none"), ("--keepdims=true", "--axis=null")])
def test_values_are_spelt_as_python_or_json_does(server: Any, words: tuple[str, ...]) -> None:
    shown = json.loads(run("run", "sum", "[1, 2, 3]", *words, "--json", server=server).stdout)
    assert shown["outputs"]["output"] == {"dtype": "int64", "shape": [1], "value": [6]}


def test_help_of_an_operation_is_about_it(server: Any) -> None:
    got = run("run", "kmeans", "--help", server=server)
    assert got.returncode == 0
    assert got.stdout.startswith("kmeans(x, k, seed=0")
    assert "openruntime run kmeans x.npy --k 3" in got.stdout
    assert "integer from 1" in got.stdout
    assert "Usage" in run("run", "--help").stdout


def test_what_the_file_cannot_hold_is_still_on_the_server(server: Any, tmp_path: Path) -> None:
    got = run("run", "fft", "[1.0, 2.0]", "-o", tmp_path / "x.csv", server=server)
    assert got.returncode == 2
    task_id = got.stderr.rpartition("/tasks/")[2].partition("/")[0]
    assert json.loads(run("tasks", "show", task_id, "--json", server=server).stdout)["status"] == "completed"


def test_several_outputs_go_into_an_archive(server: Any, tmp_path: Path) -> None:
    assert run("run", "top_k", "[3.0, 1.0, 2.0]", "--k", "2", "-o", tmp_path / "top.npz", server=server).returncode == 0
    with np.load(tmp_path / "top.npz") as found:
        assert found["values"].tolist() == [3, 2]
        assert found["indices"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "matmull", "a.npy"), 2, "did you mean matmul"),
        (("run", "matmul", "[[1]]"), 2, "needs the parameter `b`"),
        (("run", "matmul", "missing.npy", "b.npy"), 2, "no file missing.npy"),
        (("run", "sum", "[1]", "--axiss", "0"), 2, "axis"),
        (("run", "sum", "[1]", "--priorty", "3"), 2, "did you mean priority"),
        (("run", "top_k", "[1, 2]", "--k", "1", "-o", "x.npy"), 2, "there are 2 outputs"),
        (("run", "sum", "[1]", "--axis"), 2, "`--axis` needs a value"),
        (("run", "sum", "[1]", "[2]", "[3]", "[4]", "[5]", "[6]"), 2, "nothing left for"),
        (("run", "sum", "[1]", "-o", "/nowhere/x.npy"), 2, "no directory"),
        (("run", "sum", "[1]", "--device", "cuda:9"), 2, "cuda:9"),
        (("run", "solve", "[[0.0]]", "[1.0]"), 1, "singular"),
        (("tasks", "show", "nobody"), 2, "nobody"),
        (("cancel", "nobody"), 2, "nobody"),
        (("operations", "ffft"), 2, "did you mean"),
    ],
)
def test_errors_are_one_sentence_and_a_code(server: Any, arguments: tuple[str, ...], code: int, says: str) -> None:
    got = run(*arguments, server=server)
    assert got.returncode == code
    assert got.stderr.startswith("error: ")
    assert says in got.stderr
    assert "Traceback" not in got.stderr


def test_a_task_from_submit_to_cancel(server: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "grid.npy", np.zeros((512, 512)))
    submitted = run("submit", "heat2d", tmp_path / "grid.npy", "--iterations", "1e6", "--tag", "cli", "--priority", "7", server=server)
    task_id = submitted.stdout.strip()
    listed = json.loads(run("tasks", "list", "--tag", "cli", "--json", server=server).stdout)
    assert [(task["task_id"], task["priority"]) for task in listed] == [(task_id, 7)]
    stopped = json.loads(run("cancel", task_id[-8:], "--json", server=server).stdout)
    assert stopped["task_id"] == task_id
    assert stopped["cancelled"]
    watched = run("watch", task_id, server=server)
    assert watched.returncode == 1
    assert "cancelled" in watched.stdout
    assert json.loads(run("tasks", "show", task_id, "--json", server=server).stdout)["status"] == "cancelled"
    assert json.loads(run("tasks", "explain", task_id, "--json", server=server).stdout)["operation"] == "heat2d"
    explained = run("tasks", "explain", task_id[-8:], server=server).stdout
    assert f"heat2d {task_id}: cancelled" in explained
    assert "{" not in explained
    assert task_id in run("tasks", server=server).stdout
    assert "had ended before" in run("cancel", task_id, server=server).stdout or "is cancelled" in run("cancel", task_id, server=server).stdout


def test_devices_are_listed_and_checked(server: Any) -> None:
    assert "cpu:0" in run("devices", server=server).stdout
    got = run("devices", "--check", "--json", server=server)
    found = json.loads(got.stdout)
    assert {"device": "cpu:0", "backend": "numpy", "status": "pass", "reason": None, "remedy": None} in found
    assert all(row.keys() == {"device", "backend", "status", "reason", "remedy"} for row in found)
    assert got.returncode == 0


def test_operations_are_listed_and_shown(server: Any) -> None:
    assert {"matmul", "fft"} <= {entry["name"] for entry in json.loads(run("operations", "--json", server=server).stdout)}
    got = run("operations", "kmeans", server=server).stdout
    assert got.startswith("kmeans(x, k, seed=0")
    assert "centroids" in got


def test_watch_prints_events_and_leaves_cleanly(server: Any) -> None:
    watching = start("watch", "--json", "--server", server.url)
    assert watching.stdout is not None
    try:
        time.sleep(2)
        run("run", "sum", "[1, 2]", "--no-cache", server=server)
        first = json.loads(watching.stdout.readline())
        assert first["type"] == "task.queued"
        assert {"seq", "time", "data"} <= first.keys()
    finally:
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=15)
    assert watching.returncode == 130
    assert errors == ""


def test_watch_draws_the_screen_until_ctrl_c(server: Any) -> None:
    arguments = [*COMMAND, "watch", "--server", server.url]
    outer, inner = pty.openpty()
    environment = {**ENVIRONMENT, "COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    watching = subprocess.Popen(arguments, stdout=inner, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(inner)
    shown = b""
    until = time.monotonic() + 20
    while b"tasks/s" not in shown and time.monotonic() < until:
        shown += os.read(outer, 65536)
    run("run", "sum", "[1, 2]", "--no-cache", server=server)
    watching.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # Linux's way to say that nobody writes there any more
        while more := os.read(outer, 65536):
            shown += more
    _, errors = watching.communicate(timeout=15)
    os.close(outer)
    assert watching.returncode == 130
    assert errors == ""
    assert b"cpu:0" in shown


def test_ctrl_c_ends_the_watching_and_not_the_task(server: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "grid.npy", np.zeros((512, 512)))
    task_id = run("submit", "heat2d", tmp_path / "grid.npy", "--iterations", "1e6", server=server).stdout.strip()
    for arguments in (("watch", task_id), ("watch",)):
        watching = start(*arguments, "--server", server.url)
        time.sleep(3)
        watching.send_signal(signal.SIGINT)
        said, errors = watching.communicate(timeout=15)
        assert watching.returncode == 130
        assert errors == ""
        assert "after" not in said
    assert run("cancel", task_id, server=server).stdout.strip().endswith(("cancelling", "cancelled"))


@pytest.mark.timeout(180)
def test_the_demo_does_a_real_job_and_writes_pictures(tmp_path: Path) -> None:
    got = run("demo", "-o", tmp_path / "pictures", "--json", timeout=170)
    assert got.returncode == 0, got.stderr
    shown = json.loads(got.stdout)
    assert {"fft2", "kmeans", "pca", "heat2d", "monte_carlo_pi", "matmul", "sharpen"} <= {row["operation"] for row in shown["tasks"]}
    assert all(row["device"] == "cpu:0" and row["seconds"] > 0 for row in shown["tasks"])
    assert next(row for row in shown["tasks"] if row["operation"] == "matmul")["gflops"] > 0.5
    assert len(shown["pictures"]) == 3
    for path in shown["pictures"]:
        with Image.open(path) as picture:
            assert min(picture.size) > 400
    purity = next(line for line in shown["findings"] if "digits" in line)
    assert float(purity.split("%")[0].split()[-1]) > 65
