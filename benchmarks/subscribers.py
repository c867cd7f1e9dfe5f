"""WebSocket subscribers of all tasks while a hundred events a second happen: when does the last of them hear of an event?"""

import json
import os
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from statistics import quantiles

from benchmarks.load import Connection, request
from benchmarks.servers import Server
from benchmarks.works import HEADERS, body_a

RATE = 100.0  # events a second; each task makes three
SUBSCRIBE = json.dumps({"subscribe": ["tasks"]}).encode()
HANDSHAKE = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
HANDSHAKE += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"


@dataclass
class Heard:
    """Seconds from an event to a subscriber's reading it, over all subscribers; `missing`: events that one of them never got."""

    subscribers: int
    events: int
    p50: float
    p99: float
    worst: float
    missing: int
    gateway: float  # share of one core


class Subscriber:
    """A raw reader, because five hundred library clients would be slower than the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(HANDSHAKE.encode())
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.socket.recv(4096)
        if not self.data.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"no WebSocket: {self.data[:100]!r}")
        self.data = self.data.partition(b"\r\n\r\n")[2]
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(SUBSCRIBE))
        self.socket.sendall(bytes([0x81, 0x80 | len(SUBSCRIBE)]) + mask + masked)
        while not self.messages():
            self.data += self.socket.recv(4096)
        self.socket.setblocking(False)

    def messages(self) -> list[bytes]:
        """The whole messages that have arrived."""
        data, at, found = self.data, 0, []
        while len(data) >= at + 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if len(data) < start + size or (start > len(data)):
                break
            if data[at] & 0x0F == 1:
                found.append(data[start : start + size])
            at = start + size
        self.data = data[at:]
        return found


@dataclass
class Audience:
    delays: list[float] = field(default_factory=list)
    times: dict[bytes, float] = field(default_factory=dict)  # of an event, by its own text: it is the same for everybody

    def hear(self, message: bytes, now: float) -> None:
        happened = self.times.get(message)
        if happened is None:
            event = json.loads(message)
            if not str(event.get("type", "")).startswith("task."):
                raise RuntimeError(f"a subscriber got {message[:200]!r}")
            happened = self.times[message] = datetime.fromisoformat(event["time"]).timestamp()
        self.delays.append(now - happened)


def listen(server: Server, count: int, seconds: float) -> Heard:
    """`count` subscribers for as long."""
    readers = [Subscriber(server.port) for _ in range(count)]
    audience, over = Audience(), threading.Event()
    making = threading.Thread(target=_make_events, args=(server.port, over))
    cpu, start = server.own_cpu_seconds(), time.monotonic()
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader.socket, selectors.EVENT_READ, reader)
        making.start()
        quiet = 0
        while quiet < 5:
            for key, _ in selector.select(timeout=0.2):
                reader = key.data
                reader.data += reader.socket.recv(1 << 16)
                now = time.time()
                for message in reader.messages():
                    audience.hear(message, now)
            if time.monotonic() - start > seconds:
                over.set()
            quiet = quiet + 1 if time.monotonic() - start > seconds + 1 else 0
    making.join()
    used = (server.own_cpu_seconds() - cpu) / (time.monotonic() - start)
    for reader in readers:
        reader.socket.close()
    cuts = quantiles(audience.delays, n=100, method="inclusive")
    events = len(audience.times)
    return Heard(count, events, cuts[49], cuts[98], max(audience.delays), events * count - len(audience.delays), used)


def _make_events(port: int, over: threading.Event) -> None:
    """A task every thirty milliseconds: queued, started, finished."""
    numbers, begun = 0, time.monotonic()
    import numpy as np

    with Connection(port) as connection:
        while not over.is_set():
            connection.ask(request("POST", "/tasks", body_a(np.full(8, numbers, np.float32)), HEADERS))
            numbers += 1
            time.sleep(max(0.0, begun + numbers * 3 / RATE - time.monotonic()))
