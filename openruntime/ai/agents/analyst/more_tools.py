"""Further things the Analyst can compute: costs, anomalies, trends, kernels, models."""

from collections.abc import Sequence
from math import exp
from typing import Any

from openruntime.ai.agents.analyst.facts import BYTES, RATE, RATIO, SECONDS, Section, known, quoted, unit_of
from openruntime.ai.agents.analyst.history import Past, Row, clock, grouped, metrics, tasks
from openruntime.ai.agents.analyst.statistics import FEWEST, logarithms, outliers, shift, trend
from openruntime.ai.agents.analyst.tools import SHOWN
from openruntime.contracts.agents import Chart, Context
from openruntime.contracts.errors import NotFound

FACTOR, LEAST = 1.2, 200e-6  # by which a level has to change to be told: the ratio, and seconds
SERIES, POINTS = 4, 200  # of a chart


async def costs(context: Context, by: str = "client", window: float | None = None) -> Any:
    """Who or what used the devices: tasks, device seconds and bytes moved, by `client`, `device`, `operation` or `backend`."""
    fields = {"client": "client", "device": "place", "operation": "operation", "backend": "backend"}
    past = await tasks(context, window)
    section = Section(context, f"Cost by {by}" if by in fields else "Cost by client", f"{past.source} ({past.period()})")
    section.method = "device seconds are the compute time of ended tasks; bytes are what their calls are estimated to move to and from memory"
    field = fields.get(by, "client")
    ended = [row for row in past.rows if row.ended and (field == "client" or row.device)]
    if not ended:
        section.say("No task has ended in this period.")
        return section.done()
    total = sum(row.seconds or 0.0 for row in ended)
    section.say(f"{section.add('tasks that ended', len(ended), 'tasks')} took {section.add('device seconds of all', total, SECONDS)} of devices:")
    groups = sorted(grouped(ended, field).items(), key=lambda item: -_seconds(item[1]))
    rows = []
    for (name,), group in groups[:SHOWN]:
        known(context, name)
        took = _seconds(group)
        moved = sum(row.bytes for row in group if not row.cached)
        rows.append(
            [
                quoted(name) if field == "client" else name,
                section.cell(f"tasks of {name}", len(group), "tasks"), section.cell(f"device seconds of {name}", took, SECONDS),
                section.cell(f"share of device seconds of {name}", took / total if total else 0.0, RATIO),
                section.cell(f"bytes moved by {name}", moved, BYTES),
            ]
        )  # fmt: skip
    section.table([by, "tasks", "device seconds", "share", "bytes moved"], rows)
    if len(groups) > SHOWN:
        rest = sum(_seconds(group) for _, group in groups[SHOWN:])
        section.say(f"The others together took {section.add('device seconds of the others', rest, SECONDS)}.")
    chart = Chart(
        f"Device seconds by {by}", [name for (name,), _ in groups[:SHOWN]], {"seconds": [_seconds(group) for _, group in groups[:SHOWN]]}, "bar"
    )
    section.charts.append(chart)
    return section.done()


def _seconds(group: Sequence[Row]) -> float:
    return sum(row.seconds or 0.0 for row in group)


async def anomalies(context: Context, window: float | None = None) -> Any:
    """What is out of the ordinary: single slow tasks, run times or failure rates that changed their level, workers that died, devices not ready."""
    past = await tasks(context, window)
    found = await metrics(context, "openruntime_worker_deaths_total", window=window)
    devices = (await context.client.get("/devices"))["devices"]
    section = Section(context, "Anomalies", f"{past.source} ({past.period()}), {found.source}, GET /devices")
    section.method = (
        "slow tasks: modified z-score over 3.5 of the logarithm of run times (Iglewicz and Hoaglin 1993); changes of level: Pettitt's test (1979)"
    )
    before = len(section.lines)
    _shifts(section, past)
    _failing(section, past)
    _slow(section, past)
    for name in found.series:
        _, values = found.points(name)
        if values and values[-1]:
            section.say(
                f"- Workers died: {section.add('deaths of workers ' + name, values[-1], 'deaths')} since the server's start ({quoted(name)})."
            )
    for device in devices:
        if device["status"] != "ready":
            section.say(f"- The device {device['id']} is {device['status']}.")
    if len(section.lines) == before:
        section.say("Nothing is out of the ordinary.")
    return section.done()


def _shifts(section: Section, past: Past) -> None:
    for (name, place), group in grouped(past.ran, "operation", "place").items():
        changed = shift(logarithms([row.seconds or 0.0 for row in group]))
        if changed is None:
            continue
        old, new = exp(changed.before), exp(changed.after)
        if max(old, new) < FACTOR * min(old, new) or abs(new - old) < LEAST:
            continue
        what = f"run time of {name} on {place}"
        was, now = section.add(f"median {what} before", old, SECONDS), section.add(f"median {what} after", new, SECONDS)
        ratio = section.add(f"ratio of the {what}", new / old, "times")
        when = section.moment(clock(group[changed.at].created))
        section.say(f"- The {what} changed at {when}: its median was {was} and is {now}, {ratio} as long.")
        newest = group[-POINTS:]
        series: dict[str, list[float | None]] = {"seconds": [row.seconds for row in newest]}
        section.charts.append(Chart(f"Run time of {name} on {place}", [clock(row.created) for row in newest], series, "scatter", y_label="s"))


def _failing(section: Section, past: Past) -> None:
    for (name,), group in grouped([row for row in past.rows if row.status in ("completed", "failed")], "operation").items():
        changed = shift([float(row.status == "failed") for row in group])
        if changed is None:
            continue
        codes = grouped([row for row in group[changed.at :] if row.status == "failed"], "code")
        why = f", mostly {next(iter(codes))[0]}" if codes else ""
        verb = "began to fail" if changed.after > changed.before else "stopped failing"
        section.say(
            f"- {name} {verb} at {section.moment(clock(group[changed.at].created))}{why}: the share that failed was"
            f" {section.add(f'share of {name} that failed before', changed.before, RATIO)} and is"
            f" {section.add(f'share of {name} that failed after', changed.after, RATIO)}."
        )


def _slow(section: Section, past: Past) -> None:
    """Beside tasks of the same operation, place and bytes moved: another size is no anomaly."""
    for (name, place, _), group in grouped(past.ran, "operation", "place", "bytes").items():
        if len(group) < FEWEST:
            continue
        slow = [(group[i], score) for i, score in outliers(logarithms([row.seconds or 0.0 for row in group])) if score > 0]
        slow = [(row, score) for row, score in slow if (row.seconds or 0.0) > 1e-3]
        if not slow:
            continue
        worst = max(slow, key=lambda pair: pair[1])[0]
        known(section.context, worst.id)
        section.say(
            f"- {section.add(f'slow tasks of {name} on {place}', len(slow), 'tasks')} of"
            f" {section.add(f'tasks of {name} on {place} of one size', len(group), 'tasks')} {name} on {place} were unusually slow; the worst,"
            f" {quoted(worst.id)}, took {section.add(f'slowest task of {name} on {place}', worst.seconds or 0.0, SECONDS)}."
        )


async def trends(context: Context, metric: str = "openruntime_tasks_submitted_total", window: float | None = None) -> Any:
    """How metrics whose names begin so went over time, counters as rates: first, last, slope, and whether that is more than chance."""
    found = await metrics(context, metric, window=window)
    section = Section(context, f"Trend of {quoted(metric, 60)}", found.source)
    section.method = "Theil and Sen's slope, judged by Mann's and Kendall's test at 0.01"
    rows = []
    drawn: dict[str, list[float | None]] = {}
    for name in sorted(found.series)[:SHOWN]:
        counter = name.partition("{")[0].endswith(("_total", "_count", "_sum"))
        times, values = found.rates(name) if counter else found.points(name)
        if not values:
            continue
        unit = RATE if counter else unit_of((name.partition("{")[0],))
        going = trend(times, values)
        told = "too few values to tell" if going is None else "no trend" if not going.sure else "rises" if going.slope > 0 else "falls"
        rows.append([quoted(name), section.cell(f"first {name}", values[0], unit), section.cell(f"last {name}", values[-1], unit), told])
        if len(drawn) < SERIES:
            by_time = dict(zip(times, values, strict=True))
            drawn[name] = [by_time.get(when) for when in found.times]
    if not rows:
        section.say("There is no such metric, or too little of it yet.")
        return section.done()
    section.table(["metric", "first", "last", "trend"], rows)
    section.charts.append(Chart(f"Trend of {metric[:60]}", [clock(when) for when in found.times], drawn))
    return section.done()


async def kernels_used(context: Context, window: float | None = None) -> Any:
    """The users' kernels: language, whether verified and tuned, how often and how long they ran."""
    listed = (await context.client.get("/kernels"))["kernels"]
    past = await tasks(context, window)
    section = Section(context, "Kernels", f"GET /kernels, {past.source} ({past.period()})")
    section.say(f"{section.add('kernels registered', len(listed), 'kernels')} are registered.")
    rows = []
    runs = grouped(past.ran, "operation")
    for kernel in listed[:SHOWN]:
        name = kernel["name"]
        known(context, name)
        group = runs.get((name,), [])
        verified = kernel.get("verified") or kernel.get("verification")
        state = ("verified" if verified.get("ok") else "found wrong") if isinstance(verified, dict) else "verified" if verified else "not verified"
        rows.append(
            [
                name, kernel["language"], state, section.cell(f"runs of {name}", len(group), "tasks"),
                section.cell(f"device seconds of {name}", _seconds(group), SECONDS),
            ]
        )  # fmt: skip
    if rows:
        section.table(["kernel", "language", "verified", "tasks", "device seconds"], rows)
    return section.done()


async def models_used(context: Context, window: float | None = None) -> Any:
    """The models that are there, how often they were asked, how long it took, and the tokens that were counted."""
    try:
        listed = (await context.client.get("/ai/models")).get("models", [])
    except NotFound:
        listed = []
    past = await tasks(context, window)
    found = await metrics(context, "openruntime_model", "openruntime_token", "openruntime_ai", window=window)
    section = Section(context, "Models", f"GET /ai/models, {past.source} ({past.period()}), {found.source}")
    section.say(f"{section.add('models there', len(listed), 'models')} are there.")
    rows = []
    runs = grouped([row for row in past.rows if row.ended], "operation")
    for model in listed[:SHOWN]:
        name = str(model.get("name"))
        known(context, name, str(model.get("id")))
        group = runs.get((name,), []) + runs.get((f"{name}:{model.get('version')}",), [])
        failed = sum(row.status == "failed" for row in group)
        rows.append(
            [
                name, section.cell(f"requests of {name}", len(group), "tasks"), section.cell(f"failures of {name}", failed, "failures"),
                section.cell(f"device seconds of {name}", _seconds(group), SECONDS),
            ]
        )  # fmt: skip
    if rows:
        section.table(["model", "requests", "failed", "seconds"], rows)
    for name in sorted(found.series):
        value = found.last(name)
        if value is not None and "token" in name:
            section.say(f"- {quoted(name)}: {section.add(name, value, 'tokens')}.")
    return section.done()
