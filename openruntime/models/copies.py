"""Whole copies of a model repository: into a backup, and from one to where a server starts."""

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from openruntime.contracts.errors import Unavailable
from openruntime.models.entries import Entries
from openruntime.models.shelving import bring
from openruntime.models.weights import digest
from openruntime.stores.blobs import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOMENTS = 8  # of the source; one is enough unless models are removed meanwhile


class Copied(NamedTuple):
    """`bytes` of weights; `without` are models whose weights are not in the copy, `damaged` those of them that the source itself has not whole."""

    models: int = 0
    bytes: int = 0
    without: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def copy(source: Path, target: Path, *, weights: bool = True, check: bool = False) -> Copied:
    """Copy a repository, in use or not, as it is at one moment, to where nothing is. Weights come by hard link where that is possible.

    What had to be copied is compared with its SHA-256, with `check` all of it. Weights that a model only refers to stay where they are. Raises
    `OSError`, `Unavailable` where models are removed all the while.
    """
    if not source.is_dir():
        return Copied()
    for _ in range(_MOMENTS):
        shutil.rmtree(target, ignore_errors=True)
        with _still(source):
            content = Entries(source).read()
            (target / "entries").mkdir(parents=True)
            for path in (*(source / "entries").glob("[!.]*.json"), *source.glob("aliases.json")):
                shutil.copyfile(path, target / path.relative_to(source))
        kept = {spec.id: spec.digest for spec in content.specs.values() if Path(spec.source).is_relative_to(source)}
        whole = {name: _take(source, target, name, check) for name in sorted(set(kept.values()))} if weights else {}
        lacking = {name for name, found in whole.items() if found is not True}
        if any(kept.get(spec.id) in lacking and not _there(source, spec.id) for spec in content.specs.values()):
            continue  # removed since
        for folder, _, names in os.walk(target):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
        size = sum(path.stat().st_size for path in (target / "weights").rglob("*") if path.is_file())
        without = tuple(name for name, sha in kept.items() if whole.get(sha) is not True)
        return Copied(len(content.specs), size, without, tuple(name for name, sha in kept.items() if whole.get(sha) is False))
    raise Unavailable(f"models are removed from {source} faster than they can be copied; try again")


def _there(source: Path, name: str) -> bool:
    return name in Entries(source).read().specs


def _take(source: Path, target: Path, sha: str, check: bool) -> bool | None:
    """Whether the weights are in the copy now; None where there are none, False where they are damaged."""
    shelf, copied = source / "weights" / sha, target / "weights" / sha
    inside = next(iter(shelf.iterdir()), None) if shelf.is_dir() else None
    if inside is None:
        return None
    try:
        made = bring(inside, copied / inside.name)
        if not (made or check) or digest(copied / inside.name) == sha:
            return True
    except FileNotFoundError:  # removed meanwhile
        pass
    shutil.rmtree(copied, ignore_errors=True)
    return False


@contextmanager
def _still(folder: Path) -> "Iterator[None]":
    """While nobody changes it; what nobody ever changed has no lock, and needs none."""
    try:
        lock = (folder / "lock").open()
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
