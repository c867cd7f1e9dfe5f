"""Lean clients: raw sockets and requests made beforehand, so that two cores go to the server and not to the one who asks."""

import json
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("tasks.lua")
SAFETENSORS = "application/x-safetensors"


class Answer:
    """Status, lower-cased header names, body."""

    __slots__ = ("body", "head", "status")

    def __init__(self, head: bytes, body: bytes | memoryview) -> None:
        self.status = int(head[9:12])
        self.head = head
        self.body = body

    def json(self) -> Any:
        return json.loads(bytes(self.body))

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode()
        return None


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """One kept-alive connection; strictly one request at a time."""

    def __init__(self, port: int, timeout: float = 60) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(1 << 16))
        self._filled = 0
        self._sized = (0, 0)  # where the body starts and ends, once the head is in

    def send(self, message: bytes) -> None:
        self.socket.sendall(message)

    def feed(self) -> Answer | None:
        """Read once; the answer when it is whole (a body over 64 KiB is valid until the next request, so that nothing is copied).

        Raises `ConnectionError` when the server closed.
        """
        count = self.socket.recv_into(self._buffer[self._filled :])
        if not count:
            raise ConnectionError("the server closed the connection")
        self._filled += count
        start, end = self._sized
        if not end:
            head = bytes(self._buffer[: min(self._filled, 1 << 16)])
            start = head.find(b"\r\n\r\n") + 4
            if start < 4:
                return None
            end = start + _length(head[:start])
            self._sized = (start, end)
            if end > len(self._buffer):
                grown = memoryview(bytearray(end))
                grown[: self._filled] = self._buffer[: self._filled]
                self._buffer = grown
        if self._filled < end:
            return None
        body = self._buffer[start:end]
        self._filled, self._sized = 0, (0, 0)
        return Answer(bytes(self._buffer[: start - 4]), body if len(body) > 1 << 16 else bytes(body))

    def ask(self, message: bytes) -> Answer:
        self.send(message)
        while (answer := self.feed()) is None:
            pass
        return answer

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at < 0:
        raise ConnectionError("an answer without Content-Length")
    return int(lowered[at + 17 : lowered.index(b"\r\n", at + 2)])


def ask(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """One request over a connection of its own."""
    with Connection(port) as connection:
        return connection.ask(request(method, path, body, headers))


def drive(port: int | Sequence[int], requests: Sequence[bytes], connections: int, timeout: float = 120) -> list[Answer]:
    """Every request once, one at a time on each of `connections` connections. The answers in the order of the requests.

    Of several ports the connections take turns.

    Raises `TimeoutError` after `timeout` seconds, `ConnectionError` when a connection breaks.
    """
    answers: dict[int, Answer] = {}
    deadline = time.monotonic() + timeout
    waiting = iter(range(len(requests)))
    with selectors.DefaultSelector() as selector:
        ports = [port] if isinstance(port, int) else port
        opened = [Connection(ports[number % len(ports)]) for number in range(min(connections, len(requests)))]
        try:
            for connection in opened:
                number = next(waiting)
                connection.send(requests[number])
                selector.register(connection.socket, selectors.EVENT_READ, (connection, number))
            while len(answers) < len(requests):
                events = selector.select(timeout=1)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(answers)} of {len(requests)} answers within {timeout} s")
                for key, _ in events:
                    connection, number = key.data
                    answer = connection.feed()
                    if answer is None:
                        continue
                    answers[number] = Answer(answer.head, bytes(answer.body))
                    following = next(waiting, None)
                    if following is None:
                        selector.unregister(connection.socket)
                    else:
                        connection.send(requests[following])
                        selector.modify(connection.socket, selectors.EVENT_READ, (connection, following))
        finally:
            for connection in opened:
                connection.close()
    return [answers[number] for number in range(len(requests))]


@dataclass(frozen=True)
class Wrk:
    """What wrk saw: requests, seconds, latencies in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(port: int, body: Path, connections: int, seconds: int) -> Wrk:
    """POST the file `body` to /tasks for `seconds`. Raises `RuntimeError` when any request failed or answered other than 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}/tasks"]
    environment = {**os.environ, "BENCH_BODY": str(body)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds + 30, check=True)
    seen = json.loads(ended.stdout.strip().splitlines()[-1])
    if seen["failed"] or not seen["requests"] or "Non-2xx" in ended.stdout:
        raise RuntimeError(f"wrk: requests failed\n{ended.stdout}")
    return Wrk(seen["requests"], seen["microseconds"] / 1e6, seen["p50"] / 1e6, seen["p99"] / 1e6)
