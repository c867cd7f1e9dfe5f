"""What happened to a task, moment by moment, and how its device has been lately."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from openruntime.ai.agents.debugger.findings import DevicePast
from openruntime.ai.agents.experiments import Bench, seconds

WINDOW = 3600.0  # seconds back that a device is looked at
PAGE = 200  # of its newest tasks
EXAMPLES = 3
DEATHS, USE = "openruntime_worker_deaths_total", "openruntime_device_utilization"


async def device_past(bench: Bench, device: str, task_id: str) -> DevicePast:
    """Of its newest other tasks, its workers and its metrics. Raises what the server refuses with."""
    now = await bench.client.get(f"/devices/{quote(device, safe=':')}")
    load, workers = now.get("load") or {}, now.get("workers") or []
    found = DevicePast(device, str(now.get("status") or ""), use=load.get("utilization"), workers=len(workers), temperature=now.get("temperature"))
    found.memory = now["memory_available"] / now["memory_total"] if now.get("memory_total") else None
    newest = (await bench.client.get("/tasks", device=device, limit=PAGE))["tasks"]
    others = [task for task in newest if task["task_id"] != task_id and task["status"] in ("completed", "failed", "cancelled")]
    found.tasks = len(others)
    for task in others:
        if task["status"] == "failed":
            code = str(task.get("code"))
            found.failed[code] = found.failed.get(code, 0) + 1
            found.examples = [*found.examples, task["task_id"]][:EXAMPLES]
    series = (await bench.client.get("/metrics/history", name=[DEATHS, USE], seconds=WINDOW))["series"]
    for name, values in series.items():
        known = [value for value in values if value is not None]
        if f'"{device}"' not in name or not known:
            continue
        if name.startswith(DEATHS):
            # a counter is there from the first death on; what it fell by is a restart of the server
            rose = [max(0.0, after - before) for before, after in pairwise(known)]
            found.deaths += int(sum(rose) + (known[0] if values[0] is None else 0.0))
        elif name.startswith(USE):
            found.highest_use = max(known)
    return found


def timeline(task: Mapping[str, Any], trace: Sequence[Mapping[str, Any]], explain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The task's events in their order: those of its record, the attempts before the last, and each span of its trace where that began."""
    listed = [("created_at", "accepted"), ("started_at", "started"), ("finished_at", task["status"])]
    found = [{"time": task[field], "what": what} for field, what in listed if task.get(field)]
    begun = datetime.fromisoformat(task["created_at"]) if task.get("created_at") else None
    for span in trace:
        if span.get("ph") == "X" and span.get("tid") == 2 and begun is not None:
            when = (begun + timedelta(microseconds=span["ts"])).astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            found.append({"time": when, "what": f"{span['name']}: {seconds(span['dur'] / 1e6)}"})
    found.sort(key=lambda event: datetime.fromisoformat(event["time"]))
    failures, deaths = explain.get("failures") or 0, explain.get("worker_deaths") or 0
    if failures or deaths:
        found.append({"time": f"attempt {explain.get('attempt')}", "what": f"after {failures} failures and {deaths} workers that died with it"})
    return found
