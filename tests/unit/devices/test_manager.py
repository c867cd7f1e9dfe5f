"""The device manager: live figures, drain and resume, and what each wish means."""

from typing import Any

import pytest

from openruntime.contracts.errors import InvalidParameter, NoSuchDevice, NotFound, Unavailable, UnsupportedOnDevice
from openruntime.contracts.events import AnyEvent, DeviceChanged
from openruntime.contracts.interfaces import Devices
from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Abilities, Call, Estimate, Probe, Usage
from openruntime.devices.host import Host
from openruntime.devices.manager import DeviceManager
from openruntime.runtimes.probe import Report


class Events(list[AnyEvent]):
    def publish(self, event: AnyEvent) -> None:
        self.append(event)


class Platform:
    """What a runtime manager tells: here of a CPU with two backends and a GPU with one."""

    def __init__(self, devices: dict[str, dict[str, list[str] | Abilities]]) -> None:
        self.known = devices
        self.asked = 0

    def devices(self) -> list[DeviceInfo]:
        return [
            DeviceInfo(
                id=d, name="x", type="cpu" if d.startswith("cpu") else "gpu", capabilities=[], status="ready", slots=2,
                memory_total=80, memory_available=60, backends=list(backends),
            )
            for d, backends in self.known.items()
        ]  # fmt: skip

    def adopt(self, report: Report) -> bool:
        mine = [device for probe in report.probes if (device := f"{probe.platform}:{probe.index}") in self.known]
        for device in mine:
            self.known[device][report.backend] = report.abilities.get(device.partition(":")[0], [])
        return bool(mine)

    def usage(self, device: DeviceInfo) -> None:
        return None

    def abilities(self, device: str, backend: str) -> Abilities | None:
        self.asked += 1
        said = self.known[device][backend]
        return said if isinstance(said, Abilities) else Abilities(frozenset(said)) if said else None


def call(operation: str, dtype: str = "float64", *others: str) -> Call:
    arrays = {name: Array(found, (1,)) for name, found in zip("xyz", (dtype, *others), strict=False)}
    return Call(operation, 1, arrays, {}, Estimate(), dtype=dtype, others=others)


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
    assert devices.memory_total("cuda:0") == 80


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
    assert detail["ceilings"]["reason"].startswith("the ceilings of cpu:0's arithmetic and memory are not measured yet")
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
    assert devices.lane(wish, call("fft")) == lane
    assert devices.lane(wish, call("fft")) == lane  # from memory


def test_every_lane_is_served_by_the_slots_that_list_it(devices: DeviceManager) -> None:
    assert devices.lanes("cpu:0", "torch") == ["any", "cpu", "cpu:0", "torch", "cpu:0/torch"]
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
        devices.lane(wish, call("fft"))
    assert refused.value.field == "device_preference"


def test_unsupported_there_names_where_it_runs(devices: DeviceManager) -> None:
    with pytest.raises(UnsupportedOnDevice, match="`matmul` does not run on cpu; it runs on cuda:0/cuda"):
        devices.lane("cpu", call("matmul"))
    with pytest.raises(UnsupportedOnDevice, match=r"`svd` does not run on anything here$"):
        devices.lane(None, call("svd"))


def test_a_backend_that_never_had_a_worker_is_not_refused() -> None:
    known: dict[str, Any] = {"cpu:0": {"numpy": []}}
    platform = Platform(known)
    devices = DeviceManager([platform], Events())
    assert devices.lane("cpu:0", call("matmul")) == "cpu:0"
    known["cpu:0"]["numpy"] = ["fft"]
    assert devices.list()[0]["capabilities"] == ["fft"]
    with pytest.raises(UnsupportedOnDevice):
        devices.lane("cpu:0", call("matmul"))


def test_a_lane_is_remembered_once_every_backend_in_it_has_said_what_it_can() -> None:
    known: dict[str, Any] = {"cpu:0": {"numpy": []}}
    platform = Platform(known)
    devices = DeviceManager([platform], Events())
    assert devices.lane(None, call("sort", "bfloat16")) == "any"
    known["cpu:0"]["numpy"] = Abilities(frozenset({"sort"}), {}, {"bfloat16": "send float32"})
    with pytest.raises(UnsupportedOnDevice, match="which does not run on anything here: send float32") as refused:
        devices.lane(None, call("sort", "bfloat16"))
    assert refused.value.field == "x"
    assert devices.lane(None, call("sort")) == "any"
    asked = platform.asked
    assert devices.lane(None, call("sort")) == "any"
    assert platform.asked == asked


ODD = {
    "cpu:0": {
        "numpy": Abilities(frozenset({"fft", "sort", "svd"}), {}, {"bfloat16": "NumPy has no bfloat16; send float32"}),
        "mlx": Abilities(frozenset({"fft", "sort"}), {"svd": "it has no svd here"}, {"float64": "MLX has no float64; send float32"}),
        "torch": Abilities(frozenset({"fft", "sort"}), {"svd": "it is slow"}),
    }
}


@pytest.mark.parametrize(
    ("wish", "made", "lane"),
    [
        (None, call("sort", "float32"), "any"),
        (None, call("svd", "float32"), "numpy"),
        ("cpu", call("svd", "float32"), "numpy"),
        (None, call("sort", "bfloat16"), "cpu:0/mlx+cpu:0/torch"),
        ("cpu:0", call("sort", "float64"), "cpu:0/numpy+cpu:0/torch"),
        (None, call("sort", "float32", "bfloat16", "float64"), "torch"),
        ("mlx", call("sort", "bfloat16"), "mlx"),
    ],
)
def test_a_lane_narrows_to_the_backends_that_can(wish: str | None, made: Call, lane: str) -> None:
    devices = DeviceManager([Platform(ODD)], Events())
    held = {backend: devices.lanes("cpu:0", backend) for backend in ODD["cpu:0"]}
    assert devices.lane(wish, made) == lane
    serving = {backend for backend, lanes in held.items() if lane in lanes}
    assert serving == {backend for backend in held if devices.takes("cpu:0", backend, made) and (wish != "mlx" or backend == "mlx")}


@pytest.mark.parametrize(
    ("wish", "made", "says", "field"),
    [
        ("numpy", call("sort", "bfloat16"), "`x` of sort is bfloat16, which does not run on numpy: NumPy has no bfloat16; send float32;"
         " it runs on cpu:0/mlx, cpu:0/torch", "x"),
        ("mlx", call("sort", "float32", "float64"), "`y` of sort is float64, which does not run on mlx: MLX has no float64; send float32;"
         " it runs on cpu:0/numpy, cpu:0/torch", "y"),
        ("torch", call("svd"), "`svd` does not run on torch: it is slow; it runs on cpu:0/numpy", "device_preference"),
        (None, call("svd", "bfloat16"), "`x` of svd is bfloat16, which does not run on anything here: NumPy has no bfloat16; send float32;"
         " it has no svd here; it is slow", "x"),
    ],
)  # fmt: skip
def test_what_no_backend_of_the_lane_can_is_refused_with_the_reason(wish: str | None, made: Call, says: str, field: str) -> None:
    with pytest.raises(UnsupportedOnDevice) as refused:
        DeviceManager([Platform(ODD)], Events()).lane(wish, made)
    assert (refused.value.message, refused.value.field) == (says, field)


def test_lanes_of_several_places_are_served_after_a_restart() -> None:
    known: dict[str, Any] = {"cpu:0": {"numpy": ["sort"]}}
    devices = DeviceManager([Platform(known)], Events(), registered=["torch"])
    held = devices.lanes("cpu:0", "numpy")
    devices.serve(["any", "cpu:0/numpy+cpu:0/torch", "cuda:0/torch+cpu:0/mlx"])
    assert held[-1] == "cpu:0/numpy+cpu:0/torch"
    devices.adopt([Report("torch", [Probe("torch", "cpu")], {"cpu": Abilities(frozenset({"sort"}))})])
    assert devices.lanes("cpu:0", "torch")[-1] == held[-1] == "cpu:0/numpy+cpu:0/torch"
    assert devices.lanes("cpu:0", "numpy") is held


async def test_backends_are_found_and_told_of() -> None:
    known: dict[str, Any] = {"cpu:0": {"numpy": ["sort"]}}
    failed = [{"backend": "weak", "reason": "it does not start", "outstanding": 0, "state": "failed"}]
    devices = DeviceManager([Platform(known)], Events(), registered=["torch", "broken", "chip", "jax", "weak"], workers=lambda device: failed)
    with pytest.raises(Unavailable, match="'torch' is not known yet; backends are being asked what they drive") as early:
        devices.lane("torch", call("sort"))
    assert early.value.retry_after == 1
    assert devices.lane("numpy", call("sort")) == "numpy"
    assert [(row["name"], row["status"]) for row in devices.backends()][:2] == [("numpy", "ready"), ("torch", "looking")]
    can = {"cpu": Abilities(frozenset({"sort", "fft"}), {"svd": "no"}, {"float16": "none"})}
    devices.adopt([
        Report("torch", [Probe("torch", "cpu"), Probe("torch", "cuda")], can), Report("broken", failure="backend broken cannot be loaded"),
        Report("chip"), Report("jax", failure="jax (jax is not installed)", extra="jax"), Report("weak", [Probe("weak", "cpu")], can),
    ])  # fmt: skip
    await devices.found()
    assert devices.get("cpu:0")["backends"] == ["numpy", "torch", "weak"]
    assert devices.get("cpu:0")["capabilities"] == ["fft", "sort"]
    assert devices.lane("cpu:0/torch", call("fft")) == "cpu:0/torch"
    rows = {row["name"]: row for row in devices.backends()}
    assert [(row["status"], row["devices"], row["reason"]) for row in rows.values()] == [
        ("ready", ["cpu:0"], None), ("ready", ["cpu:0"], None), ("failed", ["cpu:0"], "it does not start"),
        ("failed", [], "backend broken cannot be loaded"), ("absent", [], "no device that it can drive was found"),
        ("absent", [], "jax (jax is not installed)"),
    ]  # fmt: skip
    assert list(rows) == ["numpy", "torch", "weak", "broken", "chip", "jax"]
    assert rows["jax"]["remedy"] == "pip install 'openruntime[jax]'"
    assert (rows["torch"]["unsupported"], rows["torch"]["lacks"]) == ({"svd": "no"}, {"float16": "none"})
    with pytest.raises(NoSuchDevice, match=r"`device_preference`: backend broken cannot be loaded \(there are cpu"):
        devices.lane("broken", call("sort"))
    with pytest.raises(NoSuchDevice, match=r"jax \(jax is not installed\); install it with `pip install 'openruntime\[jax\]'` \(there are cpu"):
        devices.lane("cpu:0/jax", call("sort"))


def test_workers_of_kernels_are_nobodys_wish(devices: DeviceManager) -> None:
    devices.adopt([Report("opencl-kernels", [Probe("opencl-kernels", "cpu")], {"cpu": Abilities(frozenset({"kernel:opencl"}))})])
    with pytest.raises(NoSuchDevice, match=r"there are cpu, ") as refused:
        devices.lane("tpu", call("fft"))
    assert "kernels" not in refused.value.message


def test_no_devices_at_all() -> None:
    devices = DeviceManager([], Events())
    assert list(devices.list()) == []
    assert devices.memory_total() == 0
    with pytest.raises(NoSuchDevice, match="there are no devices"):
        devices.lane("cpu", call("fft"))


def test_a_device_has_one_owner() -> None:
    with pytest.raises(ValueError, match="two runtime managers list the device cpu:0"):
        DeviceManager([Platform(CPU), Platform(CPU)], Events())


def test_a_lane_of_several_places_is_of_those_that_are_there() -> None:
    devices = DeviceManager([Platform(CPU)], Events())
    assert devices.places("cpu:0/numpy+cpu:0/torch+cuda:0/cuda", "fft") == [("cpu:0", "numpy"), ("cpu:0", "torch")]
    assert devices.places("cpu:0/numpy+cpu:0/torch", "sort") == [("cpu:0", "numpy")]
    assert devices.places("cuda:0/cuda", "fft") == []


def test_memory_is_the_meters_or_the_machines_where_it_is_shared() -> None:
    class Apple(Platform):
        def devices(self) -> list[DeviceInfo]:
            return [device.model_copy(update={"capabilities": ["unified_memory"], "memory_total": 1 << 60}) for device in super().devices()]

    class Metered(Platform):
        def usage(self, device: DeviceInfo) -> Usage:
            return Usage(80, 7, 0.5)

    host = Host()
    apple = DeviceManager([Apple({"metal:0": {"mlx": ["fft"]}})], Events(), host=host)
    assert apple.memory_available("metal:0") == host.usage().memory_available
    metered = DeviceManager([Metered(GPU)], Events())
    assert (metered.memory_available("cuda:0"), metered.get("cuda:0")["utilization"]) == (7, 0.5)
