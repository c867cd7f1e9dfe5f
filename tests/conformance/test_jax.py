from typing import ClassVar

import jax
import pytest

from openruntime.backends.jax import JaxBackend
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.testing.backend_suite import BackendSuite


class TestJax(BackendSuite):
    backend_class: ClassVar[type[JaxBackend]] = JaxBackend

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> ComputeBackend:
        found = JaxBackend(device="cpu:0", threads=1)
        jax.config.update("jax_enable_compilation_cache", False)  # a thousand small programs, each once: compiling is what takes the time
        jax.config.update("jax_disable_most_optimizations", True)  # LLVM's; those on numbers stay
        return found
