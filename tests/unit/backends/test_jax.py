from pathlib import Path

import numpy as np
import pytest

from openruntime.backends.jax import JaxBackend
from openruntime.backends.jax_namespace import prune
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Result
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
