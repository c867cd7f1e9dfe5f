"""CuPy on an NVIDIA card, where there is one; and what can be said of it without."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from openruntime.contracts.errors import MissingExtra, NoSuchDevice, OperationFailed, OutOfMemory, Unavailable, WorkerCrashed
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.registry import BACKENDS
from openruntime.runtimes.probe import look
from openruntime.testing.backend_suite import BackendSuite

try:
    why, backend = None, BACKENDS.load("cuda")
    backend.probe()
except (Unavailable, NoSuchDevice) as error:
    why = error.message


if why is None:

    class TestCuda(BackendSuite):
        backend_class: ClassVar[type[ComputeBackend]] = backend
        device = "cuda:0"

else:

    def test_it_answers_like_numpy() -> None:
        pytest.skip(f"not run here: no CUDA device here ({why})")

    def test_without_a_card_it_is_told_why() -> None:
        report = look("cuda")
        assert report.probes == []
        assert (report.nothing or report.failure) in why


def test_without_the_library_the_extra_is_named() -> None:
    """In a process that cannot import it, whether it is installed or not."""
    source = """
import sys
sys.modules["cupy"] = None
sys.modules["array_api_compat.cupy"] = None
from openruntime.contracts.registry import BACKENDS
try:
    BACKENDS.load("cuda")
except Exception as error:
    print(type(error).__name__, getattr(error, "extra", None))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [MissingExtra.__name__, "cuda"]


def test_what_the_driver_raises_is_told_in_our_words() -> None:
    """Needs the library, and no card."""
    cupy = pytest.importorskip("cupy")
    backend = BACKENDS.load("cuda").__new__(BACKENDS.load("cuda"))
    backend.device = "cuda:0"
    raised = {
        code: backend.translate("matmul", cupy.cuda.runtime.CUDARuntimeError(code)) for code in (1, 2, 700, 719)
    }  # cudaErrorInvalidValue, -MemoryAllocation, -IllegalAddress, -LaunchFailure
    assert [type(error) for error in raised.values()] == [OperationFailed, OutOfMemory, WorkerCrashed, WorkerCrashed]
    assert "an illegal memory access was encountered; the process has lost its device" in raised[700].message
    assert "positive definite" in backend.translate("cholesky", np.linalg.LinAlgError("devInfo = 1")).message
    assert backend.translate("matmul", KeyError("a defect")) is None
