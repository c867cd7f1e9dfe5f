"""The device manager: live figures, drain and resume, and what each wish means."""

from typing import Any

import pytest

from openruntime.contracts.errors import InvalidParameter, NoSuchDevice, NotFound, UnsupportedOnDevice
from openruntime.contracts.events import AnyEvent, DeviceChanged
from openruntime.contracts.interfaces import Devices
from openruntime.contracts.models import DeviceInfo
from openruntime.devices.host import Host
from openruntime.devices.manager import DeviceManager


class Events(list[AnyEvent]):
    def publish(self, event: AnyEvent) -> None:
        self.append(event)


class Platform:
    """What a runtime manager tells: here of a CPU with two backends and a GPU with one."""

    def __init__(self, devices: dict[str, dict[str, list[str]]]) -> None:
        self.known = devices
        self.asked = 0

    @property
    def backends(self) -> dict[str, list[str]]:
        return {device: list(backends) for device, backends in self.known.items()}

    def devices(self) -> list[DeviceInfo]:
        return [
            DeviceInfo(
                id=d, name="x", type="cpu" if d.startswith("cpu") else "gpu", capabilities=[], status="ready", slots=2,
                memory_total=80, memory_available=60,
            )
            for d in self.known
        ]  # fmt: skip

    def capabilities(self, device: str, backend: str) -> list[str]:
        self.asked += 1
        return self.known[device][backend]


CPU = {"cpu:0": {"numpy": ["fft", "sort"], "torch": ["fft"]}}
GPU = {"cuda:0": {"cuda": ["fft", "matmul"], "torch": ["fft"]}}


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def devices(events: Events) -> DeviceManager:
    return DeviceManager([Platform(CPU), Platform(GPU)], events)


def test_lists_what_there_is_live(devices: DeviceManager) -> None:
    interface: Devices = devices
    cpu, gpu = (DeviceInfo(**device) for device in interface.list())
    usage = Host().usage()
    assert cpu.memory_total == usage.memory_total
    assert 0 < cpu.memory_available <= cpu.memory_total
    assert cpu.name not in ("", "x")  # the processor's own
    assert cpu.capabilities == ["fft", "sort"]
    assert (gpu.id, gpu.type, gpu.memory_available, gpu.backends, gpu.capabilities) == ("cuda:0", "gpu", 60, ["cuda", "torch"], ["fft", "matmul"])
    assert devices.memory_total() == usage.memory_total
    assert devices.memory_available("cuda:0") == 60


def test_detail_shows_load_workers_and_that_nothing_was_measured(events: Events) -> None:
    slots = [
        {"backend": "numpy", "pid": 1, "outstanding": 3, "state": "ready"},
        {"backend": "numpy", "pid": None, "outstanding": 0, "state": "failed"},
    ]
    depths = {"any": 4, "cpu": 1, "cuda:0": 7, "cpu:0/numpy": 2}
    devices = DeviceManager([Platform(CPU)], events, depths=lambda: depths, workers=lambda device: slots)
    detail = devices.get("cpu:0")
    assert (detail["busy"], detail["queued"], detail["slots"], detail["status"]) == (1, 7, 2, "ready")
    assert detail["workers"] == slots
    assert detail["load"]["busy"] == 1
    assert detail["load"]["average"] >= 0
    assert detail["ceilings"] == {"flops": None, "bandwidth": None, "reason": "no task of a millisecond or more has finished there yet"}
    slots[0]["state"] = "failed"
    assert devices.get("cpu:0")["status"] == "failed"


def test_drain_and_resume(devices: DeviceManager, events: Events) -> None:
    assert devices.set_state("cpu:0", "draining")["status"] == "draining"
    assert not devices.accepts("cpu:0")
    assert devices.accepts("cuda:0")
    devices.set_state("cpu:0", "draining")
    assert devices.set_state("cpu:0", "ready")["status"] == "ready"
    assert devices.accepts("cpu:0")
    assert [(e.device, e.status) for e in events if isinstance(e, DeviceChanged)] == [("cpu:0", "draining"), ("cpu:0", "ready")]


def test_unknown_device_and_state(devices: DeviceManager) -> None:
    with pytest.raises(NotFound, match="did you mean cpu:0"):
        devices.get("cpu:1")
    with pytest.raises(NotFound):
        devices.set_state("tpu:0", "ready")
    with pytest.raises(InvalidParameter, match="`ready` or `draining`, not 'off'") as refused:
        devices.set_state("cpu:0", "off")
    assert refused.value.field == "state"


@pytest.mark.parametrize(
    ("wish", "lane"),
    [
        (None, "any"), ("auto", "any"), ("AUTO", "any"), ("cpu", "cpu"), ("GPU", "gpu"), ("cuda:0", "cuda:0"), ("Torch", "torch"), ("cuda", "cuda"),
        ("cpu:0/torch", "cpu:0/torch"), (" CPU:0/NumPy ", "cpu:0/numpy"), ("local/cuda:0", "cuda:0"), ("local/cpu:0/numpy", "cpu:0/numpy"),
    ],
)  # fmt: skip
def test_what_a_wish_means(devices: DeviceManager, wish: str | None, lane: str) -> None:
    assert devices.lane(wish, "fft") == lane
    assert devices.lane(wish, "fft") == lane  # from memory


def test_every_lane_is_served_by_the_slots_that_list_it(devices: DeviceManager) -> None:
    assert devices.lanes("cpu:0", "torch") == ("any", "cpu", "cpu:0", "torch", "cpu:0/torch")
    assert devices.places("torch", "fft") == [("cpu:0", "torch"), ("cuda:0", "torch")]
    assert devices.places("any", "matmul") == [("cuda:0", "cuda")]


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("cpu:1", "there is no device 'cpu:1' here .*did you mean cpu:0"),
        ("tpu", r"there is no device 'tpu' here \(there are cpu, cpu:0, numpy, cpu:0/numpy, torch, cpu:0/torch, gpu, cuda:0, cuda, "),
        ("cpu/numpy", "'cpu' is a kind, and a backend goes with a device .*cpu:0/numpy"),
        ("other/cpu:0", "there is no node 'other'; this one is 'local'"),
        ("cpu:0/cuda", "there is no device 'cpu:0/cuda'"),
        ("io", "there is no device 'io'"),
        ("/", "there is no"),
        ("'; drop table tasks; --", "there is no device"),
    ],
)  # fmt: skip
def test_no_such_device(devices: DeviceManager, wish: str, says: str) -> None:
    with pytest.raises(NoSuchDevice, match=says) as refused:
        devices.lane(wish, "fft")
    assert refused.value.field == "device_preference"


def test_unsupported_there_names_where_it_runs(devices: DeviceManager) -> None:
    with pytest.raises(UnsupportedOnDevice, match="`matmul` does not run on cpu; it runs on cuda:0/cuda"):
        devices.lane("cpu", "matmul")
    with pytest.raises(UnsupportedOnDevice, match=r"`svd` does not run on anything here$"):
        devices.lane(None, "svd")


def test_a_backend_that_never_had_a_worker_is_not_refused() -> None:
    known: dict[str, Any] = {"cpu:0": {"numpy": []}}
    platform = Platform(known)
    devices = DeviceManager([platform], Events())
    assert devices.lane("cpu:0", "matmul") == "cpu:0"
    known["cpu:0"]["numpy"] = ["fft"]
    assert devices.list()[0]["capabilities"] == ["fft"]
    with pytest.raises(UnsupportedOnDevice):
        devices.lane("cpu:0", "matmul")
    asked = platform.asked
    devices.list()
    assert platform.asked == asked  # once said, it is kept


def test_no_devices_at_all() -> None:
    devices = DeviceManager([], Events())
    assert list(devices.list()) == []
    assert devices.memory_total() == 0
    with pytest.raises(NoSuchDevice, match="there are no devices"):
        devices.lane("cpu", "fft")


def test_a_device_has_one_owner() -> None:
    with pytest.raises(ValueError, match="two runtime managers list the device cpu:0"):
        DeviceManager([Platform(CPU), Platform(CPU)], Events())
