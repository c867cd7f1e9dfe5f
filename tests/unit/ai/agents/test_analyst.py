"""The Analyst over a real embedded runtime: what it reports is what happened, and each figure says which call gave it."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from openruntime.ai.agents.analyst.history import window_of
from openruntime.ai.agents.analyst.role import ANALYSES, OVERVIEW, ROLE, chosen_for, work
from openruntime.ai.agents.analyst.words import LEFT_OUT, checked
from openruntime.client.runtime import AsyncRuntime
from openruntime.contracts.errors import InvalidParameter, OperationFailed

Ask = Callable[..., Any]


async def history(runtime: AsyncRuntime) -> None:
    """Twenty sums, thirty-two solves the last sixteen of which fail, one answer from the cache."""
    for i in range(20):
        await runtime.run("sum", np.arange(1000.0) + i, cache="no-store")
    good, singular = np.eye(4) * 2, np.zeros((4, 4))
    for i in range(32):
        with nullcontext() if i < 16 else pytest.raises(OperationFailed):
            await runtime.run("solve", good if i < 16 else singular, np.ones(4), cache="no-store")
    for _ in range(2):
        await runtime.run("monte_carlo_pi", samples=1_000_000, seed=1)


async def test_an_overview_without_a_model_is_complete(runtime: AsyncRuntime, ask: Ask) -> None:
    await history(runtime)
    context = ask("How is the system?", analyses=list(OVERVIEW))
    await work(context)
    summary = context.report.summary
    facts = {fact.name: fact for fact in context.report.facts}
    assert facts["tasks that computed"].value == 37
    assert facts["tasks that failed"].value == 16
    assert facts["failures of solve with operation_failed"].value == 16
    assert facts["share of solve that failed with operation_failed"].value == 0.5
    assert facts["tasks that ended"].value == 54
    assert facts["cache hits"].value == 1
    assert facts["share of monte_carlo_pi from the cache"].value == 0.5
    assert facts["share of solve that failed before"].value == 0
    assert facts["share of solve that failed after"].value == 1
    assert "solve began to fail" in summary
    assert facts["tasks of cpu:0/numpy"].value >= 37
    assert facts["bytes moved by local"].value > 20 * 8000
    assert [name for name, _ in context.called][: len(OVERVIEW)] == ["queue_health", "run_times", "failures", "anomalies", "costs", "costs"]
    for name in context.report.data["calls"]:
        assert f"[{name}] " in summary.partition("## Sources")[2]
    pictures = [artifact for artifact in context.report.artifacts if artifact.language == "svg"]
    assert len(pictures) == len(context.report.charts) >= 3


async def test_every_figure_of_the_report_carries_the_call_that_gave_it(runtime: AsyncRuntime, ask: Ask) -> None:
    await history(runtime)
    context = ask("everything", analyses=list(ANALYSES))
    await work(context)
    body = context.report.summary.partition("## Sources")[0]
    for line in body.split("\n"):
        if re.search(r"\d", re.sub(r"`[^`]*`|cpu:0\S*|p\d\d|\d{4}-\d\d-\d\dT\S+|^## .*", "", line)):
            assert re.search(r"\[m\d+\]", line), line
    plain = "\n".join(line for line in body.split("\n") if "`" not in line and not line.startswith("##"))
    assert checked(context.report, plain) == plain.strip()  # the checker of a model's wording finds nothing to leave out


async def test_a_models_figures_are_checked_against_the_calls(runtime: AsyncRuntime, ask: Ask) -> None:
    await history(runtime)
    context = ask("what failed?")
    await work(context)
    assert ROLE.words is not None
    assert ROLE.words(context, "16 tasks failed.") == "16 tasks failed [m1]."
    assert ROLE.words(context, "17 tasks failed.") == LEFT_OUT
    assert ROLE.words(context, "sum had 16 failures.") == LEFT_OUT


async def test_answers_of_tools_that_look_are_figures_too(runtime: AsyncRuntime, ask: Ask) -> None:
    context = ask("?")
    listed = next(tool for tool in ROLE.tools if tool.__name__ == "list_devices")
    found = await context.call(listed)
    memory = found["answer"][0]["memory_total"] / 2**30
    said = f"cpu:0 has {memory:.1f} GiB of memory [{found['id']}]."
    assert checked(context.report, said) == said
    assert checked(context.report, f"cpu:0 has {memory + 1:.1f} GiB of memory [{found['id']}].") == LEFT_OUT


async def test_a_client_has_its_own_cost(runtime: AsyncRuntime, ask: Ask) -> None:
    connection = runtime.connection
    for _ in range(3):
        headers = {"Content-Type": "application/json", "X-Client": "batch`|2", "Cache-Control": "no-store", "Prefer": "wait=10"}
        await connection.call("POST", "/tasks", headers=headers, content=[b'{"operation": "sum", "parameters": {"x": [1, 2]}}'])
    await runtime.run("sum", [1.0])
    context = ask("cost by client")
    await work(context)
    names = {fact.name: fact.value for fact in context.report.facts}
    assert next(value for name, value in names.items() if name.startswith("tasks of local/")) == 3


async def test_nothing_yet_is_said_so(ask: Ask) -> None:
    context = ask("everything", analyses=list(ANALYSES))
    await work(context)
    assert "No task has computed anything" in context.report.summary
    assert "Nothing is out of the ordinary" in context.report.summary


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"windw": 5}, "windw"), ({"window": -1}, "window"), ({"window": True}, "window"), ({"analyses": ["x"]}, "analyses"), ({"metric": 5}, "metric")],
)
async def test_a_bad_parameter_is_named(ask: Ask, parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await work(ask("?", **parameters))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("question", "analyses"),
    [
        ("Which client costs most?", {"costs"}),
        ("How high is the cache hit rate?", {"cache_rate"}),
        ("What failed in the last hour?", {"failures"}),
        ("Hello", set(OVERVIEW)),
        ("p99 of matmul?", {"queue_waits", "run_times"}),
        ("Which kernels were used?", {"kernels_used"}),
        ("How many tokens did the models use?", {"models_used"}),
    ],
)
def test_the_question_chooses_the_analyses(question: str, analyses: set[str]) -> None:
    assert analyses <= set(chosen_for(question))


@pytest.mark.parametrize(
    ("question", "seconds"),
    [("the last 10 minutes", 600), ("past hour", 3600), ("last 2h", 7200), ("previous 3 days", 259200), ("today", 86400), ("lasting 5 s", None)],
)
def test_a_period_is_read(question: str, seconds: float | None) -> None:
    assert window_of(question) == seconds
