"""Makes an operation, a formula or several formulas faster: by another device or library, by algebra, as one formula, in batches."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import isinf
from statistics import median
from struct import pack
from typing import Any
from urllib.parse import quote

from openruntime.ai.agents.experiments import EPSILON, Bench, Request, Times, problem, ratio, seconds
from openruntime.ai.agents.optimizer.findings import Candidate, Measured, Optimization, choose, compared, told
from openruntime.ai.agents.optimizer.formulas import composed, rewritings, variables
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError
from openruntime.contracts.payload import Array

ROUNDS = 9  # of the search
CONFIRMING = 15  # fresh rounds for the fastest
CONFIRMED = 2  # candidates that get them
TOLERANCE = 64.0  # roundings of the output's dtype that two libraries may differ by, times the root of what is summed
BATCH = 16  # tasks in the trial of batching
SHORT = 2e-3  # seconds: of longer tasks the way to the server matters little
SPECIAL = (
    float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 1e-3, 1e3, -1e3, 1e-20, -1e-20, 1e20, -1e20, 1e30, -1e30,
)  # fmt: skip
FORMATS = {"float16": "e", "float32": "f", "float64": "d"}


Propose = Callable[[str], Awaitable[Sequence[str]]]


async def optimize_operation(
    bench: Bench, operation: str, parameters: Mapping[str, Any], device: str | None = None, *, found: Optimization | None = None
) -> Optimization:
    """Every device and library that has it, against where it runs now. `device`: where it is bound to now; `found`: where to write what is found."""
    found = _begun(found, operation, "operation", {"parameters": _brief(parameters)})
    baseline = Request(operation, dict(parameters), device)
    first = await bench.must(baseline)
    here = f"{first['device_used']}/{first['backend']}"
    pinned = Request(operation, dict(parameters), here)
    found.locked = f"{operation} on {here}, task {first['task_id']}"
    variants: dict[str, Request] = {}
    for place in await _places(bench, operation):
        if place != here:
            variants[place] = Request(operation, dict(parameters), place)
            found.candidates.append(Candidate(place, f"on {place}"))
    if not variants:
        found.left_out.append(f"another device or library: nothing but {here} runs {operation} on this server")
    await _tried(bench, found, pinned, variants, first)
    await _batching(bench, found, pinned)
    return found


async def optimize_formulas(
    bench: Bench, formulas: Mapping[str, str], arrays: Mapping[str, Any], *, finite: bool = False, propose: Propose | None = None,
    found: Optimization | None = None,
) -> Optimization:  # fmt: skip
    """Algebra first, then other devices. Several formulas, of which later ones name earlier, become one, whose values in between never go to memory.

    `finite`: that inputs hold neither NaN nor infinities, so that nothing need be kept for them. `propose` asks a model for other ways to write it.
    Raises `InvalidParameter` for what is no formula."""
    whole = composed(formulas)
    target = whole if len(formulas) == 1 else "; ".join(f"{name} = {formula}" for name, formula in formulas.items())
    found = _begun(found, target, "expression", {"arrays": _brief(arrays), "finite": finite})
    others = [Candidate(other.formula, f"{other.what}: `{other.formula}`", source=other.formula) for other in rewritings(whole)]
    if not others:
        found.left_out.append("algebra: none of the known rewritings applies to this formula")
    for written in await propose(whole) if propose is not None else ():
        if written not in [other.source for other in others]:
            others.append(Candidate(written, f"`{written}`", "model", source=written))
    await _formulas(bench, found, formulas, others, arrays, finite=finite)
    return found


def _begun(found: Optimization | None, target: str, kind: str, about: dict[str, Any]) -> Optimization:
    found = found or Optimization("", "")
    found.target, found.kind, found.about = target, kind, about
    return found


async def _formulas(
    bench: Bench, found: Optimization, formulas: Mapping[str, str], others: Sequence[Candidate], arrays: Mapping[str, Any], *, finite: bool
) -> None:
    whole = composed(formulas)
    used = variables(whole)
    baseline = Request("expression", {"formula": whole, **{name: value for name, value in arrays.items() if name in used}})
    first = await bench.must(baseline)
    here = f"{first['device_used']}/{first['backend']}"
    pinned = Request("expression", baseline.parameters, here)
    found.locked = f"the formula on {here}, task {first['task_id']}"
    if len(formulas) > 1:
        await _fused(bench, found, formulas, pinned)
    variants: dict[str, Request] = {}
    for candidate in others:
        found.candidates.append(candidate)
        try:
            if variables(candidate.source) != used:
                candidate.reason = "it does not use the same arrays, so what NaN in them gives would be lost"
                continue
            await _check_formula(bench, candidate, whole, candidate.source, pinned, finite=finite)
        except OpenRuntimeError as error:
            candidate.reason = problem(error)
        if candidate.verified:
            variants[candidate.name] = Request("expression", {**pinned.parameters, "formula": candidate.source}, here)
    for place in await _places(bench, "expression"):
        if place != here:
            variants[place] = Request("expression", pinned.parameters, place)
            found.candidates.append(Candidate(place, f"the same formula on {place}"))
    await _tried(bench, found, pinned, variants, first)
    await _batching(bench, found, pinned)


async def _places(bench: Bench, operation: str) -> list[str]:
    """`DEVICE/BACKEND` wherever it runs."""
    devices = (await bench.client.get("/devices"))["devices"]
    having = (await bench.client.get(f"/operations/{quote(operation, safe='')}")).get("backends", [])
    return [f"{device['id']}/{backend}" for device in devices for backend in device["backends"] if backend in having]


async def _tried(bench: Bench, found: Optimization, pinned: Request, variants: dict[str, Request], first: Mapping[str, Any]) -> None:
    """Verify what runs elsewhere, measure all in turns, confirm the fastest in fresh rounds."""
    own = {candidate.name: candidate for candidate in found.candidates}
    running: dict[str, Request] = {}
    for name, request in variants.items():
        candidate = own[name]
        try:
            if not candidate.verified:
                await _check_place(bench, candidate, request, first)
            if candidate.verified:
                running[name] = request
        except OpenRuntimeError as error:
            candidate.verified, candidate.reason = False, problem(error)
    times = await bench.measured({"": pinned, **running}, ROUNDS)
    found.baseline = Measured.of(times[""])
    for name in running:
        compared(own[name], times[""], times[name], confirmed=False)
    fastest = sorted(running, key=lambda name: times[name].median)[:CONFIRMED]
    fastest = [name for name in fastest if (gain := own[name].gain) is not None and gain.value > 1.0]
    if fastest:
        again = await bench.measured({"": pinned, "control": pinned, **{name: running[name] for name in fastest}}, CONFIRMING)
        found.baseline = Measured.of(again[""])
        found.control = ratio(again[""].seconds, again["control"].seconds)
        for name in fastest:
            compared(own[name], again[""], again[name], confirmed=True)
        if found.control.low > 1.0 or found.control.high < 1.0:
            for name in fastest:
                own[name].confirmed, own[name].reason = None, "the machine was too busy to tell: the baseline seemed faster than itself"
    choose(found)


async def _check_place(bench: Bench, candidate: Candidate, request: Request, first: Mapping[str, Any]) -> None:
    other = await bench.must(request)
    for output, value in first["result"].items():
        shape, dtype = _described(value), _described(other["result"][output])
        if shape != dtype:
            candidate.reason = f"its `{output}` has another dtype or shape"
            return
        one, two = ({"task": task["task_id"], "output": output} for task in (first, other))
        apart = await bench.difference(one, two)
        allowed = TOLERANCE * EPSILON.get((await bench.explain(first["task_id"]))["dtype"], 0.0)
        if apart > allowed:
            candidate.reason = f"its `{output}` differs by {apart:.2g} of the largest value, more than {allowed:.2g}"
            return
    candidate.verified = True


def _described(value: Any) -> Any:
    """dtype and shape of a result that is kept as a tensor; of a list its length."""
    if isinstance(value, Mapping) and "tensor" in value:
        return value["dtype"], tuple(value["shape"])
    return len(value) if isinstance(value, list) else "number"


async def _check_formula(bench: Bench, candidate: Candidate, before: str, after: str, pinned: Request, *, finite: bool) -> None:
    """Against the formula in double precision, on the caller's arrays and on special numbers: no worse than the formula itself, but for rounding."""
    given = {name: value for name, value in pinned.parameters.items() if name != "formula"}
    dtype = (await bench.explain((await bench.must(pinned))["task_id"]))["dtype"]
    if dtype not in FORMATS:
        candidate.reason = f"rewriting is checked for real floating-point arrays, not {dtype}"
        return
    arrays = sorted(name for name, value in given.items() if not isinstance(value, bool | int | float))
    special = await _special(bench, arrays, dtype)
    for where, parameters in (("the arrays given", given), ("special numbers", {**given, **special})):
        known = await _outputs(bench, before, after, parameters, arrays, dtype)
        apart = await bench.difference(known["before"], known["after"])
        if isinf(apart) and not finite:
            candidate.reason = f"on {where} NaN, infinities or overflow stand elsewhere; where all numbers are finite and moderate, say `finite`"
            return
        if where == "special numbers" and finite:
            continue
        errors = {name: await bench.difference(known["exact"], known[name]) for name in ("before", "after")}
        allowed = max(4 * errors["before"], 8 * EPSILON[dtype])
        if errors["after"] > allowed:
            candidate.reason = f"on {where} its error is {errors['after']:.2g} of the largest value, and the formula's own {errors['before']:.2g}"
            return
    candidate.verified = True


async def _outputs(
    bench: Bench, before: str, after: str, parameters: Mapping[str, Any], arrays: Sequence[str], dtype: str
) -> dict[str, dict[str, Any]]:
    """Of both formulas, and of the first in double precision."""
    wide = dict(parameters)
    if dtype != "float64":
        for name in arrays:
            if not isinstance(parameters[name], Mapping):
                raise InvalidParameter(f"`{name}` must be a tensor or a task's output to be compared in double precision", field=name)
            wide[name] = await bench.widened(parameters[name], dtype)
    requests = {"before": (before, parameters), "after": (after, parameters), "exact": (before, wide)}
    return {
        name: {"task": (await bench.must(Request("expression", {"formula": formula, **given})))["task_id"]}
        for name, (formula, given) in requests.items()
    }


async def _special(bench: Bench, arrays: Sequence[str], dtype: str) -> dict[str, Any]:
    """Numbers that break what only seems to be the same, each array's in another order, so that they meet."""
    found = {}
    top = 6e4 if dtype == "float16" else 3e38
    values = [value if not abs(value) > top or isinf(value) else top for value in SPECIAL] * len(SPECIAL)
    for place, name in enumerate(arrays):
        own = values if place == 0 else [values[(i // len(SPECIAL)) * place % len(SPECIAL)] for i in range(len(values))]
        found[name] = await bench.upload(Array(dtype, (len(own),), pack(f"<{len(own)}{FORMATS[dtype]}", *own)))
    return found


async def _fused(bench: Bench, found: Optimization, formulas: Mapping[str, str], pinned: Request) -> None:
    """How long they take one after the other: what one formula is to be compared with."""
    chain, single = Times([], []), Times([], [])
    for number in range(ROUNDS + 1):
        took, tasks = 0.0, []
        known: dict[str, Any] = {}
        for name, formula in formulas.items():
            used = variables(formula)
            given = {other: value for other, value in {**pinned.parameters, **known}.items() if other in used}
            done = await bench.must(Request("expression", {"formula": formula, **given}, pinned.device))
            took += (await bench.explain(done["task_id"]))["actual"]
            known[name] = {"task": done["task_id"]}
            tasks.append(done["task_id"])
        one = await bench.must(pinned)
        if number:  # the first warms up
            chain.seconds.append(took)
            chain.tasks += tasks
            single.seconds.append((await bench.explain(one["task_id"]))["actual"])
            single.tasks.append(one["task_id"])
    gain = ratio(chain.seconds, single.seconds)
    verdict = f"is {told(gain)} as fast as" if gain.counts else f"is not measurably faster ({told(gain)}) than"
    found.advice.append(
        f"One formula, `{pinned.parameters['formula']}`, {verdict} the {len(formulas)} one after the other ({seconds(median(single.seconds))} "
        f"against {seconds(median(chain.seconds))} on {pinned.device}, {len(single.seconds)} rounds in turns). It is the baseline below."
    )


async def _batching(bench: Bench, found: Optimization, pinned: Request) -> None:
    """Whether many of them are better sent together: seconds by the clock, the way to the server included."""
    if found.baseline is None or found.baseline.median > SHORT:
        found.left_out.append(f"sending many at once: tasks longer than {seconds(SHORT)} gain little from it")
        return
    body = {"operation": pinned.operation, "parameters": pinned.parameters, "device_preference": pinned.device}
    apart, together = [], []
    for number in range(7):
        begun = time.monotonic()
        for _ in range(BATCH):
            await bench.must(pinned)
        between = time.monotonic()
        answer = await bench.client.post("/tasks/batch", {"tasks": [body] * BATCH}, wait=10.0, headers={"Cache-Control": "no-store"})
        for task in answer["tasks"]:
            await bench.ended(task)
        if number:
            apart.append(between - begun)
            together.append(time.monotonic() - between)
    gain = ratio(apart, together)
    if gain.counts:
        found.advice.append(
            f"Many of them are better sent together: {BATCH} in one `POST /tasks/batch` take {seconds(median(together))}, one after the other "
            f"{seconds(median(apart))} ({told(gain)}, by the clock)."
        )


def _brief(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without long lists."""
    return {name: f"a list of {len(value)}" if isinstance(value, list) and len(value) > 8 else value for name, value in parameters.items()}
