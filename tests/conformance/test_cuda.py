"""CuPy on an NVIDIA card, where there is one; and what can be said of it without."""

import subprocess
import sys
from typing import ClassVar

import pytest

from openruntime.contracts.errors import MissingExtra, NoSuchDevice, Unavailable
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
