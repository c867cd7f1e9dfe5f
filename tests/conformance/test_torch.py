"""PyTorch on every kind of device that it drives here."""

from typing import ClassVar

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from openruntime.backends.torch import TorchBackend  # noqa: E402
from openruntime.testing.backend_suite import BackendSuite  # noqa: E402

_HERE = {probe.platform for probe in TorchBackend.probe()}


class TestTorch(BackendSuite):
    backend_class: ClassVar[type[TorchBackend]] = TorchBackend


def _absent(platform: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(platform not in _HERE, reason=f"PyTorch drives no {platform} device here")


@_absent("cuda")
class TestTorchOnCUDA(TestTorch):
    device = "cuda:0"


@_absent("rocm")
class TestTorchOnROCm(TestTorch):
    device = "rocm:0"


@_absent("xpu")
class TestTorchOnXPU(TestTorch):
    device = "xpu:0"


@_absent("metal")
class TestTorchOnMetal(TestTorch):
    device = "metal:0"


def test_the_processor_runs_everything() -> None:
    assert not TorchBackend.unsupported
    assert not TorchBackend.lacks
