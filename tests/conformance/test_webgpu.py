"""WebGPU's kernels, on whatever shows a device here: Mesa's software Vulkan where there is no card."""

from typing import ClassVar

import pytest

from openruntime.contracts.errors import NoSuchDevice, Unavailable
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.registry import BACKENDS
from openruntime.testing.backend_suite import BackendSuite

try:
    backend: type[ComputeBackend] = BACKENDS.load("webgpu")
    backend.probe()
except (Unavailable, NoSuchDevice) as error:
    pytest.skip(f"not run here: {error}", allow_module_level=True)


class TestWebgpu(BackendSuite):
    backend_class: ClassVar[type[ComputeBackend]] = backend
