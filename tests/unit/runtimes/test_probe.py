"""Asking a backend what it drives: in a process of its own, bounded, whatever the backend does."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from openruntime.runtimes.probe import Report, ask, discover, look

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


HALF = """
from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.records import Probe

class Backend(NumpyBackend):
    @classmethod
    def probe(cls):
        return [Probe(cls.name, "cpu"), Probe(cls.name, "cuda", failure="the driver is too old; install a newer one")]
"""


async def test_what_is_there_and_cannot_be_used_is_told_beside_what_works(tmp_path: Path) -> None:
    (tmp_path / "sound.py").write_text(HALF)
    report = await ask("sound")
    assert [probe.platform for probe in report.probes] == ["cpu"]
    assert set(report.abilities) == {"cpu"}
    assert report.failure == "the driver is too old; install a newer one"


async def test_a_library_that_cannot_load_its_own_is_told(tmp_path: Path) -> None:
    (tmp_path / "sound.py").write_text("raise ImportError('libcudnn.so.9: cannot open shared object file')")
    report = await ask("sound")
    assert report.failure is not None
    assert "libcudnn.so.9: cannot open shared object file" in report.failure


async def test_an_opencl_driver_that_cannot_be_loaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader goes on without it."""
    pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
    (tmp_path / "vendors").mkdir()
    (tmp_path / "vendors/gone.icd").write_text("libgone-opencl.so.1\n")
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path / "vendors"))
    report = await ask("opencl")
    assert report.probes == []
    assert report.failure is not None
    assert "libgone-opencl.so.1" in report.failure
    assert "gone.icd" in report.failure


@pytest.mark.parametrize("said", ["The NVIDIA driver on your system is too old (found version 11040)", "CUDA unknown error"])
def test_a_torch_that_cannot_use_its_card_says_so(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """It answers that CUDA is not available, as it does where there is no card."""
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("not run here: there is a card")

    def init() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "init", init)
    report = look("torch")
    assert [probe.platform for probe in report.probes] == ["cpu"]
    assert report.failure is not None
    assert said in report.failure
    monkeypatch.undo()
    assert look("torch").failure is None


def test_a_jax_whose_plugin_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax", reason="the extra jax is not installed")
    from openruntime.backends import jax

    said = "Backend 'cuda' failed to initialize: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH. Available backends are ['cpu']"

    def devices(backend: str | None = None) -> list[object]:
        if backend == "cuda":
            raise RuntimeError(said)
        return [SimpleNamespace(platform="cpu")]

    monkeypatch.setattr(jax, "entry_points", lambda group: [SimpleNamespace(name="xla_cuda13")])
    monkeypatch.setattr(jax.jax, "local_devices", devices)
    monkeypatch.setattr(jax, "total_memory", lambda kind, index: 0)
    assert [probe.failure for probe in jax.JaxBackend.probe()] == [None], "there is no card"
    monkeypatch.setattr(jax, "total_memory", lambda kind, index: 80 << 30 if kind == "cuda" else 0)
    assert [probe.failure for probe in jax.JaxBackend.probe()] == [None, f"JAX cannot use the cuda devices here: {said}"]
