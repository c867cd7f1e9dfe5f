import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jaxlib.xla_client import generate_pjrt_gpu_plugin_options

from openruntime.backends.jax import JaxBackend
from openruntime.backends.jax_namespace import bound, prune, total_memory
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Result
from openruntime.devices.gpu import merge
from openruntime.testing.cases import payload


@pytest.fixture
def backend() -> JaxBackend:
    return JaxBackend(device="cpu:0", threads=1)


def numbers(result: Result, name: str = "output") -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    found: Array = result.outputs[name]
    return np.frombuffer(found.view, found.dtype).reshape(found.shape)


async def test_a_call_is_compiled_once_for_its_shapes_and_constants(backend: JaxBackend) -> None:
    x = payload(np.arange(37.0))
    first = await backend.execute("softmax", {"x": x})
    assert first.compile > 0
    again = await backend.execute("softmax", {"x": payload(np.ones(37))})
    assert again.compile == 0
    np.testing.assert_allclose(numbers(again), np.full(37, 1 / 37))
    assert (await backend.execute("softmax", {"x": payload(np.ones(38))})).compile > 0


async def test_another_seed_is_no_other_program(backend: JaxBackend) -> None:
    for operation, more in (("uniform", {}), ("integers", {"high": 9}), ("monte_carlo_pi", {})):
        size = {"samples": 5000} if operation == "monte_carlo_pi" else {"shape": [41]}
        assert (await backend.execute(operation, {"seed": 1, **size, **more})).compile > 0
        assert (await backend.execute(operation, {"seed": 2, **size, **more})).compile == 0


async def test_what_is_nearly_always_so_is_assumed_and_checked(backend: JaxBackend) -> None:
    image = np.ones((40, 40))
    await backend.execute("gaussian_blur", {"image": payload(image)})
    image[20, 20] = np.nan
    blurred = numbers(await backend.execute("gaussian_blur", {"image": payload(image)}))
    assert np.isnan(blurred[20, 20])
    assert np.isfinite(blurred[0]).all()
    with pytest.raises(OperationFailed, match="`x` holds NaN or infinity"):
        await backend.execute("svd", {"x": payload(image)})


async def test_programs_are_bounded(backend: JaxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openruntime.backends.jax._PROGRAMS", 2)
    for size in (3, 4, 5):
        await backend.execute("sum", {"x": payload(np.ones(size))})
    assert len(backend._programs) == 2
    backend.trim()
    assert not backend._programs
    assert numbers(await backend.execute("sum", {"x": payload(np.ones(3))})) == 3


def test_the_oldest_programs_on_disk_go_first(tmp_path: Path) -> None:
    import os

    for i in range(4):
        (tmp_path / str(i)).write_bytes(bytes(10))
        os.utime(tmp_path / str(i), (i, i))
    prune(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    prune(tmp_path / "none")


class Accelerator:
    """A device as JAX describes one, beyond the processor: there is none here."""

    def __init__(self, platform: str, hardware: int | None, stats: dict[str, int] | None = None) -> None:
        self.platform = platform
        self.local_hardware_id = hardware
        self.device_kind = f"{platform.upper()} X"
        self.client = SimpleNamespace(platform_version="PJRT C API\ncuda 13000")
        self.memory_stats = lambda: stats


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> list[Accelerator]:
    """What `jax.local_devices` answers; JAX itself does not hear of it."""
    found: list[Accelerator] = []
    monkeypatch.setattr("openruntime.backends.jax.jax.local_devices", lambda backend=None: found)
    monkeypatch.setattr("openruntime.backends.jax.jax.config.update", lambda name, value: None)
    monkeypatch.setattr("openruntime.backends.jax.prune", lambda folder: None)
    return found


@pytest.mark.parametrize("hardware", [(0, 0, 1, 1), (None, None, None, None), (4, 5, 6, 7)])
def test_each_core_of_a_tpu_is_a_device_of_its_own(present: list[Accelerator], hardware: tuple[int | None, ...]) -> None:
    """Two cores of a chip share its number, and some runtimes give none."""
    present += [Accelerator("tpu", number, {"bytes_limit": 16 << 30, "bytes_in_use": 1 << 30}) for number in hardware]
    probes = JaxBackend.probe()
    assert [(probe.platform, probe.index) for probe in probes] == [("cpu", 0), ("tpu", 0), ("tpu", 1), ("tpu", 2), ("tpu", 3)]
    cards = merge(probe for probe in probes if probe.platform != "cpu")
    assert [(card.id, card.indices, card.info().type) for card in cards] == [(f"tpu:{i}", {"jax": i}, "tpu") for i in range(4)]
    assert {(card.memory_total, card.memory_available) for card in cards} == {(16 << 30, 15 << 30)}
    for card in cards:
        assert JaxBackend(device=card.id, index=card.indices["jax"])._device is present[card.indices["jax"]]


@pytest.mark.parametrize(("memory", "share"), [(8 << 30, 0.5), (0, 0.95), (64 << 30, 1.0)])
def test_the_pool_on_a_card_is_bounded_before_it_is_made(
    present: list[Accelerator], monkeypatch: pytest.MonkeyPatch, memory: int, share: float
) -> None:
    seen: list[float] = []

    def devices(backend: str) -> list[Accelerator]:
        seen.append(generate_pjrt_gpu_plugin_options()["memory_fraction"])  # as JAX's plugins read it
        return present

    present.append(Accelerator("gpu", 0))
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.95")
    monkeypatch.setattr("openruntime.backends.jax.jax.local_devices", devices)
    monkeypatch.setattr("openruntime.backends.jax_namespace.total_memory", lambda kind, index: 16 << 30)
    JaxBackend(device="cuda:0", memory=memory)
    assert seen == [share]


def test_a_card_whose_driver_is_silent_is_not_bounded_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """As it is here, where there is no driver."""
    if total_memory("cuda", 0):
        pytest.skip("not run here: there is a card")
    bound("cuda", 0, 1 << 30)
    assert "not bounded" in caplog.text


def test_an_older_name_of_the_share_is_understood() -> None:
    source = "import openruntime.backends.jax_namespace, jaxlib.xla_client as x; print(x.generate_pjrt_gpu_plugin_options()['memory_fraction'])"
    environment = {**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.25", "XLA_CLIENT_MEM_FRACTION": "0.5"}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0.25
