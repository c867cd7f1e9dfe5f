from pathlib import Path

import numpy as np
import pytest

from openruntime.backends import mlx
from openruntime.backends.mlx_arrays import BLAS
from openruntime.backends.mlx_namespace import LAZY
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.records import Probe
from openruntime.testing.cases import payload


def test_a_system_blas_stands_before_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BLAS is not None
    mlx.MlxBackend(threads=1)
    assert BLAS.openblas_get_num_threads() == 1
    assert mlx.MlxBackend.probe() == (Probe("mlx", "cpu"),)
    monkeypatch.setattr(mlx, "_HAS_BLAS", False)
    assert "libopenblas0" in mlx.MlxBackend.probe()[0].name


def test_a_formula_becomes_one_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # on the processor MLX leaves what it compiles there
    x = np.linspace(-1, 1, 1001)
    found = mlx.fused("a*x + exp(x)**2", x=LAZY.asarray(x), a=2.5)
    np.testing.assert_allclose(np.array(found), 2.5 * x + np.exp(x) ** 2, rtol=1e-12)
    assert list(tmp_path.rglob("*.so"))
    with pytest.raises(OperationFailed, match="negative"):
        mlx.fused("x ** y", x=LAZY.asarray([2, 3]), y=LAZY.asarray([1, -1]))


async def test_its_pool_is_emptied() -> None:
    backend = mlx.MlxBackend(threads=1)
    await backend.execute("sum", {"x": payload(np.ones(100_000))})
    backend.trim()
    assert mlx.mx.get_cache_memory() == 0
