"""Where compiled kernels rest between starts. Each runner names its files by what they were compiled from, for, and by."""

import os
from contextlib import suppress
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """In `OPENRUNTIME_CACHE_DIR`, with which every worker starts, else in the user's cache."""
    given = os.environ.get("OPENRUNTIME_CACHE_DIR")
    return (Path(given) if given else platformdirs.user_cache_path("openruntime", appauthor=False)) / "kernels"


def keep(path: Path, data: bytes) -> None:
    """Written whole or not at all; a full disk only costs the next start a compilation."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_bytes(data)
        fresh.replace(path)
