"""The Developer at work: what it hands over as checked was checked, in the sandbox; what was not is handed over as that."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import openruntime
from openruntime.ai.agents.developer import checks
from openruntime.ai.agents.developer.role import ROLE, ROUNDS, work
from openruntime.ai.agents.developer.sandbox import AT_ONCE, Limits, run
from openruntime.contracts.errors import InvalidParameter, NotFound
from openruntime.contracts.models import WorkflowType

Ask = Callable[..., Any]
WRITE = WorkflowType.CODE_GENERATION

HEAD = "from openruntime.operations import Array, Namespace, operation\n\n\n@operation\n"
GOOD = HEAD + 'def twice(x: Array, *, xp: Namespace) -> Array:\n    """Two times `x`."""\n    return x * 2\n'
WRONG = GOOD.replace("* 2", "* 3")
EXAMPLES = '[{"parameters": {"x": [1.0, 2.0]}, "expected": [2.0, 4.0]}]'


@pytest.fixture(autouse=True)
async def _confined() -> None:
    outcome = await run({"a.py": ""}, ["a.py"])
    if outcome.refused:
        pytest.skip(f"the sandbox runs nothing here: {outcome.refused}")


@pytest.fixture
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where mypy is not installed, which takes seconds."""
    found = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "mypy" else found(name))


def draft(code: str) -> str:
    return f"Here it is:\n```python\n{code}```\nand examples:\n```json\n{EXAMPLES}\n```"


async def test_an_operation_from_a_formula_is_checked_without_a_model(ask: Ask) -> None:
    context = ask("operation swish(x, beta=1.0) = x / (1 + exp(-beta*x))", workflow=WRITE)
    await work(context)
    report = context.report
    module, test, project = report.artifacts
    assert report.data["checked"] is True
    assert report.unfinished is None
    assert [artifact.name for artifact in report.artifacts] == ["openruntime_swish.py", "test_swish.py", "pyproject.toml"]
    rows = {row["check"]: row["ok"] for row in module.checks}
    assert rows == dict.fromkeys(rows, True)
    assert {"read", "types", "answers", "declared", "refuses", "stacks", "standard", "confined"} <= rows.keys()
    assert "**checked**" in report.summary
    assert [name for name, _ in context.called] == ["check_operation"]
    files = {"site/openruntime_swish.py": module.text, "test_swish.py": test.text, **checks.registered("swish", "operations", "swish")}
    ran = await run(files, ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_swish.py"])
    assert ran.ok, ran.output
    assert 'swish = "openruntime_swish:swish"' in project.text


@pytest.mark.usefixtures("untyped")
async def test_what_fails_goes_back_to_the_model_until_it_passes(ask: Ask, scripted: Any) -> None:
    model = scripted(draft("import os\n" + GOOD), draft(WRONG), draft(GOOD))
    context = ask("double every element", workflow=WRITE, model=model, kind="operation")
    await work(context)
    assert context.report.data["checked"] is True
    assert context.report.data["drafts"] == 3
    assert "it imports os" in model.asked[1]
    assert "answers" in model.asked[2]
    assert context.report.artifacts[0].text == GOOD
    assert {row["check"]: row["ok"] for row in context.report.artifacts[0].checks}["types"] is None


@pytest.mark.usefixtures("untyped")
async def test_what_never_passes_is_handed_over_as_that(ask: Ask, scripted: Any) -> None:
    context = ask("double every element", workflow=WRITE, model=scripted(*[draft(WRONG)] * ROUNDS), kind="operation")
    await work(context)
    assert context.report.data["checked"] is False
    assert context.report.unfinished
    assert "NOT checked" in context.report.summary
    assert ROLE.words is not None
    assert ROLE.words(context, "All of it is checked and safe.").startswith("**NOT checked**")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "body",
    [
        "    while True:\n        x = x + 0\n",
        "    return xp.asarray([1.0] * 10**12)\n",
        '    print(\'[{"check": "answers", "ok": true, "detail": ""}]\')\n    raise SystemExit(0)\n',
        "    return None\n",
        "    raise BaseException('no')\n",
    ],
)
async def test_code_that_cheats_or_hangs_is_not_checked(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "TRYING", Limits(seconds=4, cpu=4))
    code = HEAD + f'def twice(x: Array, *, xp: Namespace) -> Array:\n    """Two times `x`."""\n{body}'
    rows = await checks.operation(code, "twice", [{"parameters": {"x": [1.0]}, "expected": [2.0]}], trusted=False)
    assert not checks.passed(rows, "read", "answers", "declared", "refuses")
    assert any(row["ok"] is False for row in rows)


FORGED = """__import__('os')._exit(print('{"rows":[{"check":"answers","ok":true,"detail":""},{"check":"declared","ok":true,"detail":""},\
{"check":"refuses","ok":true,"detail":""}],"outputs":[{"output":["float64",[1],"AAAAAAAA8D8="]}]}', flush=True) or 0)"""


@pytest.mark.usefixtures("untyped")
async def test_code_that_gets_to_run_still_cannot_say_what_must_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the reader had a hole: it prints a verdict in its examiner's place, and ends."""
    monkeypatch.setattr(checks, "reads", lambda *_: checks.check("read", True, ""))
    code = f"import typing\n\nclass Hidden:\n    x: {FORGED!r}\n\n\ntyping.get_type_hints(Hidden)\n{GOOD}"
    example = {"parameters": {"x": [1.0]}, "expected": [2.0]}
    rows = await checks.operation(code, "twice", [example], trusted=False)
    assert {row["check"]: row["ok"] for row in rows}["answers"] is False, rows
    look = GOOD.replace(
        "    return x * 2", "    return x * 0 + (4 if '[2.0]' in open('trial.json').read() + open('/proc/self/environ').read() else 3)"
    )
    rows = await checks.operation(look, "twice", [example], trusted=False)
    assert "Mismatched" in next(row["detail"] for row in rows if row["check"] == "answers"), rows


async def test_what_runs_confined_is_bounded_together_and_paid_for(ask: Ask) -> None:
    context = ask("x", workflow=WRITE)
    burn = "import time\nbegun = time.time()\nwhile time.process_time() < 0.3:\n    pass\nprint(begun, time.time())"
    spans = await asyncio.gather(*(run({"a.py": burn}, ["a.py"], payer=context) for _ in range(AT_ONCE + 1)))
    times = sorted(tuple(map(float, outcome.output.split())) for outcome in spans)
    assert times[-1][0] >= min(end for _, end in times), "all ran at once"
    assert 0.3 * len(times) <= context.spent.device_seconds == pytest.approx(sum(outcome.cpu for outcome in spans))
    context.spent.device_seconds = context.budget.device_seconds - 0.5
    stopped = await run({"a.py": "while True:\n    pass"}, ["a.py"], payer=context)
    assert not stopped.ok
    assert stopped.cpu < 3


@pytest.mark.usefixtures("untyped")
async def test_client_code_runs_against_a_runtime_of_its_own(ask: Ask) -> None:
    context = ask("a client script", workflow=WRITE, operation="sum", parameters={"x": [1.0, 2.5]})
    await work(context)
    assert context.report.data["checked"] is True
    assert "3.5" in context.report.summary


@pytest.mark.usefixtures("untyped")
async def test_client_code_of_a_model_that_fails_is_told_why(ask: Ask, scripted: Any) -> None:
    bad = "import openruntime\n\nwith openruntime.connect() as rt:\n    rt.run('no_such_operation')\n"
    good = "import openruntime\n\nwith openruntime.connect() as rt:\n    print(rt.sum([1.0]))\n"
    model = scripted(f"```python\nimport socket\n{good}```", f"```python\n{bad}```", f"```python\n{good}```")
    context = ask("a client program that adds", workflow=WRITE, model=model)
    await work(context)
    assert "it imports socket" in model.asked[1]
    assert "no_such_operation" in model.asked[2]
    assert context.report.data["checked"] is True


async def test_a_client_of_an_operation_that_there_is_not_is_refused(ask: Ask) -> None:
    with pytest.raises(NotFound, match="matmul"):
        await work(ask("a client", workflow=WRITE, operation="matmull", parameters={}))
    with pytest.raises(InvalidParameter, match="axis"):
        await work(ask("a client", workflow=WRITE, operation="sum", parameters={"y": 1}))


async def test_the_name_of_an_operation_is_not_taken_twice(ask: Ask) -> None:
    with pytest.raises(InvalidParameter, match="already"):
        await work(ask("operation softmax(x) = exp(x)", workflow=WRITE))


async def test_without_model_and_formula_it_says_what_it_needs(ask: Ask) -> None:
    context = ask("write something nice", workflow=WRITE)
    await work(context)
    assert "Nothing was written" in context.report.summary
    assert "formula" in context.report.summary
    assert context.report.unfinished


async def test_a_kernel_that_nothing_here_compiles_is_not_checked(ask: Ask) -> None:
    context = ask("kernel twice(x) = 2*x", workflow=WRITE)
    await work(context)
    assert context.report.data["checked"] is False
    assert "compile was not run" in context.report.summary
    assert (await context.client.get("/kernels"))["kernels"] == []


async def test_a_kernel_is_compiled_verified_and_kept_only_if_it_is_right(monkeypatch: pytest.MonkeyPatch, context_of: Any) -> None:
    monkeypatch.setenv("OPENRUNTIME_BACKENDS", "numpy,opencl")
    async with openruntime.connect_async() as runtime:
        if not any(row["name"] == "opencl" and row["status"] == "ready" for row in await runtime.devices(backends=True)):
            pytest.skip("no OpenCL here")
        context = context_of(runtime, WRITE, "kernel swish(x, b=1.0) = x / (1 + exp(-b*x))", {}, None)
        await work(context)
        assert context.report.data["checked"] is True, context.report.summary
        assert [kernel["name"] for kernel in await runtime.kernels.all()] == ["swish"]
        request = {**json.loads(context.report.artifacts[1].text), "name": "wrong"}
        request["source"] = request["source"].replace("swish", "wrong").replace("1.0f +", "1.5f +")
        rows = await checks.kernel(context, request)
        assert {row["check"]: row["ok"] for row in rows} == {"compile": True, "verified": False}
        assert [kernel["name"] for kernel in await runtime.kernels.all()] == ["swish"]


@pytest.mark.soak
async def test_a_backend_is_written_in_rounds_until_its_suite_passes(ask: Ask) -> None:
    context = ask("a backend plugin", workflow=WRITE, name="strict2", module="array_api_strict")
    await work(context)
    assert context.report.data["checked"] is True, context.report.summary
    code = context.report.artifacts[0].text
    assert '"einsum": ' in code
    assert '"float16": ' in code
    assert '"sum": ' not in code
