"""Compiled kernels on disk are bounded by their bytes; what was used last stays."""

import os
from pathlib import Path

import pytest

from openruntime.backends.kernel_cache import keep, kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENRUNTIME_KERNEL_CACHE_BYTES", "1000")
    return tmp_path / "kernels"


def aged(path: Path, seconds: int) -> None:
    os.utime(path, (1e9 - seconds, 1e9 - seconds))


def test_the_least_recently_used_make_room(folder: Path) -> None:
    for age, name in enumerate("abc"):
        keep(folder / name, name.encode() * 300)
        aged(folder / name, 100 - age)
    assert kept(folder / "a") == b"a" * 300  # used now
    keep(folder / "d", b"d" * 300)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "c", "d"]
    assert kept(folder / "b") is None
    keep(folder / "e", b"e" * 1000)
    assert [path.name for path in folder.iterdir()] == ["e"]


def test_what_is_larger_than_the_bound_is_not_kept(folder: Path) -> None:
    keep(folder / "a", b"a" * 1001)
    assert kept(folder / "a") is None
    assert list(folder.iterdir()) == []


def test_what_processes_left_half_written_goes_too(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.123").write_bytes(b"a" * 900)
    aged(folder / "a.123", 100)
    keep(folder / "b", b"b" * 200)
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_an_odd_bound_is_the_usual_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENRUNTIME_KERNEL_CACHE_BYTES", "much")
    keep(folder / "a", b"a" * 2000)
    assert kept(folder / "a") == b"a" * 2000
