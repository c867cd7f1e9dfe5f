"""Where compiled kernels rest between starts. Each runner names its files by what they were compiled from, for, and by."""

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

BOUND = 1 << 30  # bytes of all files together, where the server says nothing


def cache_folder() -> Path:
    """In `OPENRUNTIME_CACHE_DIR`, with which every worker starts, else in the user's cache."""
    given = os.environ.get("OPENRUNTIME_CACHE_DIR")
    return (Path(given) if given else platformdirs.user_cache_path("openruntime", appauthor=False)) / "kernels"


def bound() -> int:
    """Bytes that the folder may have, with which every worker starts too."""
    given = os.environ.get("OPENRUNTIME_KERNEL_CACHE_BYTES", "")
    return int(given) if given.isdecimal() else BOUND


def kept(path: Path) -> bytes | None:
    """What stands there, which counts as used now; None where nothing does."""
    with suppress(OSError):
        data = path.read_bytes()
        with suppress(OSError):  # a folder that may only be read is of use as it is
            os.utime(path)
        return data
    return None


def keep(path: Path, data: bytes) -> None:
    """Written whole or not at all; a full disk only costs the next start a compilation. The least recently used make room."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path.parent, bound() - len(data))
        if len(data) > bound():
            return
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_bytes(data)
        fresh.replace(path)


def _make_room(folder: Path, most: int) -> None:
    """Other workers keep and remove files at the same time; whoever is late finds them gone."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                found.append((facts.st_mtime_ns, facts.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        with suppress(OSError):
            os.unlink(path)
        total -= size
