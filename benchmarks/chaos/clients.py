"""Clients as careful as the SDK: what was not answered is sent again with its Idempotency-Key; what has none is not."""

import itertools
import json
import random
import threading
import time
from collections.abc import Callable

import numpy as np
import safetensors.numpy

from benchmarks.chaos import work
from benchmarks.chaos.ledger import ENDED, Ledger
from benchmarks.load import SAFETENSORS, Answer, Connection, request

TIMEOUT = 20.0  # seconds without a byte: the connection is given up and another tried
AGAIN = (408, 429, 503, 507)  # nothing was accepted; try again
WEIGHTS = {"tiny": 40, "large": 8, "long": 3, "dependent": 10, "tensor": 10, "failing": 10, "cancelled": 6, "batch": 13, "deadline": 5, "overdue": 1}
BACKLOG = 3_000  # acknowledged tasks not seen to end: then the clients wait


class Client:
    """One connection through the proxy, made anew when it breaks; used by one thread."""

    def __init__(self, port: int, ledger: Ledger, stop: threading.Event, patience: float = 60.0) -> None:
        self._port = port
        self._ledger = ledger
        self._stop = stop
        self._patience = patience
        self._connection: Connection | None = None
        self.sent = 0.0  # when the request that was answered was sent

    def ask(self, message: bytes, *, repeatable: bool = True) -> Answer | None:
        """The answer, or None where none came in time: then nothing is known, and nothing was acknowledged."""
        until, pause = time.monotonic() + self._patience, 0.01
        while True:
            written = False
            try:
                if self._connection is None:
                    self._connection = Connection(self._port, TIMEOUT)
                self.sent = time.monotonic()
                written = True
                answer = self._connection.ask(message)
                if answer.status not in AGAIN:
                    return Answer(answer.head, bytes(answer.body))
                self._ledger.refuse(answer.status)
            except (OSError, ValueError):  # gone, silent for too long, or cut off within the head
                self.close()
                if written:
                    self._ledger.add("unanswered")
                    if not repeatable:
                        return None
                    self._ledger.add("sent_again")
            if time.monotonic() > until:
                return None
            time.sleep(pause)
            pause = min(0.1, pause * 2)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Crowd:
    """The threads: one that probes without pause, some that send everything, one that follows what was acknowledged."""

    def __init__(self, port: int, ledger: Ledger, seed: int, mixed: int = 4) -> None:
        self.ledger = ledger
        self._port = port
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._seed = seed
        self.defects: list[str] = []
        jobs: list[Callable[[Client], None]] = [self._probe, self._follow, *(self._mixer(number) for number in range(mixed))]
        self._threads = [threading.Thread(target=self._run, args=(job,), daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing new; what is under way is brought to its end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            if thread.is_alive():
                self.defects.append("a client did not end")
        if self.defects:
            raise RuntimeError("the clients met what they could not judge:\n" + "\n".join(self.defects[:5]))

    def _run(self, job: Callable[[Client], None]) -> None:
        client = Client(self._port, self.ledger, self._stop)
        try:
            job(client)
        except Exception as error:
            self.defects.append(f"{type(error).__name__}: {error}")
        finally:
            client.close()

    def _probe(self, client: Client) -> None:
        """One tiny task after the other, waited for and acknowledged in turn, ahead of the others: the pulse of the service."""
        while not self._stop.is_set():
            self._waited(client, "tiny", priority=10)
            self._promised(client, "tiny", priority=10)
            time.sleep(0.003)

    def _mixer(self, which: int) -> Callable[[Client], None]:
        dice = random.Random(f"{self._seed} {which}")
        each = dice.sample(list(WEIGHTS), len(WEIGHTS))  # once, before chance decides

        def send(client: Client) -> None:
            while not self._stop.is_set():
                kind = each.pop() if each else dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                if kind == "batch":
                    self._batch(client)
                elif kind == "cancelled":
                    self._cancelled(client, dice.random() * 0.2)
                elif kind == "tensor":
                    self._tensor(client)
                elif kind == "dependent":
                    number = next(self._numbers)
                    parent = self._promised(client, "tiny", number, keyed=dice.random() < 0.5)
                    if parent is not None:
                        self._promised(client, kind, number, reference={"task": parent})
                elif kind in work.TIMEOUTS:
                    self._promised(client, kind, keyed=False)  # sent once, so that it is known which gateways it has met
                elif kind != "failing" and dice.random() < 0.4:
                    self._waited(client, kind, keyed=dice.random() < 0.5)
                else:
                    self._promised(client, kind, keyed=dice.random() < 0.8)
                while len(self.ledger.open) > BACKLOG and not self._stop.is_set():
                    time.sleep(0.05)
                time.sleep(dice.random() * 0.03)

        return send

    def _key(self, kind: str, number: int) -> str:
        return f"chaos-{self._seed}-{kind}-{number}"

    def _promised(
        self, client: Client, kind: str, number: int | None = None, *, keyed: bool = True, priority: int = 5, reference: dict[str, str] | None = None
    ) -> str | None:
        """Hand a task over; its id once acknowledged."""
        number = next(self._numbers) if number is None else number
        key = self._key(kind, number) if keyed else None
        answer = client.ask(work.submission(*work.call(kind, number, reference), key=key, wait=None, priority=priority), repeatable=keyed)
        return self._accepted(client, answer, kind, number, key)

    def _accepted(self, client: Client, answer: Answer | None, kind: str, number: int, key: str | None) -> str | None:
        if answer is None:
            return None
        if answer.status != 202:
            self.ledger.wrong("wrong", f"{kind} {number} was answered with {answer.status}: {bytes(answer.body[:300])!r}")
            return None
        task = str(answer.json()["task_id"])
        self.ledger.acknowledge(task, kind, number, key, client.sent)
        self.ledger.accepted.append((client.sent, time.monotonic()))
        return task

    def _waited(self, client: Client, kind: str, *, keyed: bool = True, priority: int = 5) -> None:
        """A task whose answer is its result; told 202 instead, it is acknowledged like the others."""
        number = next(self._numbers)
        key = self._key(kind, number) if keyed else None
        answer = client.ask(work.submission(*work.call(kind, number), key=key, wait=5, priority=priority), repeatable=keyed)
        if answer is not None and answer.status == 200:
            self.ledger.answer(kind, number, safetensors.numpy.load(bytes(answer.body)).get("output"))
            self.ledger.computed.append((client.sent, time.monotonic()))
        elif answer is not None and answer.status == 422 and answer.json().get("code") == "worker_crashed":
            self.ledger.add("poisoned")
        else:
            self._accepted(client, answer, kind, number, key)

    def _batch(self, client: Client) -> None:
        numbers = [next(self._numbers) for _ in range(work.BATCH)]
        answer = client.ask(work.batch(numbers), repeatable=False)
        if answer is None:
            return
        for number, entry in zip(numbers, answer.json()["tasks"], strict=True) if answer.status == 202 else ():
            self.ledger.acknowledge(str(entry["task_id"]), "batch", number)
        self.ledger.accepted.append((client.sent, time.monotonic()))

    def _tensor(self, client: Client) -> None:
        """An array handed over once, then used by a task."""
        number = next(self._numbers)
        answer = client.ask(work.tensor(number))  # sent twice it is kept twice, under two ids
        if answer is None or answer.status != 201:
            return
        tensor = str(answer.json()["tensors"]["tensor"]["id"])
        self.ledger.tensors[tensor] = number
        self._promised(client, "tensor", number, reference={"tensor": tensor})

    def _cancelled(self, client: Client, after: float) -> None:
        """Start what would never end, and cancel it: the cancel counts once it was answered, whatever happens then."""
        task = self._promised(client, "cancelled")
        if task is None:
            return
        time.sleep(after)
        told = False
        until = time.monotonic() + 60
        while time.monotonic() < until:
            answer = client.ask(request("DELETE", f"/tasks/{task}"))
            if answer is not None and answer.status in (200, 202):
                status = answer.json()["status"]
                if status in ENDED:
                    return
                if told and status in ("queued", "running"):
                    self.ledger.add("cancels_forgotten")
                told = True
            time.sleep(0.1)
        self.ledger.wrong("wrong", f"task {task} could not be cancelled within 60 s")

    def _follow(self, client: Client) -> None:
        """Look at what was acknowledged, so that a later look has something to differ from."""
        dice = random.Random(self._seed)
        while not self._stop.is_set():
            waiting = self.ledger.pending()
            pending = dice.sample(waiting, min(50, len(waiting)))
            if not pending or look(client, self.ledger, pending, wait=0) == 0:
                time.sleep(0.1)
            time.sleep(0.01)


def look(client: Client, ledger: Ledger, ids: list[str], wait: float) -> int:
    """Ask what became of these; how many have ended."""
    answer = client.ask(work.results(ids, wait))
    if answer is None:
        return 0
    if answer.status != 200:
        raise RuntimeError(f"GET /tasks/batch answered {answer.status}: {bytes(answer.body[:300])!r}")
    entries, outputs = _unpack(bytes(answer.body))
    return sum(ledger.see(task, entry, outputs.get(f"{index}.output")) for index, (task, entry) in enumerate(zip(ids, entries, strict=True)))


def _unpack(body: bytes) -> tuple[list[dict[str, object]], dict[str, np.ndarray]]:
    """The entries of a batch's answer, and its arrays by name."""
    size = int.from_bytes(body[:8], "little")
    return json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["tasks"]), safetensors.numpy.load(body)


def settle(port: int, ledger: Ledger, patience: float) -> None:
    """Follow every acknowledged task to its end, then look at each once more. What has not ended after `patience` seconds is lost."""
    client = Client(port, ledger, threading.Event())
    until = time.monotonic() + patience
    while (pending := ledger.pending()) and time.monotonic() < until:
        look(client, ledger, pending[:50], wait=1)
    for task in ledger.pending():
        ledger.give_up(task, f"not ended {patience:g} s after the last fault")
    ids = [task for task, promise in ledger.promises.items() if promise.end is not None and promise.end[0] != "lost"]
    for first in range(0, len(ids), 50):
        look(client, ledger, ids[first : first + 50], wait=0)
    for tensor, number in ledger.tensors.items():
        answer = client.ask(request("GET", f"/tensors/{tensor}", headers={"Accept": SAFETENSORS}))
        if answer is None or answer.status != 200:
            ledger.wrong("lost", f"tensor {tensor}: {answer and answer.status}")
        elif not np.array_equal(safetensors.numpy.load(bytes(answer.body))["tensor"], work.vector("tensor", number)):
            ledger.wrong("wrong", f"tensor {tensor} has other bytes")
    client.close()
