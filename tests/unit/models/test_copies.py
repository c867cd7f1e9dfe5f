"""Copies of a repository, made while it is used, without weights, from damaged ones, over to another disk."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openruntime.models import copies, shelving
from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition
from tests.models.making import Nothing, gguf

Make = Callable[..., Path]


@pytest.fixture
def full(repository: ModelRepository, weights: Make) -> ModelRepository:
    """Two versions of one model, an alias, and a model whose weights stay where they are."""
    for number in (1.0, 2.0):
        repository.add(Addition(path=str(weights(f"{number}.gguf", values=(number,))), name="mine"))
    repository.add(Addition(path=str(weights("b.gguf", values=(3.0,))), name="elsewhere", reference=True))
    repository.promote("mine:1", "staging")
    return repository


def opened(folder: Path) -> ModelRepository:
    return ModelRepository(folder, found=Nothing())


@pytest.mark.parametrize("link", [True, False])
def test_a_copy_is_a_repository(full: ModelRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool) -> None:
    if not link:
        monkeypatch.setattr(os, "link", refused)
    copied = copies.copy(full.folder, tmp_path / "backup")
    assert copied == copies.Copied(3, 2 * len(gguf(values=(1.0,))))
    shutil.rmtree(full.folder)
    assert copies.copy(tmp_path / "backup", tmp_path / "again", check=True) == copied
    again = opened(tmp_path / "again")
    assert {spec.id for spec in again.list()} == {"mine:1", "mine:2", "elsewhere:1"}
    assert again.resolve("staging").id == "mine:1"
    assert again.resolve("mine").id == "mine:2"
    for name in ("mine:1", "mine:2", "elsewhere"):
        again.check(name)
    assert again.resolve("mine:1").source.startswith(str(tmp_path / "again"))


def refused(*_: Any) -> None:
    raise OSError("another disk")


def test_a_copy_without_weights_says_so_and_they_can_be_added_again(full: ModelRepository, tmp_path: Path, weights: Make) -> None:
    copied = copies.copy(full.folder, tmp_path / "backup", weights=False)
    assert copied == copies.Copied(3, 0, ("mine:1", "mine:2"))
    assert copies.copy(tmp_path / "backup", tmp_path / "again", check=True) == copied
    again = opened(tmp_path / "again")
    assert "weights are gone" in str(again.reason(again.resolve("mine:1")))
    assert again.add(Addition(path=str(weights("a.gguf", values=(1.0,))), name="mine")).id == "mine:1"
    again.check("mine:1")


def test_weights_that_are_damaged_are_told_and_left_out(full: ModelRepository, tmp_path: Path) -> None:
    copies.copy(full.folder, tmp_path / "backup")
    spec = full.resolve("mine:2")
    path = tmp_path / "backup" / Path(spec.source).relative_to(full.folder)
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    copied = copies.copy(tmp_path / "backup", tmp_path / "again", check=True)
    assert (copied.without, copied.damaged) == (("mine:2",), ("mine:2",))
    again = opened(tmp_path / "again")
    again.check("mine:1")
    assert not Path(again.resolve("mine:2").source).exists()


def test_what_is_removed_meanwhile_is_not_in_it(full: ModelRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring = shelving.bring

    def late(source: Path, target: Path) -> bool:
        if (spec := next((spec for spec in full.list() if spec.name == "mine"), None)) is not None:
            full.remove(spec.id, force=True)
        return bring(source, target)

    monkeypatch.setattr(copies, "bring", late)
    copied = copies.copy(full.folder, tmp_path / "backup")
    assert copied == copies.Copied(1, 0)
    assert [spec.id for spec in opened(tmp_path / "backup").list()] == ["elsewhere:1"]


def test_there_may_be_no_repository(tmp_path: Path) -> None:
    assert copies.copy(tmp_path / "none", tmp_path / "backup") == copies.Copied()
    assert not (tmp_path / "backup").exists()
