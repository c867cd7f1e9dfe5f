"""From facts to causes: each rule looks at what was collected, and says what it shows and how surely. Pure, so that each can be tested alone."""

import re
from collections.abc import Callable, Iterator, Sequence
from math import isfinite

from openruntime.ai.agents.debugger.findings import Cause, Diagnosis, Rerun, Statistics
from openruntime.ai.agents.experiments import EPSILON, seconds

SINGULAR = 0.1  # times the roundings of the dtype: a condition number beyond one over that is as good as singular
LARGEST = {"float16": 65504.0, "float32": 3.4028235e38, "bfloat16": 3.39e38, "float64": 1.797e308}
MOST_OF_IT = 0.5  # of its time, for something to be why a task was slow
WORTH = 1.5  # times faster elsewhere, or it is no reason
OFTEN = 3.0  # times longer than predicted


def causes(found: Diagnosis) -> list[Cause]:
    """Ranked: what the facts show first."""
    listed = [cause for rule in RULES for cause in rule(found)]
    best: dict[str, Cause] = {}
    for cause in listed:
        if cause.name not in best or best[cause.name].weight < cause.weight:
            best[cause.name] = cause
    return sorted(best.values(), key=lambda cause: -cause.weight)


def _error(found: Diagnosis) -> tuple[str, str]:
    return found.task.get("code") or "", found.task.get("error") or ""


def _said(found: Diagnosis) -> str:
    return f"the task's error says so: {_error(found)[1].splitlines()[0][:200]} (/tasks/{found.task_id})"


def _stated(array: Statistics, what: str) -> str:
    return f"`{array.name}` {what}" + (f" (task {array.tasks[-1]})" if array.tasks else "")


def _ended(run: Rerun) -> str:
    return f"on {run.place}{' in float64' if run.how == 'float64' else ''} it {run.status}{f' ({run.code})' if run.code else ''} (task {run.task})"


def _again(found: Diagnosis) -> Rerun | None:
    return next((run for run in found.reruns if run.how == "again"), None)


def _others(found: Diagnosis) -> list[Rerun]:
    return [run for run in found.reruns if run.how not in ("again", "float64")]


def _double(found: Diagnosis) -> Rerun | None:
    return next((run for run in found.reruns if run.how == "float64"), None)


def singular(found: Diagnosis) -> Iterator[Cause]:
    code, error = _error(found)
    says = code == "operation_failed" and "singular" in error
    for array in found.inputs:
        rounding = EPSILON.get(array.dtype, EPSILON["float64"])
        if array.condition is not None and array.condition * rounding >= SINGULAR:
            deficient = array.rank is not None and array.rank < min(array.shape[-2:])
            what = f"has the condition number {array.condition:.2g}" + (f" and the rank {array.rank} of {min(array.shape[-2:])}" if deficient else "")
            evidence = [_stated(array, what)] + ([_said(found)] if says else [])
            failed = found.task.get("status") == "failed"
            yield Cause(
                "singular_matrix", f"the matrix `{array.name}` is singular{'' if deficient or says else ', as far as its dtype can tell'}",
                1.0 if says else 0.7 if failed or found.complaint == "wrong" else 0.4, evidence,
                "`lstsq` finds a least-squares solution; or the matrix lacks something that would make its rows independent",
            )  # fmt: skip
            return
    if says:
        yield Cause("singular_matrix", "a matrix is singular", 0.85, [_said(found)], "`lstsq` finds a least-squares solution")


def indefinite(found: Diagnosis) -> Iterator[Cause]:
    if "positive definite" in _error(found)[1]:
        told = [_stated(a, f"has the eigenvalue {a.eigenvalue:.3g}") for a in found.inputs if a.eigenvalue is not None and a.eigenvalue <= 0]
        told += [_stated(a, "is not symmetric") for a in found.inputs if a.symmetric is False]
        yield Cause("not_positive_definite", "the matrix is not positive definite", 1.0 if told else 0.9, [*told, _said(found)])


def strange_inputs(found: Diagnosis) -> Iterator[Cause]:
    bad = [array for array in found.inputs if array.nan or array.infinite]
    out = [array for array in found.outputs if array.nan or array.infinite]
    if not bad or found.complaint == "slow":
        return
    names = ", ".join(f"`{array.name}`" for array in bad)
    evidence = [_stated(a, f"holds {a.nan} NaN and {a.infinite} infinite of {a.size} numbers") for a in bad]
    evidence += [_stated(a, f"holds {a.nan} NaN and {a.infinite} infinite of {a.size} numbers") for a in out]
    failed = found.task.get("status") == "failed" and _error(found)[0] == "operation_failed"
    weight = 0.95 if out or (failed and "NaN" in _error(found)[1]) else 0.75 if failed else 0.5
    what = "NaN" if any(a.nan for a in bad) else "infinities"
    yield Cause(
        "nan_input" if what == "NaN" else "infinite_input", f"the input {names} holds {what}", weight, evidence, "look where that input comes from"
    )


def overflow(found: Diagnosis) -> Iterator[Cause]:
    out = [array for array in found.outputs if (array.nan or array.infinite) and array.dtype in LARGEST]
    if not out or any(array.nan or array.infinite for array in found.inputs):
        return
    double = _double(found)
    evidence = [_stated(a, f"holds {a.nan} NaN and {a.infinite} infinite of {a.size} numbers, though all inputs are finite") for a in out]
    weight, dtype = 0.6, out[0].dtype
    if double is not None and double.status == "completed" and double.strange == 0:
        evidence.append(f"the same call in float64 gives only finite numbers (task {double.task})")
        weight = 1.0
    elif double is not None and double.strange:
        weight = 0.3  # the numbers themselves have no finite answer
        evidence.append(f"in float64 too ({double.strange} numbers, task {double.task})")
    largest = max((array.magnitude for array in found.inputs), default=0.0)
    evidence.append(f"the largest magnitude among its inputs is {largest:.3g}; {dtype} ends at {LARGEST[dtype]:.3g}")
    name = f"overflow_{dtype}" if weight >= 0.6 else "no_finite_answer"
    told = f"a value overflows {dtype}" if weight >= 0.6 else "the formula has no finite value for some of these inputs"
    yield Cause(name, told, weight, evidence, "send the arrays as float64, or scale them" if weight >= 0.6 else "")


def precision(found: Diagnosis) -> Iterator[Cause]:
    double = _double(found)
    if double is None or double.apart is None or not isfinite(double.apart) or found.task.get("status") != "completed":
        return
    dtype = found.explain.get("dtype", "")
    if double.apart > max(1e-3, 1e4 * EPSILON.get(dtype, 1.0)):
        evidence = [f"in float64 the result differs by {double.apart:.2g} of its largest value (task {double.task})"]
        evidence += [_stated(a, f"has the condition number {a.condition:.2g}") for a in found.inputs if a.condition is not None and a.condition > 100]
        yield Cause(
            "precision", f"{dtype} is too coarse for this input", 0.8 if found.complaint == "wrong" else 0.5, evidence, "send the arrays as float64"
        )


def memory(found: Diagnosis) -> Iterator[Cause]:
    code, _ = _error(found)
    if code != "out_of_memory":
        return
    needed = (found.explain.get("estimate") or {}).get("memory") or 0
    evidence = [_said(found)] + ([f"the call is estimated to need {needed / 2**20:.0f} MiB (/tasks/{found.task_id}/explain)"] if needed else [])
    near = found.neighbours
    if near is not None and near.overlapping:
        evidence.append(f"{near.overlapping} other tasks were on {near.device} meanwhile")
    yield Cause("out_of_memory", "it ran out of memory", 1.0, evidence, "send less at once, a narrower dtype, or name a device with more memory")


def timeout(found: Diagnosis) -> Iterator[Cause]:
    code, error = _error(found)
    if code != "timeout":
        return
    given = re.search(r"`timeout` of ([\d.e+-]+) s", error)
    allowed = float(given[1]) if given else None
    predicted, stages = found.explain.get("predicted"), found.explain.get("stages") or {}
    usual = found.neighbours.usual if found.neighbours is not None else None
    evidence = [_said(found)]
    waited = stages.get("queue", 0.0)
    if "before it started" in error:
        if found.neighbours is not None and found.neighbours.overlapping:
            evidence.append(f"{found.neighbours.overlapping} other tasks were on {found.neighbours.device} meanwhile")
        yield Cause("waited_too_long", "its `timeout` was over before a device was free", 1.0, evidence, "a higher priority, or a longer `timeout`")
        return
    if allowed is not None and waited > MOST_OF_IT * allowed:
        evidence.append(f"it waited {seconds(waited)} of that for a device")
        yield Cause("waited_too_long", "most of its `timeout` was spent waiting", 0.9, evidence, "a higher priority, or a longer `timeout`")
        return
    for what, value in (("it was predicted to take", predicted), ("others of this operation took", usual)):
        if value and allowed is not None and value > 0.5 * allowed:
            evidence.append(f"{what} {seconds(value)} (/tasks/{found.task_id}/explain)")
    longer = next((run for run in found.reruns if run.status == "completed" and run.seconds), None)
    if longer is not None and longer.seconds and allowed is not None:
        evidence.append(f"with more time it completed in {seconds(longer.seconds)} (task {longer.task})")
    yield Cause(
        "timeout_too_short", "its `timeout` is shorter than what it needs", 0.95 if len(evidence) > 1 else 0.7, evidence, "a longer `timeout`"
    )


def crash(found: Diagnosis) -> Iterator[Cause]:
    code, error = _error(found)
    if code != "worker_crashed":
        return
    signal = re.search(r"SIG[A-Z]+", error)
    how = f"with {signal[0]}" if signal else "with " + (re.search(r"status \d+", error) or ["no signal"])[0]
    evidence = [f"the worker died {how}: {error[:300]} (/tasks/{found.task_id})"]
    again, others = _again(found), [run for run in _others(found) if run.status == "completed"]
    if again is not None:
        evidence.append(f"run again, {_ended(again)}")
    told = f"the operation ends its worker {how}"
    if again is not None and again.status == "completed":
        told += ", but not every time"
    evidence += [_ended(run) for run in others]
    past = found.device
    if past is not None:
        more = max(past.deaths - max(1, found.explain.get("worker_deaths") or 0), past.failed.get("worker_crashed", 0))
        if more > 0:
            evidence.append(f"{more} more workers of {past.device} died lately, so it may be the device (/devices/{past.device}, /metrics/history)")
    remedy = "on another backend it works" if others else "the last lines above are the worker's own; its author needs the smallest input below"
    if signal and signal[0] == "SIGKILL":
        evidence.append("SIGKILL comes from outside: the system out of memory, or a person")
    yield Cause("worker_crash", told, 1.0, evidence, remedy)


def dependency(found: Diagnosis) -> Iterator[Cause]:
    if _error(found)[0] == "dependency_failed":
        yield Cause("dependency", "a task whose result it uses failed", 1.0, [_said(found)], "debug that task")


def defect(found: Diagnosis) -> Iterator[Cause]:
    """An error that none of the above explains."""
    code, error = _error(found)
    if code != "operation_failed":
        return
    again, others = _again(found), _others(found)
    good = [run for run in others if run.status == "completed"]
    if again is not None and again.status == "completed":
        yield Cause("not_reproducible", "it fails only sometimes", 0.7, [_said(found), f"run again, {_ended(again)}"], "`max_retries`")
    elif good:
        told = f"{found.explain.get('backend')} fails where {', '.join(run.place for run in good)} does not"
        yield Cause("backend", told, 0.8, [_said(found), *map(_ended, good)], f"`device_preference`: {good[0].place}")
    else:
        weight = 0.45 if again is None else 0.6
        yield Cause("operation_error", f"the operation refuses this input: {error.splitlines()[0][:200] if error else code}", weight, [_said(found)])


def wrong_kernel(found: Diagnosis) -> Iterator[Cause]:
    verdict, reference = found.verification, found.reference
    if verdict is not None and not verdict["ok"]:
        evidence = [f"{verdict['verdict']} (task {verdict['task_id']})"]
        if reference is not None and reference.get("apart"):
            evidence.append(f"on these inputs it differs by {reference['apart']:.2g} of the largest value (task {reference['task']})")
        yield Cause("wrong_kernel", "the kernel does not compute what its reference does", 1.0, evidence, "mend the kernel, then verify it")
    elif reference is not None and reference.get("apart") and reference["apart"] > reference["allowed"]:
        what = f"it differs from {reference['what']} by {reference['apart']:.2g} of the largest value (task {reference['task']})"
        yield Cause("differs_from_reference", "the result differs from what was expected", 0.7, [what])


def disagreement(found: Diagnosis) -> Iterator[Cause]:
    """Backends that do not agree."""
    if found.task.get("status") != "completed" or found.complaint == "slow":
        return
    rounding = EPSILON.get(found.explain.get("dtype", ""), 0.0)
    apart = [run for run in _others(found) if run.apart is not None and run.apart > max(1e3 * rounding, 1e-12)]
    if apart and rounding:
        told = [f"{run.place} differs by {run.apart:.2g} of the largest value (task {run.task})" for run in apart]
        yield Cause("backends_differ", "backends do not agree on the result", 0.65, told, "compare with the float64 result")


def slow(found: Diagnosis) -> Iterator[Cause]:
    if found.complaint != "slow":
        return
    why = found.explain
    stages: dict[str, float] = why.get("stages") or {}
    whole = sum(stages.values())
    near = found.neighbours
    source = f"(/tasks/{found.task_id}/explain)"
    names = {
        "queue": ("slow_queue", "it waited for a device", "a higher priority, another device, or fewer tasks at once"),
        "compile": ("slow_compile", "it was compiled first", "the next calls of this shape do not pay for it"),
        "transfer": ("slow_transfer", "its arrays went to another memory and back", "keep the arrays as tensors, or run it where they are"),
        "batch": ("slow_batch", "it ran as one with others, and waited for them", ""),
    }
    for stage, (name, told, remedy) in names.items():
        share = stages.get(stage, 0.0) / whole if whole else 0.0
        if share >= MOST_OF_IT:
            evidence = [f"{stage} took {seconds(stages[stage])} of {seconds(whole)} {source}"]
            if stage == "queue" and near is not None:
                evidence.append(f"{near.overlapping} other tasks were on {near.device} meanwhile, with {seconds(near.busy)} of computing")
            yield Cause(name, f"most of its time {told}", 0.6 + 0.4 * share, evidence, remedy)
    again = _again(found)
    here = again.seconds if again is not None and again.seconds else why.get("actual")
    faster = sorted((run.seconds, run) for run in _others(found) if run.status == "completed" and run.seconds) if here else []
    if faster and here and here / faster[0][0] >= WORTH:
        took, run = faster[0]
        what = f"on {run.place} the same call took {seconds(took)}, here {seconds(here)} (task {run.task})"
        yield Cause("slow_place", f"{run.place} is faster for it", min(0.9, 0.4 + 0.1 * here / took), [what], f"`device_preference`: {run.place}")
    double = found.explain.get("dtype") in ("float64", "complex128")
    if double and (why.get("actual") or 0.0) >= MOST_OF_IT * whole:
        told = "it computes in float64, which costs twice as much memory and time as float32"
        evidence = [f"its dtype is {found.explain['dtype']} {source}; lists in JSON always are"]
        yield Cause("wide_dtype", told, 0.4, evidence, "send float32 as bytes where that is enough")
    predicted, actual = why.get("predicted"), why.get("actual")
    if predicted and actual and actual / predicted >= OFTEN:
        evidence = [f"it was predicted to take {seconds(predicted)} and took {seconds(actual)} {source}"]
        if near is not None and near.overlapping:
            evidence.append(f"{near.overlapping} other tasks ran on {near.device} meanwhile")
        if again is not None and again.seconds and again.seconds * 2 < actual:
            evidence.append(f"run again alone it took {seconds(again.seconds)} (task {again.task})")
            yield Cause("busy_machine", "the machine was busy with other work", 0.75, evidence)
        else:
            yield Cause("misjudged", "it takes longer than was predicted", 0.5, evidence)
    if whole and stages.get("compute", 0.0) >= MOST_OF_IT * whole:
        achieved = why.get("achieved") or {}
        evidence = [f"computing took {seconds(stages['compute'])} of {seconds(whole)} {source}"]
        if achieved.get("fraction") is not None:
            evidence.append(f"that is {achieved['fraction']:.1%} of what the roofline allows there ({achieved.get('bound')})")
        yield Cause("compute", "most of its time it computed", 0.45, evidence, "the optimizer may make it faster")


RULES: Sequence[Callable[[Diagnosis], Iterator[Cause]]] = (
    dependency, crash, memory, timeout, singular, indefinite, strange_inputs, overflow, precision, wrong_kernel, disagreement, slow, defect,
)  # fmt: skip
