"""How the Analyst writes figures down: each with its unit and the id of the tool call that gave it, such as `[m3]`."""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from openruntime.contracts.agents import Chart, Context, Fact, Tool

SECONDS, BYTES, RATIO, RATE = "s", "B", "ratio", "1/s"
MOST_SEEN = 3000  # figures of one tool's answer that a model may name
MOST_NAMES = 2000


class Section:
    """What one call found: `add` a figure and get it as it is shown; `lines` are its Markdown."""

    def __init__(self, context: Context, title: str, source: str) -> None:
        self.id = register(context, title, source)
        self.title = title
        self.source = source
        self.method = ""
        self.lines: list[str] = []
        self.facts: list[Fact] = []
        self.charts: list[Chart] = []
        self.context = context

    def add(self, name: str, value: float, unit: str, note: str = "") -> str:
        """The figure with its id behind it. `name` says of what: the checker of a model's wording reads it."""
        return f"{self.cell(name, value, unit, note)} [{self.id}]"

    def cell(self, name: str, value: float, unit: str, note: str = "") -> str:
        """Without the id, for a row of a table that ends in it."""
        self.facts.append(Fact(name=name, value=value, unit=unit, source=f"{self.id} {self.source}", note=note))
        return show(value, unit)

    def moment(self, when: str) -> str:
        """A time that the tool gave."""
        known(self.context, when)
        return when

    def say(self, line: str) -> None:
        self.lines.append(line)

    def table(self, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        head = [*header, "source"]
        self.lines += ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        self.lines += [f"| {' | '.join([*row, f'[{self.id}]'])} |" for row in rows]
        self.lines.append("")

    def done(self) -> dict[str, Any]:
        """What the tool answers; facts and charts go into the report."""
        report = self.context.report
        report.facts.extend(self.facts)
        report.charts.extend(self.charts)
        if self.method:
            _calls(self.context)[self.id]["method"] = self.method
        return {"id": self.id, "title": self.title, "text": "\n".join(self.lines).strip(), "method": self.method}


def _calls(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = context.report.data.setdefault("calls", {})
    return found


def register(context: Context, title: str, source: str) -> str:
    """A new id for what a call gives."""
    calls = _calls(context)
    name = f"m{len(calls) + 1}"
    calls[name] = {"what": title, "source": source}
    return name


def known(context: Context, *names: str | None) -> None:
    """Names of things that may hold digits (`conv2d`, `cpu:0`), which are no figures."""
    kept: list[str] = context.report.data.setdefault("names", [])
    kept.extend(name for name in dict.fromkeys(names) if name and name not in kept and len(kept) < MOST_NAMES)


def shown(tool: Callable[..., Awaitable[Any]], source: str, *, cited: bool = True) -> Tool:
    """A tool of everybody's whose answer's figures a model may name: the answer gets an id, which it is told where it is to be `cited`."""

    @wraps(tool)
    async def measured(context: Context, *args: Any, **given: Any) -> Any:
        found = await tool(context, *args, **given)
        name = register(context, tool.__name__, source)
        figures: list[list[Any]] = []
        for path, value in _leaves(found):
            if isinstance(value, str):
                if len(value) <= 100 and any(character.isdigit() for character in value):
                    known(context, value)
            elif isinstance(value, int | float) and not isinstance(value, bool) and len(figures) < MOST_SEEN:
                figures.append([" ".join(path), value, unit_of(path)])
        _calls(context)[name]["figures"] = figures
        return {"id": name, "answer": found} if cited else found

    return measured


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        labels = [str(value[key]) for key in ("id", "name", "task_id", "operation") if isinstance(value.get(key), str)][:1]
        for key, item in value.items():
            yield from _leaves(item, (*path, *labels, str(key)) if labels and labels[0] not in path else (*path, str(key)))
        return
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, path)
        return
    yield path, value


def unit_of(path: tuple[str, ...]) -> str:
    """By the name of a field, as this API names its fields."""
    name = " ".join(path).lower()
    if re.search(r"memory|bytes|\bsize\b", name):
        return BYTES
    if re.search(r"utili[sz]ation|fraction|ratio|gain|load\b", name):
        return RATIO
    if re.search(r"seconds|time\b|predicted|actual|uptime|waited|latency", name) and "count" not in path[-1:]:
        return SECONDS
    return ""


_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def show(value: float, unit: str) -> str:
    """Three significant digits, in the unit that a person would choose; whole numbers in full."""
    if unit == SECONDS:
        return duration(value)
    if unit == BYTES:
        size = abs(value)
        for name in _SIZES:
            if size < 1024 or name == _SIZES[-1]:
                return f"{digits(value)} {name}"
            value, size = value / 1024, size / 1024
    if unit == RATIO:
        return f"{digits(100 * value)} %"
    if unit == RATE:
        return f"{digits(value)} per second"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}" + (f" {unit}" if unit else "")
    return digits(value) + (f" {unit}" if unit else "")


def duration(seconds: float) -> str:
    size = abs(seconds)
    for name, scale, below in (("µs", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if size < below:
            return f"{digits(seconds / scale)} {name}"
    return f"{digits(seconds / 3600)} h"


def digits(value: float) -> str:
    """Three significant digits without an exponent where one can read it so."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    text = f"{value:.3g}"
    return f"{value:.3e}" if "e" in text and abs(value) < 1e-6 else f"{value:.12f}".rstrip("0").rstrip(".") if "e" in text else text


def quoted(text: str, most: int = 120) -> str:
    """What others wrote, as code on one line of Markdown: it can neither end the quotation nor a table's cell."""
    plain = "".join(character if character.isprintable() else " " for character in text).replace("`", "'").replace("|", "/")
    return f"`{plain[: most - 1]}…`" if len(plain) > most else f"`{plain}`"
