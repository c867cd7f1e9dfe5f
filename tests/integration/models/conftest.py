"""A runtime inside this process whose models do what they are told."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from tests.models.few import PLUGIN, few


@pytest.fixture
def vocal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin's module, fresh."""
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    monkeypatch.syspath_prepend(PLUGIN)
    from openruntime.contracts.registry import MODELS

    monkeypatch.setattr(MODELS, "_found", None)
    import vocal as found  # type: ignore[import-not-found]

    for kept in (found.spoken, found.opened, found.closed, found.tries):
        kept.clear()
    found.busiest = 0
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    def made(**flags: Any) -> Settings:
        return Settings.load({"store": "memory", "data_dir": str(tmp_path), "threads": 1, "backends": "numpy", **flags})

    return made


@pytest.fixture
async def runtime(settings: Callable[..., Settings], vocal: Any) -> AsyncIterator[Runtime]:
    async with running(settings(model_memory="100GiB"), few()) as made:
        yield made
