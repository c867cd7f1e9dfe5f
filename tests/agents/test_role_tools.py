"""Each role's own tools, called by a scripted model: what they do, what they refuse, and what a model may say of it afterwards."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from openruntime.ai.agents.analyst.role import ANALYSES
from openruntime.ai.agents.analyst.words import LEFT_OUT
from openruntime.ai.agents.developer import checks
from openruntime.ai.agents.optimizer import candidates, kernels, operations
from openruntime.ai.agents.optimizer.candidates import CONSTANTS
from openruntime.core.config import Settings
from openruntime.core.runtime import running
from openruntime.gateway.app import create_gateway
from tests.agents.conftest import Agents, results

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPERATION = "from openruntime.operations import Array, Namespace, operation\n\n\n@operation\ndef twice(x: Array, *, xp: Namespace) -> Array:\n"
OPERATION += '    """Two times `x`."""\n    return x * 2\n'
KERNEL: dict[str, Any] = {
    "name": "halve", "language": "opencl",
    "source": "__kernel void halve(__global const float *x, __global float *y, const int n) {\n    int i = get_global_id(0);\n"
    "    if (i < n) y[i] = 0.5f * x[i];\n}\n",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}], "outputs": [{"name": "y", "dtype": "float32", "shape": ["n"]}],
    "scalars": [{"name": "n", "dtype": "int32"}], "grid": ["n"],
    "reference": {"operation": "expression", "parameters": {"formula": "0.5*x"}},
}  # fmt: skip


async def used(agents: Agents, workflow: str, tool: str, arguments: dict[str, Any], text: str = "done", **fields: Any) -> tuple[Any, dict[str, Any]]:
    """What a tool answers a model, and the run in which it was asked."""
    seen: list[Any] = []
    agents.script((tool, arguments), lambda messages: seen.extend(results(messages)) or text)  # type: ignore[func-returns-value]
    run = await agents.ask(workflow, "do it", **fields)
    assert run["status"] == "completed", run
    assert [call["tool"] for call in run["calls"] if call["by"] == "model"] == [tool]
    return seen[0], run


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No type checker, and each measured few times: here it is about what tools do, not how fast that is."""
    found = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "mypy" else found(name))
    monkeypatch.setattr(operations, "ROUNDS", 6)
    monkeypatch.setattr(operations, "CONFIRMING", 6)
    for name, value in (("SEARCHING", 3), ("CONFIRMING", 6), ("AGAIN", 1), ("CONFIRMED", 1), ("LIMIT", 5.0)):
        monkeypatch.setattr(kernels, name, value)
    usual = kernels.known
    monkeypatch.setattr(kernels, "known", lambda kernel, left_out: usual(kernel, left_out)[-1:])
    monkeypatch.setattr(candidates, "CONSTANTS", {kind: tuple(line.partition(",")[0] for line in lines) for kind, lines in CONSTANTS.items()})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def opencl() -> AsyncIterator[Agents]:
    pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
    settings = Settings.load({"store": "memory", "backends": "numpy,opencl", "calibrate": False, "shutdown_grace": 0.1})
    async with running(settings) as runtime:
        app = create_gateway(runtime.services())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
            runtime.agents.models = None
            found = Agents(runtime, client)
            if not any(row["name"] == "opencl" and row["status"] == "ready" for row in (await found.get("/devices"))["backends"]):
                pytest.skip("no OpenCL here")
            yield found


# -- Analyst


async def test_every_analysis_answers_with_figures_from_what_happened(agents: Agents) -> None:
    for n in (2, 3):
        task = await agents.submit("sum", {"x": [1] * n})
        await agents.get(f"/tasks/{task}?wait=10")
    bad = await agents.submit("solve", {"a": [[0.0]], "b": [1.0]})
    await agents.get(f"/tasks/{bad}?wait=10")
    seen: list[Any] = []
    agents.script([(name, {}) for name in ANALYSES], lambda messages: seen.extend(results(messages)) or "done")  # type: ignore[arg-type, func-returns-value]
    run = await agents.ask("system_analysis", "costs?", parameters={"analyses": ["costs"]})
    found = dict(zip(ANALYSES, seen, strict=True))
    assert all(row["outcome"] == "ok" for row in run["calls"]), run["calls"]
    assert all(answer["id"].startswith("m") and answer["text"] for answer in found.values()), found
    expected = {
        "queue_health": "0 tasks [m", "queue_waits": "sum", "run_times": "| sum on cpu:0/numpy | 2 tasks", "costs": "device seconds",
        "failures": "| solve | operation_failed | 1 failures", "cache_rate": "since the server's start", "kernels_used": "kernel",
        "models_used": "model", "trends": "openruntime_tasks_submitted_total", "anomalies": "",
    }  # fmt: skip
    for name, part in expected.items():
        assert part in found[name]["text"] + found[name]["title"] + json.dumps(found[name]), (name, found[name])
    figures = {fact["name"]: fact["value"] for fact in run["result"]["facts"]}
    assert figures["tasks that failed"] == 1
    assert figures["failures of solve with operation_failed"] == 1


# -- Debugger


async def test_debug_task_gives_the_cause_and_its_evidence(agents: Agents) -> None:
    given = {"a": [[1.0, 2.0], [2.0, 4.0]], "b": [1.0, 2.0]}
    task = await agents.submit("solve", given)
    await agents.get(f"/tasks/{task}?wait=10")
    said = "It died of heat 47 times. The rank of a is 1."
    answer, run = await used(agents, "debugging", "debug_task", {"task_id": task, "parameters": given}, said)
    assert "**Cause: the matrix `a` is singular**" in answer
    assert "/devices/cpu:0" in answer, "how its device has been lately"
    assert "no worker died in the last hour" in answer
    assert any("work: " in event["what"] for event in run["result"]["data"]["timeline"]), "the trace's spans, each at its time"
    moments = [event["time"] for event in run["result"]["data"]["timeline"]]
    assert moments == sorted(moments)
    text = run["result"]["text"]
    assert text.startswith("**Cause: the matrix `a` is singular**"), "the computed verdict comes first"
    assert "47" not in text
    assert "The rank of a is 1 [/tasks/" in text
    assert text.endswith(LEFT_OUT)


async def test_debug_task_refuses_what_it_cannot_mean(agents: Agents) -> None:
    task = await agents.submit("sum", {"x": [1]})
    answer, run = await used(agents, "debugging", "debug_task", {"task_id": task, "complaint": "ugly"})
    assert answer["error"]["code"] == "invalid_parameter"
    assert "failed, wrong, slow" in answer["error"]["detail"]
    answer, _ = await used(agents, "debugging", "debug_task", {"task_id": "01900000-0000-7000-8000-000000000000"})
    assert answer["error"]["code"] == "not_found"
    assert run["result"]["text"] == "done"


# -- Optimizer


async def test_what_was_not_measured_is_not_claimed(agents: Agents) -> None:
    agents.script("I made it 50 times faster. It is twice as fast. It was already good.")
    run = await agents.ask("compute_optimization", "faster")
    assert run["result"]["text"] == f"**Nothing was measured.**\n\nIt was already good.\n\n{LEFT_OUT}"
    assert run["result"]["data"].get("gain") is None


@pytest.mark.usefixtures("brief")
async def test_optimize_formula_measures_and_its_verdict_leads(agents: Agents) -> None:
    said = "It is 77 times faster."
    answer, run = await used(
        agents, "compute_optimization", "optimize_formula", {"formula": "x**5", "shapes": {"x": [5000]}, "finite": True}, said, wait=60
    )
    assert answer["gain"] == run["result"]["data"]["gain"] >= 1.0
    assert "powers as products" in answer["report"]
    text = run["result"]["text"]
    assert text.startswith("**")
    assert ("faster**" in text.splitlines()[0]) == (answer["gain"] > 1.0)
    assert "77" not in text
    assert run["spent"]["tasks"] > 10
    refused, _ = await used(agents, "compute_optimization", "optimize_formula", {"formula": "x +", "shapes": {"x": [3]}})
    assert refused["error"]["code"] == "invalid_parameter"


@pytest.mark.usefixtures("brief")
@pytest.mark.timeout(120)
async def test_optimize_kernel_measures_against_the_locked_one_and_replaces_nothing(opencl: Agents) -> None:
    made = await opencl.client.post("/kernels", json=KERNEL)
    assert made.status_code == 201, made.text
    answer, run = await used(opencl, "compute_optimization", "optimize_kernel", {"name": "halve", "sizes": {"n": 2048}}, wait=100)
    data = run["result"]["data"]
    assert data["locked"].startswith("kernel halve, sha256 "), answer
    assert any(candidate["verified"] for candidate in data["candidates"]), answer
    assert answer["gain"] >= 1.0
    assert run["approvals"] == []
    left = {kernel["name"]: kernel["version"] for kernel in (await opencl.get("/kernels"))["kernels"]}
    assert left.pop("halve") == 1, "the kernel is as it was"
    assert set(left) == ({"halve_fast"} if data["registered"] else set()), "what was only tried is gone"
    missing, _ = await used(opencl, "compute_optimization", "optimize_kernel", {"name": "none", "sizes": {"n": 4}})
    assert missing["error"]["code"] == "not_found"


# -- Developer


@pytest.mark.usefixtures("brief")
async def test_check_operation_calls_checked_only_what_passes(agents: Agents) -> None:
    example = {"parameters": {"x": [1.0, 2.0]}, "expected": [2.0, 4.0]}
    answer, run = await used(agents, "code_generation", "check_operation", {"name": "twice", "code": OPERATION, "examples": [example]})
    if any(row["check"] == "run" and row["ok"] is None for row in answer["checks"]):
        pytest.skip("the sandbox runs nothing here")
    assert answer["checked"] is True, answer
    assert run["spent"]["device_seconds"] > 0.1, "the sandbox's processor seconds are the run's"
    wrong = {"name": "twice", "code": OPERATION.replace("* 2", "* 3"), "examples": [example]}
    answer, _ = await used(agents, "code_generation", "check_operation", wrong)
    assert answer["checked"] is False
    assert {row["check"]: row["ok"] for row in answer["checks"]}["answers"] is False
    for code in ("import os\n" + OPERATION, "def broken(:"):
        answer, _ = await used(agents, "code_generation", "check_operation", {"name": "twice", "code": code, "examples": [example]})
        assert [row["check"] for row in answer["checks"]] == ["read"]
        assert answer["checked"] is False


@pytest.mark.usefixtures("brief")
async def test_check_client_runs_it_against_a_runtime_of_its_own(agents: Agents) -> None:
    before = len((await agents.get("/tasks"))["tasks"])
    code = "import openruntime\n\nwith openruntime.connect() as rt:\n    print(rt.sum([1.5, 2.0]))\n"
    answer, _ = await used(agents, "code_generation", "check_client", {"code": code})
    if any(row["check"] == "run" and row["ok"] is None for row in answer["checks"]):
        pytest.skip("the sandbox runs nothing here")
    assert (answer["checked"], answer["output"].strip()) == (True, "3.5"), answer
    assert len((await agents.get("/tasks"))["tasks"]) == before
    answer, _ = await used(agents, "code_generation", "check_client", {"code": "import socket\n"})
    assert answer["checked"] is False


async def test_check_kernel_keeps_what_is_right_and_nothing_else(opencl: Agents) -> None:
    right = {**KERNEL, "name": "middle", "source": KERNEL["source"].replace("halve", "middle")}
    answer, _ = await used(opencl, "code_generation", "check_kernel", {"request": right})
    assert answer["checked"] is True, answer
    wrong = {**right, "name": "third", "source": right["source"].replace("middle", "third").replace("0.5f", "0.3f")}
    answer, _ = await used(opencl, "code_generation", "check_kernel", {"request": wrong})
    assert {row["check"]: row["ok"] for row in answer["checks"]} == {"compile": True, "verified": False}
    broken = {**right, "name": "none", "source": "__kernel void none( this is no C"}
    answer, _ = await used(opencl, "code_generation", "check_kernel", {"request": broken})
    assert {row["check"]: row["ok"] for row in answer["checks"]} == {"compile": False}
    names = {kernel["name"] for kernel in (await opencl.get("/kernels"))["kernels"]}
    assert "middle" in names
    assert not names & {"third", "none"}
