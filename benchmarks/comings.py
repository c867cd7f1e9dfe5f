"""Clients and tasks that come and go, well-behaved and not: the work of `benchmarks.leaks`. Everything is seeded."""

import asyncio
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from random import Random

import numpy as np
import psutil
import safetensors.numpy
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.durable import BATCH, SUBMIT, accepted, fetch_batches, inputs, submissions
from benchmarks.load import SAFETENSORS, Connection, ask, drive, request
from benchmarks.vitals import Patient
from benchmarks.works import HEADERS, body_a

LARGE = 640  # rows and columns of float32: 1.6 MB, so that it goes through shared memory
JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_serial = itertools.count()


@cache
def _vectors() -> np.ndarray:
    return inputs(1_000)


@cache
def _square() -> np.ndarray:
    return np.random.default_rng(3).random((LARGE, LARGE), dtype=np.float32)


def task(operation: str, *, wait: float = 30, **parameters: object) -> bytes:
    body = json.dumps({"operation": operation, "parameters": parameters, "tags": [f"n{next(_serial)}"]}).encode()
    return request("POST", "/tasks", body, JSON | {"Prefer": f"wait={wait:g}"})


def product(number: int, headers: dict[str, str] = HEADERS) -> bytes:
    """A large product, another one for each number."""
    square = _square() + np.float32(number)
    return request("POST", "/tasks", safetensors.numpy.save({"a": square, "b": square}, {"task": '{"operation": "matmul"}'}), headers)


def tasks(patient: Patient, count: int, dice: Random) -> None:
    """Of ten: six promised in batches, their results fetched; three waited for; one of JSON. Some answered from the cache, large, cancelled."""
    port, vectors = patient.server.port, _vectors() + np.float32(dice.random())
    batches = count * 6 // 10 // BATCH
    messages = submissions(vectors, batch=True)
    for first in range(0, batches, len(messages)):
        ids = accepted(drive(port, messages[: batches - first], 4))
        fetch_batches(port, ids, 4)
    waits = [request("POST", "/tasks", body_a(vector), HEADERS) for vector in vectors]
    for first in range(0, count * 3 // 10, len(waits)):
        _all_ok(drive(port, waits[: count * 3 // 10 - first], 16))
    _all_ok(drive(port, [task("uniform", shape=[100], seed=dice.randrange(1_000)) for _ in range(count // 10)], 8))
    _all_ok(drive(port, [task("monte_carlo_pi", samples=300_000, seed=dice.randrange(500)) for _ in range(count // 200)], 4))
    _all_ok(drive(port, [product(number % 50) for number in range(max(1, count // 1_000))], 2))
    slow = [task("rogue_sleep", wait=0, seconds=0.05) for _ in range(max(2, count // 1_000))]
    for sent in accepted(drive(port, slow, 2)):
        ask(port, "DELETE", f"/tasks/{sent}")


def _all_ok(answers: Sequence[object]) -> None:
    for answer in answers:
        if answer.status != 200:  # type: ignore[attr-defined]
            raise RuntimeError(f"status {answer.status}: {answer.body[:300]!r}")  # type: ignore[attr-defined]


def connections(patient: Patient, count: int, dice: Random) -> None:
    """Each a connection of its own that ends in one of nine ways."""
    large = product(0)
    whole = request("POST", "/tasks", body_a(_vectors()[0]), HEADERS)
    slow = task("rogue_sleep", wait=10, seconds=0.02)
    ways: list[Callable[[Connection], None]] = [
        lambda c: _ask(c, request("GET", "/health")),
        lambda c: _ask(c, whole),
        lambda c: _ask(c, large),
        lambda c: c.send(whole),  # the answer is never read
        lambda c: c.send(whole[: len(whole) // 2]),
        lambda c: c.send(large[: dice.randrange(300, len(large))]),
        lambda c: c.send(slow),  # gone while it waits
        lambda c: c.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),  # TLS, to a port without
        lambda c: c.send(b""),  # silent
    ]
    threads = [threading.Thread(target=_connect, args=(patient.server.port, ways, count // 4 + 1, Random(dice.random()))) for _ in range(4)]
    _together(threads)


def _connect(port: int, ways: Sequence[Callable[[Connection], None]], count: int, dice: Random) -> None:
    for _ in range(count):
        connection = Connection(port)
        try:
            with suppress(OSError, RuntimeError):
                dice.choices(ways, (3, 3, 1, 2, 2, 1, 2, 1, 1))[0](connection)
            if dice.random() < 0.5:  # reset rather than closed
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            connection.close()


def _ask(connection: Connection, message: bytes) -> None:
    answer = connection.ask(message)
    if answer.status not in (200, 202):
        raise RuntimeError(f"status {answer.status}")


def websockets(patient: Patient, count: int, dice: Random) -> None:
    """Fifty at a time while tasks make events; some part politely, some vanish, some talk rubbish, some never read."""
    asyncio.run(_sockets(patient.server.port, count, dice))


async def _sockets(port: int, count: int, dice: Random) -> None:
    seats, going = asyncio.Semaphore(50), asyncio.Event()

    async def events() -> None:
        while not going.is_set():
            await asyncio.to_thread(drive, port, [request("POST", "/tasks", body_a(vector), HEADERS) for vector in _vectors()[:8]], 4)
            await asyncio.sleep(0.05)

    async def one() -> None:
        async with seats:
            socket = await connect(f"ws://127.0.0.1:{port}/ws", max_queue=64, ping_interval=None, close_timeout=0.5)
            with suppress(ConnectionClosed, TimeoutError):
                await _behave(socket, dice)
            await socket.close()

    making = asyncio.create_task(events())
    await asyncio.gather(*(one() for _ in range(count)))
    going.set()
    await making


async def _behave(socket: ClientConnection, dice: Random) -> None:
    way = dice.randrange(6)
    if way == 0:
        return  # says nothing
    topics = ["tasks"] if way < 4 else [f"tasks.{dice.random()}", "devices", "metrics"]
    await socket.send(json.dumps({"subscribe": topics, "after": 0} if way == 3 else {"subscribe": topics}))
    async with asyncio.timeout(0.3):
        for _ in range(dice.randrange(1, 20)):
            await socket.recv()
    if way == 1:
        await socket.send("rubbish")
        await socket.recv()
    elif way == 2:
        socket.transport.abort()
    elif way == 5:
        await socket.send(json.dumps({"unsubscribe": topics}))


def restarts(patient: Patient, count: int, dice: Random) -> None:
    """`count` deaths of workers: half crash under a task that does it (twice, then it is poison), half are killed while others work."""
    port, before = patient.server.port, _restarts(patient)
    crashing = (count + 2) // 4
    for how in (dice.choice(("segfault", "abort", "kill", "exit")) for _ in range(crashing)):
        answer = ask(port, "POST", "/tasks", *_parts(task("rogue_crash", how=how)))
        if answer.json()["status"] != "failed":
            raise RuntimeError(f"a task that crashes its worker ended as {answer.json()}")
    while _restarts(patient) - before < count:
        load = [threading.Thread(target=_ignore, args=(port, product(number))) for number in range(2)]
        for thread in load:
            thread.start()
        time.sleep(dice.uniform(0.0, 0.05))
        for worker in patient.workers()[:1]:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        for thread in load:
            thread.join(60)


def _ignore(port: int, message: bytes) -> None:
    with suppress(OSError), Connection(port) as connection:
        connection.ask(message)


def _parts(message: bytes) -> tuple[bytes, dict[str, str]]:
    head, _, body = message.partition(b"\r\n\r\n")
    lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[2:]]
    return body, {name: value for name, _, value in lines if name != "Content-Length"}


def _restarts(patient: Patient) -> int:
    found = ask(patient.server.port, "GET", "/devices/cpu:0").json()
    return sum(worker["restarts"] for worker in found["workers"])


def failures(patient: Patient, count: int, dice: Random) -> None:
    """An operation that raises, one without memory (said, and really asked for), one that answers with more than it declared, one that prints."""
    kinds: Iterator[bytes] = itertools.cycle(
        [
            task("rogue_crash", how="raise"),
            task("rogue_crash", how="memory"),
            task("rogue_liar", elements=10**13),
            task("rogue_liar", elements=100_000),
            task("rogue_crash", how="system_exit"),
        ]
    )
    messages = list(itertools.islice(kinds, count))
    for answer in drive(patient.server.port, messages, 8):
        if answer.status != 200 or answer.json()["status"] != "failed":
            raise RuntimeError(f"status {answer.status}: {bytes(answer.body[:300])!r}")


def large_arrays(port: int) -> Callable[[], int]:
    """Start sending large products, tensors and half bodies until the server is gone; what is returned waits for that and counts the answers."""
    answered = []
    tensor = request("POST", "/tensors", safetensors.numpy.save({"x": _square()}), {"Content-Type": SAFETENSORS})

    def send(number: int) -> None:
        with suppress(OSError), Connection(port) as connection:
            for turn in itertools.count():
                message = (product(number + turn), product(number + turn, SUBMIT), tensor)[turn % 3]
                answered.append(connection.ask(message).status)

    threads = [threading.Thread(target=send, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()

    def joined() -> int:
        for thread in threads:
            thread.join(30)
        return len(answered)

    return joined


def _together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
