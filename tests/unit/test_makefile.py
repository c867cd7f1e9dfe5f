"""The two commands: what they say when something is missing, and that installed trees are left alone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(*arguments: str, folder: Path = ROOT, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment |= {"PATH": path} if path else {}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone, as far as make can see."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def test_a_missing_python_is_named(checkout: Path) -> None:
    ended = make("demo", "PYTHON=no-such-python", folder=checkout)
    assert ended.returncode != 0
    assert "OpenRuntime needs Python 3.11 or newer, and there is no no-such-python here" in ended.stderr


def test_an_old_python_is_named(checkout: Path) -> None:
    old = checkout / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    ended = make("test", f"PYTHON={old}", folder=checkout)
    assert ended.returncode != 0
    assert "is Python 3.9.2" in ended.stderr
    assert not (checkout / ".venv").exists()


def test_an_installed_tree_is_not_installed_again(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    for name in ("bin/python", ".demo", ".test"):
        (checkout / ".venv" / name).touch()
    assert "pip" not in make("--dry-run", "demo", "lint", folder=checkout).stdout
    os.utime(checkout / "pyproject.toml", (2**31, 2**31))
    assert "pip" in make("--dry-run", "demo", folder=checkout).stdout


def test_make_test_lints_and_ends_with_pytest(checkout: Path) -> None:
    commands = make("--dry-run", "test", folder=checkout).stdout.splitlines()
    assert any("mypy" in line for line in commands)
    assert "-m pytest" in commands[-1]


def test_ci_runs_make_test() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert "set -euo pipefail" in script
    assert "make test </dev/null" in script
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_missing_programs_are_named_where_they_cannot_be_installed(tmp_path: Path) -> None:
    for name in ("bash", "env", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    script = [str(ROOT / "tools/debian.sh"), "no-such-program"]
    ended = subprocess.run(script, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode == 1
    assert "no-such-program" in ended.stderr
    assert "apt-get install --no-install-recommends" in ended.stderr
