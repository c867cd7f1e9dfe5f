"""GPUs in the runtime: one card once, each backend told its own number for it, and what it may take of its memory."""

from openruntime.contracts.records import Abilities, Probe, Usage
from openruntime.devices.gpu import merge
from openruntime.runtimes.gpu import GPURuntimeManager
from openruntime.runtimes.probe import Report
from openruntime.runtimes.shared_memory import SlabPool

UUIDS = ["8f2b6a5c-0d3e-4a11-9c77-1b2c3d4e5f60", "11111111-0d3e-4a11-9c77-1b2c3d4e5f60"]
CAN, LESS = Abilities(frozenset({"matmul", "sort"})), Abilities(frozenset({"matmul"}), {"sort": "slow"})


def card(backend: str, platform: str, index: int, uuid: int) -> Probe:
    return Probe(backend, platform, index, "H100", 80, 70, uuid=UUIDS[uuid])


def manager() -> GPURuntimeManager:
    found = GPURuntimeManager(SlabPool(), merge=merge, share_of=lambda total: total // 2)
    found.adopt(Report("cuda", [card("cuda", "cuda", 0, 0), card("cuda", "cuda", 1, 1)], {"cuda": CAN}))
    seen = [Probe("opencl", "cpu"), card("opencl", "opencl", 0, 1), card("opencl", "opencl", 1, 0)]
    found.adopt(Report("opencl", seen, {"cpu": CAN, "opencl": LESS}))
    return found


def test_a_card_is_one_device_and_each_backend_is_told_its_own_number() -> None:
    gpus = manager()
    first, second = gpus.devices()
    assert [(d.id, d.type, d.backends, d.slots) for d in (first, second)] == [
        ("cuda:0", "gpu", ["cuda", "opencl"], 1), ("cuda:1", "gpu", ["cuda", "opencl"], 1),
    ]  # fmt: skip
    for device, backend, index in ((first, "cuda", 0), (second, "cuda", 1), (first, "opencl", 1), (second, "opencl", 0)):
        share = gpus.share(device, backend)
        assert (share.index, share.memory) == (index, 40)


def test_what_a_backend_can_do_is_told_by_platform() -> None:
    gpus = manager()
    assert gpus.abilities("cuda:0", "cuda") == CAN
    assert gpus.abilities("cuda:1", "opencl") == LESS


def test_reports_may_come_in_any_order_and_twice() -> None:
    gpus = GPURuntimeManager(SlabPool(), merge=merge)
    opencl, cuda = Report("opencl", [card("opencl", "opencl", 0, 0)], {"opencl": LESS}), Report("cuda", [card("cuda", "cuda", 0, 0)], {"cuda": CAN})
    assert gpus.adopt(opencl)
    assert [d.id for d in gpus.devices()] == ["opencl:0"]
    assert gpus.adopt(cuda)
    assert gpus.adopt(cuda)
    assert [(d.id, d.backends) for d in gpus.devices()] == [("cuda:0", ["cuda", "opencl"])]
    assert not gpus.adopt(Report("numpy", [Probe("numpy", "cpu")]))
    assert not gpus.adopt(Report("broken", failure="it is broken"))


def test_what_mlx_drives_is_its_own_managers() -> None:
    gpus = GPURuntimeManager(SlabPool(), merge=merge)
    gpus.adopt(Report("torch", [Probe("torch", "metal", 0, "Apple M4")]))
    assert [d.id for d in gpus.devices()] == ["metal:0"]
    gpus.adopt(Report("mlx", [Probe("mlx", "metal", 0, "Apple M4")]))
    assert gpus.devices() == []


def test_a_tpu_is_a_kind_of_its_own() -> None:
    gpus = GPURuntimeManager(SlabPool(), merge=merge)
    gpus.adopt(Report("jax", [Probe("jax", "tpu", 0, "TPU v6e")]))
    assert [(d.id, d.type) for d in gpus.devices()] == [("tpu:0", "tpu")]


def test_without_a_meter_what_was_found_holds() -> None:
    gpus = manager()
    assert gpus.usage(gpus.devices()[0]) is None


def test_a_meter_is_asked_once_a_second() -> None:
    gpus, asked = manager(), []

    class Meter:
        def usage(self, uuid: str | None, pci: str | None) -> Usage:
            asked.append(uuid)
            return Usage(80, 80 - len(asked), 0.5)

    gpus._meters["cuda"] = Meter()
    first, second = gpus.devices()
    assert [gpus.usage(first) for _ in range(3)] == [Usage(80, 79, 0.5)] * 3
    assert gpus.usage(second) == Usage(80, 78, 0.5)
    assert asked == [uuid.replace("-", "") for uuid in UUIDS]
