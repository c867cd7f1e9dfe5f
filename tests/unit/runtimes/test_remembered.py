"""What backends reported is remembered while nothing that it depends on has changed; failures are not."""

import os
import time
from pathlib import Path

import pytest

from openruntime.contracts.records import Abilities, Probe
from openruntime.contracts.registry import BACKENDS
from openruntime.runtimes import remembered
from openruntime.runtimes.probe import Report
from openruntime.runtimes.remembered import RememberedReports, surroundings

SOUND = Report("torch", [Probe("torch", "cpu")], {"cpu": Abilities(frozenset({"sort"}))})
ABSENT = Report("jax", failure="jax (jax is not installed)", extra="jax")
BROKEN = Report("opencl", failure="it is broken")
PLUGIN = Report("other", [Probe("other", "cpu")])
ALL = ["torch", "jax", "opencl", "other"]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    log: list[str] = []

    async def discover(names: list[str]) -> list[Report]:
        log.extend(names)
        return [report for report in (SOUND, ABSENT, BROKEN, PLUGIN) if report.backend in names]

    monkeypatch.setattr(remembered, "discover", discover)
    monkeypatch.setattr(BACKENDS, "_builtin", {name: ("nowhere:Nothing", name) for name in ALL if name != "other"})
    return log


async def test_sound_and_absent_ones_are_remembered_failed_ones_and_plugins_asked_again(tmp_path: Path) -> None:
    first = RememberedReports(tmp_path)
    assert first.known(ALL) == []
    assert await first.learn(ALL) == [SOUND, ABSENT, BROKEN, PLUGIN]
    assert RememberedReports(tmp_path).known(ALL) == [SOUND, ABSENT]


@pytest.mark.parametrize("change", ["variable", "age", "rubbish", "package"])
async def test_what_may_have_changed_is_asked_anew(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(packages))
    await RememberedReports(tmp_path).learn(ALL)
    assert RememberedReports(tmp_path).known(["torch"]) == [SOUND]
    if change == "variable":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    elif change == "age":
        later = time.time() + remembered.STALE + 1
        monkeypatch.setattr(time, "time", lambda: later)
    elif change == "package":
        os.utime(packages, ns=(1, 1))
    else:
        for file in (tmp_path / "backends").iterdir():
            file.write_text("{")
    assert RememberedReports(tmp_path).known(["torch"]) == []


async def test_a_folder_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await RememberedReports(tmp_path / "file").learn(["torch"]) == [SOUND]


def test_looking_around_is_cheap_and_steady() -> None:
    begun = time.process_time()
    assert surroundings() == surroundings()
    assert time.process_time() - begun < 0.1
