"""What it costs to have it: start to first answer, idle memory and processor, size on disk."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.load import ask
from benchmarks.report import Notebook
from benchmarks.servers import openruntime, spawn, yardstick
from benchmarks.works import ELEMENTS, HEADERS, body_a, check_a, output, subject

ROOT = Path(__file__).parents[1]
PACKAGERS = ("pip", "setuptools", "_distutils_hack", "pkg_resources", "distutils-precedence.pth")


def start(notebook: Notebook, scratch: Path) -> None:
    """One round: from the spawn of the process to the first correct answer of work A."""
    x = np.linspace(0, 1, ELEMENTS, dtype=np.float32)
    body = body_a(x)
    for name in ("inline", "openruntime"):
        command = openruntime() if name == "openruntime" else yardstick(name)
        server = spawn(command, scratch / f"start-{time.time_ns()}", scratch / "start.log")
        try:
            deadline = time.monotonic() + 60
            while True:
                if time.monotonic() > deadline or server.process.poll() is not None:
                    raise RuntimeError(f"no answer from {name}\n{server.log_tail()}")
                try:
                    answer = ask(server.port, "POST", "/tasks", body, HEADERS)
                except OSError:
                    time.sleep(0.002)
                    continue
                if answer.status == 200:
                    break
            took = time.perf_counter() - server.spawned
            np.testing.assert_allclose(output(answer), 2 * x + 1, rtol=1e-6)
        finally:
            server.stop()
        notebook.add("start", "s to first answer", name, took)


def memory(notebook: Notebook, scratch: Path, settle: float = 5, watch: float = 10) -> None:
    """One round: after ten answers of work A and `settle` idle seconds, the whole tree's memory; then its CPU over `watch` seconds."""
    for name in ("inline", "openruntime"):
        with subject(name, scratch) as server:
            check_a(server.port)
            time.sleep(settle)
            resident, proportional = server.memory()
            before = server.cpu_seconds()
            time.sleep(watch)
            notebook.add("memory", "idle CPU %", name, (server.cpu_seconds() - before) / watch * 100)
            notebook.add("memory", "RSS MiB", name, resident / 2**20)
            if proportional:
                notebook.add("memory", "PSS MiB", name, proportional / 2**20)


def install(notebook: Notebook) -> None:
    """`pip install .` into a fresh environment: bytes in site-packages, pip's own apart."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
        pip = [str(Path(folder) / "bin/python"), "-m", "pip", "install", "-qqq", "--disable-pip-version-check", str(ROOT)]
        subprocess.run(pip, check=True, timeout=600)
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        ours = [entry for entry in packages.iterdir() if entry.name.split("-")[0] not in PACKAGERS]
        files = [file for entry in ours for file in ([entry] if entry.is_file() else entry.rglob("*")) if file.is_file()]
        notebook.add("install", "MB", "openruntime", sum(file.stat().st_size for file in files) / 1e6)
        notebook.add("install", "MB of it bytecode", "openruntime", sum(file.stat().st_size for file in files if file.suffix == ".pyc") / 1e6)
