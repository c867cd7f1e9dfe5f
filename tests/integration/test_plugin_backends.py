"""Backends of third parties in a real server: listed, asked for, chosen by `auto`, refused for what they cannot; the broken ones harm nobody."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.contracts.errors import NoSuchDevice, UnsupportedOnDevice

ROOT = Path(__file__).parents[2]
SWIFT = '''
"""NumPy, but it knows by heart what `rogue_sleep` takes its time for, and answers 2 where the others answer 1."""
import numpy as np
from openruntime.backends.cpu import NumpyBackend

class Swift(NumpyBackend):
    name = "swift"
    native = {**NumpyBackend.native, "rogue_sleep": lambda seconds: np.full((1,), 2.0)}
    unsupported = {"svd": "it has no patience for it"}
    lacks = {**NumpyBackend.lacks, "complex64": "swift has no complex64; send float32"}
'''
FRAIL = """
import sys
from openruntime.backends.cpu import NumpyBackend

class Frail(NumpyBackend):
    def __init__(self, **options):
        if sys.modules["__main__"].__spec__.name.endswith("worker"):
            raise OSError("the chip is busy")
        super().__init__(**options)
"""
BROKEN = {
    "glass": ("import nonesuch", "No module named 'nonesuch'"),
    "bomb": ("import os; os.write(2, b'out of registers'); os.abort()", "ended by SIGABRT; its last lines:\nout of registers"),
    "imposter": ("Backend = dict", "is no ComputeBackend"),
    "hollow": ("from openruntime.contracts.interfaces import ComputeBackend\nclass Backend(ComputeBackend): name = 'x'", "takes no arguments"),
}  # fmt: skip


def install(folder: Path, name: str, source: str, attribute: str) -> None:
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[openruntime.backends]\n{name} = {name}:{attribute}\n")


def environment(*folders: Path) -> dict[str, str]:
    """With the plugins of these folders, and none of the libraries that this machine may have beside NumPy."""
    path = os.pathsep.join(filter(None, [*map(str, folders), str(ROOT / "tests/plugin"), os.environ.get("PYTHONPATH", "")]))
    plugins = {info.name.partition("-")[0] for folder in folders for info in folder.glob("*.dist-info")}
    return {"PYTHONPATH": path, "OPENRUNTIME_BACKENDS": ",".join(sorted(plugins)) or "numpy"}


@pytest.fixture
def swift(tmp_path: Path) -> Path:
    install(tmp_path, "swift", SWIFT, "Swift")
    return tmp_path


def workers(server: Server, backend: str) -> list[dict[str, Any]]:
    return [worker for worker in httpx.get(f"{server.url}/devices/cpu:0").json()["workers"] if worker["backend"] == backend]


def where(server: Server, **request: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/tasks", json=request, headers={"Prefer": "wait=20", "Cache-Control": "no-store"}, timeout=30)
    found: dict[str, Any] = answer.json()
    assert found.get("status") == "completed", found
    return found


def check(server: Server, env: dict[str, str]) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [sys.executable, "-c", "from openruntime.cli.main import main; main()", "devices", "--check", "--json", "--server", server.url]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, {row["backend"]: row for row in json.loads(done.stdout)}


def test_a_plugin_backend_is_listed_asked_for_and_chosen(swift: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    env = environment(swift) | {"OPENRUNTIME_WORKER_IDLE": "2"}
    with start_server(store="memory", environment=env) as server, openruntime.connect(server.url) as rt:
        (device,) = rt.devices()
        assert (device["id"], device["backends"]) == ("cpu:0", ["numpy", "swift"])
        assert [worker["pid"] for worker in workers(server, "swift")] == [None] * device["slots"]  # only NumPy's is warm
        assert "swift" in rt.operations()["matmul"]["backends"]
        assert "swift" not in rt.operations()["svd"]["backends"]

        # its answer to rogue_sleep is 2, NumPy's is 1
        for wish in ("swift", "cpu:0/swift", "Swift", "cpu:0/swift"):
            found = where(server, operation="rogue_sleep", parameters={"seconds": 0.2}, device_preference=wish)
            assert (found["result"], found["backend"], found["device_used"]) == ({"output": [2.0]}, "swift", "cpu:0")
        assert sum(worker["pid"] is not None for worker in workers(server, "swift")) == 1  # one task at a time needs one worker

        # nothing was measured on NumPy yet: it is first, until it is known to be slower
        assert where(server, operation="rogue_sleep", parameters={"seconds": 0.2})["result"] == {"output": [1.0]}
        where(server, operation="rogue_sleep", parameters={"seconds": 0.2}, device_preference="numpy")
        where(server, operation="rogue_sleep", parameters={"seconds": 0.2}, device_preference="swift")  # warm again, if it had gone
        found = where(server, operation="rogue_sleep", parameters={"seconds": 0.2})
        assert (found["result"], found["backend"]) == ({"output": [2.0]}, "swift")
        explained = httpx.get(f"{server.url}/tasks/{found['task_id']}/explain").json()
        assert {row["backend"] for row in explained["candidates"]} == {"numpy", "swift"}
        assert "cpu:0/swift slot 0 was chosen" in explained["reason"]

        assert check(server, env) == (0, {
            name: {"device": "cpu:0", "backend": name, "status": "pass", "reason": None, "remedy": None} for name in ("numpy", "swift")
        })  # fmt: skip
        end = time.monotonic() + 10
        while any(worker["pid"] for worker in workers(server, "swift")):
            assert time.monotonic() < end, "its worker does not end when idle"
            time.sleep(0.1)


def test_what_a_backend_cannot_do_is_refused_before_queueing_or_goes_elsewhere(
    swift: Path, start_server: Callable[..., AbstractContextManager[Server]]
) -> None:
    a = np.eye(40, dtype="complex64")
    with start_server(store="memory", environment=environment(swift)) as server, openruntime.connect(server.url) as rt:
        assert {row["name"]: row["lacks"] for row in rt.devices(backends=True)}["swift"]["complex64"] == "swift has no complex64; send float32"
        with pytest.raises(UnsupportedOnDevice, match="swift has no complex64; send float32; it runs on cpu:0/numpy") as dtype:
            rt.sum(a, device="swift")
        with pytest.raises(UnsupportedOnDevice, match="`svd` does not run on swift: it has no patience for it; it runs on cpu:0/numpy") as operation:
            rt.svd(a.real, device="swift")
        assert (dtype.value.field, operation.value.field) == ("x", "device_preference")
        assert rt.sum(np.ones(3, "float32"), device="swift") == 3  # its worker is up now, and takes none of these:
        tasks = [rt.submit("sum", a + i, cache="no-store") for i in range(200)]
        for i, task in enumerate(tasks):
            assert task.result(30) == pytest.approx(40 + 1600 * i)
            assert task.status().backend == "numpy"
        bf16 = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}, "__metadata__": {"task": '{"operation": "sum"}'}}
        head = json.dumps(bf16).encode()
        body = len(head).to_bytes(8, "little") + head + bytes(4)
        answer = httpx.post(f"{server.url}/tasks", content=body, headers={"Content-Type": "application/x-safetensors"})
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (422, "unsupported_on_device", "x")
        assert problem["detail"] == "`x` of sum is bfloat16, which does not run on anything here: NumPy has no bfloat16; send float32"
        assert len(rt.tasks(limit=500)) == 201  # nothing refused was kept


def test_backends_of_one_device_share_its_seats_and_the_more_urgent_task_comes_first(
    swift: Path, start_server: Callable[..., AbstractContextManager[Server]]
) -> None:
    with start_server(store="memory", environment=environment(swift)) as server, openruntime.connect(server.url) as rt:
        rt.devices()
        held = [rt.submit("rogue_sleep", seconds=0.5, device="numpy") for _ in range(40)]
        begun = time.monotonic()
        assert rt.run("rogue_sleep", seconds=0.5, device="swift", priority=10).tolist() == [2.0]
        assert time.monotonic() - begun < 5  # its worker starts though every slot of NumPy's is wanted, and finds a seat
        assert not all(task.done() for task in held)
        for _ in range(30):
            found = httpx.get(f"{server.url}/devices/cpu:0").json()
            assert sum(worker["outstanding"] > 0 for worker in found["workers"]) <= found["slots"]
            time.sleep(0.02)
        for task in held:
            task.cancel()


def test_broken_backends_are_shown_and_harm_nobody(tmp_path: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    for name, (source, _) in BROKEN.items():
        install(tmp_path, name, source, "Backend")
    install(tmp_path, "frail", FRAIL, "Frail")
    env = environment(tmp_path)
    with start_server(store="memory", environment=env) as server, openruntime.connect(server.url) as rt:
        assert rt.sum(np.ones(3)) == 3
        rows = {row["name"]: row for row in rt.devices(backends=True)}
        assert rows["numpy"]["status"] == "ready"
        for name, (_, reason) in BROKEN.items():
            assert (rows[name]["status"], rows[name]["devices"]) == ("failed", [])
            assert reason in rows[name]["reason"]
            assert name in rows[name]["reason"]
            with pytest.raises(NoSuchDevice) as refused:
                rt.sum(np.ones(3), device=name)
            assert reason in refused.value.message
        (device,) = rt.devices()
        assert device["backends"] == ["numpy", "frail"]
        code, shown = check(server, env)
        assert code == 1
        assert {name: row["status"] for name, row in shown.items()} == {"numpy": "pass", "frail": "fail", **dict.fromkeys(BROKEN, "fail")}
        assert "OSError: the chip is busy" in shown["frail"]["reason"]
        assert "nonesuch" in shown["glass"]["reason"]
        (device,) = rt.devices()
        assert device["status"] == "ready"
        assert rt.sum(np.ones(4)) == 4
        log = server.log_tail(1000)
    assert "nonesuch" in log
