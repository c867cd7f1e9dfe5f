"""A worker whose backend has a pool gives it back when idle, tells it of shared memory, and tries again what ran out of memory."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

import pytest

from openruntime.contracts.errors import OutOfMemory
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Result
from openruntime.runtimes import channel, worker
from openruntime.runtimes.batching import Batching
from openruntime.runtimes.channel import Done, Failed, Job, Run, Segment
from openruntime.runtimes.process import worker_environment
from openruntime.runtimes.worker import Mappings, Worker


class Pooled(ComputeBackend):
    """Runs out of memory `short` times; its pool gives back one more each time."""

    name = "pooled"

    def __init__(self, short: int = 0) -> None:
        self.short = short
        self.trims = 0
        self.pinned: list[int] = []

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        assert [array.dtype for array in params.get("arrays", [])] in ([], ["bool", "bool"])
        if self.trims < self.short:
            raise OutOfMemory("no room")
        return Result({"output": Array("bool", (1,), b"\1")})

    def get_capabilities(self) -> list[str]:
        return []

    def trim(self) -> None:
        self.trims += 1

    def pin(self, memory: memoryview) -> None:
        self.pinned.append(memory.nbytes)

    def unpin(self, memory: memoryview) -> None:
        self.pinned.remove(memory.nbytes)


class Plain(Pooled):
    trim = ComputeBackend.trim


def serve(backend: ComputeBackend, *runs: Run, during: float = 0.0) -> list[Any]:
    """What a worker answers to these messages; its channel stays open for `during` seconds."""
    ours, theirs = socket.socketpair()
    control, _ = socket.socketpair()
    worker = Worker(backend, theirs, control, Batching(backend.stacking, (), most=1, nbytes=0))
    thread = threading.Thread(target=lambda: asyncio.run(worker.serve()))
    thread.start()
    for run in runs:
        ours.sendall(channel.frame(run))
    time.sleep(during)
    ours.shutdown(socket.SHUT_WR)
    thread.join()
    theirs.close()
    data = b"".join(iter(lambda: ours.recv(1 << 16), b""))
    for end in (ours, control, _):
        end.close()
    return [channel.outcome_decoder.decode(body) for body in channel.FrameReader().feed(data)]


def job(number: int) -> Run:
    listed = {f"arrays.{i}": channel.WireArray("bool", (1,), memoryview(b"\1")) for i in range(2)}
    return Run([Job(number, "sum", {}, listed)])


def test_what_ran_out_of_memory_is_tried_once_more_after_a_trim() -> None:
    backend = Pooled(short=1)
    (answer,) = serve(backend, job(1))
    assert isinstance(answer, Done)
    assert backend.trims == 1


def test_what_runs_out_of_memory_again_fails() -> None:
    backend = Pooled(short=2)
    (answer,) = serve(backend, job(1))
    assert isinstance(answer, Failed)
    assert answer.code == "out_of_memory"
    assert answer.message.startswith("no room; tried twice, with a trim between; its worker held ")
    assert backend.trims == 1


def test_an_idle_pool_is_trimmed_once_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IDLE", 0.05)
    backend = Pooled()
    assert len(serve(backend, job(1), during=0.4)) == 1
    assert backend.trims == 1
    idle = Pooled()
    serve(idle, during=0.2)
    assert idle.trims == 0, "it has done nothing yet"
    serve(Plain(), job(1), during=0.2)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
def test_a_backend_that_pins_memory_is_told_what_is_mapped() -> None:
    backend, size = Pooled(), 1 << 16
    descriptors = [os.memfd_create(name) for name in "ab"]
    for descriptor in descriptors:
        os.ftruncate(descriptor, size)
    mappings = Mappings(backend)
    mappings.update(Run([], [Segment(1, size, True), Segment(2, size, True)]), deque(descriptors))
    assert backend.pinned == [size, size]
    mappings.update(Run([], [], [1, 7]), deque())
    assert backend.pinned == [size]
    Mappings(Plain()).update(Run([], [], [1]), deque())


GROWS = """
import resource, sys
import numpy as np
from openruntime.runtimes.worker import give_back

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

for _ in range(2):
    np.ones(6 << 20)
before = faults()
for _ in range(10):
    np.ones(6 << 20)
held = rss()
give_back(0)
print((faults() - before) * resource.getpagesize() >> 20, held - rss() >> 20)
"""


@pytest.mark.skipif(worker.give_back is None, reason="the allocator is not glibc's")
def test_a_worker_keeps_memory_for_its_next_array_until_it_is_idle() -> None:
    """480 MiB of arrays after each other touch no fresh pages; idle, the 48 that are held go back."""
    said = subprocess.run(
        [sys.executable, "-c", GROWS], env=os.environ | worker_environment(1), capture_output=True, text=True, check=True, timeout=60
    )
    fresh, returned = map(int, said.stdout.split())
    assert fresh < 48
    assert returned > 30
