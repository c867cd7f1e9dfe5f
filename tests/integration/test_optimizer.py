"""The optimizer over a real server with PoCL: gains that are verified and measured, nothing claimed where there is none."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

import openruntime
from benchmarks.agent_client import SdkClient
from benchmarks.kernels import SOURCES, WORKS
from benchmarks.servers import Server
from openruntime.ai.agents.debugger.findings import summary as told
from openruntime.ai.agents.debugger.work import Debugging
from openruntime.ai.agents.experiments import Bench, Request
from openruntime.ai.agents.optimizer import candidates, kernels
from openruntime.ai.agents.optimizer.candidates import CONSTANTS, Draft, known
from openruntime.ai.agents.optimizer.findings import Optimization, summary
from openruntime.ai.agents.optimizer.kernels import KernelOptimizer, optimize_kernel
from openruntime.ai.agents.optimizer.operations import optimize_formulas, optimize_operation
from openruntime.errors import Forbidden
from tests.kernels.red_team_more import CHEATS

pytest.importorskip("pyopencl", reason="the extra opencl is not installed")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., AbstractContextManager[Server]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"OPENRUNTIME_BACKENDS": "numpy,opencl", "OPENRUNTIME_CACHE_DIR": str(tmp_path_factory.mktemp("built"))}
    with start_server(store="memory", environment=environment) as running:
        yield running


@pytest.fixture
async def rt(server: Server) -> AsyncIterator[openruntime.AsyncRuntime]:
    async with openruntime.connect_async(server.url) as connected:
        yield connected


@pytest.fixture
def bench(rt: openruntime.AsyncRuntime) -> Bench:
    return Bench(SdkClient(rt.connection))


async def registered(rt: openruntime.AsyncRuntime, name: str) -> str:
    work, own = WORKS[name], f"{name}_naive"
    await rt.kernels.add(
        own, language="opencl", source=(SOURCES / "naive" / f"{name}.cl").read_text(), inputs=work.inputs, outputs=work.outputs,
        scalars=work.scalars, grid=work.naive[0], local=work.naive[1], reference=work.reference,
    )  # fmt: skip
    return own


def honest(found: Optimization) -> None:
    """Whatever the machine does: what is claimed is verified, and its whole range is a gain."""
    best = found.best
    if best is None:
        assert found.gain == 1.0
        assert "Nothing faster was found" in summary(found)
        return
    assert best.verified
    assert best.confirmed is not None
    assert best.confirmed.low > 1.0
    assert f"{best.confirmed.value:.2f}×" in summary(found)
    assert found.control is not None


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once here what is measured again and again where time does not matter."""
    monkeypatch.setattr(kernels, "AGAIN", 1)
    monkeypatch.setattr(kernels, "CONFIRMED", 1)
    monkeypatch.setattr(candidates, "CONSTANTS", {kind: tuple(line.partition(",")[0] for line in lines) for kind, lines in CONSTANTS.items()})


@pytest.mark.timeout(300)
async def test_a_naive_kernel_becomes_faster_and_replaces_it_only_when_approved(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    name = await registered(rt, "expression")
    asked: list[tuple[str, str, str]] = []

    async def approve(what: str, method: str, path: str, body: Any) -> Any:
        asked.append((what, method, path))
        return await bench.client.post(path, body)

    wrong = Draft("half of it", {"source": (SOURCES / "naive/expression.cl").read_text().replace("sqrt(fabs(x[i]))", "0")}, "model")
    broken = Draft("no C", {"source": f"kernel void {name}(this is no C"}, "model")
    found = await optimize_kernel(KernelOptimizer(bench, name, {"n": 1 << 15}, approve=approve), drafts=[wrong, broken])
    honest(found)
    assert found.best is not None, summary(found)
    assert found.gain > 2, "vectors make this kernel several times as fast on a processor"
    rejected = {candidate.what: candidate.reason or "" for candidate in found.candidates if not candidate.verified}
    assert rejected["half of it"].startswith("rejected: ")
    assert rejected["no C"].startswith("compile_error: ")
    assert [entry[1:] for entry in asked] == [("POST", "/kernels")]
    assert found.registered is not None
    assert (found.registered["name"], found.registered["version"]) == (name, 2)
    assert [kernel["name"] for kernel in await rt.kernels.all()] == [name]  # what was only tried is gone
    assert (await rt.kernels.verify(name))["ok"]


async def test_what_a_person_refuses_is_registered_beside(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    name = await registered(rt, "row_sum")

    async def refuse(what: str, method: str, path: str, body: Any) -> Any:
        raise Forbidden("a person has refused it")

    optimizer = KernelOptimizer(bench, name, {"m": 64, "n": 1024}, approve=refuse)
    try:
        await optimizer.open()
        [strips] = [draft for draft in known(optimizer.kernel, []) if "strips" in draft.what]
        candidate = await optimizer.attempt(strips)
        assert candidate.verified, candidate.reason
        await optimizer.confirm()
        await optimizer.keep()
    finally:
        await optimizer.close()
    found = optimizer.found
    honest(found)
    assert (await rt.kernels.get(name))["version"] == 1
    if found.best is not None:
        assert found.registered is not None
        assert found.registered["name"] == "row_sum_naive_fast"
        assert any("a person has refused it" in line for line in found.advice)


async def test_powers_become_products(bench: Bench, rt: openruntime.AsyncRuntime) -> None:
    x = await bench.must(Request("uniform", {"shape": [100_000], "seed": 1, "low": -2.0, "high": 2.0, "dtype": "float32"}))
    found = await optimize_formulas(bench, {"y": "x**5 + 1"}, {"x": {"task": x["task_id"]}})
    honest(found)
    products = next(candidate for candidate in found.candidates if candidate.source == "(x * ((x * x) * (x * x))) + 1")
    assert products.verified, summary(found)


async def test_a_rewriting_that_differs_at_infinity_needs_a_word(bench: Bench) -> None:
    x = await bench.must(Request("uniform", {"shape": [20_000], "seed": 1, "low": -2.0, "high": 2.0, "dtype": "float32"}))
    arrays = {"x": {"task": x["task_id"]}}

    async def propose(formula: str) -> list[str]:
        return ["x + 2*x", "import os", "y + 1"]

    given = {"t": "2*x", "y": "1 + t + 3*x**2"}
    strict = await optimize_formulas(bench, given, arrays, propose=propose)
    honest(strict)
    horner = next(candidate for candidate in strict.candidates if "Horner" in candidate.what)
    assert not horner.verified
    assert "finite" in (horner.reason or "")
    proposed = [candidate for candidate in strict.candidates if candidate.by == "model"]
    assert len(proposed) == 3
    assert not any(candidate.verified for candidate in proposed)
    assert any("one after the other" in line for line in strict.advice)
    finite = await optimize_formulas(bench, given, arrays, finite=True)
    honest(finite)
    assert next(candidate for candidate in finite.candidates if "Horner" in candidate.what).verified, summary(finite)


async def test_an_operation_is_compared_where_it_runs(bench: Bench) -> None:
    made = [await bench.must(Request("uniform", {"shape": [64, 64], "seed": seed, "dtype": "float32"})) for seed in (1, 2)]
    given = {name: {"task": task["task_id"]} for name, task in zip("ab", made, strict=True)}
    found = await optimize_operation(bench, "matmul", given, "cpu:0/opencl")
    honest(found)
    assert [candidate.name for candidate in found.candidates] == ["cpu:0/numpy"]
    assert found.candidates[0].verified
    assert found.baseline is not None
    assert found.baseline.device == "cpu:0/opencl"


@pytest.mark.timeout(180)
async def test_a_wrong_kernel_is_found_by_the_debugger(bench: Bench) -> None:
    halved = next(cheat.kernel for cheat in CHEATS if cheat.kernel["name"] == "halved")
    await bench.client.post("/kernels", halved)
    given = {
        argument["name"]: (await bench.must(Request("uniform", {"shape": [300], "seed": 1, "dtype": argument["dtype"]})))
        for argument in halved["inputs"]
    }
    references = {name: {"task": task["task_id"]} for name, task in given.items()}
    task = await bench.must(Request("halved", references))
    found = await Debugging(bench, task["task_id"], references, complaint="wrong").debug()
    assert found.causes[0].name == "wrong_kernel", told(found)
    assert found.verification is not None
    assert not found.verification["ok"]
    assert any("differs by" in line for line in found.causes[0].evidence), told(found)
