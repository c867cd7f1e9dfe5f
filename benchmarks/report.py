"""Samples, their medians, spreads and ratios; the goals of the design beside them; JSON without a trace of whose machine it was."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

PACKAGES = ("openruntime", "numpy", "scipy", "uvicorn", "uvloop", "httptools", "fastapi", "starlette", "pydantic", "msgspec")


@dataclass(frozen=True)
class Goal:
    """`measure` of OpenRuntime in `work`, over the yardstick `over` in the same round (or as it is), against `bound`."""

    work: str
    measure: str
    bound: float
    at_least: bool = False
    over: str | None = None
    subject: str = "openruntime"


GOALS = (
    Goal("A", "p50 ms, 1 connection", 0.4),
    Goal("A", "requests/s, 16 connections", 0.40, at_least=True, over="echo"),
    Goal("A", "requests/s, 64 connections", 0.40, at_least=True, over="echo"),
    Goal("B", "p50 ms", 1.6, over="numpy"),
    Goal("C", "tasks/s, 16 connections", 6_000, at_least=True),
    Goal("C", "tasks/s, batches of 100", 25_000, at_least=True),
    Goal("C", "tasks/s, not durable", 1.0, at_least=True, over="process pool"),
    Goal("start", "s to first answer", 1.5),
    Goal("memory", "RSS MiB", 150),
    Goal("memory", "PSS MiB", 110),
    Goal("memory", "idle CPU %", 0.5),
    Goal("install", "MB", 250),
    Goal("models", "tokens/s, 1 stream", 0.90, at_least=True, over="engine"),
    Goal("models", "tokens/s, 4 streams", 0.90, at_least=True, over="engine"),
    Goal("models", "ms added to the first token", 5),
    Goal("models", "ms of a cached answer, p50", 1),
)


@dataclass
class Notebook:
    """Samples by (work, measure, subject), one a round."""

    samples: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def add(self, work: str, measure: str, subject: str, value: float) -> None:
        self.samples.setdefault((work, measure, subject), []).append(value)

    def ratios(self, work: str, measure: str, subject: str, over: str) -> list[float]:
        """Round by round, so that a slow minute of the machine hits both sides."""
        mine, theirs = self.samples.get((work, measure, subject), []), self.samples.get((work, measure, over), [])
        return [a / b for a, b in zip(mine, theirs, strict=False)]

    def judged(self) -> list[dict[str, Any]]:
        """Every goal whose samples are there."""
        rows = []
        for goal in GOALS:
            values = (
                self.ratios(goal.work, goal.measure, goal.subject, goal.over)
                if goal.over
                else self.samples.get((goal.work, goal.measure, goal.subject), [])
            )
            if values:
                reached = median(values) >= goal.bound if goal.at_least else median(values) <= goal.bound
                rows.append(
                    {"work": goal.work, "measure": goal.measure, "over": goal.over, **spread(values)}
                    | {"goal": goal.bound, "at_least": goal.at_least, "reached": reached}
                )
        return rows

    def as_dict(self) -> dict[str, Any]:
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "goals": self.judged(),
            "samples": [{"work": w, "measure": m, "subject": s, **spread(v), "rounds": v} for (w, m, s), v in self.samples.items()],
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    def show(self) -> None:
        console = Console(width=120)
        table = Table("work", "measure", "subject", "median", "min to max", "rounds", title="Samples")
        for (work, measure, subject), values in self.samples.items():
            table.add_row(work, measure, subject, number(median(values)), f"{number(min(values))} to {number(max(values))}", str(len(values)))
        console.print(table)
        goals = Table("work", "measure", "over", "median", "min to max", "goal", "reached", title="Goals (ratios are taken round by round)")
        for row in self.judged():
            sign = "≥" if row["at_least"] else "≤"
            low, high = number(row["min"]), number(row["max"])
            goals.add_row(
                row["work"], row["measure"], row["over"] or "", number(row["median"]), f"{low} to {high}", f"{sign} {row['goal']:g}", _mark(row)
            )
        if goals.row_count:
            console.print(goals)


def _mark(row: dict[str, Any]) -> str:
    return "yes" if row["reached"] else "[bold]no[/bold]"


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def number(value: float) -> str:
    """Three figures that matter, thousands whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What one must know to compare: no names, no addresses, no paths."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "kernel": platform.release().split("-")[0],
        "load_before": [round(value, 2) for value in os.getloadavg()],
    }


def _processor() -> str:
    if sys.platform == "darwin":
        return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Of Python, and those of the packages that serve, and of `more`, that are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
