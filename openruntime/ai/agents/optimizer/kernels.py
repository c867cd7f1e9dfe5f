"""Makes a kernel faster: the tuner and known transformations first, a model's candidates after, each against a copy of the kernel that is locked.

A candidate is a kernel of its own for a while: the server compiles it, verifies it and measures it in turns with the baseline, in a process of its
own. Here it is text and nothing else.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any
from urllib.parse import quote

from openruntime.ai.agents.experiments import Bench, Ratio, Request, believed, problem
from openruntime.ai.agents.optimizer.candidates import FAST, Document, Draft, current, fields, first, known, measured_of, renamed, settled, stands
from openruntime.ai.agents.optimizer.findings import Candidate, Optimization, choose
from openruntime.contracts.agents import BudgetSpent
from openruntime.contracts.errors import Forbidden, NotFound, OpenRuntimeError, error_class

SEARCHING, CONFIRMING = 5, 15  # rounds of a tuning
AGAIN = 2  # fresh tunings, each in a new process with other inputs, that all have to agree
ATTEMPTS = 5  # candidates that may turn out to be wrong then
CONFIRMED = 2  # candidates that get them
LIMIT = 90.0  # seconds of one tuning
SEARCH_UNTIL, CONFIRM_UNTIL = 0.45, 0.15  # fractions of the budget that have to be left
WORTH = 1.02  # below, a gain is not worth another kernel
Approve = Callable[[str, str, str, Any], Awaitable[Any]]


class Wrong(Exception):
    """A candidate that other inputs show to be wrong."""


class KernelOptimizer:
    """For one kernel. `baseline`: another with the same signature to be compared with; `approve` asks a person, where there is one."""

    def __init__(
        self, bench: Bench, name: str, sizes: Mapping[str, int] | None = None, *, baseline: str | None = None, approve: Approve | None = None,
        progress: Callable[[float | None, str], None] = lambda *_: None, left: Callable[[], float] = lambda: 1.0,
        found: Optimization | None = None,
    ) -> None:  # fmt: skip
        """`left`: what fraction of the budget is left; `found`: where to write what is found."""
        self._left = left
        self._bench, self._name, self._against, self._approve, self._progress = bench, name, baseline or name, approve, progress
        self._sizes = None if sizes is None else dict(sizes)
        self._tag = secrets.token_hex(3)
        self._made: list[str] = []
        self._drafts: dict[str, Draft] = {}
        self._digests: set[str] = set()
        self.kernel: Document = {}
        self.found = Optimization("", "") if found is None else found
        self.found.target, self.found.kind = name, "kernel"

    async def open(self) -> None:
        """Lock the baseline. Raises `NotFound`; `OperationFailed` and the like where it cannot be measured."""
        self.kernel = await self._get(self._name)
        other = self.kernel if self._against == self._name else await self._get(self._against)
        source = settled(other["source"], current(other, self._sizes))
        self._locked = await self._add({**fields(other), "source": source}, other["name"], "locked")
        self.found.about = {"signature": self.kernel["signature"], "version": self.kernel["version"], "sizes": self._sizes}

    async def close(self) -> None:
        """Give up what was only registered to be measured."""
        for name in self._made:
            with suppress(OpenRuntimeError, BudgetSpent):
                await self._bench.client.delete(f"/kernels/{quote(name, safe='')}")
        self._made.clear()

    async def search(self) -> None:
        """The tuner and every known transformation that applies."""
        if self.kernel.get("reference") is None:
            self.found.left_out.append("anything: the kernel names no `reference`, and what cannot be verified is not measured")
            return
        drafts = known(self.kernel, self.found.left_out)
        for number, draft in enumerate(drafts):
            self._progress(0.6 * number / len(drafts), draft.what)
            await self.attempt(draft)
        best = self._fastest(1)
        if best:
            draft = self._drafts[best[0].name]
            source = settled(draft.changes.get("source") or self.kernel["source"], best[0].values or {})
            options = [*(draft.changes.get("options") or self.kernel["options"]), FAST]
            await self.attempt(Draft(f"{best[0].what}, and with {FAST}", {**draft.changes, "source": source, "options": options}))

    async def attempt(self, draft: Draft) -> Candidate:
        """Compile, verify, search its constants, measure. What fails is a candidate that is out, with the reason."""
        candidate = Candidate("", draft.what, draft.by, source=draft.changes.get("source", ""))
        if self._left() < SEARCH_UNTIL:
            self.found.left_out.append(f"{draft.what}: what is left of the budget is for measuring the best again")
            return candidate
        self.found.candidates.append(candidate)
        try:
            candidate.name = await self._add({**fields(self.kernel), "source": self.kernel["source"], **draft.changes}, self._name, "try")
            self._drafts[candidate.name] = draft
            report = await self._tuned(candidate.name, rounds=SEARCHING)
        except OpenRuntimeError as error:
            candidate.reason = problem(error)
            candidate.name = candidate.name or f"{self._name}_{self._tag}_{len(self._made)}"
            return candidate
        candidate.tasks.append(report["task_id"])
        measured = [c for c in report["candidates"] if c.get("measured")]
        candidate.verified = bool(measured)
        if not measured:
            reasons = list(dict.fromkeys(c["reason"] for c in report["candidates"] if c["reason"]))
            candidate.reason = reasons[0] if reasons else "no time was left to try it"
            return candidate
        best = min(measured, key=lambda c: c["measured"]["median"])
        candidate.values = best["values"] or None
        candidate.gain = Ratio(best["gain"], *best["gain_spread"])
        candidate.measured = measured_of(best["measured"], report)
        if report["rejected"]:
            candidate.what += f" ({report['rejected']} of {report['tried']} settings rejected)"
        return candidate

    def _fastest(self, most: int) -> list[Candidate]:
        good = [c for c in self.found.candidates if c.verified and c.gain is not None and c.gain.value >= WORTH]
        return sorted(good, key=lambda c: -c.gain.value if c.gain else 0.0)[:most]

    async def confirm(self) -> None:
        """The fastest again: verified with all cases, measured in fresh rounds. Only what all of these agree on is a gain."""
        fastest: list[Candidate] = []
        for candidate in self._fastest(ATTEMPTS):
            if sum(other.confirmed is not None for other in fastest) >= CONFIRMED:
                break
            fastest.append(candidate)
            if self._left() < CONFIRM_UNTIL:
                candidate.reason = "no budget was left to measure it again"
                continue
            self._progress(0.7 + 0.05 * len(fastest), f"measuring again: {candidate.what}")
            await self._confirm(candidate)
        if any(candidate.confirmed is not None for candidate in fastest):
            other = await self._get(self._locked)
            control = await self._add({**fields(other), "source": other["source"]}, self._locked, "control")
            self.found.control = await self._agreed(control, None)
        self._doubt(fastest)
        choose(self.found)

    async def _confirm(self, candidate: Candidate) -> None:
        draft = self._drafts[candidate.name]
        source = settled(draft.changes.get("source") or self.kernel["source"], candidate.values or {})
        try:
            fixed = await self._add({**fields(self.kernel), **draft.changes, "source": source}, self._name, "fixed")
            verdict = await self._trial("verify", fixed, {"sizes": [self._sizes], "limit": LIMIT})
            candidate.tasks.append(verdict["task_id"])
            if not verdict["ok"]:
                candidate.verified, candidate.reason = False, verdict["verdict"]
                return
            candidate.confirmed = await self._agreed(fixed, candidate)
            candidate.source = source
        except Wrong as error:
            candidate.verified, candidate.reason = False, str(error)
        except OpenRuntimeError as error:
            candidate.reason = problem(error)

    def _doubt(self, fastest: Sequence[Candidate]) -> None:
        """What the baseline itself says against a gain."""
        control = self.found.control
        biased = control is not None and (control.low > 1.0 or control.high < 1.0)
        apart = max(control.value, 1 / control.value) if control is not None else 1.0
        for candidate in fastest:
            if candidate.confirmed is None:
                continue
            if len(self._digests) > 1:
                candidate.confirmed, candidate.reason = None, "the baseline was replaced meanwhile"
            elif biased and candidate.confirmed.low <= apart:
                candidate.confirmed, candidate.reason = None, "the machine was too busy to tell: the baseline seemed faster than itself"

    async def _agreed(self, name: str, candidate: Candidate | None) -> Ratio:
        """The gain in several tunings, each in a process of its own: the middle one; the widest range, and as much more as the processes differ."""
        gains: list[tuple[float, float, float]] = []
        for _ in range(AGAIN):
            report = await self._tuned(name, rounds=CONFIRMING)
            best = next((c for c in report["candidates"] if c.get("measured")), None)
            if best is None:
                raise Wrong(f"with other inputs: {report['candidates'][0]['reason']}")
            gains.append((best["gain"], *best["gain_spread"]))
            if candidate is not None:
                candidate.against = measured_of(report["baseline"], report)
                candidate.measured = measured_of(best["measured"], report)
                candidate.tasks.append(report["task_id"])
        apart = max(g[0] for g in gains) / min(g[0] for g in gains)  # the rounds of one process cannot show it
        return Ratio(median(g[0] for g in gains), min(g[1] for g in gains) / apart, max(g[2] for g in gains) * apart)

    async def roofline(self) -> None:
        """What part of what the device could do baseline and winner reach, by what the reference is estimated to need."""
        best, inputs = self.found.best, None
        reference = self.kernel.get("reference")
        if reference is None or self.found.baseline is None or self._sizes is None:
            return
        try:
            inputs = await self._inputs()
            given = {name: value for name, value in reference.get("parameters", {}).items() if not stands(value)}
            renamed = {name: inputs[next(iter(value.values()))] for name, value in reference.get("parameters", {}).items() if stands(value)}
            taken = {name for value in reference.get("parameters", {}).values() if stands(value) for name in value.values()}
            plain = {name: value for name, value in inputs.items() if name not in taken and name not in self._sizes}
            task = await self._bench.must(Request(reference["operation"], {**plain, **given, **renamed}))
        except (OpenRuntimeError, KeyError, StopIteration) as error:
            self.found.left_out.append(f"the fraction of the roofline: the reference could not be run on such sizes ({error})")
            return
        achieved = task.get("achieved") or {}
        for measured in (self.found.baseline, best.measured if best is not None else None):
            if measured is None:
                continue
            if achieved.get("fraction") is None or not task.get("execution_time"):
                measured.achieved = {"fraction": None, "reason": achieved.get("reason")}
            else:
                least = achieved["fraction"] * task["execution_time"]
                measured.achieved = believed({"fraction": least / measured.median, "bound": achieved["bound"], "reason": None})

    async def _inputs(self) -> Document:
        """Arrays of these sizes on the server, and numbers for the scalars."""
        given: Document = {}
        assert self._sizes is not None
        domains = (self.kernel.get("reference") or {}).get("domain", {})
        for number, argument in enumerate(self.kernel["inputs"]):
            shape = [size if isinstance(size, int) else self._sizes[size] for size in argument["shape"]]
            domain = domains.get(argument["name"], {})
            low, high = domain.get("low") or 0.0, domain.get("high") or 1.0
            if "float" in argument["dtype"]:
                request = Request("uniform", {"shape": shape, "seed": number, "low": low, "high": max(high, low), "dtype": argument["dtype"]})
            else:
                request = Request(
                    "integers", {"shape": shape, "seed": number, "low": int(low), "high": int(max(high, 100)), "dtype": argument["dtype"]}
                )
            given[argument["name"]] = {"task": (await self._bench.must(request))["task_id"]}
        for scalar in self.kernel["scalars"]:
            given[scalar["name"]] = self._sizes.get(scalar["name"], 1)
        return given

    async def keep(self, mode: str = "replace") -> None:
        """Register the winner: in the kernel's place where a person approves, else under a name of its own."""
        best = self.found.best
        if best is None or mode == "none":
            return
        draft = self._drafts[best.name]
        source = first(draft.changes.get("source") or self.kernel["source"], best.values or {})
        document = {**fields(self.kernel), **draft.changes, "source": source, "name": self._name}
        if mode == "replace" and self._approve is not None:
            gain = best.confirmed.value if best.confirmed else 1.0
            try:
                made = await self._approve(f"replace the kernel {self._name} by one that is {gain:.2f} times as fast", "POST", "/kernels", document)
                best.version = made["version"]
                self.found.registered = {"name": self._name, "version": made["version"], "told": f"{self._name}, version {made['version']}"}
                return
            except Forbidden as error:
                self.found.advice.append(f"{self._name} was not replaced: {error.message}")
        name = await self._free()
        made = await self._bench.client.post("/kernels", renamed(document, self._name, name))
        best.version = made["version"]
        told = f"{name}, version {made['version']}; {self._name} is as it was"
        self.found.registered = {"name": name, "version": made["version"], "told": told}

    async def _free(self) -> str:
        """A name that nobody has."""
        for number in range(1, 100):
            name = f"{self._name[:54]}_fast{number if number > 1 else ''}"
            try:
                await self._get(name)
            except NotFound:
                return name
        return f"{self._name[:50]}_{secrets.token_hex(4)}"

    async def _get(self, name: str) -> Document:
        found: Document = await self._bench.client.get(f"/kernels/{quote(name, safe='')}")
        return found

    async def _add(self, document: Document, known_as: str, kind: str) -> str:
        """Register it under a name for a while. Raises `CompileError`, `InvalidParameter`."""
        name = f"{self._name[:40]}_{kind}_{self._tag}_{len(self._made)}"
        self._made.append(name)
        await self._bench.client.post("/kernels", renamed({**document, "name": known_as}, known_as, name))
        return name

    async def _tuned(self, name: str, *, rounds: int) -> Document:
        options: Document = {"baseline": self._locked, "rounds": rounds, "limit": LIMIT}
        if self._sizes is not None:
            options["sizes"] = self._sizes
        report = await self._trial("tune", name, options)
        self._sizes = report["sizes"]
        self.found.about["sizes"] = self._sizes
        self._digests.add(report["baseline"]["sha256"])
        self.found.locked = f"kernel {self._against}, sha256 {report['baseline']['sha256'][:16]}"
        if self.found.baseline is None:
            self.found.baseline = measured_of(report["baseline"], report)
        return report

    async def _trial(self, kind: str, name: str, options: Document) -> Document:
        path = f"/kernels/{quote(name, safe='')}/{kind}"
        task = await self._bench.ended(await self._bench.client.post(path, options))
        if task["status"] != "completed":
            cls = error_class(task.get("code") or "operation_failed", task=True)
            raise cls(task.get("error") or task["status"])
        report: Document = await self._bench.client.get(path, task_id=task["task_id"])
        return report


async def optimize_kernel(
    optimizer: KernelOptimizer, *, drafts: Sequence[Draft] = (), propose: Callable[[KernelOptimizer], Awaitable[Sequence[Draft]]] | None = None,
    keep: str = "replace",
) -> Optimization:  # fmt: skip
    """All of it. `drafts`: candidates that the caller has; `propose` asks a model for more, once it is known what the others gave."""
    try:
        await optimizer.open()
        for draft in drafts:
            await optimizer.attempt(draft)
        await optimizer.search()
        for draft in await propose(optimizer) if propose is not None else ():
            await optimizer.attempt(draft)
        await optimizer.confirm()
        await optimizer.roofline()
        await optimizer.keep(keep)
    finally:
        await optimizer.close()
    return optimizer.found
