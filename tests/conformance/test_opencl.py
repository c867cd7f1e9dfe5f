from typing import Any, ClassVar

import pytest

from openruntime.testing.backend_suite import BackendSuite

opencl = pytest.importorskip("openruntime.backends.opencl", reason="PyOpenCL is not installed", exc_type=ImportError)
pytestmark = pytest.mark.skipif(not opencl.OpenCLBackend.probe(), reason="no OpenCL platform drives the processor here")


class TestOpenCL(BackendSuite):
    backend_class: ClassVar[Any] = opencl.OpenCLBackend
