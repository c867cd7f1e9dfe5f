"""Several gateways on one Redis: tasks accepted and finished a second, how soon others take up what a killed one held, and what each fsync
mode loses when Redis is killed under load."""

import argparse
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from redis import Redis

from benchmarks.durable import SUBMIT, accepted, fetch, inputs, submissions
from benchmarks.load import Connection, ask, drive, request
from benchmarks.redis_server import RedisServer, redis_server
from benchmarks.report import machine, versions
from benchmarks.servers import Server, openruntime, running
from benchmarks.works import body_a, output

ROOT = Path(__file__).parents[1]
GATEWAYS, CLIENTS = 3, 64
REACH = 1_500  # accepted tasks a second
RECLAIM = 3.0  # seconds until another gateway has taken up what a killed one held


def start(stack: ExitStack, redis: RedisServer, data: Path, count: int) -> list[Server]:
    """Gateways with one worker each, which share Redis and the folder of large arrays."""
    command, one = openruntime(store=redis.url), {"OPENRUNTIME_SLOTS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return [stack.enter_context(running(command, ready="/health/ready", data_dir=data, environment=one)) for _ in range(count)]


def rates(scratch: Path, tasks: int) -> dict[str, float]:
    """`tasks` distinct submits from 64 clients at three gateways, each acknowledged when it is in Redis, fsynced; all results fetched and checked."""
    vectors = inputs(tasks)
    with redis_server(scratch / "redis") as redis, ExitStack() as stack:
        gateways = start(stack, redis, scratch / "data", GATEWAYS)
        ports = [gateway.port for gateway in gateways]
        drive(ports, [request("POST", "/tasks", body_a(vector), SUBMIT) for vector in inputs(200)], CLIENTS)
        messages = [request("POST", "/tasks", body_a(vector), SUBMIT) for vector in vectors]
        spent = [gateway.own_cpu_seconds() for gateway in gateways]
        began = time.perf_counter()
        ids = accepted(drive(ports, messages, CLIENTS))
        submitted = time.perf_counter() - began
        answers = fetch(ports, ids, CLIENTS)
        done = time.perf_counter() - began
        cpu = sum(gateway.own_cpu_seconds() - before for gateway, before in zip(gateways, spent, strict=True))
    for vector, answer in zip(vectors, answers, strict=True):
        np.testing.assert_allclose(output(answer), 2 * vector + 1, rtol=1e-6)
    return {"accepted a second": tasks / submitted, "tasks a second": tasks / done, "gateways' CPU µs a task": cpu / tasks * 1e6}


class Load:
    """Clients that submit until they are stopped; what was acknowledged stands in `ids`."""

    def __init__(self, ports: Sequence[int], clients: int) -> None:
        self.ids: list[str] = []
        self._going = True
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._send, args=(ports[n % len(ports)],)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send(self, port: int) -> None:
        with Connection(port) as connection:
            while self._going:
                body = body_a(np.full(1000, next(self._numbers), np.float32))
                answer = connection.ask(request("POST", "/tasks", body, SUBMIT))
                if answer.status == 202:
                    self.ids.append(answer.json()["task_id"])
                else:
                    time.sleep(0.05)

    def stop(self) -> None:
        self._going = False
        for thread in self._threads:
            thread.join(60)


def losses(scratch: Path, fsync: str, kills: int) -> dict[str, Any]:
    """Redis is killed (-9) under load and started again, `kills` times; acknowledged tasks that nobody knows of afterwards."""
    found: dict[str, Any] = {"kills": kills, "acknowledged": 0, "lost": 0, "back after s": []}
    with redis_server(scratch / f"redis-{fsync}", fsync=fsync) as redis, ExitStack() as stack:
        gateways = start(stack, redis, scratch / f"data-{fsync}", 2)
        for _ in range(kills):
            load = Load([gateway.port for gateway in gateways], 16)
            time.sleep(2.0)
            redis.kill()
            died = time.perf_counter()
            redis.start()
            for gateway in gateways:
                gateway.wait_ready("/health/ready")
            found["back after s"].append(round(time.perf_counter() - died, 3))
            load.stop()
            found["acknowledged"] += len(load.ids)
            answers = fetch(gateways[0].port, load.ids, 16, 120)
            found["lost"] += sum(answer.status == 404 for answer in answers)
            if any(answer.status not in (200, 404) for answer in answers):
                raise RuntimeError(f"answers with {sorted({answer.status for answer in answers})}")
        ask(gateways[0].port, "GET", "/health")
    return found


def leases(redis: Any, tasks: Iterable[str]) -> dict[str, tuple[str, str, int]]:
    """State, holder and attempt of each task, as Redis has them."""
    names = list(tasks)
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        pipeline.hmget(f"openruntime:task:{name}", "s", "g", "a")
    return {name: (state, holder, int(attempt)) for name, (state, holder, attempt) in zip(names, pipeline.execute(), strict=True)}


def reclaims(scratch: Path, kills: int) -> dict[str, Any]:
    """One gateway of three is killed (-9) while thousands of tasks wait, `kills` times: seconds until others have taken up each that it held."""
    took: list[float] = []
    with redis_server(scratch / "redis-reclaims") as server, ExitStack() as stack, Redis.from_url(server.url, decode_responses=True) as redis:
        gateways = start(stack, server, scratch / "data-reclaims", GATEWAYS)
        for _ in range(kills):
            victim = gateways.pop(0)
            ports = [gateway.port for gateway in gateways]
            ids = accepted(drive(ports, submissions(inputs(3_000), batch=True), 8))
            victim.kill()
            died = time.perf_counter()
            held = leases(redis, redis.zrange("openruntime:leases", 0, -1))
            time.sleep(0.5)  # what the living hold is other work by now, and no lease of the dead is over yet
            left = {task for task, now in leases(redis, held).items() if now[0] == "l" and now == held[task]}
            while left:
                if time.perf_counter() > died + 60:
                    raise RuntimeError(f"{len(left)} tasks of a killed gateway were not taken up within 60 s")
                for task, (state, _, attempt) in leases(redis, left).items():
                    again = attempt > held[task][2]
                    if again:
                        took.append(time.perf_counter() - died)
                    if again or state == "e":  # its end was on the way when its gateway died
                        left.discard(task)
                time.sleep(0.01)
            if any(answer.status != 200 for answer in fetch(ports, ids, 16)):
                raise RuntimeError("a task did not complete")
            gateways += start(stack, server, scratch / "data-reclaims", 1)
    found = {"p50 s": round(median(took), 3), "max s": round(max(took), 3)} if took else {}
    return {"kills": kills, "tasks": len(took), "reach s": RECLAIM, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="for the rates")
    parser.add_argument("--rounds", type=int, default=3, help="of the rates; the median counts")
    parser.add_argument("--kills", type=int, default=5, help="of Redis for each fsync mode; 0 leaves the losses out")
    parser.add_argument("--deaths", type=int, default=10, help="of a gateway; 0 leaves out how soon others take up what it held")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gateways.json")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build", help="where Redis and gateways keep their data: a real disk")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "gateways": GATEWAYS, "clients": CLIENTS, "reach": REACH, "rates": []}
    with tempfile.TemporaryDirectory(dir=arguments.scratch, ignore_cleanup_errors=True) as folder:
        for number in range(arguments.rounds):
            load = os.getloadavg()[0]  # others on these cores take theirs
            found = rates(Path(folder) / str(number), arguments.tasks)
            report["rates"].append({"load before": round(load, 1), **{name: round(value, 1) for name, value in found.items()}})
            print(report["rates"][-1], flush=True)
        report["reclaims"] = reclaims(Path(folder), arguments.deaths) if arguments.deaths else {}
        print("reclaims", report["reclaims"], flush=True)
        report["losses"] = {}
        for fsync in ("always", "everysec", "no") if arguments.kills else ():
            report["losses"][fsync] = losses(Path(folder), fsync, arguments.kills)
            print(fsync, report["losses"][fsync], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if report["losses"].get("always", {}).get("lost"):
        raise SystemExit("tasks were lost although every write was fsynced")


if __name__ == "__main__":
    main()
