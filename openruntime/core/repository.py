"""The model repository of a server, or of commands that work without one."""

import os
from collections.abc import Callable, Collection

from openruntime.core.config import Settings
from openruntime.models.discovery import Discovery
from openruntime.models.repository import ModelRepository

FOLDER = "models"  # in the data directory


def open_repository(settings: Settings, taken: Callable[[], Collection[str]] = tuple) -> ModelRepository:
    """Nothing is read, asked or written yet. `taken`: names that no model may have, such as those of operations."""
    return ModelRepository(
        settings.data_dir / FOLDER, found=Discovery(os.environ, openai_model=settings.openai_model), chosen=settings.model,
        chosen_embedding=settings.embedding_model, taken=taken,
    )  # fmt: skip
