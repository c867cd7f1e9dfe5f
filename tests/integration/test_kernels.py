"""Kernels of the user's own, through a real server: registered, run, refused by name; a bad one harms nobody else."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

import openruntime
from benchmarks.servers import Server
from openruntime.cli.main import app
from openruntime.errors import CompileError, InvalidParameter, NoSuchDevice, NotFound, OperationFailed, TaskTimeout, WorkerCrashed

pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
pytest.importorskip("wgpu", reason="the extra webgpu is not installed")

OPENCL = """__kernel void saxpy(__global const float *x, __global const float *y, __global float *z, const float a, const int n) {
    int i = get_global_id(0);
    if (i < n) z[i] = a * x[i] + y[i];
}
"""
WGSL = """@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> z: array<f32>;
@group(0) @binding(3) var<uniform> a: f32;
@group(0) @binding(4) var<uniform> n: i32;
override WG: u32 = 64;
@compute @workgroup_size(WG)
fn saxpy(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = i32(id.x);
    if (i < n) { z[i] = a * x[i] + y[i]; }
}
"""
SOURCES = {"opencl": OPENCL, "wgsl": WGSL}
SAXPY: dict[str, Any] = {
    "name": "saxpy", "language": "opencl", "source": OPENCL,
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}, {"name": "y", "dtype": "float32", "shape": ["n"]}],
    "outputs": [{"name": "z", "dtype": "float32", "shape": ["n"]}],
    "scalars": [{"name": "a", "dtype": "float32"}, {"name": "n", "dtype": "int32"}], "grid": ["n"],
}  # fmt: skip
TEXT: dict[str, Any] = {
    "language": "opencl", "source": OPENCL, "inputs": ["x: float32[n]", "y: float32[n]"], "outputs": ["z: float32[n]"],
    "scalars": ["a: float32", "n: int32"], "grid": "n",
}  # fmt: skip
X = np.arange(1000, dtype=np.float32)
Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"OPENRUNTIME_CACHE_DIR": str(tmp_path_factory.mktemp("kernels"))}


@pytest.fixture(scope="module")
def own(start_server: Start, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(data_dir=tmp_path_factory.mktemp("server"), environment=environment) as server:
        yield server


@pytest.fixture
def client(own: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, timeout=90, trust_env=False) as found:
        yield found
        assert found.post("/tasks", json={"operation": "sum", "parameters": {"x": [1, 2]}}, headers=WAIT).json()["result"] == {"output": 3}


WAIT = {"Prefer": "wait=30"}


def call(client: httpx.Client, name: str = "saxpy", **parameters: Any) -> httpx.Response:
    return client.post("/tasks", json={"operation": name, "parameters": parameters}, headers=WAIT)


def refused(answer: httpx.Response, field: str, code: str = "invalid_parameter") -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["code"], found.get("field")) == (422, code, field), found
    assert field in found["detail"], found
    assert "Traceback" not in answer.text
    assert "/site-packages" not in answer.text
    return found


@pytest.mark.parametrize("language", SOURCES)
def test_a_registered_kernel_is_an_operation(client: httpx.Client, language: str) -> None:
    made = client.post("/kernels", json=SAXPY | {"name": "saxpy", "language": language, "source": SOURCES[language]})
    assert (made.status_code, made.headers["location"]) == (201, "/kernels/saxpy"), made.text
    about = made.json()
    assert about["compiled"]["cache"] == "miss"
    assert about["compiled"]["seconds"] > 0
    listed = client.get("/kernels").json()["kernels"]
    assert [(row["name"], row["version"]) for row in listed] == [("saxpy", about["version"])]
    assert "source" not in listed[0]
    assert client.get("/kernels/saxpy").json()["source"] == SOURCES[language]
    entry = client.get("/operations/saxpy").json()
    assert (entry["family"], entry["backends"], entry["parameters"]["required"]) == ("kernels", [f"{language}-kernels"], ["x", "y", "a"])
    assert "saxpy" in [row["name"] for row in client.get("/operations").json()["operations"]]
    task = call(client, x=[1, 2, 3], y=[0.5, 0.5, 0.5], a=2).json()
    assert (task["result"], task["backend"], task["device_used"]) == ({"z": [2.5, 4.5, 6.5]}, f"{language}-kernels", "cpu:0")
    assert call(client, x=[], y=[], a=2).json()["result"]["z"] == []
    large = np.arange(1_000_000, dtype=np.float32)
    with openruntime.connect(str(client.base_url)) as runtime:
        assert np.array_equal(runtime.saxpy(large, large, a=1), 2 * large)
    explained = client.get(f"/tasks/{task['task_id']}/explain").json()
    assert explained["compute"] >= 0
    again = client.post("/kernels", json=SAXPY | {"language": language, "source": SOURCES[language]}).json()
    assert again["version"] == about["version"]  # nothing has changed
    assert again["compiled"]["cache"] == ("hit" if language == "opencl" else "miss")  # wgpu gives no compiled form
    after = client.post("/kernels", json=SAXPY | {"language": language, "source": SOURCES[language].replace("a * x[i]", "x[i] * a")}).json()
    assert after["version"] == about["version"] + 1
    assert client.delete("/kernels/saxpy").status_code == 204
    assert client.get("/kernels/saxpy").status_code == 404
    assert call(client, x=[1], y=[1], a=1).json()["code"] == "unknown_operation"


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"language": "glsl"}, "language", "invalid_parameter"),
        ({"language": "cuda"}, "language", "no_such_device"),
        ({"language": "metal"}, "language", "no_such_device"),
        ({"name": "1st"}, "name", "invalid_parameter"),
        ({"name": "matmul"}, "name", "invalid_parameter"),
        ({"name": "compile_kernel"}, "name", "invalid_parameter"),
        ({"source": "x" * 300_000}, "source", "invalid_parameter"),
        ({"source": OPENCL.replace("z[i] =", "zz[i] =")}, "source", "compile_error"),
        ({"source": OPENCL.replace("saxpy", "axpy")}, "source", "compile_error"),
        ({"source": OPENCL.replace(", const int n", "").replace("i < n", "1")}, "source", "compile_error"),
        ({"source": OPENCL.replace("float *z", "double *z")}, "source", "compile_error"),
        ({"options": ["--no-such-option"]}, "options", "compile_error"),
        ({"language": "wgsl", "source": WGSL.replace("z[i] =", "zz[i] =")}, "source", "compile_error"),
        ({"language": "wgsl", "source": WGSL.replace("binding(4)", "binding(9)")}, "source", "compile_error"),
        ({"language": "wgsl", "source": WGSL, "options": ["-cl-mad-enable"]}, "options", "compile_error"),
        ({"inputs": [{"name": "x", "dtype": "float31", "shape": ["n"]}]}, "inputs.0.dtype", "invalid_parameter"),
        ({"outputs": [{"name": "z", "dtype": "float32", "shape": ["n/2"]}]}, "outputs.0.shape.0", "invalid_parameter"),
        ({"outputs": [{"name": "z", "dtype": "float32", "shape": ["k"]}]}, "outputs.0.shape.0", "invalid_parameter"),
        ({"grid": [0]}, "grid.0", "invalid_parameter"),
        ({"grid": [-1]}, "grid.0", "invalid_parameter"),
        ({"grid": [1 << 40]}, "grid.0", "invalid_parameter"),
        ({"reference": "matmull"}, "reference", "invalid_parameter"),
        ({"gird": ["n"]}, "gird", "invalid_parameter"),
    ],
)
def test_a_kernel_that_is_not_right_is_refused_by_name(client: httpx.Client, change: dict[str, Any], field: str, code: str) -> None:
    answer = client.post("/kernels", json={**SAXPY, "name": "wrong", "source": OPENCL.replace("saxpy", "wrong")} | _renamed(change))
    refused(answer, field, code)
    assert "wrong" not in client.get("/kernels").text


def _renamed(change: dict[str, Any]) -> dict[str, Any]:
    return change | ({"source": change["source"].replace("saxpy", "wrong")} if "source" in change else {})


@pytest.mark.parametrize(("language", "line"), [("opencl", 3), ("wgsl", 10)])
def test_a_compile_error_has_the_log_and_the_lines(client: httpx.Client, language: str, line: int) -> None:
    wrong = {"language": language, "source": SOURCES[language].replace("a * x[i]", "b * x[i]")}
    found = refused(client.post("/kernels", json=SAXPY | wrong), "source", "compile_error")
    assert [(row["line"], row["severity"]) for row in found["lines"]] == [(line, "error")]
    assert f"line {line}" in found["detail"]
    assert "b" in found["lines"][0]["message"]
    assert found["lines"][0]["message"] in found["log"].replace("\n", " ")


def test_bodies_that_are_no_kernel(client: httpx.Client) -> None:
    assert client.post("/kernels", content=b"{", headers={"Content-Type": "application/json"}).json()["code"] == "invalid_request"
    assert client.post("/kernels", content=b"x", headers={"Content-Type": "text/plain"}).json()["code"] == "unsupported_media_type"
    assert client.post("/kernels", json=[]).json()["code"] == "invalid_parameter"
    assert client.delete("/kernels/nothing").json()["field"] == "name"


def test_a_call_that_does_not_fit_is_refused_before_it_is_queued(client: httpx.Client) -> None:
    client.post("/kernels", json=SAXPY).raise_for_status()
    before = client.get("/tasks", params={"operation": "saxpy"}).json()["tasks"]
    refused(call(client, x=[1, 2], y=[1], a=1), "y")
    refused(call(client, x=[[1]], y=[1], a=1), "x")
    refused(call(client, x=[1], y=[1]), "a")
    refused(call(client, x=[1], y=[1], a="one"), "a")
    refused(call(client, x=[1], y=[1], a=1, n=7), "n")
    refused(call(client, x=[1], y=[1], a=1, b=2), "b")
    refused(call(client, x=[1], a=1), "y")
    refused(call(client, x=[True], y=[1], a=1), "x")
    with openruntime.connect(str(client.base_url)) as runtime, pytest.raises(InvalidParameter, match=r"`x` of saxpy must be float32, and is float64"):
        runtime.run("saxpy", np.ones(3), X[:3], a=1)
    elsewhere = {"operation": "saxpy", "parameters": {"x": [1], "y": [1], "a": 1}, "device_preference": "numpy"}
    assert client.post("/tasks", json=elsewhere).json()["code"] == "unsupported_on_device"
    for where in ("cpu", "cpu:0", "opencl", "cpu:0/opencl", "opencl-kernels", "auto"):
        assert client.post("/tasks", json=elsewhere | {"device_preference": where}, headers=WAIT).json()["result"] == {"z": [2.0]}
    after = client.get("/tasks", params={"operation": "saxpy"}).json()["tasks"]
    assert len(after) == len(before) + 6


BAD = {
    "crash": ("z[i] = a", "z[i + 100000000] = a"),  # far out of bounds
    "stray": ("z[i] = a", "z[i + 1] = a"),
    "forever": ("if (i < n)", "volatile int k = 1; while (k) { }\n    if (i < n)"),
}


def test_a_bad_kernel_harms_only_itself(own: Server) -> None:
    with openruntime.connect(own.url) as runtime:
        for name, (old, new) in BAD.items():
            runtime.kernels.add(name, **{**TEXT, "source": OPENCL.replace(old, new).replace("saxpy", name)})
        runtime.kernels.add("saxpy", **TEXT)
        warm = next(worker["pid"] for worker in runtime_workers(own) if worker["backend"] == "numpy")
        others = [runtime.submit("matmul", np.eye(200) * i, np.eye(200)) for i in range(20)]
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            runtime.run("crash", X, X, a=1)
        with pytest.raises(OperationFailed, match="stray wrote outside of `z`, past its end"):
            runtime.run("stray", X, X, a=1)
        with pytest.raises(TaskTimeout):
            runtime.run("forever", X, X, a=1, timeout=1.0)
        looping = runtime.submit("forever", X, X, a=1)
        while looping.status().started_at is None:
            time.sleep(0.05)
        looping.cancel()
        assert looping.exception(20) is not None
        assert looping.cancelled()
        assert np.array_equal(runtime.run("saxpy", X, X, a=1, cache="no-store"), 2 * X)
        for i, other in enumerate(others):
            assert np.array_equal(other.result(), np.eye(200) * i)
        assert warm in [worker["pid"] for worker in runtime_workers(own) if worker["backend"] == "numpy"]


def runtime_workers(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server.url}/devices/cpu:0", trust_env=False).json()["workers"]
    return found


def test_what_was_submitted_runs_though_its_kernel_is_gone(client: httpx.Client, own: Server) -> None:
    with openruntime.connect(own.url) as runtime:
        runtime.kernels.add("saxpy", **TEXT)
        client.put("/devices/cpu:0/state", json={"state": "draining"}).raise_for_status()
        waiting = runtime.submit("saxpy", X, X, a=3, cache="no-store")
        runtime.kernels.remove("saxpy")
        client.put("/devices/cpu:0/state", json={"state": "ready"}).raise_for_status()
        assert np.array_equal(waiting.result(30), 4 * X)
        with pytest.raises(NotFound):
            runtime.kernels.get("saxpy")


@pytest.mark.parametrize("gone", [False, True], ids=["another by then", "gone by then"])
def test_what_waits_for_its_input_runs_the_kernel_it_was_submitted_for(own: Server, gone: bool) -> None:
    with openruntime.connect(own.url) as runtime:
        runtime.kernels.add("saxpy", **TEXT)
        steps = {"alpha": 0.1, "iterations": 100_000, "device": "numpy", "cache": "no-store"}
        slow = runtime.submit("heat2d", np.ones((32, 32), np.float32), **steps)
        row = runtime.submit("sum", slow, axis=0, device="numpy")
        waiting = runtime.submit("saxpy", row, row, a=1)
        if gone:
            runtime.kernels.remove("saxpy")
        else:
            runtime.kernels.add("saxpy", **{**TEXT, "source": OPENCL.replace("a * x[i]", "-a * x[i]")})
        assert waiting.status().status == "queued"
        assert np.array_equal(waiting.result(60), np.full(32, 64, np.float32))


def test_results_are_cached_by_version(own: Server) -> None:
    slow = OPENCL.replace("z[i] =", "for (volatile int k = 0; k < 100000; k++); z[i] =").replace("saxpy", "slow")
    with openruntime.connect(own.url) as runtime:
        runtime.kernels.add("slow", **{**TEXT, "source": slow})
        for _ in range(5):  # until it is known to be worth a look
            future = runtime.submit("slow", X[:64], X[:64], a=1)
            assert np.array_equal(future.result(), 2 * X[:64])
        assert future.status().cached
        assert runtime.kernels.add("slow", **{**TEXT, "source": slow.replace("= a *", "= 2 * a *")})["version"] == 2
        future = runtime.submit("slow", X[:64], X[:64], a=1)
        assert np.array_equal(future.result(), 3 * X[:64])
        assert not future.status().cached
        runtime.kernels.remove("slow")


def test_kernels_and_what_was_compiled_outlive_the_server(start_server: Start, environment: dict[str, str], tmp_path: Path) -> None:
    fresh = TEXT | {"source": OPENCL + "// outlives"}
    with start_server(data_dir=tmp_path, environment=environment) as server, openruntime.connect(server.url) as runtime:
        assert runtime.kernels.add("saxpy", **fresh)["compiled"]["cache"] == "miss"
    with start_server(data_dir=tmp_path, environment=environment) as server, openruntime.connect(server.url) as runtime:
        assert [kernel["name"] for kernel in runtime.kernels.all()] == ["saxpy"]
        until = time.monotonic() + 30
        while "cpu:0" not in runtime_backends(runtime):  # backends are still asked what they drive
            assert time.monotonic() < until
            time.sleep(0.1)
        assert np.array_equal(runtime.saxpy(X, X, a=1), 2 * X)
        made = runtime.kernels.add("saxpy", **fresh)
        assert (made["version"], made["compiled"]["cache"]) == (1, "hit")
        metrics = httpx.get(f"{server.url}/metrics", trust_env=False).text
        assert "openruntime_kernel_cache_hits_total 1" in metrics
        assert "openruntime_kernel_cache_misses_total 0" in metrics


def runtime_backends(runtime: Any) -> list[str]:
    return [device for row in runtime.devices(backends=True) if row["name"] == "webgpu" for device in row["devices"]]


def test_embedded_and_served_clients_are_the_same(own: Server) -> None:
    for address in (None, own.url):
        with openruntime.connect(address) as runtime:
            made = runtime.kernels.add(
                "scale",
                **{
                    **TEXT,
                    "source": OPENCL.replace("saxpy", "scale"),
                    "reference": {"operation": "expression", "parameters": {"formula": "a*x + y"}},
                },
            )
            assert (made["signature"], made["grid"]) == ("scale(x: float32[n], y: float32[n], a: float32, n: int32) → z: float32[n]", ["n"])
            assert np.array_equal(runtime.scale(X, X, 2.0), 3 * X)
            assert list(runtime.map("scale", [X, X + 1], [X, X], a=0))[1].sum() == X.sum()
            with pytest.raises(CompileError, match="line 3") as refusal:
                runtime.kernels.add("scale", **{**TEXT, "source": OPENCL.replace("z[i] =", "zz[i] =").replace("saxpy", "scale")})
            assert refusal.value.lines[0]["line"] == 3
            assert "zz" in refusal.value.log
            with pytest.raises(NoSuchDevice, match="cuda"):
                runtime.kernels.add("scale", **{**TEXT, "language": "cuda"})
            with pytest.raises(InvalidParameter, match=r"`inputs\.0` must be like 'x: float32\[n, m\]'"):
                runtime.kernels.add("scale", **{**TEXT, "inputs": ["x float32"]})
            runtime.kernels.remove("scale")
            with pytest.raises(AttributeError, match="scale"):
                runtime.scale(X, X, 2.0)


async def test_the_asyncio_client_registers_kernels(own: Server) -> None:
    async with openruntime.connect_async(own.url) as runtime:
        await runtime.kernels.add("twice", **{**TEXT, "source": OPENCL.replace("saxpy", "twice")})
        assert np.array_equal(await runtime.run("twice", X, X, a=1), 2 * X)
        assert [kernel["name"] for kernel in await runtime.kernels.all() if kernel["name"] == "twice"] == ["twice"]
        assert (await runtime.kernels.get("twice"))["source"].startswith("__kernel void twice")
        await runtime.kernels.remove("twice")


def test_the_commands(own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> str:
        ended = CliRunner().invoke(app, ["kernels", *words, "--server", own.url], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return ended.output

    (tmp_path / "axpy.cl").write_text(OPENCL.replace("saxpy", "axpy"))
    (tmp_path / "wrong.cl").write_text(OPENCL.replace("saxpy", "wrong").replace("z[i] =", "zz[i] ="))
    np.save(tmp_path / "x.npy", X)
    signature = ["-i", "x: float32[n]", "-i", "y: float32[n]", "-o", "z: float32[n]", "-s", "a: float32", "-s", "n: int32", "-g", "n"]
    assert "axpy(x: float32[n], y: float32[n], a: float32, n: int32) → z: float32[n]" in command("add", "axpy.cl", *signature)
    assert "axpy" in command("list")
    assert json.loads(command("list", "--json"))[0]["name"] == "axpy"
    assert "__kernel void axpy" in command("show", "axpy")
    command("run", "axpy", "x.npy", "x.npy", "--a", "2", "-o", "z.npy")
    assert np.array_equal(np.load(tmp_path / "z.npy"), 3 * X)
    command("rm", "axpy")
    with pytest.raises(NotFound, match="there is no kernel 'axpy'"):
        command("show", "axpy")
    with pytest.raises(AssertionError, match="--grid"):
        command("add", "axpy.cl", "-o", "z: float32[n]")
    words = [sys.executable, "-m", "openruntime.cli.main", "kernels", "add", "wrong.cl", *signature, "--server", own.url]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "wrong.cl:3:" in ended.stderr
    assert "error: `source` of wrong does not compile: line 3" in ended.stderr
    ended = subprocess.run(
        [*("axpy.cl" if word == "wrong.cl" else word for word in words), "--name", "right"], capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.stderr.count("has no kernel called 'right'") == 1
