"""Small real files of weights, and a discovery that finds what it is told."""

import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec

from openruntime.contracts.ai import ModelSpec

Value = str | int | Sequence[str] | Sequence[int]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(metadata: dict[str, Value] | None = None, *, values: Sequence[float] = (1.0, 2.0, 3.0), tensors: int = 1, version: int = 3) -> bytes:
    """A GGUF file with the same float32 tensors, whose metadata are strings, uint32 and lists of either."""
    metadata = {"general.architecture": "llama", "llama.context_length": 2048} if metadata is None else metadata
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(metadata))
    for key, value in metadata.items():
        head += text(key)
        if isinstance(value, str):
            head += struct.pack("<I", 8) + text(value)
        elif isinstance(value, int):
            head += struct.pack("<II", 4, value)
        else:
            words = [text(each) if isinstance(each, str) else struct.pack("<I", each) for each in value]
            head += struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 4, len(value)) + b"".join(words)
    size = -(-4 * len(values) // 32) * 32
    for i in range(tensors):
        head += text(f"blk.{i}.weight") + struct.pack("<IQIQ", 1, len(values), 0, i * size)
    head += b"\0" * (-len(head) % 32)
    return head + (struct.pack(f"<{len(values)}f", *values).ljust(size, b"\0")) * tensors


def sentence_transformers(folder: Path, *, values: bytes = bytes(16)) -> Path:
    """A folder as that library saves it."""
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- a: b\n---\n# A model\n")
    header = msgspec.json.encode({"w": {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values)
    return folder


class Nothing:
    """Finds what it is given."""

    def __init__(self, *specs: ModelSpec) -> None:
        self.found: Sequence[ModelSpec] = specs

    def specs(self) -> Sequence[ModelSpec]:
        return self.found

    def problems(self) -> dict[str, str]:
        return {}

    def settled(self) -> bool:
        return True

    def look(self, older: float = 0) -> None:
        pass
