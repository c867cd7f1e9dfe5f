"""What the header of a GGUF file says, and whether the file is whole. Only the header is read, never the weights.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the sizes of blocks are ggml's (`ggml-common.h`).
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from openruntime.contracts.errors import InvalidParameter

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LARGEST_HEADER = 512 << 20  # bytes; that of a model with 256,000 tokens has about 10 MiB
MOST_ENTRIES = 1 << 16
MOST_TENSORS = 1 << 20
MOST_DIMENSIONS = 8
DEEPEST = 4  # arrays in arrays
_CHUNK = 1 << 20
_ARRAY, _STRING = 9, 8
_SIZE = struct.Struct("<Q").unpack_from
_KEPT = 1024  # bytes of a string, or numbers of an array, that are remembered; chat templates, vocabularies and the like are not
_POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
_WHOLE = "BbHhIiQq"  # kinds of whole numbers
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# ggml's type -> elements of a block, and its bytes
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class Header(msgspec.Struct, frozen=True):
    """`metadata` without long strings, and of arrays only short ones of whole numbers; `needed`: bytes that the file must have at least."""

    metadata: Mapping[str, Any]
    tensors: int
    needed: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def license(self) -> str:
        return str(self.metadata.get("general.license", ""))

    @property
    def pooling(self) -> str:
        """How a text's vector is made of its tokens'; empty where it is not said."""
        return _POOLINGS.get(self.metadata.get(f"{self.architecture}.pooling_type", 0), "")

    @property
    def context_length(self) -> int | None:
        found = self.metadata.get(f"{self.architecture}.context_length")
        return found if isinstance(found, int) and found > 0 else None

    def context_bytes(self, tokens: int) -> int:
        """What llama.cpp keeps of so many tokens of a request: a key and a value of 16 bits in each layer and head; 0 where it is not said how many.

        Of a model whose layers look back over a window, that is taken for all of them: which do not, the header does not say."""
        layers, heads = self._told("block_count"), self._told("attention.head_count")
        width = self._told("embedding_length")
        shared = self.metadata.get(f"{self.architecture}.attention.head_count_kv", heads)
        of_all = sum(shared) if isinstance(shared, tuple) else shared * layers if isinstance(shared, int) else 0
        each = width // heads if heads else 0
        size = (self._told("attention.key_length") or each) + (self._told("attention.value_length") or each)
        return min(tokens, self._told("attention.sliding_window") or tokens) * of_all * size * 2

    def _told(self, name: str) -> int:
        found = self.metadata.get(f"{self.architecture}.{name}")
        found = max(found, default=0) if isinstance(found, tuple) else found
        return found if isinstance(found, int) and 0 < found < 1 << 32 else 0

    @property
    def parts(self) -> int:
        """Of how many files this is one."""
        found = self.metadata.get("split.count", 1)
        return found if isinstance(found, int) else 1


def read_header(path: Path) -> Header:
    """Raises `InvalidParameter` where the file is no GGUF, or is not whole, saying which; `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, path.name, size)
        if reader.take(4) != MAGIC:
            raise InvalidParameter(f"{path.name} is no GGUF file: it does not begin with {MAGIC.decode()}")
        version = reader.number("I")
        if version not in VERSIONS:
            raise InvalidParameter(f"{path.name} is GGUF of version {version}, or of a machine with the other byte order; versions 2 and 3 are read")
        tensors, entries = reader.number("Q"), reader.number("Q")
        reader.check(tensors <= MOST_TENSORS and entries <= MOST_ENTRIES)
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = reader.text()
            value = reader.value(reader.number("I"))
            if value is not None:
                metadata[key] = value
        end = 0
        for _ in range(tensors):
            end = max(end, reader.tensor())
        alignment = metadata.get("general.alignment", 32)
        reader.check(isinstance(alignment, int) and 0 < alignment <= 1 << 20)
        needed = -(-reader.position // alignment) * alignment + end
    if size < needed:
        raise InvalidParameter(f"{path.name} is cut off: it has {size:,} bytes of {needed:,}; get it again, the download was not finished")
    return Header(metadata, tensors, needed)


class _Reader:
    """Numbers and strings one after the other. A file that ends too soon, or whose counts are absurd, is an `InvalidParameter`."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.position = 0  # in the file
        self._file = file
        self._name = name
        self._size = size
        self._data = b""
        self._at = 0  # in the data

    def check(self, right: bool) -> None:
        if not right:
            raise InvalidParameter(f"{self._name} is damaged: the header of this GGUF file makes no sense near byte {self.position:,}")

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            if self.position + count > self._size:
                raise InvalidParameter(f"{self._name} is cut off: its {self._size:,} bytes end within the header; get it again")
            self.check(self.position + count <= LARGEST_HEADER)
            self._data = self._data[self._at :] + self._file.read(max(_CHUNK, count))
            self._at = 0
        found = self._data[self._at : self._at + count]
        self._at += count
        self.position += count
        return found

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """None for what is not remembered."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            found = self.text()
            return found if len(found) <= _KEPT else None
        self.check(kind == _ARRAY and depth < DEEPEST)
        inner, count = self.number("I"), self.number("Q")
        self.check(count <= self._size)
        if inner in _SCALARS:
            data = self.take(count * struct.calcsize("<" + _SCALARS[inner]))
            if count <= _KEPT and _SCALARS[inner] in _WHOLE:
                return struct.unpack(f"<{count}{_SCALARS[inner]}", data)
        elif inner == _STRING:
            self._skip_texts(count)
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return None

    def _skip_texts(self, count: int) -> None:
        """As fast as can be: a vocabulary has 100,000."""
        for _ in range(count):
            at = self._at
            if at + 8 > len(self._data):
                self.take(self.number("Q"))
                continue
            size = 8 + _SIZE(self._data, at)[0]
            if at + size > len(self._data):
                self.take(size)
            else:
                self._at = at + size
                self.position += size

    def tensor(self) -> int:
        """Where the tensor described here ends, in bytes after the header; of a type that is not known, where it begins."""
        self.text()
        dimensions = self.number("I")
        self.check(dimensions <= MOST_DIMENSIONS)
        elements = 1
        for _ in range(dimensions):
            elements *= self.number("Q")
        kind, offset = self.number("I"), self.number("Q")
        block, size = _BLOCKS.get(kind, (1, 0))
        return int(offset) + -(-elements // block) * size
