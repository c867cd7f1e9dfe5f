"""Where the microseconds of work A go: each stage of the gateway's way timed by itself, on the real objects.

    python -m benchmarks.stages [--json FILE]

Best of 20 rounds of 2,000 calls; what a stage costs in company (caches, the other processes) is more: see `python -m benchmarks A`.
"""

import argparse
import asyncio
import json
import timeit
from array import array
from collections.abc import Callable, Coroutine
from typing import Any

from uuid_utils import uuid7

from openruntime.contracts import safetensors
from openruntime.contracts.events import TaskQueued
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array
from openruntime.contracts.records import LOCAL, Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime
from openruntime.gateway.requests import parse
from openruntime.gateway.results import Results, describe, to_json
from openruntime.runtimes import channel
from openruntime.runtimes.channel import FrameReader, JobWriter, frame
from openruntime.runtimes.probe import look
from openruntime.tasks.events import EventBus
from openruntime.tasks.lifecycle import Event, advance

REQUEST = '{"operation":"expression","parameters":{"formula":"2*x+1"}}'


def best(call: Callable[[], Any], number: int = 2000) -> float:
    """Microseconds a call."""
    return min(timeit.repeat(call, number=number, repeat=20)) / number * 1e6


def drive(coroutine: Any) -> Any:
    """Run a coroutine that does not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waited")


async def stages() -> dict[str, float]:
    """Stage -> microseconds, in the order of the way."""
    runtime = Runtime(Settings.load({"store": "memory", "log_level": "error"}))
    runtime.runtimes[0]._abilities["cpu:0", "numpy"] = look("numpy").abilities["cpu"]  # as its worker says
    await runtime.store.open()
    x = Array("float32", (1000,), array("f", range(1000)).tobytes())
    body = b"".join(bytes(part) for part in safetensors.encode({"x": x}, {"task": REQUEST}))
    request, arrays = parse(safetensors_type := "application/x-safetensors", b"", body, runtime.catalogue.first_array)
    call = runtime.catalogue.bind("expression", {**request.parameters, **arrays})

    def make() -> Coroutine[Any, Any, Task]:
        return runtime.tasks._make(request, arrays, LOCAL, "no-store", None, str(uuid7()))

    task: Task = drive(make())
    store, queue, writer = runtime.store, runtime.queue, JobWriter(runtime.pool)
    jobs: list[tuple[int, str, Any, memoryview | None]] = [(1, "expression", call.parameters, None)]
    [(message, _)], _ = writer.messages(jobs, 0)
    done = frame(channel.Done(1, {"output": channel.WireArray("float32", (1000,), x.view)}, 1e-5, 1.0, 2.0))
    task.outputs, task.life = {"output": x}, advance(task.life, Event.SUCCEEDED)[0]
    results = Results(runtime.tasks, runtime.tensors, runtime.devices, 1000)

    def stored() -> None:
        entry: Task = drive(make())
        drive(store.submit([entry], promised=False))
        (claimed,) = drive(queue.claim(("any",), 1))
        claimed.life, _ = advance(claimed.life, Event.SUCCEEDED)
        claimed.outputs = task.outputs
        drive(store.finish(claimed, claimed.life.attempt))

    assert isinstance(runtime.events, EventBus)
    events = runtime.events._events
    found = {
        "parse the body (remembered header and request)": best(lambda: parse(safetensors_type, b"", body, runtime.catalogue.first_array)),
        "  header and request not seen before": best(lambda: (safetensors._read(_header(body)), TaskRequest.model_validate_json(REQUEST))),
        "check against the operation (remembered)": best(lambda: runtime.catalogue.bind("expression", {**request.parameters, **arrays})),
        "predict": best(lambda: runtime.cost.predict(call, "cpu:0", "numpy")),
        "make the task, the two above included": best(lambda: drive(make())),
        "make, submit, claim, finish in the memory store": best(stored, 500),
        "three transitions of the state machine": 3 * best(lambda: advance(task.life, Event.CLAIMED)),
        "three events published": 3 * best(lambda: events.append(TaskQueued(0.0, 0, task.id, "expression", "local", 5))),
        "job as a message": best(lambda: writer.messages(jobs, 0)),
        "  read by the worker": best(lambda: [channel.run_decoder.decode(part) for part in FrameReader().feed(message)]),
        "answer read by the gateway": best(lambda: [channel.outcome_decoder.decode(part) for part in FrameReader().feed(done)]),
        "learn from it": best(lambda: runtime.cost.record(call, "cpu:0", "numpy", 1e-5, first=False)),
        "TaskResponse as JSON": best(lambda: to_json(describe(task))),
        "answer as safetensors, that included": best(lambda: drive(results.encoded(task, safetensors_type, LOCAL))),
    }
    await runtime.store.close()
    return found


def _header(body: bytes) -> bytes:
    return body[8 : 8 + int.from_bytes(body[:8], "little")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    found = asyncio.run(stages())
    for name, microseconds in found.items():
        print(f"{name:<52} {microseconds:6.2f} µs")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
