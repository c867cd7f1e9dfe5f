"""The faults: each does its harm, undoes what must be undone, and says when the service could have begun to recover."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.stage import Stage, stopped

GIVE_UP = 60.0  # seconds without an answer after a fault: it was not survived


@dataclass
class Fault:
    """One that happened. Seconds: `recovery` until both an acknowledgement and a computed result were had again; `pause` the longest
    time around it without a computed result; `replaced` until a killed worker's place had a ready one again."""

    kind: str
    at: float
    recovery: float | None = None
    pause: float = 0.0
    replaced: float | None = None
    note: str = ""


@dataclass
class Scene:
    stage: Stage
    ledger: Ledger
    dice: random.Random
    fault: Fault

    def gateway(self) -> int:
        return self.dice.randrange(len(self.stage.gateways))

    def kill_gateway(self) -> float:
        moment = self.stage.kill(self.gateway())
        self.ledger.killed = time.monotonic()  # after it was gone: nothing it told came later
        return moment


Act = Callable[[Scene], float]
FAULTS: dict[str, Act] = {}
REDIS = ("redis-kill", "redis-stop", "redis-cut")


def _fault(kind: str) -> Callable[[Act], Act]:
    return lambda act: FAULTS.setdefault(kind, act)


@_fault("gateway-kill")
def gateway_kill(scene: Scene) -> float:
    return scene.kill_gateway()


@_fault("gateway-stop")
def gateway_stop(scene: Scene) -> float:
    with stopped(scene.stage.gateways[scene.gateway()].process.pid):
        time.sleep(scene.dice.uniform(0.1, 1.5))
    return time.monotonic()


@_fault("worker-kill")
def worker_kill(scene: Scene) -> float:
    """SIGKILL to one that is ready; the place is watched until a new one is."""
    number, chosen = _worker(scene)
    if chosen is None:
        return time.monotonic()
    index, pid = chosen
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while time.monotonic() < moment + 10:
        slots = scene.stage.workers(number)
        if len(slots) > index and slots[index]["state"] == "ready" and slots[index]["pid"] != pid:
            scene.fault.replaced = time.monotonic() - moment
            break
        if slots and slots[index]["state"] == "cold" and index and time.monotonic() > moment + 1:
            scene.fault.note = "a second worker, and nothing waited for another"
            break
        time.sleep(0.01)
    else:
        scene.fault.note = "not replaced within 10 s"
    return moment


@_fault("worker-stop")
def worker_stop(scene: Scene) -> float:
    _, chosen = _worker(scene)
    if chosen is not None:
        with stopped(chosen[1]):
            time.sleep(scene.dice.uniform(0.1, 1.5))
    return time.monotonic()


@_fault("drop")
def drop(scene: Scene) -> float:
    """Every connection between clients and gateways is reset."""
    scene.stage.proxy.drop()
    return time.monotonic()


@_fault("cut")
def cut(scene: Scene) -> float:
    """No byte passes between clients and gateways; then all connections break, or go on where they were."""
    scene.stage.proxy.cut()
    time.sleep(scene.dice.uniform(0.1, 1.5))
    if scene.dice.random() < 0.5:
        scene.stage.proxy.drop()
    scene.stage.proxy.mend()
    return time.monotonic()


@_fault("disk-full")
def disk_full(scene: Scene) -> float:
    """Not a byte is left until a client was told so with 507, and some time more; sometimes the gateway is killed meanwhile."""
    before = scene.ledger.refused[507]
    scene.stage.volume.fill()
    try:
        until = time.monotonic() + 10
        while scene.ledger.refused[507] == before and time.monotonic() < until:
            time.sleep(0.02)
        if scene.ledger.refused[507] == before:
            scene.fault.note = "nobody was told 507"
        time.sleep(scene.dice.uniform(0.1, 1.0))
        if scene.dice.random() < 0.25:
            scene.fault.note += "gateway killed meanwhile"
            scene.kill_gateway()
            time.sleep(scene.dice.uniform(0.1, 1.5))
    finally:
        scene.stage.volume.free()
    return time.monotonic()


@_fault("clock")
def clock(scene: Scene) -> float:
    """A step of up to three hours, forwards or back; sometimes a gateway starts with it; then the clock is right again."""
    scene.stage.move_clock(scene.dice.choice((-1, 1)) * scene.dice.uniform(1, 10_800))
    time.sleep(scene.dice.uniform(0.2, 1.5))
    if scene.dice.random() < 0.25:
        scene.fault.note = "gateway killed meanwhile"
        scene.kill_gateway()
        time.sleep(scene.dice.uniform(0.5, 1.5))
    scene.stage.move_clock(0.0)
    return time.monotonic()


@_fault("redis-kill")
def redis_kill(scene: Scene) -> float:
    assert scene.stage.redis is not None
    moment = time.monotonic()
    scene.stage.redis.kill()
    return moment


@_fault("redis-stop")
def redis_stop(scene: Scene) -> float:
    assert scene.stage.redis is not None
    with stopped(scene.stage.redis.process.pid):
        time.sleep(scene.dice.uniform(0.1, 1.5))
    return time.monotonic()


@_fault("redis-cut")
def redis_cut(scene: Scene) -> float:
    """Between gateways and Redis no byte passes; then their connections are reset."""
    assert scene.stage.redis_proxy is not None
    scene.stage.redis_proxy.cut()
    time.sleep(scene.dice.uniform(0.1, 1.5))
    scene.stage.redis_proxy.drop()
    scene.stage.redis_proxy.mend()
    return time.monotonic()


def happen(kind: str, stage: Stage, ledger: Ledger, dice: random.Random) -> Fault:
    """Let it happen, and wait until the service is back. Raises `RuntimeError` when it is not, with the end of the servers' log."""
    fault = Fault(kind, time.monotonic())
    accepted, computed = len(ledger.accepted), len(ledger.computed)
    since = FAULTS[kind](Scene(stage, ledger, dice, fault))
    while True:
        times = _first(ledger.accepted, accepted, since), _first(ledger.computed, computed, since)
        if None not in times:
            break
        if stage.revive():
            ledger.killed = time.monotonic()
            fault.note += "; started again by the service manager"
        if time.monotonic() > since + GIVE_UP:
            raise RuntimeError(f"no answer {GIVE_UP:g} s after {fault}\n{stage.log_tail()}")
        time.sleep(0.01)
    fault.recovery = max(answered for answered in times if answered is not None) - since
    around = [fault.at, *(answered for _, answered in ledger.computed[max(0, computed - 1) :] if answered > fault.at)]
    fault.pause = max((b - a for a, b in pairwise(around)), default=0.0)
    return fault


def _first(answers: list[tuple[float, float]], start: int, since: float) -> float | None:
    """When the first request that was sent at `since` or later was answered."""
    return next((answered for sent, answered in answers[start:] if sent >= since), None)


def _worker(scene: Scene) -> tuple[int, tuple[int, int] | None]:
    """A gateway, and of its ready workers one: its slot's number and its process."""
    number = scene.gateway()
    ready = [(index, int(str(slot["pid"]))) for index, slot in enumerate(scene.stage.workers(number)) if slot["state"] == "ready" and slot["pid"]]
    if not ready:
        scene.fault.note = "no worker was ready"
        return number, None
    return number, scene.dice.choice(ready)
