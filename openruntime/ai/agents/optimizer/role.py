"""Optimizer: makes an operation, an expression or a kernel faster.

`parameters` of its request name what: `kernel` (with `sizes`, `baseline`, `keep`), `formula` or `formulas` (with `arrays` or `shapes`, `finite`), or
`operation` (with `arrays` or `shapes`, `parameters`, `device`). A kernel may also be named in the prompt.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openruntime.ai.agents.analyst.facts import RATIO, known, shown
from openruntime.ai.agents.analyst.words import under_verdict
from openruntime.ai.agents.experiments import Bench, Request
from openruntime.ai.agents.optimizer.candidates import Draft
from openruntime.ai.agents.optimizer.findings import NOTHING, Optimization, summary, told, verdict
from openruntime.ai.agents.optimizer.kernels import KernelOptimizer
from openruntime.ai.agents.optimizer.kernels import optimize_kernel as optimize
from openruntime.ai.agents.optimizer.operations import optimize_formulas, optimize_operation
from openruntime.ai.agents.tools import LOOKING, run_operation
from openruntime.contracts.agents import Artifact, Budget, Context, Fact, Role
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError
from openruntime.contracts.models import WorkflowType

OBJECTS, TEXTS = ("arrays", "parameters", "sizes"), ("baseline", "device")  # what those of its parameters must be
PROPOSALS = 3  # candidates that a model is asked for
ASKING = """Write up to {most} faster versions of this {what}. Each must compute exactly the same for every input. Answer with JSON only.
{about}
What was tried so far:
{tried}
"""
_KERNELS: dict[str, Any] = {
    "type": "object", "required": ["candidates"],
    "properties": {"candidates": {"type": "array", "maxItems": PROPOSALS, "items": {
        "type": "object", "required": ["what", "source"],
        "properties": {
            "what": {"type": "string"}, "source": {"type": "string"}, "grid": {"type": "array"}, "local": {"type": "array"},
            "options": {"type": "array", "items": {"type": "string"}},
        },
    }}},
}  # fmt: skip
_FORMULAS: dict[str, Any] = {
    "type": "object", "required": ["formulas"],
    "properties": {"formulas": {"type": "array", "maxItems": PROPOSALS, "items": {"type": "string"}}},
}  # fmt: skip
SEND = (
    'Nothing was named to be made faster. Send in `parameters` either `{"kernel": name, "sizes": {symbol: number}}`, or `{"formula": text, '
    '"shapes": {array: shape}}`, or `{"operation": name, "shapes": {array: shape}, "parameters": {…}}`; `arrays` with tensors in place of '
    "`shapes` where the numbers matter."
)


async def work(context: Context) -> None:
    """Everything that can be known without a model, in `context.report`."""
    given = context.request.parameters or {}
    for field in (*OBJECTS, *TEXTS):
        if field in given and not isinstance(given[field], Mapping if field in OBJECTS else str):
            kind = "an object" if field in OBJECTS else "a text"
            raise InvalidParameter(f"`parameters.{field}` must be {kind}, not {given[field]!r:.60}", field=field)
    found = Optimization("", "")
    bench = Bench(context.client)
    try:
        name = given.get("kernel") or await _named(context)
        if name is not None:
            await _kernel(context, bench, found, str(name), given)
        elif "formula" in given or "formulas" in given:
            formulas = given["formulas"] if "formulas" in given else {"result": given["formula"]}
            if not isinstance(formulas, Mapping) or not formulas or not all(isinstance(formula, str) for formula in formulas.values()):
                raise InvalidParameter("`parameters.formulas` must be an object of names and formulas, the last one the result", field="formulas")
            finite = given.get("finite", False)
            if not isinstance(finite, bool):  # "false" would be true, and what is verified with NaN and infinities no longer
                raise InvalidParameter(f"`parameters.finite` must be true or false, not {finite!r:.60}", field="finite")
            arrays = await _arrays(bench, given)
            await optimize_formulas(bench, formulas, arrays, finite=finite, found=found, propose=lambda formula: _more_formulas(context, formula))
        elif "operation" in given:
            parameters = {**given.get("parameters", {}), **await _arrays(bench, given)}
            await optimize_operation(bench, str(given["operation"]), parameters, given.get("device"), found=found)
    finally:
        _fill(context, found)


async def _named(context: Context) -> str | None:
    """A kernel that the prompt names."""
    if (context.request.parameters or {}).keys() & {"formula", "formulas", "operation"}:
        return None
    words = set(re.findall(r"[A-Za-z_]\w*", context.request.prompt))
    known = [kernel["name"] for kernel in (await context.client.get("/kernels"))["kernels"] if kernel["name"] in words]
    return known[0] if len(known) == 1 else None


async def _kernel(context: Context, bench: Bench, found: Optimization, name: str, given: Mapping[str, Any]) -> None:
    def left() -> float:
        budget, spent = context.budget, context.spent
        used = (spent.seconds / budget.seconds, spent.device_seconds / budget.device_seconds, spent.tasks / budget.tasks)
        return 1.0 - max(used)

    optimizer = KernelOptimizer(
        bench, name, given.get("sizes"), baseline=given.get("baseline"), approve=context.approve, progress=context.progress, left=left, found=found
    )
    await optimize(optimizer, propose=lambda known: _more_kernels(context, known), keep=str(given.get("keep", "replace")))


async def _arrays(bench: Bench, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those given, and random ones on the server for `shapes`, of `dtype`."""
    arrays = dict(given.get("arrays", {}))
    dtype = str(given.get("dtype", "float32"))
    shapes = given.get("shapes", {})
    if not isinstance(shapes, Mapping):
        raise InvalidParameter("`parameters.shapes` must be an object of arrays' names and shapes", field="shapes")
    for seed, (name, shape) in enumerate(shapes.items()):
        made = await bench.must(Request("uniform", {"shape": shape, "seed": seed, "low": 0.1, "high": 2.0, "dtype": dtype}))
        arrays[name] = {"task": made["task_id"]}
    return arrays


def _fill(context: Context, found: Optimization) -> None:
    """Into the report; below what another target gave."""
    report = context.report
    earlier = report.data.get("verdict")
    if not found.target:
        report.summary = report.summary or SEND
        report.data["verdict"] = earlier or NOTHING
        return
    report.summary = "\n\n".join(filter(None, ("" if report.summary == SEND else report.summary, summary(found))))
    told_ = "\n".join(filter(None, (earlier if earlier != NOTHING else "", verdict(found))))
    report.data |= msgspec.to_builtins(found) | {"gain": found.gain, "verdict": told_}
    known(context, found.target)
    tried = [candidate for candidate in found.candidates if candidate.reason is None or candidate.tasks]
    report.facts.append(Fact("candidates tried", len(tried), "candidates"))
    report.facts.append(Fact("candidates rejected", sum(not candidate.verified for candidate in tried), "candidates"))
    if found.baseline is not None:
        source = _source(found.baseline.tasks)
        known(context, found.baseline.device)
        report.facts.append(Fact("baseline", found.baseline.median, "s", source, f"median of {found.baseline.runs} runs"))
        if found.baseline.achieved.get("fraction") is not None:
            report.facts.append(Fact("baseline's fraction of the roofline", found.baseline.achieved["fraction"], RATIO, source))
    best = found.best
    source = _source(best.tasks) if best else ""
    report.facts.append(Fact("gain", found.gain, "times", source, told(best.confirmed) if best else "nothing is claimed"))
    if best is not None and best.confirmed is not None:
        report.facts.append(Fact("gain at least", best.confirmed.low, "times", source))
        report.facts.append(Fact("gain at most", best.confirmed.high, "times", source))
    if best is not None and best.measured is not None:
        known(context, best.measured.device)
        report.facts.append(Fact("winner", best.measured.median, "s", source, best.what))
        if best.measured.achieved.get("fraction") is not None:
            report.facts.append(Fact("winner's fraction of the roofline", best.measured.achieved["fraction"], RATIO, source))
        if best.source:
            checks = [{"check": "verified", "ok": True, "detail": best.what}, {"check": "measured", "ok": True, "detail": told(best.confirmed)}]
            report.artifacts.append(Artifact(found.target, best.source, "opencl" if found.kind == "kernel" else "formula", checks))


def _source(tasks: Sequence[str]) -> str:
    return f"/tasks/{tasks[-1]}" if tasks else ""


async def _proposed(context: Context, what: str, about: str, tried: str, schema: Mapping[str, Any]) -> Any:
    """What a model proposes, as data; nothing of it is run here."""
    if context.model is None:
        return {}
    prompt = ASKING.format(most=PROPOSALS, what=what, about=about, tried=tried or "nothing")
    try:
        answer = msgspec.json.decode(await context.model.write(prompt, schema=schema))
    except (msgspec.DecodeError, OpenRuntimeError):
        return {}
    return answer if isinstance(answer, dict) else {}


async def _more_kernels(context: Context, known: KernelOptimizer) -> list[Draft]:
    kernel = known.kernel
    about = f"Entry point {kernel['name']}, grid {kernel['grid']}, local {kernel['local']}, OpenCL C:\n{kernel['source']}"
    tried = "\n".join(f"- {c.what}: {told(c.gain) if c.verified else c.reason}" for c in known.found.candidates)
    answer = await _proposed(context, "kernel", about, tried, _KERNELS)
    drafts = []
    for entry in answer.get("candidates", [])[:PROPOSALS] if isinstance(answer.get("candidates"), list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("source"), str):
            changes = {name: entry[name] for name in ("source", "grid", "local", "options") if isinstance(entry.get(name), str | list)}
            drafts.append(Draft(str(entry.get("what") or "another source")[:200], changes, "model"))
    return drafts


async def _more_formulas(context: Context, formula: str) -> list[str]:
    answer = await _proposed(context, "elementwise formula", formula, "", _FORMULAS)
    listed = answer.get("formulas")
    return [str(entry) for entry in listed[:PROPOSALS]] if isinstance(listed, list) else []


async def optimize_kernel(context: Context, name: str, sizes: dict[str, int] | None = None) -> Any:
    """Make a registered kernel faster for sizes (a number for each symbol of its shapes): what was tried, verified, measured; the gain."""
    found = Optimization("", "")
    try:
        await _kernel(context, Bench(context.client), found, name, {"sizes": sizes, "keep": "new"})
    finally:
        _fill(context, found)
    return {"gain": found.gain, "report": summary(found)}


async def optimize_formula(context: Context, formula: str, shapes: dict[str, list[int]], dtype: str = "float32", finite: bool = False) -> Any:
    """Find a faster way to write an elementwise formula, or a faster device for it, on arrays of these shapes."""
    bench, found = Bench(context.client), Optimization("", "")
    try:
        await optimize_formulas(bench, {"result": formula}, await _arrays(bench, {"shapes": shapes, "dtype": dtype}), finite=finite, found=found)
    finally:
        _fill(context, found)
    return {"gain": found.gain, "report": summary(found)}


ROLE = Role(
    name="optimizer",
    summary="Makes an operation, an expression or a kernel faster; only what was verified and measured counts.",
    workflows=(WorkflowType.COMPUTE_OPTIMIZATION,),
    prompt="You make computations faster. Only gains that the system has verified and measured count; never claim another.",
    scopes=frozenset({"tasks:read", "tasks:write", "kernels:write"}),
    asks=frozenset({"kernels:manage"}),
    tools=(*(shown(tool, f"the tool {tool.__name__}", cited=False) for tool in (*LOOKING, run_operation)), optimize_kernel, optimize_formula),
    budget=Budget(seconds=1200.0, device_seconds=900.0, tasks=2000),
    work=work,
    words=under_verdict,
)
