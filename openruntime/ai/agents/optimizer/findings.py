"""What optimizing found: every candidate with how it was verified and measured, the winner, and the report that needs no model."""

from typing import Any

import msgspec

from openruntime.ai.agents.experiments import Ratio, Times, ratio, roofline, seconds, table


class Measured(msgspec.Struct, omit_defaults=True):
    """Seconds of one variant on its device: median and quartiles; the tasks that it was measured by."""

    median: float
    spread: tuple[float, float]
    runs: int
    device: str = ""
    tasks: list[str] = []
    achieved: dict[str, Any] = {}

    @classmethod
    def of(cls, times: Times) -> "Measured":
        where = f"{times.device}/{times.backend}"
        return cls(times.median, times.spread, len(times.seconds), where, times.tasks, times.achieved)


class Candidate(msgspec.Struct, omit_defaults=True):
    """`by`: tuner, known (a transformation) or model. `verified`: whether it computes the same; `reason`: why it is out.

    `against`: the baseline in the rounds of `measured`. `gain` is of the search; `confirmed` of fresh rounds, and the only one that is claimed."""

    name: str
    what: str
    by: str = "known"
    verified: bool = False
    reason: str | None = None
    gain: Ratio | None = None
    confirmed: Ratio | None = None
    measured: Measured | None = None
    against: Measured | None = None
    values: dict[str, int] | None = None
    version: int | None = None
    source: str = ""
    tasks: list[str] = []


class Optimization(msgspec.Struct):
    """`winner`: the name of the candidate whose gain is confirmed, None where the baseline stays. `left_out`: what was not tried, and why."""

    target: str
    kind: str  # kernel, expression, operation
    about: dict[str, Any] = {}
    baseline: Measured | None = None
    locked: str = ""  # what the baseline is: a digest of the kernel, or the task
    control: Ratio | None = None  # the baseline against itself, in the same rounds
    candidates: list[Candidate] = []
    winner: str | None = None
    registered: dict[str, Any] | None = None
    advice: list[str] = []
    left_out: list[str] = []

    @property
    def best(self) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.name == self.winner), None)

    @property
    def gain(self) -> float:
        """What may be claimed: 1 where nothing is."""
        best = self.best
        return best.confirmed.value if best is not None and best.confirmed is not None else 1.0


def choose(found: Optimization) -> None:
    """The winner: of those that are verified and whose confirmed gain cannot be chance, the fastest."""
    good = [c for c in found.candidates if c.verified and c.confirmed is not None and c.confirmed.counts]
    best = max(good, key=lambda c: c.confirmed.value if c.confirmed else 0.0, default=None)
    found.winner = None if best is None else best.name
    if best is not None and best.against is not None:
        found.baseline = best.against


def told(gain: Ratio | None) -> str:
    return "" if gain is None else f"{gain.value:.2f}× ({gain.low:.2f} to {gain.high:.2f})"


NOTHING = "**Nothing was measured.**"


def verdict(found: Optimization) -> str:
    """What may be claimed, in a sentence."""
    best = found.best
    if best is not None:
        return (
            f"**{told(best.confirmed)} faster**: {best.what}. Verified, and measured again in fresh rounds that took turns with the baseline; "
            "the range is what chance leaves open."
        )
    if found.baseline is None:
        return NOTHING
    return "**Nothing faster was found** that is verified and whose gain cannot be chance: the baseline stays."


def summary(found: Optimization) -> str:
    """Markdown, complete without a model."""
    best = found.best
    lines = [f"# {found.kind.capitalize()} `{found.target}`", "", verdict(found), ""]
    if found.baseline is not None:
        low, high = found.baseline.spread
        lines.append(
            f"Baseline: {seconds(found.baseline.median)} (quartiles {seconds(low)} to {seconds(high)}, {found.baseline.runs} runs) on "
            f"{found.baseline.device}; {roofline(found.baseline.achieved)}. Locked as {found.locked}."
        )
    if best is not None and best.measured is not None:
        lines.append(f"Winner: {seconds(best.measured.median)} on {best.measured.device}; {roofline(best.measured.achieved)}.")
    if found.control is not None:
        lines.append(f"The baseline against itself in the same rounds: {told(found.control)}, which should hold 1.")
    if found.registered is not None:
        lines.append(f"Registered: {found.registered['told']}.")
    if found.candidates:
        lines += ["", "## Tried", ""]
        rows = [
            (c.what, c.by, "yes" if c.verified else f"no: {c.reason}", told(c.gain), told(c.confirmed), _settings(c), _verdict(c, best is c))
            for c in found.candidates
        ]
        lines += table(("what", "by", "verified", "gain when searched", "gain confirmed", "values", "verdict"), rows)
    if found.advice:
        lines += ["", "## Advice", "", *(f"- {line}" for line in found.advice)]
    if found.left_out:
        lines += ["", "## Not tried", "", *(f"- {line}" for line in dict.fromkeys(found.left_out))]
    return "\n".join(lines) + "\n"


def _settings(candidate: Candidate) -> str:
    return ", ".join(f"{name} = {value}" for name, value in (candidate.values or {}).items())


def _verdict(candidate: Candidate, best: bool) -> str:
    if best:
        return "winner"
    if not candidate.verified:
        return "rejected"
    if candidate.confirmed is not None:
        return "faster, but not the fastest" if candidate.confirmed.counts else "its gain may be chance"
    return candidate.reason or "not among the fastest"


def compared(candidate: Candidate, baseline: Times, own: Times, *, confirmed: bool) -> None:
    """Take in what interleaved rounds gave."""
    gain = ratio(baseline.seconds, own.seconds)
    candidate.measured = Measured.of(own)
    candidate.tasks = own.tasks
    if confirmed:
        candidate.confirmed = gain
    else:
        candidate.gain = gain
