"""What the Analyst can compute: each tool reads the API, and answers Markdown whose figures carry its id. Nothing is changed by any."""

from typing import Any

from openruntime.ai.agents.analyst.facts import RATE, RATIO, SECONDS, Section, quoted
from openruntime.ai.agents.analyst.history import Row, clock, grouped, metrics, tasks
from openruntime.ai.agents.analyst.statistics import percentile, trend
from openruntime.contracts.agents import Chart, Context

SHOWN = 12  # rows of a table
PERCENTILES = (50, 90, 99)
METHOD = "percentiles between order statistics (Hyndman and Fan's type 7)"


def _scope(window: float | None, operation: str | None = None, device: str | None = None) -> str:
    parts = [f"of {operation}" if operation else "", f"on {device}" if device else "", f"in the last {window:g} s" if window else ""]
    return " ".join(part for part in parts if part)


def _title(what: str, window: float | None, operation: str | None = None, device: str | None = None) -> str:
    return f"{what} {_scope(window, operation, device)}".strip()


async def queue_waits(context: Context, operation: str | None = None, device: str | None = None, window: float | None = None) -> Any:
    """How long tasks waited from submission to start: percentiles over all and by operation. `window`: the last so many seconds."""
    past = await tasks(context, window, operation, device)
    section = Section(context, _title("Queue wait", window, operation, device), f"{past.source} ({past.period()})")
    section.method = METHOD
    waited = [row for row in past.rows if row.waited is not None and not row.cached]
    if not waited:
        section.say("No task has started in this period.")
        return section.done()
    section.say(f"{section.add('tasks that started', len(waited), 'tasks')} have started; they waited:")
    rows = [_spread(section, "queue wait of all", "all", waited, "waited")]
    rows += [
        _spread(section, f"queue wait of {name}", name, group, "waited") for (name,), group in list(grouped(waited, "operation").items())[:SHOWN]
    ]
    section.table(["operation", "tasks", "p50", "p90", "p99", "longest"], rows)
    section.charts.append(_buckets("Queue wait: share of tasks below", [row.waited or 0.0 for row in waited]))
    return section.done()


async def run_times(context: Context, operation: str | None = None, device: str | None = None, window: float | None = None) -> Any:
    """How long tasks computed: percentiles by operation and place (device/backend). `window`: the last so many seconds."""
    past = await tasks(context, window, operation, device)
    section = Section(context, _title("Run time", window, operation, device), f"{past.source} ({past.period()})")
    section.method = f"{METHOD}; completed tasks that computed, answers from the cache apart"
    ran = past.ran
    if not ran:
        section.say("No task has computed anything in this period.")
        return section.done()
    groups = list(grouped(ran, "operation", "place").items())
    section.say(f"{section.add('tasks that computed', len(ran), 'tasks')} have computed:")
    rows = [
        [f"{name} on {place}", *_spread(section, f"run time of {name} on {place}", name, group, "seconds")[1:]]
        for (name, place), group in groups[:SHOWN]
    ]
    section.table(["operation and place", "tasks", "p50", "p90", "p99", "longest"], rows)
    if len(groups) > SHOWN:
        section.say(f"Shown are the most frequent of {section.add('pairs of operation and place', len(groups), 'pairs')}.")
    shown = groups[:SHOWN]
    medians = [percentile(sorted(row.seconds or 0.0 for row in group), 50) for _, group in shown]
    section.charts.append(Chart("Median run time", [f"{name} {place}" for (name, place), _ in shown], {"median": [*medians]}, "bar", y_label="s"))
    return section.done()


def _spread(section: Section, name: str, label: str, group: list[Row], field: str) -> list[str]:
    ordered = sorted(getattr(row, field) for row in group)
    cells = [section.cell(f"tasks in {name}", len(ordered), "tasks")]
    cells += [section.cell(f"{name} p{p}", percentile(ordered, p), SECONDS) for p in PERCENTILES]
    return [label, *cells, section.cell(f"{name} longest", ordered[-1], SECONDS)]


def _buckets(title: str, values: list[float]) -> Chart:
    ordered = sorted(values)
    shares = [i / 20 for i in range(1, 21)]
    return Chart(
        title, [100 * share for share in shares], {"seconds": [percentile(ordered, 100 * share) for share in shares]}, "line", "% of tasks", "s"
    )


async def failures(context: Context, operation: str | None = None, window: float | None = None) -> Any:
    """How many tasks failed, by operation and error code, with the newest error of each. `window`: the last so many seconds."""
    past = await tasks(context, window, operation)
    section = Section(context, _title("Failures", window, operation), f"{past.source} ({past.period()})")
    ended = [row for row in past.rows if row.ended]
    failed = [row for row in ended if row.status == "failed"]
    if not ended:
        section.say("No task has ended in this period.")
        return section.done()
    share = section.add("share of tasks that failed", len(failed) / len(ended), RATIO)
    section.say(
        f"{section.add('tasks that failed', len(failed), 'tasks')} of {section.add('tasks that ended', len(ended), 'tasks')} have failed ({share});"
        f" {section.add('tasks that were cancelled', sum(row.status == 'cancelled' for row in ended), 'tasks')} were cancelled."
    )
    counts = {name: len(group) for (name,), group in grouped(ended, "operation").items()}
    rows = []
    for (name, code), group in list(grouped(failed, "operation", "code").items())[:SHOWN]:
        n = section.cell(f"failures of {name} with {code}", len(group), "failures")
        rows.append(
            [name, code, n, section.cell(f"share of {name} that failed with {code}", len(group) / counts[name], RATIO), quoted(group[-1].error)]
        )
    if rows:
        section.table(["operation", "code", "failures", "of its tasks", "newest error"], rows)
    return section.done()


async def queue_health(context: Context, window: float | None = 900.0) -> Any:
    """What waits now and for how long, what arrives and ends a second, how busy the devices are, and whether the queue grows."""
    past = await tasks(context, window)
    found = await metrics(context, "openruntime_queue_depth", "openruntime_device_busy", "openruntime_device_slots", window=window)
    devices = (await context.client.get("/devices"))["devices"]
    section = Section(context, _title("Queue health", window), f"{past.source}, {found.source}, GET /devices")
    section.method = "rates over the span of the tasks; growth by Theil and Sen's slope, judged by Mann's and Kendall's test"
    waiting = [row for row in past.rows if row.status == "queued"]
    span = max(1.0, past.now - past.rows[0].created) if past.rows else 1.0
    arrived, ended = len(past.rows) / span, sum(row.ended for row in past.rows) / span
    section.say(
        f"- {section.add('tasks waiting', len(waiting), 'tasks')} wait"
        + (f", the oldest for {section.add('oldest waiting', past.now - min(row.created for row in waiting), SECONDS)}" if waiting else "")
        + f"; {section.add('tasks running', sum(row.status == 'running' for row in past.rows), 'tasks')} run."
    )
    section.say(f"- Tasks arrive at {section.add('arrival rate', arrived, RATE)} and end at {section.add('finish rate', ended, RATE)}.")
    if waiting and ended > 0:
        section.say(f"- At that rate what waits would be done in {section.add('time to drain the queue', len(waiting) / ended, SECONDS)}.")
    for device in devices:
        busy, slots = (
            section.add(f"busy slots of {device['id']}", device["busy"], "slots"),
            section.add(f"slots of {device['id']}", device["slots"], "slots"),
        )
        use = device.get("utilization")
        section.say(
            f"- {device['id']} is {device['status']}: {busy} of {slots} busy"
            + (f", utilisation {section.add('utilisation of ' + device['id'], use, RATIO)}" if use is not None else "")
            + "."
        )
    depths = {name: values for name, values in found.series.items() if name.startswith("openruntime_queue_depth")}
    total = [sum(value or 0.0 for value in column) for column in zip(*depths.values(), strict=True)] if depths else []
    grows = trend(found.times, total) if total else None
    if grows is not None and grows.sure and grows.slope > 0:
        section.say(f"- The queue grows: {section.add('growth of the queue', grows.slope, RATE)}.")
    elif grows is not None:
        section.say("- The queue does not grow.")
    if total:
        section.charts.append(Chart("Tasks waiting", [clock(when) for when in found.times], {"waiting": [*total]}, y_label="tasks"))
    return section.done()


async def cache_rate(context: Context, window: float | None = None) -> Any:
    """How often the result cache had the answer: since the server's start, and among the newest tasks by operation."""
    past = await tasks(context, window)
    found = await metrics(context, "openruntime_cache_", window=window)
    section = Section(context, _title("Result cache", window), f"{found.source}, {past.source} ({past.period()})")
    hits, misses = found.last("openruntime_cache_hits_total") or 0.0, found.last("openruntime_cache_misses_total") or 0.0
    told = f"{section.add('cache hits', hits, 'hits')} and {section.add('cache misses', misses, 'misses')} since the server's start"
    rate = f": a hit rate of {section.add('cache hit rate', hits / (hits + misses), RATIO)}" if hits + misses else ""
    section.say(f"{told}{rate}.")
    rows = []
    for (name,), group in list(grouped([row for row in past.rows if row.status == "completed"], "operation").items())[:SHOWN]:
        cached = sum(row.cached for row in group)
        share = section.cell(f"share of {name} from the cache", cached / len(group), RATIO)
        rows.append([name, section.cell(f"completed {name}", len(group), "tasks"), section.cell(f"cached {name}", cached, "tasks"), share])
    if rows:
        section.table(["operation", "completed", "from the cache", "share"], rows)
    return section.done()
