"""The plugins of the how-tos, built and installed by pip as a third party's would be, then used for real."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.contracts.errors import InvalidParameter, UnsupportedOnDevice

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "add-an-operation": "openruntime-plugin-haversine",
    "add-a-backend": "openruntime-plugin-strict",
    "add-a-model-adapter": "openruntime-plugin-markov",
}
ON_THE_PAGE_ALONE = ("with openruntime.connect(", '"""Cubes', "[build-system]")
BROKEN = {"sphere": "from math import sphere", "cone": "def cone(:", "prism": ""}  # an import, the syntax, the attribute


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages and their entry points in it."""
    return install(tmp_path_factory.mktemp("plugins"), *(str(ROOT / "examples" / name) for name in EXAMPLES.values()))


def install(target: Path, *packages: str) -> Path:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", str(target)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, *packages], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest package of the page, its files as they stand there, installed."""
    text = (ROOT / "docs/howto/add-an-operation.md").read_text().partition("## The function")[0]
    source = tmp_path_factory.mktemp("source")
    files = re.findall(r"`([\w.]+)`:\n\n```(?:python|toml)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["openruntime_cube.py", "pyproject.toml"]
    for name, content in files:
        (source / name).write_text(content)
    return install(tmp_path_factory.mktemp("cube"), str(source))


@pytest.fixture
def beside_broken(cube: Path, tmp_path: Path) -> str:
    """PYTHONPATH with the smallest package, and packages that cannot be loaded."""
    for name, source in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[openruntime.operations]\n{name} = {name}:{name}\n")
    return os.pathsep.join([str(tmp_path), path_with(cube)])


def path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("package", EXAMPLES.values())
def test_a_plugins_own_tests_pass(installed: Path, package: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-c", str(ROOT / "pyproject.toml"), "--rootdir", "."]
    done = subprocess.run(
        [*command, "tests"], cwd=ROOT / "examples" / package, env={**os.environ, "PYTHONPATH": path_with(installed), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_a_server_offers_the_operation(installed: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    start, end = np.array([[48.8566, 2.3522], [0.0, 0.0]]), np.array([[40.7128, -74.0060], [0.0, 180.0]])
    with start_server(store="memory", environment={"PYTHONPATH": path_with(installed)}) as server, openruntime.connect(server.url) as rt:
        assert rt.operations()["haversine"]["family"] == "geography"
        metres = rt.haversine(start, end)
        with pytest.raises(InvalidParameter, match="latitude and longitude") as caught:
            rt.haversine(start[:, :1], end)
        with pytest.raises(InvalidParameter, match="radius"):
            rt.haversine(start, end, radius=-1.0)
    np.testing.assert_allclose(metres, [5_837e3, np.pi * 6_371_008.8], rtol=1e-3)
    assert caught.value.field == "start"


def test_the_smallest_package_runs_as_the_page_says(cube: Path) -> None:
    text = (ROOT / "docs/howto/add-an-operation.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("openruntime run cube "))
    assert command == "openruntime run cube '[1, 2, 3]'"
    program = "from openruntime.cli.main import main; main()"
    env = {**os.environ, "PYTHONPATH": path_with(cube), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "cube", "[1, 2, 3]"], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "[1, 8, 27]" in done.stdout


def test_broken_packages_leave_the_rest_of_a_server_as_it_is(beside_broken: str, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    with start_server(store="memory", environment={"PYTHONPATH": beside_broken}) as server, openruntime.connect(server.url) as rt:
        found = rt.operations()
        assert {"cube", "matmul"} <= found.keys()
        assert not BROKEN.keys() & found.keys()
        assert rt.cube(np.array([2.0])).tolist() == [8.0]
        assert rt.sum(np.ones(3)) == 3
        with httpx.Client(base_url=server.url) as http:
            for name in BROKEN:
                for answer in (
                    http.post("/tasks", json={"operation": name, "parameters": {"x": [1.0]}}), http.get(f"/operations/{name}"),
                ):  # fmt: skip
                    problem = answer.json()
                    assert (answer.status_code, problem["code"]) == (503, "unavailable")
                    assert f"operation {name} of package {name} cannot be loaded: " in problem["detail"]
        log = server.log_tail()
    assert [log.count(f"operation {name} of package {name} cannot be loaded") for name in BROKEN] == [1, 1, 1], log


def test_broken_packages_leave_the_embedded_runtime_as_it_is(beside_broken: str) -> None:
    program = (
        "import numpy as np, openruntime\n"
        "with openruntime.connect() as rt:\n"
        "    print(rt.cube(np.array([2.0])).tolist(), sorted({'cone', 'cube', 'prism', 'sphere'} & rt.operations().keys()))\n"
    )
    env = {**os.environ, "PYTHONPATH": beside_broken, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[8.0] ['cube']"


def test_the_doctor_names_the_broken_packages(beside_broken: str) -> None:
    program = "from openruntime.cli.main import main; main()"
    env = {**os.environ, "PYTHONPATH": beside_broken, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program, "doctor", "--json"], env=env, capture_output=True, text=True, check=False, timeout=60)
    found = [(finding["status"], finding["found"]) for finding in json.loads(done.stdout) if finding["topic"] == "plugins"]
    assert done.returncode == 1
    assert found[0] == ("ok", "operations cube")
    assert sorted(text.partition(" cannot be loaded")[0] for status, text in found[1:] if status == "fail") == [
        f"operation {name} of package {name}" for name in sorted(BROKEN)
    ]


def test_a_worker_runs_the_backend(installed: Path) -> None:
    """As the runtime loads it: by name, in a process of its own."""
    program = (
        "import asyncio\n"
        "from openruntime.contracts.payload import Array\n"
        "from openruntime.contracts.registry import BACKENDS\n"
        "backend = BACKENDS.load('strict')(device='cpu:0', threads=1)\n"
        "x = Array('uint8', (2, 2), bytes([1, 2, 3, 4]))\n"
        "print(bytes(asyncio.run(backend.execute('sort', {'x': x, 'descending': True})).outputs['output'].view))\n"
    )
    env = {**os.environ, "PYTHONPATH": path_with(installed)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(bytes([2, 1, 4, 3]))


def test_a_server_runs_tasks_on_the_backend(installed: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    x = np.random.default_rng(0).standard_normal((30, 20))
    environment = {"PYTHONPATH": path_with(installed), "OPENRUNTIME_BACKENDS": "strict"}
    with start_server(store="memory", environment=environment) as server, openruntime.connect(server.url) as rt:
        assert rt.devices()[0]["backends"] == ["numpy", "strict"]
        for wish in ("strict", "cpu:0/strict"):
            task = rt.submit("sort", x, device=wish, cache="no-store")
            np.testing.assert_array_equal(task.result(30), np.sort(x))
            assert (task.status().backend, task.status().device_used) == ("strict", "cpu:0")
        with pytest.raises(UnsupportedOnDevice, match="the Array API standard has no einsum; it runs on cpu:0/numpy"):
            rt.einsum("ij->ji", x, device="strict")
        with pytest.raises(UnsupportedOnDevice, match="the Array API standard has no float16; use float32; it runs on cpu:0/numpy") as caught:
            rt.sum(x.astype("float16"), device="strict")
        assert caught.value.field == "x"
        task = rt.submit("sum", x.astype("float16"), cache="no-store")
        assert task.result(30) == pytest.approx(x.sum(), rel=0.01)
        assert task.status().backend == "numpy"


@pytest.mark.parametrize(("page", "package"), EXAMPLES.items())
def test_the_page_shows_what_the_package_holds(page: str, package: str) -> None:
    text = (ROOT / "docs/howto" / f"{page}.md").read_text()
    source = "\n".join(path.read_text() for path in sorted((ROOT / "examples" / package).rglob("*")) if path.suffix in (".py", ".toml"))
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    assert [block for block in blocks if block not in source and not block.startswith(ON_THE_PAGE_ALONE)] == []
