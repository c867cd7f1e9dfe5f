from typing import ClassVar

import openruntime_markov

from openruntime.contracts.ai import ModelSpec, TextModel
from openruntime.contracts.registry import MODELS
from openruntime.testing.model_suite import ModelSuite


class TestMarkovChain(ModelSuite):
    context: ClassVar[int | None] = 1000
    schemas: ClassVar[bool] = False
    tools: ClassVar[bool] = False

    def make(self) -> TextModel:
        return MODELS.load("markov")(ModelSpec(name="markov", adapter="markov", source=openruntime_markov.__file__))
