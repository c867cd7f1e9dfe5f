"""What a file or folder of weights says of itself, and whether it is whole."""

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openruntime.ai.adapters.llamacpp import LlamaCppAdapter
from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter
from openruntime.models.gguf import read_header
from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition
from openruntime.models.weights import digest, examine, plain_name, reads
from tests.models.making import gguf, sentence_transformers, text

Make = Callable[..., Path]


def test_a_gguf_file_says_what_it_is(weights: Make) -> None:
    metadata = {
        "general.architecture": "llama", "general.license": "apache-2.0", "llama.context_length": 8192, "tokenizer.ggml.tokens": ["a", "b"] * 500,
    }  # fmt: skip
    found = examine(weights("SmolLM2-135M-Instruct.Q4_1.gguf", metadata=metadata, tensors=3))
    assert (found.name, found.adapter, found.kind) == ("smollm2-135m-instruct", "llamacpp", "chat")
    assert (found.license, found.context_length, found.size) == ("apache-2.0", 4096, found.path.stat().st_size)


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({}, 4096), ({"context_length": 32_768}, 32_768), ({"options": {"context": 8192}}, 8192),
        ({"context_length": 32_768, "options": {"context": 2048}}, 2048),
    ],
    ids=str,
)  # fmt: skip
def test_the_context_that_is_said_is_the_context_that_is_served(repository: ModelRepository, weights: Make, given: Any, served: int) -> None:
    path = weights("m.gguf", metadata={"general.architecture": "llama", "llama.context_length": 65_536})
    spec = repository.add(Addition(path=str(path), **given))
    assert reads(spec) == served
    assert LlamaCppAdapter(spec)._settings()["context"] == served
    assert LlamaCppAdapter(spec).get_model_info().context_length == served


def test_what_a_model_elsewhere_reads() -> None:
    assert reads(ModelSpec(name="m", adapter="openai")) is None
    assert reads(ModelSpec(name="m", adapter="openai", context_length=128_000)) == 128_000


@pytest.mark.parametrize("context", ["8k", 0, -1, True, 1.5, None])
def test_a_context_that_is_no_number_is_refused(repository: ModelRepository, weights: Make, context: Any) -> None:
    with pytest.raises(InvalidParameter, match="context") as caught:
        repository.add(Addition(path=str(weights("m.gguf")), options={"context": context}))
    assert caught.value.field == "options"


def test_an_architecture_without_text_is_for_embeddings(weights: Make) -> None:
    found = examine(weights("nomic.gguf", metadata={"general.architecture": "nomic-bert", "nomic-bert.context_length": 512}))
    assert (found.kind, found.context_length) == ("embedding", 512)


@pytest.mark.parametrize("cut", range(0, len(gguf()) - 20, 5))
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf()[:cut])
    with pytest.raises(InvalidParameter, match="cut off") as caught:
        examine(path)
    assert caught.value.field == "path"
    assert str(tmp_path) not in caught.value.message


def test_a_file_that_is_whole_but_for_padding_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "unpadded.gguf"
    path.write_bytes(gguf(values=(1.0, 2.0, 3.0))[:-20])
    assert examine(path).kind == "chat"


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    whole = bytearray(gguf({"a": "b", "general.architecture": "llama"}))
    cases = {
        "magic": b"GGML" + whole[4:],
        "version": whole[:4] + struct.pack("<I", 1) + whole[8:],
        "big endian": whole[:4] + struct.pack(">I", 3) + whole[8:],
        "tensors": whole[:8] + struct.pack("<Q", 2**63) + whole[16:],
        "entries": whole[:16] + struct.pack("<Q", 2**63) + whole[24:],
        "length of a text": whole[:24] + struct.pack("<Q", 2**62) + whole[32:],
        "kind of a value": whole[:33] + struct.pack("<I", 77) + whole[37:],
        "endless arrays": whole[:24] + text("a") + struct.pack("<IIQ", 9, 9, 1) * 50 + whole[37:],
        "a long array": whole[:24] + text("a") + struct.pack("<IIQ", 9, 10, 2**60) + whole[37:],
        "noise": os.urandom(4096),
        "nothing": b"",
    }
    for what, data in cases.items():
        path = tmp_path / "bad.gguf"
        path.write_bytes(data)
        with pytest.raises(InvalidParameter) as caught:
            read_header(path)
        assert "bad.gguf" in caught.value.message, what


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general.architecture": "llama", "split.count": 3}, "one of 3 parts"),
        ({"general.architecture": "clip"}, "no model by itself"),
        ({"general.architecture": "llama", "general.type": "adapter"}, "no model by itself"),
        ({}, "holds no weights"),
    ],
)
def test_parts_of_models_are_refused(weights: Make, metadata: dict[str, str | int], said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        examine(weights("part.gguf", metadata=metadata))


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    found = examine(sentence_transformers(tmp_path / "All-MiniLM"))
    assert (found.name, found.adapter, found.kind) == ("all-minilm", "embeddings", "embedding")
    assert (found.license, found.context_length) == ("apache-2.0", 128)


def test_a_folders_digest_is_what_sha256sum_says(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path / "a")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    listing = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert digest(folder) == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize("cut", [0, 4, 20, 75])
def test_safetensors_cut_off_are_refused(tmp_path: Path, cut: int) -> None:
    folder = sentence_transformers(tmp_path / "a")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InvalidParameter, match=r"model\.safetensors is (cut off|damaged)"):
        examine(folder)


@pytest.mark.parametrize("header", [b"[]", b'{"w": 3}', b'{"w": {"data_offsets": []}}', b'{"w": {"data_offsets": ["a", "b"]}}', b"{"])
def test_safetensors_with_a_header_of_nonsense_are_refused(tmp_path: Path, header: bytes) -> None:
    folder = sentence_transformers(tmp_path / "a")
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InvalidParameter, match="damaged"):
        examine(folder)


def test_what_is_no_model_is_refused_with_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("secret")
    empty, pickled, transformer, several, pipe = (tmp_path / name for name in ("empty", "pickled", "transformer", "several", "pipe"))
    empty.mkdir()
    sentence_transformers(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    transformer.mkdir()
    (transformer / "model.safetensors").write_bytes(b"")
    several.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (several / name).write_bytes(gguf())
    os.mkfifo(pipe)
    cases = {
        tmp_path / "none.gguf": "No such file", tmp_path / "notes.txt": "is no model", empty: "no weights", pickled: "pickles",
        transformer: "converted to GGUF", several: "a.gguf, b.gguf", pipe: "neither a file nor a folder",
    }  # fmt: skip
    for path, said in cases.items():
        with pytest.raises(InvalidParameter, match=said) as caught:
            examine(path)
        assert caught.value.field == "path"
        assert "secret" not in caught.value.message


def test_a_pipe_in_a_folder_holds_nobody_up(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path / "a")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidParameter, match="regular"):
        examine(folder)


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "m.gguf").write_bytes(gguf())
    assert examine(tmp_path / "inside").path == tmp_path / "inside" / "m.gguf"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", "smollm2-135m-instruct"), ("Llama 3.2 1B-Q4_K_M", "llama-3.2-1b"), ("hf.co/who/Model-GGUF", "model-gguf"),
        ("gpt-5.4-mini", "gpt-5.4-mini"), ("Model-f16", "model"), ("---", ""), ("x" * 200, "x" * 96),
    ],
)  # fmt: skip
def test_names_are_made_plain(given: str, name: str) -> None:
    assert plain_name(given) == name


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({}, 100 * 30 * 9 * 128 * 2),
        ({"attention.head_count_kv": 3}, 100 * 30 * 3 * 128 * 2),
        ({"attention.head_count_kv": [3, 0] * 15}, 100 * 15 * 3 * 128 * 2),
        ({"attention.head_count_kv": 3, "attention.key_length": 192, "attention.value_length": 64}, 100 * 30 * 3 * 256 * 2),
        ({"attention.sliding_window": 10}, 10 * 30 * 9 * 128 * 2),
        ({"attention.head_count": 0}, 0),
        ({"block_count": "thirty"}, 0),
    ],
)
def test_what_a_context_takes(tmp_path: Path, more: dict[str, Any], size: int) -> None:
    told = {"block_count": 30, "embedding_length": 576, "attention.head_count": 9, **more}
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf({"general.architecture": "llama", **{f"llama.{name}": value for name, value in told.items()}}))
    assert read_header(path).context_bytes(100) == size
