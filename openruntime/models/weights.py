"""Weights on disk: a GGUF file, or a folder as sentence-transformers saves it. What they are, whether they are whole, their SHA-256."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter
from openruntime.models.gguf import Header, read_header

GGUF = ".gguf"
FOLDER = "modules.json"  # what makes a folder one of sentence-transformers'
MOST_FILES = 1000
SERVED = 4096  # tokens of a request and its answer, unless told otherwise: an engine takes the memory for them when it loads
LARGEST_SMALL = 1 << 20  # bytes of a file beside the weights that is read
LARGEST_HEADER = 100 << 20  # bytes of a safetensors file's
_EMBEDDING = re.compile(r"bert|t5encoder|embedding")  # llama.cpp's architectures that write no text
_QUANTIZATION = re.compile(r"[.\-_](?:i?q\d\w*|f16|f32|bf16|fp16|mxfp4\w*|tq\d\w*)$", re.IGNORECASE)


class Weights(msgspec.Struct, frozen=True):
    """What `path` holds. `size` in bytes; `name` is what it may be called; `context_length` is what of the model's is served; `seen` looks alike as
    long as nothing was written."""

    path: Path
    name: str
    adapter: str
    kind: str
    size: int
    license: str
    context_length: int | None
    seen: list[tuple[str, int, int, int]]


def examine(path: Path) -> Weights:
    """Raises `InvalidParameter` (field `path`) where there are no weights, they are not whole, or nothing here could load them."""
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            return _file(path)
        if stat.S_ISDIR(found.st_mode):
            return _folder(path)
        raise InvalidParameter(f"{path} is neither a file nor a folder")
    except InvalidParameter as error:
        raise InvalidParameter(error.message, field="path") from None
    except OSError as error:
        raise InvalidParameter(f"{path} cannot be read: {error.strerror}", field="path") from None


def reads(spec: ModelSpec) -> int | None:
    """Tokens of a request and its answer together; None where nobody says. llama.cpp takes memory for as many as it is told, and for no more."""
    if spec.adapter == "llamacpp":
        return int(spec.options.get("context") or spec.context_length or SERVED)
    return spec.context_length


def look(path: Path) -> list[tuple[str, int, int, int]]:
    """Of each file its name in the folder (empty for a file), bytes, time of the last change in ns, and inode. Raises `OSError`."""
    if not path.is_dir():
        return [("", *_look(path))]
    return [(name, *_look(path / name)) for name in files(path)]


def files(folder: Path) -> list[str]:
    """The names of all files below, sorted. Raises `InvalidParameter` where there are too many to be a model's."""
    found: list[str] = []
    for parent, _, names in os.walk(folder):
        found += (os.path.relpath(os.path.join(parent, name), folder) for name in names)
        if len(found) > MOST_FILES:
            raise InvalidParameter(f"{folder} holds over {MOST_FILES} files; a model's folder has a dozen")
    return sorted(found)


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that of what `sha256sum` prints for its files in the order of their names. Raises `OSError`."""
    if not path.is_dir():
        return _sha256(path)
    return joined({name: _sha256(path / name) for name in files(path)})


def joined(digests: dict[str, str]) -> str:
    """The SHA-256 of a folder, from those of its files by name."""
    listing = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(listing.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InvalidParameter(f"{path} is no regular file")  # to open a pipe would wait for a writer
    return found.st_size, found.st_mtime_ns, found.st_ino


def _file(path: Path) -> Weights:
    if path.suffix.lower() != GGUF:
        raise InvalidParameter(f"{path.name} is no model: weights come as a {GGUF} file, or as a folder with {FOLDER} (sentence-transformers)")
    seen = look(path)
    header = read_header(path)
    kind = _kind(path, header)
    size = seen[0][1]
    context = min(header.context_length or SERVED, SERVED)
    return Weights(path, plain_name(path.stem), "llamacpp", kind, size, header.license, context, seen)


def _kind(path: Path, header: Header) -> str:
    if header.parts > 1:
        raise InvalidParameter(f"{path.name} is one of {header.parts} parts; join them first: llama-gguf-split --merge FIRST-PART JOINED.gguf")
    if not header.tensors or not header.architecture:
        raise InvalidParameter(f"{path.name} holds no weights")
    kind = str(header.metadata.get("general.type", "model"))
    if kind != "model" or header.architecture == "clip":
        raise InvalidParameter(f"{path.name} is no model by itself, but a part for one ({kind if kind != 'model' else header.architecture})")
    return "embedding" if _EMBEDDING.search(header.architecture) else "chat"


def _folder(path: Path) -> Weights:
    if not (path / FOLDER).is_file():
        inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == GGUF and entry.is_file())
        if len(inside) == 1:
            return _file(inside[0])
        if inside:
            raise InvalidParameter(f"{path} holds {len(inside)} models; name one: {', '.join(entry.name for entry in inside[:5])}")
        other = next(path.glob("*.safetensors"), None) or next(path.glob("*.bin"), None)
        hint = f"; what {other.name} belongs to can be served once it is converted to GGUF (convert_hf_to_gguf.py of llama.cpp)" if other else ""
        raise InvalidParameter(f"{path} holds no weights that can be served here: neither a {GGUF} file nor {FOLDER} (sentence-transformers){hint}")
    seen = look(path)
    tensors = [name for name, *_ in seen if name.endswith(".safetensors")]
    if not tensors:
        raise InvalidParameter(f"{path} has no .safetensors; weights in other formats (pickles) are not loaded")
    for name in tensors:
        _check_safetensors(path / name)
    card = dict(_front_matter(path / "README.md"))
    limit = _json(path / "sentence_bert_config.json").get("max_seq_length")
    size = sum(entry[1] for entry in seen)
    context = limit if isinstance(limit, int) and limit > 0 else None
    return Weights(path, plain_name(path.name), "embeddings", "embedding", size, card.get("license", ""), context, seen)


def _check_safetensors(path: Path) -> None:
    """Source: https://github.com/huggingface/safetensors#format"""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LARGEST_HEADER or 8 + length > size:
            raise InvalidParameter(f"{path.name} is cut off, or is no safetensors file; get it again")
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, dict[str, Any]])
            needed = 8 + length + max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
        except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError):
            raise InvalidParameter(f"{path.name} is damaged: its header is not that of a safetensors file") from None
    if size != needed:
        raise InvalidParameter(f"{path.name} is cut off or damaged: it has {size:,} bytes, its header says {needed:,}; get it again")


def _front_matter(card: Path) -> Iterator[tuple[str, str]]:
    """The plain `key: value` lines that a model card begins with."""
    lines = _small(card).decode("utf-8", "replace").splitlines()
    if lines[:1] != ["---"]:
        return
    for line in lines[1:]:
        if line == "---":
            return
        key, _, value = line.partition(": ")
        if value and not key.startswith((" ", "-")):
            yield key, value.strip().strip("\"'")[:100]


def _json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_small(path), type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_SMALL)
    except OSError:
        return b""


def plain_name(text: str) -> str:
    """A model's name made of a file's or an upstream's: its last part in lower case, without the quantization."""
    text = _QUANTIZATION.sub("", text.rpartition("/")[2])
    return re.sub(r"[^a-z0-9]+$", "", re.sub(r"^[^a-z0-9]+", "", re.sub(r"[^a-z0-9._-]+", "-", text.lower())))[:96]
