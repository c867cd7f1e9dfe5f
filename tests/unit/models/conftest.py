"""Files of weights, and a repository over a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openruntime.models.repository import ModelRepository
from tests.models.making import Nothing, gguf


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """`weights("a.gguf", values=(1.0,))`: such a file."""

    def make(name: str, **given: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(gguf(**given))
        return path

    return make


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "models", found=Nothing(), taken=lambda: {"matmul"})
