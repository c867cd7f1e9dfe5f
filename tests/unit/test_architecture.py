"""The law of the layout is kept, and each check really catches what it forbids."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools.budgets import violations

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = str(Path(sys.executable).with_name("lint-imports"))


def plant(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_tree_keeps_its_budgets() -> None:
    assert list(violations(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("openruntime/tasks/long.py", "x = 1\n" * 401, "401 lines"),
        ("openruntime/tasks/wide.py", "class Wide:\n" + "".join(f"    def f{i}(self): ...\n" for i in range(16)), "16 public methods"),
        ("openruntime/tasks/utils.py", "", "nothing is called `utils`"),
        ("openruntime/helpers/queue.py", "", "nothing is called `helpers`"),
        ("tests/common.py", "", "nothing is called `common`"),
        ("openruntime/contracts/models.py", "import numpy\n", "not `numpy`"),
        ("openruntime/contracts/models.py", "def f():\n    from fastapi import FastAPI\n", "not `fastapi`"),
        ("openruntime/tasks/queue.py", "import openruntime\n", "`openruntime` itself"),
        ("openruntime/tasks/queue.py", "from . import manager\n", "relative import"),
        ("docs/page.md", "run it in /" + "work/main\n", "path of one machine"),
        ("deploy/run.sh", "ls /" + "home/someone/x\n", "path of one machine"),
    ],
)
def test_each_budget_catches_what_it_forbids(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    plant(tmp_path, path, text)
    found = list(violations(tmp_path))
    assert len(found) == 1, found
    assert complaint in found[0]


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    plant(tmp_path, "openruntime/tasks/long.py", "x = 1\n" * 400)
    plant(tmp_path, "openruntime/tasks/wide.py", "class Wide:\n" + "".join(f"    def f{i}(self): ...\n    def _g{i}(self): ...\n" for i in range(15)))
    plant(tmp_path, "openruntime/contracts/models.py", "import json\nimport msgspec\nfrom pydantic import BaseModel\n")
    plant(tmp_path, "examples/use.py", "import openruntime\n")
    assert list(violations(tmp_path)) == []


def test_a_private_registry_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example.net/simple")
    plant(tmp_path, "docs/page.md", "pip install --index-url https://mirror.example.net/simple openruntime\n")
    assert [line.split(": ")[1] for line in violations(tmp_path)] == ["a package registry of one machine"]


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """The project's own contracts over another tree."""
    shutil.copy(ROOT / "pyproject.toml", tree)
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def empty_tree(tmp_path: Path) -> Path:
    """Every layer of the law, each an empty package."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    plant(tmp_path, "openruntime/__init__.py", "")
    for layer in " | ".join(layers).split(" | "):
        plant(tmp_path, f"openruntime/{layer}/__init__.py", "")
    return tmp_path


def test_the_law_holds_for_an_empty_tree(empty_tree: Path) -> None:
    outcome = lint_imports(empty_tree)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("openruntime/contracts/models.py", "import openruntime.tasks", "A layer imports only from layers below it"),
        ("openruntime/tasks/queue.py", "import openruntime.security", "A layer imports only from layers below it"),
        ("openruntime/client/sync.py", "import openruntime.operations", "A layer imports only from layers below it"),
        ("openruntime/client/sync.py", "import openruntime.errors", "A layer imports only from layers below it"),
        ("openruntime/plumbing/__init__.py", "", "plumbing"),
        ("openruntime/tasks/queue.py", "import fastapi", "FastAPI and Starlette only"),
        ("openruntime/runtimes/manager.py", "def f():\n    import numpy", "The gateway's process never imports NumPy"),
        ("openruntime/client/sync.py", "import scipy.fft", "SciPy and array-api-* only"),
        ("openruntime/operations/linalg.py", "import torch", "A library that drives a device only in backends"),
        ("openruntime/tasks/queue.py", "import sqlite3", "A library that drives a store only in stores"),
        ("openruntime/gateway/app.py", "import psutil", "psutil only in devices"),
    ],
)
def test_the_law_catches_a_wrong_import(empty_tree: Path, path: str, line: str, broken: str) -> None:
    plant(empty_tree, path, line + "\n")
    outcome = lint_imports(empty_tree)
    assert outcome.returncode == 1, outcome.stdout
    lines = [line for line in outcome.stdout.splitlines() if not line.endswith("KEPT")]
    assert any(broken in line for line in lines), outcome.stdout


@pytest.mark.parametrize("module", ["openruntime", "openruntime.errors"])
def test_importing_openruntime_is_light(module: str) -> None:
    heavy = "{'fastapi', 'httpx', 'msgspec', 'numpy', 'pydantic', 'scipy', 'uvicorn'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    code = "import openruntime; print(callable(openruntime.connect), openruntime.Runtime.__name__, openruntime.errors.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    assert found == ["True", "Runtime", "openruntime.errors"]


def test_the_lint_target_runs_every_check() -> None:
    commands = subprocess.run(["make", "--dry-run", "--always-make", "lint"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    for check in ("ruff check", "ruff format --check", "mypy", "lint-imports", "tools.budgets"):
        assert check in commands
