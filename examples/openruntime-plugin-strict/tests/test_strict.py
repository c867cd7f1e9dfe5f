"""The whole contract of a backend: every operation of the catalogue, on array-api-strict."""

from typing import Any, ClassVar

from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.registry import BACKENDS
from openruntime.testing.backend_suite import BackendSuite


class TestStrict(BackendSuite):
    backend_class: ClassVar[type[ComputeBackend]] = BACKENDS.load("strict")


def test_it_is_found_by_its_name() -> None:
    backend: Any = BACKENDS.load("strict")(device="cpu:0", threads=1)
    assert backend.name == "strict"
    assert {"matmul", "kmeans", "heat2d"} <= set(backend.get_capabilities())
    assert "einsum" not in backend.get_capabilities()
