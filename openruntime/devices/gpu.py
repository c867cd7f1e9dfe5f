"""GPUs: one physical card is one device, however many drivers see it."""

import re
from collections.abc import Iterable

import msgspec

from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.records import Probe

# the driver that gives a card its id, the preferred first
PLATFORMS = ("cuda", "rocm", "xpu", "tpu", "metal", "opencl", "vulkan")
UNIFIED = "unified_memory"


class GPUDevice(msgspec.Struct, frozen=True):
    """A physical GPU. `indices`: backend -> that backend's number for it, the preferred backend first. Memory in bytes, `utilization` 0 to 1."""

    id: str
    name: str
    memory_total: int
    memory_available: int
    indices: dict[str, int]
    uuid: str | None = None
    pci: str | None = None
    unified: bool = False
    utilization: float | None = None

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            id=self.id, name=self.name, type="tpu" if self.id.startswith("tpu:") else "gpu", capabilities=[UNIFIED] if self.unified else [],
            memory_total=self.memory_total, memory_available=self.memory_available, status="ready", backends=list(self.indices),
            utilization=self.utilization,
        )  # fmt: skip


class _Card:
    """Probes of one GPU, gathered."""

    def __init__(self, first: Probe) -> None:
        self.probes = [first]
        self.uuid = normal_uuid(first.uuid)
        self.pci = normal_pci(first.pci)

    def identified_by(self, uuid: str | None, pci: str | None) -> bool:
        """The parts of a partitioned card share its bus, so the bus decides only where a driver does not tell the UUID."""
        if uuid and self.uuid:
            return uuid == self.uuid
        return pci is not None and pci == self.pci

    def may_be(self, probe: Probe) -> bool:
        """Nothing contradicts that it is this card: same name, no identity in common, and its backend has not seen this one yet."""
        apart = (normal_uuid(probe.uuid) and self.uuid) or (normal_pci(probe.pci) and self.pci)
        return not apart and _plain(probe.name) == _plain(self.probes[0].name) and all(p.backend != probe.backend for p in self.probes)

    def add(self, probe: Probe) -> None:
        self.probes.append(probe)
        self.uuid = self.uuid or normal_uuid(probe.uuid)
        self.pci = self.pci or normal_pci(probe.pci)

    def device(self, number: int) -> GPUDevice:
        probes = sorted(self.probes, key=_preference)
        best = probes[0]
        indices: dict[str, int] = {}
        for probe in probes:
            indices.setdefault(probe.backend, probe.index)
        used = next((p.utilization for p in probes if p.utilization is not None), None)
        return GPUDevice(
            id=f"{best.platform}:{number}", name=best.name, memory_total=best.memory_total, memory_available=best.memory_available, indices=indices,
            uuid=self.uuid, pci=self.pci, unified=any(p.unified for p in probes), utilization=used,
        )  # fmt: skip


def merge(probes: Iterable[Probe]) -> list[GPUDevice]:
    """The GPUs behind what all backends saw, each once, in the order of `PLATFORMS`; any order of `probes` gives the same.

    Probes with the same UUID are one card; so are those on the same PCI bus id where either lacks a UUID. Where the identities have nothing in
    common, the n-th card of a name that one backend lists is the n-th of that name that another lists.
    """
    cards: list[_Card] = []
    # those that tell most come first, so that they tie together those that tell the one or the other
    for probe in sorted(probes, key=lambda p: (-bool(p.uuid) - bool(p.pci), p.uuid is None, *_preference(p))):
        uuid, pci = normal_uuid(probe.uuid), normal_pci(probe.pci)
        same = [card for card in cards if card.identified_by(uuid, pci)]
        # of the parts of one card, the first that this backend has not listed yet
        same.sort(key=lambda card: any(p.backend == probe.backend for p in card.probes))
        card = same[0] if same else next((card for card in cards if card.may_be(probe)), None)
        if card is None:
            cards.append(_Card(probe))
        else:
            card.add(probe)
    cards.sort(key=lambda card: min(map(_preference, card.probes)))
    counts: dict[str, int] = {}
    devices = []
    for card in cards:
        platform = min(card.probes, key=_preference).platform
        devices.append(card.device(counts.setdefault(platform, 0)))
        counts[platform] += 1
    return devices


def _preference(probe: Probe) -> tuple[int, int, str, str, str]:
    rank = PLATFORMS.index(probe.platform) if probe.platform in PLATFORMS else len(PLATFORMS)
    return rank, probe.index, probe.platform, probe.backend, probe.name


def normal_uuid(uuid: str | None) -> str | None:
    """32 or more hexadecimal digits: CUDA writes `GPU-…` or `MIG-…` before them, and some drivers no hyphens."""
    digits = re.sub(r"[^0-9a-f]", "", (uuid or "").casefold())
    return digits if digits.strip("0") else None


def normal_pci(pci: str | None) -> str | None:
    """`domain:bus:device.function`, the domain in four digits: NVML writes eight, others leave domain or function out."""
    found = re.fullmatch(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})(?:\.([0-7]))?", (pci or "").strip().casefold())
    if found is None:
        return None
    domain, bus, device, function = found.groups(default="0")
    return f"{int(domain, 16):04x}:{int(bus, 16):02x}:{int(device, 16):02x}.{function}"


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("(r)", "").replace("(tm)", "").split())
