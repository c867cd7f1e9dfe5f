"""The arithmetic of the benchmarks' report."""

import json
import socket
from pathlib import Path

import pytest

from benchmarks.report import Notebook, number, spread


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
