"""PyTorch on every kind of device that it drives here."""

from typing import ClassVar

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from openruntime.backends.torch import TorchBackend
from openruntime.testing.backend_suite import BackendSuite

_CARDS = ("cuda", "rocm", "xpu", "metal")
_HERE = {probe.platform for probe in TorchBackend.probe()}


class TestTorch(BackendSuite):
    backend_class: ClassVar[type[TorchBackend]] = TorchBackend


for _platform in _HERE.intersection(_CARDS):
    globals()[f"TestTorchOn{_platform.title()}"] = type(f"TestTorchOn{_platform.title()}", (TestTorch,), {"device": f"{_platform}:0"})


@pytest.mark.parametrize("platform", _CARDS)
def test_is_tested_on_what_it_drives(platform: str) -> None:
    if platform not in _HERE:
        pytest.skip(f"PyTorch drives no {platform} device here")
    assert f"TestTorchOn{platform.title()}" in globals()


def test_the_processor_runs_everything() -> None:
    assert not TorchBackend.unsupported
    assert not TorchBackend.lacks
