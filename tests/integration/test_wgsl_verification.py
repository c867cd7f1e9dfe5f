"""WGSL kernels are verified like those of other languages: honest ones accepted, cheats rejected for their reason. On a software Vulkan driver."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernels.shaders import CHEATS, HONEST, Cheat

pytest.importorskip("wgpu", reason="the extra webgpu is not installed")

from openruntime.backends.verification.judge import Judge
from openruntime.backends.verification.stage import Stage
from openruntime.contracts.errors import NoSuchDevice
from openruntime.contracts.kernel_reading import read


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENRUNTIME_CACHE_DIR", str(tmp_path_factory.mktemp("built")))
        with Stage("wgsl-kernels", "cpu:0", 2) as found:
            try:
                found.start()
            except NoSuchDevice as error:
                pytest.skip(str(error))
            yield found


def verify(document: dict[str, Any], stage: Stage, *, thorough: bool = True) -> dict[str, Any]:
    return Judge(read(document), stage, launch=1.0, compiling=4.0).verify(lambda *_: None, thorough=thorough)


@pytest.mark.parametrize("document", HONEST, ids=lambda document: document["name"])
def test_what_is_honest_is_accepted(document: dict[str, Any], stage: Stage) -> None:
    report = verify(document, stage)
    assert report["ok"], report["verdict"]
    assert report["worst"] <= 1
    assert len(report["cases"]) >= (12 if report["cases"][0]["sizes"] else 5)
    assert "reading outside of arrays: the device works in memory of its own" in report["not_tried"]


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.kernel["name"])
def test_what_cheats_or_errs_is_rejected_for_its_reason(cheat: Cheat, stage: Stage) -> None:
    report = verify(cheat.kernel, stage, thorough=False)
    assert not report["ok"], f"{cheat.what}: {report['verdict']}"
    assert report["verdict"].startswith("rejected: "), report["verdict"]
    assert cheat.findings & {found["finding"] for found in report["cases"][-1]["findings"]}, f"{cheat.what}: {report['verdict']}"
