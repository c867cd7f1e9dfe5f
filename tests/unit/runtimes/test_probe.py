"""Asking a backend what it drives: in a process of its own, bounded, whatever the backend does."""

import os
import time
from pathlib import Path

import pytest

from openruntime.runtimes.probe import Report, ask, discover

SOUND = """
print("a library that greets")
from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.records import Probe

class Backend(NumpyBackend):
    unsupported = {"svd": "no"}

    @classmethod
    def probe(cls):
        return [Probe("another name", "cuda", 1, "card", 80), Probe(cls.name, "cpu")]
"""
NOWHERE = "from openruntime.backends.cpu import NumpyBackend\nclass Backend(NumpyBackend):\n    probe = classmethod(lambda cls: [])"
STUCK = "import time\ntime.sleep(60)"


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in {"sound": SOUND, "nowhere": NOWHERE, "stuck": STUCK}.items():
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[openruntime.backends]\n{name} = {name}:Backend\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")])))


async def test_each_says_what_it_drives_and_what_it_cannot_do() -> None:
    sound, nowhere, unknown = await discover(["sound", "nowhere", "unheard"])
    assert [(probe.backend, probe.platform, probe.index) for probe in sound.probes] == [("sound", "cuda", 1), ("sound", "cpu", 0)]
    assert set(sound.abilities) == {"cuda", "cpu"}
    for told in sound.abilities.values():
        assert "matmul" in told.operations
        assert "svd" not in told.operations
        assert (told.unsupported, list(told.lacks)) == ({"svd": "no"}, ["bfloat16"])
    assert nowhere == Report("nowhere")
    assert unknown.failure is not None
    assert "nothing is registered as 'unheard'" in unknown.failure


async def test_one_that_hangs_is_given_up() -> None:
    begun = time.monotonic()
    assert (await ask("stuck", timeout=1.0)).failure == "backend stuck did not say within 1 s which devices it drives"
    assert time.monotonic() - begun < 3
