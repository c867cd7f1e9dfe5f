"""Weights in the repository: under their SHA-256, each once, as a hard link to what was added where that is possible, else as a copy."""

import os
import shutil
from pathlib import Path

import msgspec

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter
from openruntime.models.weights import digest, files, look

Seen = list[tuple[str, int, int, int]]


def keep(folder: Path, spec: ModelSpec, seen: Seen) -> tuple[ModelSpec, Seen]:
    """The same model with its weights in `folder`, and what they look like there. Raises `OSError`, `InvalidParameter`."""
    _sweep(folder)
    source = Path(spec.source)
    shelf = folder / "weights" / spec.digest
    kept = shelf / source.name
    if shelf.exists() and digest(next(shelf.iterdir(), shelf)) != spec.digest:
        shutil.rmtree(shelf)
    if not shelf.exists():
        shelf.parent.mkdir(parents=True, exist_ok=True)
        fresh = shelf.with_name(f".{spec.digest}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            copied = bring(source, fresh / source.name)
            if copied and digest(fresh / source.name) != spec.digest:
                raise InvalidParameter(f"{source} changed while it was copied; add it when it is complete", field="path")
            fresh.rename(shelf)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    elif not kept.exists():  # the same weights under another name
        kept = next(shelf.iterdir())
    return msgspec.structs.replace(spec, source=str(kept)), look(kept) if kept.exists() else seen


def bring(source: Path, target: Path) -> bool:
    """A file or folder, by hard links where that is possible. Whether anything had to be copied. Raises `OSError`, `InvalidParameter`."""
    copied = False
    for name in files(source) if source.is_dir() else [""]:
        one, other = source / name, target / name
        other.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(one), other)
        except OSError:  # another file system, or not ours to link to
            shutil.copyfile(one, other)
            copied = True
    return copied


def _sweep(folder: Path) -> None:
    """What others left half done that were killed: whoever changes the repository is alone."""
    for left in (folder / "weights").glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def give_up(folder: Path, spec: ModelSpec) -> None:
    """Remove weights that are in the repository; those elsewhere stay."""
    _sweep(folder)
    shelf = folder / "weights" / spec.digest
    if spec.digest and Path(spec.source).is_relative_to(shelf):
        shutil.rmtree(shelf, ignore_errors=True)
