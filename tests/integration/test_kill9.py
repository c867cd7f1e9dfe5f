"""The short form of `python -m benchmarks.kill9`; the long one is `make soak`."""

from pathlib import Path

import pytest

from benchmarks.kill9 import kill9


def _nothing_lost(kills: int, folder: Path) -> None:
    outcome = kill9(kills, data=folder / "data", limit=20_000)
    assert outcome.kills == kills
    assert outcome.acknowledged >= 10 * kills
    assert outcome.completions_seen > 0
    assert outcome.sent_again > 0, "no request was under way at any kill"
    assert (outcome.lost, outcome.wrong, outcome.committed_twice, outcome.orphans, outcome.refused) == (0, 0, 0, 0, {})
    assert max(outcome.recovery) < 20


def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    _nothing_lost(3, tmp_path)


@pytest.mark.soak
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    _nothing_lost(20, tmp_path)
