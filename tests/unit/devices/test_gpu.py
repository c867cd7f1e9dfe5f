"""One physical GPU is listed once, however many drivers see it."""

from itertools import permutations

import msgspec
import pytest

from openruntime.contracts.records import Probe
from openruntime.devices.gpu import merge, normal_pci, normal_uuid

UUIDS = ["GPU-8f2b6a5c-0d3e-4a11-9c77-1b2c3d4e5f60", "GPU-11111111-0d3e-4a11-9c77-1b2c3d4e5f60"]
CUDA = Probe("cuda", "cuda", 0, "NVIDIA H100 80GB HBM3", 80, 70, uuid=UUIDS[0], pci="00000000:65:00.0", utilization=0.5)
TORCH = Probe("torch", "cuda", 0, "NVIDIA H100 80GB HBM3", 80, 70, uuid=UUIDS[0].removeprefix("GPU-"))
OPENCL = Probe("opencl", "opencl", 0, "NVIDIA H100 80GB HBM3", 79, 79, pci="0000:65:00.0")
WEBGPU = Probe("webgpu", "vulkan", 0, "NVIDIA H100 80GB HBM3", 80, 80)


def other(probe: Probe, **changes: object) -> Probe:
    return msgspec.structs.replace(probe, **changes)


@pytest.mark.parametrize("probes", list(permutations([CUDA, TORCH, OPENCL, WEBGPU])))
def test_one_card_seen_by_four_drivers(probes: tuple[Probe, ...]) -> None:
    [device] = merge(probes)
    assert device.id == "cuda:0"
    assert list(device.indices) == ["cuda", "torch", "opencl", "webgpu"]
    assert (device.memory_total, device.memory_available, device.utilization) == (80, 70, 0.5)
    info = device.info()
    assert (info.id, info.type, info.backends) == ("cuda:0", "gpu", ["cuda", "torch", "opencl", "webgpu"])


def test_two_alike_cards_stay_two_and_the_numbers_of_each_driver_are_kept() -> None:
    second = [other(CUDA, index=1, uuid=UUIDS[1], pci="00000000:b3:00.0"), other(OPENCL, index=0, pci="0000:b3:00.0")]
    first = [CUDA, other(OPENCL, index=1)]  # OpenCL counts them the other way round
    devices = merge([*second, *first])
    assert [(d.id, d.indices) for d in devices] == [("cuda:0", {"cuda": 0, "opencl": 1}), ("cuda:1", {"cuda": 1, "opencl": 0})]


def test_without_identity_the_nth_of_a_name_is_the_nth() -> None:
    devices = merge([Probe("torch", "metal", i, "Apple M4", 16, 8, unified=True) for i in (0, 1)] + [Probe("mlx", "metal", 0, "Apple M4", 16, 8)])
    assert [d.indices for d in devices] == [{"mlx": 0, "torch": 0}, {"torch": 1}]
    assert [d.id for d in devices] == ["metal:0", "metal:1"]
    assert devices[0].info().capabilities == ["unified_memory"]


def test_parts_of_a_partitioned_card_share_a_bus_and_stay_apart() -> None:
    parts = [other(CUDA, index=i, uuid=f"MIG-{UUIDS[i][4:]}") for i in (0, 1)]
    assert [d.id for d in merge(parts)] == ["cuda:0", "cuda:1"]


def test_two_platforms_of_one_library_are_one_card() -> None:
    [device] = merge([OPENCL, other(OPENCL, index=1, name="NVIDIA H100 (rusticl)")])
    assert device.indices == {"opencl": 0}


def test_memory_is_of_the_first_driver_that_tells_it() -> None:
    [device] = merge([other(CUDA, memory_total=0, memory_available=0), OPENCL])
    assert (device.id, device.memory_total, device.memory_available) == ("cuda:0", 79, 79)


def test_names_alone_do_not_join_cards_that_are_known_to_differ() -> None:
    devices = merge([CUDA, other(OPENCL, pci="0000:b3:00.0")])
    assert [d.id for d in devices] == ["cuda:0", "opencl:0"]


def test_cards_of_different_makers_come_in_the_order_of_preference() -> None:
    arc = Probe("opencl", "opencl", 0, "Intel(R) Arc(TM) A770", 16, 16, pci="03:00.0")
    assert [d.id for d in merge([arc, CUDA])] == ["cuda:0", "opencl:0"]
    assert merge([]) == []


def test_spellings_of_identities() -> None:
    assert normal_uuid(UUIDS[0]) == normal_uuid("8F2B6A5C0D3E4A119C771B2C3D4E5F60") == "8f2b6a5c0d3e4a119c771b2c3d4e5f60"
    assert normal_uuid(None) is None
    assert normal_uuid("00000000-0000-0000-0000-000000000000") is None
    assert normal_pci("00000000:65:00.0") == normal_pci("65:00") == normal_pci("0000:65:00.0") == "0000:65:00.0"
    assert normal_pci("on board") is None
    assert normal_pci("") is None
