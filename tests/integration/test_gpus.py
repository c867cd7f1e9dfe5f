"""GPUs in a real server, played by NumPy: one card once, told apart for each library; short memory, lost devices and late refusals."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime
from openruntime.errors import InvalidParameter, OutOfMemory, UnsupportedOnDevice, WorkerCrashed
from tests.integration.test_plugin_backends import check, environment, install, where

CHIPS = '''
import numpy as np
from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.errors import OutOfMemory, UnsupportedOnDevice, WorkerCrashed
from openruntime.contracts.records import Probe

UUIDS = ["8f2b6a5c-0d3e-4a11-9c77-1b2c3d4e5f60", "11111111-0d3e-4a11-9c77-1b2c3d4e5f60"]

class Chip(NumpyBackend):
    """Two cards of 4 GB. `mean` answers which card and how much memory it was told of."""
    name = "chip"
    platform, order, full = "cuda", (0, 1), True

    @classmethod
    def probe(cls):
        return [Probe(cls.name, cls.platform, i, "H100", 4 << 30, 3 << 30, uuid=UUIDS[cls.order[i]]) for i in (0, 1)]

    def __init__(self, **options):
        super().__init__(**options)
        self.trimmed = 0
        self.native = {**NumpyBackend.native, "mean": self.mean}
        if self.full:
            self.native |= {"sum": self.once, "prod": self.never, "max": self.never, "min": self.lost, "std": self.late}

    def trim(self):
        self.trimmed += 1

    def mean(self, x, axis=None, keepdims=False):
        return np.float64(self.index * 1e12 + self.memory)

    def once(self, x, axis=None, keepdims=False):
        if not self.trimmed:
            raise OutOfMemory("4 bytes more than there are")
        return np.float64(self.trimmed)

    def never(self, x, axis=None, keepdims=False):
        raise OutOfMemory(f"all of card {self.index} is used")

    def lost(self, x, axis=None, keepdims=False):
        raise WorkerCrashed("an illegal memory access was encountered")

    def late(self, x, axis=None, correction=0.0, keepdims=False):
        raise UnsupportedOnDevice("this chip cannot after all")

class Other(Chip):
    name = "other"
    platform, order, full = "opencl", (1, 0), False
'''
ENVIRONMENT = {"OPENRUNTIME_BACKENDS": "chip,other", "OPENRUNTIME_DEVICE_MEMORY": "1GiB", "OPENRUNTIME_WORKER_IDLE": "600"}
X = [1.0, 2.0]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chips")
    (folder / "chips.py").write_text(CHIPS)
    for name, attribute in (("chip", "Chip"), ("other", "Other")):
        install(folder, name, f"from chips import {attribute}", attribute)
    return folder


@pytest.fixture(scope="module")
def server(plugins: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    with start_server(store="memory", environment=environment(plugins) | ENVIRONMENT) as found:
        yield found


@pytest.fixture(scope="module")
def rt(server: Server) -> Iterator[openruntime.Runtime]:
    with openruntime.connect(server.url) as connected:
        connected.devices()  # waits until they are found
        yield connected


def backend(task: Any) -> str:
    status = task.status()
    return f"{status.device_used}/{status.backend}"


def test_a_card_is_listed_once_and_each_library_is_told_its_own_number(server: Server, rt: openruntime.Runtime) -> None:
    listed = {device["id"]: device for device in rt.devices()}
    assert {name: device["backends"] for name, device in listed.items()} == {
        "cpu:0": ["numpy"], "cuda:0": ["chip", "other"], "cuda:1": ["chip", "other"],
    }  # fmt: skip
    assert (listed["cuda:0"]["type"], listed["cuda:0"]["memory_total"], listed["cuda:0"]["slots"]) == ("gpu", 4 << 30, 1)
    told = {place: float(rt.mean(X, device=place)) for place in ("cuda:0/chip", "cuda:1/chip", "cuda:0/other", "cuda:1/other")}
    assert told == {"cuda:0/chip": 2.0**30, "cuda:1/chip": 1e12 + 2**30, "cuda:0/other": 1e12 + 2**30, "cuda:1/other": 2.0**30}


def test_short_memory_is_tried_again_after_a_trim(rt: openruntime.Runtime) -> None:
    assert float(rt.sum(X, device="cuda:0/chip")) == 1.0


def test_short_memory_is_tried_elsewhere_once(rt: openruntime.Runtime) -> None:
    task = rt.submit("max", X, device="cuda:0")
    assert float(task.result(30)) == 2.0
    assert backend(task) == "cuda:0/other"


def test_short_memory_everywhere_fails_with_the_figures(rt: openruntime.Runtime) -> None:
    with pytest.raises(OutOfMemory) as alone:
        rt.submit("max", X, device="cuda:1/chip").result(30)
    assert "all of card 1 is used; tried twice, with a trim between; its worker held" in str(alone.value)
    assert f"was estimated to need 24 bytes, and the device has {3 << 30} free now" in str(alone.value)
    with pytest.raises(OutOfMemory) as both:
        rt.submit("max", X, device="chip").result(30)
    said = str(both.value)
    assert "all of card 0 is used" in said
    assert "all of card 1 is used" in said
    assert "before that it was tried elsewhere: cuda:" in said


def test_a_lost_device_costs_its_worker_and_the_task_that_lost_it(server: Server, rt: openruntime.Runtime) -> None:
    with pytest.raises(WorkerCrashed, match=r"(?s)exited with status 70.*an illegal memory access"):
        rt.submit("min", X, device="cuda:0/chip").result(30)
    assert float(rt.mean(X, device="cuda:0/chip", cache="no-store")) == 2.0**30


def test_what_a_backend_finds_late_that_it_cannot_do_is_done_elsewhere(rt: openruntime.Runtime) -> None:
    task = rt.submit("std", X, device="cuda:0")
    assert float(task.result(30)) == 0.5
    assert backend(task) == "cuda:0/other"
    with pytest.raises(UnsupportedOnDevice, match="this chip cannot after all"):
        rt.submit("std", X, device="chip").result(30)


def test_every_device_and_library_is_checked(server: Server, plugins: Path) -> None:
    code, rows = check(server, environment(plugins))
    assert code == 0
    assert {row["status"] for row in rows.values()} == {"pass"}


def test_only_numpys_worker_is_warm(plugins: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    with start_server(store="memory", environment=environment(plugins) | ENVIRONMENT) as server:
        assert len(httpx.get(f"{server.url}/devices").json()["devices"]) == 3
        time.sleep(0.5)
        for device in ("cuda:0", "cuda:1"):
            workers = httpx.get(f"{server.url}/devices/{device}").json()["workers"]
            assert [worker["state"] for worker in workers] == ["cold", "cold"]
        where(server, operation="mean", parameters={"x": X}, device_preference="cuda:0/other")
        workers = httpx.get(f"{server.url}/devices/cuda:0").json()["workers"]
        assert {worker["backend"]: worker["state"] for worker in workers} == {"chip": "cold", "other": "ready"}


def test_a_platform_that_fails_does_not_take_the_others_with_it(tmp_path: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    half = """
from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.records import Probe

class Half(NumpyBackend):
    @classmethod
    def probe(cls):
        return [Probe("half", "cpu"), Probe("half", "cuda", 0, "H100")]

    def __init__(self, **options):
        if options["device"].startswith("cuda"):
            raise OSError("the driver is too old")
        super().__init__(**options)
"""
    install(tmp_path, "half", half, "Half")
    env = environment(tmp_path) | {"OPENRUNTIME_BACKENDS": "half"}
    with start_server(store="memory", environment=env) as server:
        row = next(row for row in httpx.get(f"{server.url}/devices").json()["backends"] if row["name"] == "half")
        assert (row["status"], row["devices"]) == ("failed", ["cpu:0"])
        assert "the driver is too old" in row["reason"]
        assert where(server, operation="sum", parameters={"x": X}, device_preference="half")["result"] == {"output": 3.0}


def test_a_backend_that_nobody_registers_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="there is no backend 'tourch'"):
        Runtime(Settings(store="memory", data_dir=tmp_path, backends=("tourch",)))
