"""The short form of `python -m benchmarks.leaks`; the long one is `make soak`."""

import sys
from pathlib import Path

import pytest

from benchmarks.leaks import PARTS, kills, soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("part", PARTS)
def test_little_comes_and_goes_and_nothing_stays(part: str, tmp_path: Path) -> None:
    assert soak(part, tmp_path, small=True).problems == []


@pytest.mark.soak
@pytest.mark.parametrize("part", PARTS)
def test_much_comes_and_goes_and_nothing_stays(part: str, tmp_path: Path) -> None:
    assert soak(part, tmp_path).problems == []


def test_kill_9_leaves_nothing_behind(tmp_path: Path) -> None:
    assert kills(2, tmp_path / "kills").problems == []


@pytest.mark.soak
def test_twenty_times_kill_9_leaves_nothing_behind(tmp_path: Path) -> None:
    assert kills(20, tmp_path / "kills").problems == []
