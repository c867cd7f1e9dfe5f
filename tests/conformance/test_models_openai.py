"""The official SDK against a real upstream under the published suite: llama.cpp's own OpenAI server, in a process of its own, with SmolLM2."""

import subprocess
import sys
from collections.abc import Iterator
from typing import ClassVar

import pytest

from openruntime.ai.adapters.openai import OpenAIAdapter
from openruntime.contracts.ai import ModelSpec, TextModel
from openruntime.testing.model_suite import ModelSuite
from tests.conformance.test_models_llamacpp import WEIGHTS

SERVER = f"""
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = {str(WEIGHTS)!r}
params.n_parallel, params.n_ctx, params.verbosity = 4, 4 * 1024, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.api_keys = ["sk-of-the-test"]
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


class TestOpenAI(ModelSuite):
    context: ClassVar[int | None] = 1024
    tools: ClassVar[bool | None] = None  # llama.cpp's server lets SmolLM2 answer as if there were none
    url: ClassVar[str] = ""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def upstream(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("KEY_OF_THE_TEST", "sk-of-the-test")
            process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            cls.url = process.stdout.readline().strip()
            yield
            process.kill()
            process.communicate()

    def make(self) -> TextModel:
        options = {"api_key_env": "KEY_OF_THE_TEST", "images": False}
        return OpenAIAdapter(ModelSpec(name="remote", adapter="openai", source=f"{self.url}/v1", upstream="smollm2", options=options))
