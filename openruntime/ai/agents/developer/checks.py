"""What is done with something before it is handed over: read, typed, run where it can do no harm. Each gives `{"check", "ok", "detail"}`; `ok` is
None for what could not be checked here, which says why."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import msgspec

from openruntime.ai.agents.developer.reading import problems
from openruntime.ai.agents.developer.sandbox import DOORS, Limits, Outcome, run
from openruntime.contracts.agents import Context
from openruntime.contracts.errors import CompileError, NotFound, OpenRuntimeError
from openruntime.contracts.payload import ITEMSIZE

Check = dict[str, Any]
TYPING = Limits(seconds=90, cpu=90, total=3 << 30, disk=128 << 20)
TRYING = Limits(seconds=60, cpu=60)
SUITE = Limits(seconds=240, cpu=240, total=4 << 30)
TRIAL = ("-m", "openruntime.testing.trial")
SHOWN = 2000  # characters of what went wrong


def check(name: str, ok: bool | None, detail: str) -> Check:
    return {"check": name, "ok": ok, "detail": detail[:SHOWN]}


def passed(checks: Sequence[Check], *needed: str) -> bool:
    """Whether nothing failed, and what must have been run was."""
    return all(row["ok"] is not False for row in checks) and all(any(row["check"] == name and row["ok"] for row in checks) for name in needed)


def told(checks: Sequence[Check]) -> str:
    """What is wrong, for the one who wrote it."""
    return "\n".join(f"- {row['check']}: {row['detail']}" for row in checks if row["ok"] is False)


def reads(code: str, kind: str, name: str = "", extra: frozenset[str] = frozenset()) -> Check:
    found = problems(code, kind, name, extra)
    return check("read", not found, "; ".join(found) or "it parses, and imports and calls only what such a file needs")


async def types(code: str, file: str, *, trusted: bool, payer: Context | None = None) -> Check:
    """mypy --strict, confined: it imports nothing, but reads what it is given."""
    if find_spec("mypy") is None:
        return check("types", None, "mypy is not installed on the server")
    command = ["-m", "mypy", "--strict", "--config-file=", "--cache-dir=/dev/null", "--follow-imports=silent", "--no-error-summary", file]
    outcome = await run(
        {file: code}, command, limits=TYPING, needed=() if trusted else DOORS, environment={"MYPYPATH": "site"}, payer=payer
    )  # fmt: skip
    if outcome.refused:
        return check("types", None, outcome.why)
    lines = [
        line for line in outcome.output.splitlines() if "import-untyped" not in line and "import-not-found" not in line and ": note:" not in line
    ]
    wrong = [line for line in lines if ": error:" in line]
    return check(
        "types", outcome.status == 0 or (outcome.status == 1 and not wrong), "\n".join(wrong) or outcome.why or "mypy --strict finds nothing"
    )


def registered(name: str, group: str, target: str) -> dict[str, str]:
    """What makes a file an installed plugin, as far as Python can tell."""
    at = f"site/openruntime_plugin_{name}-0.1.0.dist-info"
    return {
        f"{at}/METADATA": f"Metadata-Version: 2.1\nName: openruntime-plugin-{name}\nVersion: 0.1.0\n",
        f"{at}/entry_points.txt": f"[openruntime.{group}]\n{name} = openruntime_{name}:{target}\n",
    }


async def operation(code: str, name: str, examples: Sequence[Mapping[str, Any]], *, trusted: bool, payer: Context | None = None) -> list[Check]:
    """The contract of operations (`openruntime.testing.operation_suite`), in the sandbox, as the plugin that it will be."""
    found = [reads(code, "operation", name)]
    if not found[0]["ok"]:
        return found
    typed, tried = await asyncio.gather(
        types(code, f"openruntime_{name}.py", trusted=trusted, payer=payer), _tried(code, name, examples, () if trusted else DOORS, payer)
    )
    return [*found, typed, *tried]


async def _tried(code: str, name: str, examples: Sequence[Mapping[str, Any]], needed: Sequence[str], payer: Context | None) -> list[Check]:
    """The process that runs the code is not told what must come: that is compared with its outputs in another, where none of the code is."""
    bare = [{"parameters": example.get("parameters", {})} for example in examples]
    files = {f"site/openruntime_{name}.py": code, "trial.json": _order(name, bare), **registered(name, "operations", name)}
    outcome = await run(files, [*TRIAL, "trial.json"], limits=TRYING, needed=needed, payer=payer)
    verdict = _said(outcome)
    if verdict is None:
        return [_unsaid(outcome), confined(outcome)]
    rows = [check(row.check, row.ok, row.detail) for row in verdict.rows]
    if passed(rows, "answers"):
        order = _order(name, examples, verdict.outputs)
        judging = await run({"judge.json": order}, [*TRIAL, "judge", "judge.json"], limits=TRYING, needed=(), payer=payer)
        judged = _said(judging)
        rows = [row for row in rows if row["check"] != "answers"]
        rows += [check(row.check, row.ok, row.detail) for row in judged.rows] if judged is not None else [_unsaid(judging)]
    return [*rows, confined(outcome)]


class _Row(msgspec.Struct):
    check: str
    ok: bool | None
    detail: str


class _Verdict(msgspec.Struct):
    rows: list[_Row]
    outputs: list[dict[str, tuple[str, list[int], bytes]]] = []


def _order(name: str, examples: Sequence[Mapping[str, Any]], outputs: Sequence[Any] = ()) -> str:
    return msgspec.json.encode({"operation": name, "examples": list(examples), "outputs": list(outputs)}).decode()


def _said(outcome: Outcome) -> _Verdict | None:
    """The last line; None where it is none, or the process did not end as it should."""
    if not outcome.ok:
        return None
    try:
        return msgspec.json.decode((outcome.output.splitlines() or [""])[-1], type=_Verdict)
    except msgspec.DecodeError:
        return None


def _unsaid(outcome: Outcome) -> Check:
    return check("run", None if outcome.refused else False, outcome.why or "it ended before its examiner had an answer")


def confined(outcome: Outcome) -> Check:
    """Not about the code: what kept it in while it ran."""
    if outcome.refused:
        return check("confined", None, outcome.why)
    kept = "; ".join(
        f"{name}: {how}" for name, how in sorted(outcome.enforced.items()) if name in ("network", "files", "processes", "disk", "memory")
    )
    lacking = "; ".join(f"{name} NOT enforced ({why})" for name, why in sorted(outcome.missing.items()))
    return check("confined", True if not outcome.missing else None, "; ".join(filter(None, (kept, lacking))))


async def client(code: str, *, trusted: bool, payer: Context | None = None) -> tuple[list[Check], str]:
    """Run against a runtime in its own process, in the sandbox; and what it printed."""
    found = [reads(code, "client")]
    if not found[0]["ok"]:
        return found, ""
    typed, outcome = await asyncio.gather(
        types(code, "program.py", trusted=trusted, payer=payer),
        run({"program.py": code}, ["program.py"], limits=TRYING, needed=() if trusted else DOORS, payer=payer),
    )
    ran = check("run", None if outcome.refused else outcome.ok, outcome.why or "it ran to its end against a runtime of its own")
    if ran["ok"] is False:
        ran = check("run", False, f"{outcome.why}\n{outcome.errors[-1500:]}")
    return [*found, typed, ran, confined(outcome)], outcome.output


_FAILED = re.compile(r"^(?:FAILED|ERROR) \S+?::(test_\w+)\[(\w+)(.*)$", re.MULTILINE)


class Failing(msgspec.Struct, frozen=True):
    """A case of the suite that failed: the operation, and the dtypes in it."""

    test: str
    operation: str
    dtypes: frozenset[str]


async def backend(
    code: str, name: str, target: str, module: str, *, trusted: bool, payer: Context | None = None
) -> tuple[list[Check], list[Failing]]:
    """`BackendSuite`, in the sandbox; and what failed in it."""
    found = [reads(code, "backend", name, frozenset({module, module.partition(".")[0]}))]
    if not found[0]["ok"]:
        return found, []
    if find_spec(module.partition(".")[0]) is None:
        return [*found, check("suite", None, f"{module} is not installed on the server")], []
    if find_spec("pytest") is None:
        return [*found, check("suite", None, "pytest is not installed on the server")], []
    found.append(await types(code, f"openruntime_{name}.py", trusted=trusted, payer=payer))
    test = (
        "from typing import ClassVar\n\nfrom openruntime.contracts.interfaces import ComputeBackend\n"
        "from openruntime.contracts.registry import BACKENDS\nfrom openruntime.testing.backend_suite import BackendSuite\n\n\n"
        "class TestIt(BackendSuite):\n"
        f"    backend_class: ClassVar[type[ComputeBackend]] = BACKENDS.load({name!r})\n"
    )
    files = {f"site/openruntime_{name}.py": code, "test_it.py": test, **registered(name, "backends", target)}
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "-rf", "test_it.py"]
    outcome = await run(files, command, limits=SUITE, needed=() if trusted else DOORS, payer=payer)
    last = (outcome.output.strip().splitlines() or [""])[-1]
    failing = [
        Failing(hit[1], hit[2], frozenset(name for name in ITEMSIZE if re.search(rf"\b{name}\b", hit[3]))) for hit in _FAILED.finditer(outcome.output)
    ]
    ok = None if outcome.refused else outcome.ok and " passed" in last
    detail = last if outcome.ok or outcome.status == 1 else f"{outcome.why} {outcome.errors[-800:]}{outcome.output[-800:]}"
    return [*found, check("suite", ok, detail), confined(outcome)], failing


async def kernel(context: Context, request: Mapping[str, Any], *, keep: bool = True) -> list[Check]:
    """Compiled and verified by the server, in its kernels' own process, against the reference; not kept unless it does what it should."""
    try:
        made = await context.client.post("/kernels", dict(request))
    except CompileError as error:
        return [check("compile", False, f"{error.message}\n{error.log or ''}")]
    except OpenRuntimeError as error:
        absent = error.code in ("no_such_device", "unavailable")
        return [check("compile", None if absent else False, error.message)]
    name = request["name"]
    found = [check("compile", True, f"compiled on {made['compiled'].get('device')} by {made['compiled'].get('backend')}")]
    try:
        task = await context.client.post(f"/kernels/{name}/verify", {})
        state = await _ended(context, task["task_id"])
        if state["status"] == "completed":
            report = await context.client.get(f"/kernels/{name}/verify", task_id=task["task_id"])
            found.append(check("verified", bool(report["ok"]), f"{report['verdict']} {'; '.join(map(str, report.get('findings', [])))}"))
        else:
            found.append(check("verified", False, state.get("error") or state["status"]))
    except OpenRuntimeError as error:
        found.append(check("verified", False, error.message))
    finally:  # a run that is cut off before it is verified leaves it behind no more than one that sees it is wrong
        if not passed(found, "verified") or not keep:
            with suppress(NotFound):
                await context.client.delete(f"/kernels/{name}")
    return found


async def _ended(context: Context, task_id: str) -> dict[str, Any]:
    while True:
        state: dict[str, Any] = await context.client.get(f"/tasks/{task_id}", wait=10)
        if state["status"] in ("completed", "failed", "cancelled"):
            return state
