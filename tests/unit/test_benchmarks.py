"""The arithmetic of the benchmarks' report."""

import json
import socket
from pathlib import Path

import pytest

from benchmarks.optimizer import false_claim, judged
from benchmarks.report import Notebook, number, spread
from openruntime.ai.agents.experiments import Ratio


@pytest.fixture
def notebook() -> Notebook:
    found = Notebook()
    for mine, echo in ((40.0, 100.0), (30.0, 60.0), (45.0, 100.0)):
        found.add("A", "requests/s, 16 connections", "openruntime", mine)
        found.add("A", "requests/s, 16 connections", "echo", echo)
    found.add("start", "s to first answer", "openruntime", 1.6)
    return found


def test_ratios_are_taken_round_by_round(notebook: Notebook) -> None:
    assert notebook.ratios("A", "requests/s, 16 connections", "openruntime", "echo") == pytest.approx([0.4, 0.5, 0.45])


def test_goals_are_judged_by_the_median(notebook: Notebook) -> None:
    judged = {(row["work"], row["measure"]): row for row in notebook.judged()}
    assert judged["A", "requests/s, 16 connections"]["reached"] is True
    assert judged["A", "requests/s, 16 connections"]["median"] == pytest.approx(0.45)
    assert judged["start", "s to first answer"]["reached"] is False
    assert len(judged) == 2


def test_the_report_names_versions_and_no_machine(notebook: Notebook, tmp_path: Path) -> None:
    notebook.save(tmp_path / "results" / "one.json")
    text = (tmp_path / "results" / "one.json").read_text()
    saved = json.loads(text)
    assert saved["versions"]["numpy"].count(".") == 2
    assert saved["machine"]["cores"] >= 1
    assert str(Path.home()) not in text
    assert f'"{socket.gethostname()}"' not in text


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.12345, 12.345, 12345.6)] == ["0.123", "12.3", "12,346"]
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_a_claim_is_false_where_measuring_again_denies_it() -> None:
    claim = Ratio(3.0, 2.5, 3.5)
    assert not false_claim(claim, Ratio(2.4, 2.2, 2.6))
    assert not false_claim(claim, Ratio(9.0, 8.0, 10.0))
    assert false_claim(claim, Ratio(2.0, 1.8, 2.4)), "all of it lies below what was claimed at least"
    assert false_claim(Ratio(1.2, 1.1, 1.3), Ratio(1.0, 0.9, 1.2))


def test_the_optimizer_is_held_to_the_tuner_in_the_same_run() -> None:
    def row(kernel: str, gain: float, over: float | None) -> dict[str, object]:
        return {"kernel": kernel, "gain": gain, "own": 1.0, "tuner": gain / over if over else None, "over_tuner": over, "false_claim": False}

    found = judged([row("scan", 4.0, 1.0), row("matmul", 2.0, 0.5), row("nbody", 8.0, None)])
    assert found["behind_the_tuner"] == ["matmul"]
    assert found["mean_gain"] == pytest.approx(4.0)
    assert found["mean_over_tuner"] == pytest.approx(0.5**0.5)
    assert "saxpy" in found["missing"]
    assert "scan" not in found["missing"]
