"""The devices of this node: what there is, what it can run, how it is doing, and which lane a wish means."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openruntime.contracts.errors import InvalidParameter, NoSuchDevice, NotFound, UnsupportedOnDevice, nearest
from openruntime.contracts.events import DeviceChanged
from openruntime.contracts.interfaces import EventSink
from openruntime.contracts.models import DeviceInfo
from openruntime.devices.host import Host, cpu_name, load_average
from openruntime.runtimes.manager import RuntimeManager

ANY = "any"
STATES = ("ready", "draining")
REMEMBERED = 4096  # lanes found for wishes: as many as a client can spell, so they are bounded
NOT_MEASURED = "no task of a millisecond or more has finished there yet"


class DeviceManager:
    """Implements the `Devices` interface over what the runtime managers found.

    `depths()` gives waiting tasks by lane; `workers(device)` one mapping a slot, in which `outstanding` counts the tasks sent to its worker
    and `state` is `failed` where no worker comes up.
    """

    def __init__(
        self,
        runtimes: Sequence[RuntimeManager],
        events: EventSink,
        *,
        node: str = "local",
        depths: Callable[[], Mapping[str, int]] = dict,
        workers: Callable[[str], Sequence[Mapping[str, Any]]] = lambda device: (),
        host: Host | None = None,
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None  # what to do when a device takes tasks again
        self._events = events
        self._node = node.casefold()
        self._depths = depths
        self._workers = workers
        self._host = host or Host()
        self._devices: dict[str, DeviceInfo] = {}
        self._runtimes: dict[str, RuntimeManager] = {}
        self._draining: set[str] = set()
        self._best: dict[str, list[float]] = {}
        self._capabilities: dict[tuple[str, str], frozenset[str]] = {}
        self._remembered: dict[tuple[str, str], str] = {}
        for runtime in runtimes:
            for found in runtime.devices():
                if found.id in self._devices:
                    raise ValueError(f"two runtime managers list the device {found.id}")
                self._runtimes[found.id] = runtime
                named = {"name": cpu_name()} if found.type == "cpu" else {}
                self._devices[found.id] = found.model_copy(update={"backends": list(runtime.backends[found.id]), **named})
        self._places = self._index()

    def _index(self) -> dict[str, list[tuple[str, str]]]:
        """Lane -> the (device, backend) pairs that serve it."""
        places: dict[str, list[tuple[str, str]]] = {ANY: []}
        for device in self._devices.values():
            for backend in device.backends:
                for lane in self.lanes(device.id, backend):
                    places.setdefault(lane, []).append((device.id, backend))
        return places

    # -- what there is and how it is doing ------------------------------------------------------------------------------------

    def list(self) -> Sequence[dict[str, Any]]:
        """Each device as `DeviceInfo` fields, live."""
        return [self._describe(device) for device in self._devices.values()]

    def get(self, device_id: str) -> dict[str, Any]:
        """`DeviceInfo` fields, `load`, `workers` and `ceilings` (FLOP/s and bytes/s, null until a task has shown them). Raises `NotFound`."""
        device = self._device(device_id)
        described = self._describe(device)
        load = {"busy": described["busy"], "slots": device.slots, "queued": described["queued"], "utilization": described["utilization"]}
        if device.type == "cpu":
            load["average"] = load_average()
        return described | {"load": load, "workers": [dict(worker) for worker in self._workers(device_id)], "ceilings": self._ceilings(device_id)}

    def achieved(self, device_id: str, flops: float, moved: float, seconds: float) -> None:
        """What a finished task reached there: the best of all stands for the device's ceilings."""
        best = self._best.setdefault(device_id, [0.0, 0.0])
        best[0], best[1] = max(best[0], flops / seconds), max(best[1], moved / seconds)

    def _ceilings(self, device_id: str) -> dict[str, Any]:
        """FLOP/s and bytes/s, the most that any task has reached since the start."""
        best = self._best.get(device_id)
        if best is None:
            return {"flops": None, "bandwidth": None, "reason": NOT_MEASURED}
        return {"flops": best[0], "bandwidth": best[1], "reason": "the most that any task has reached since the start"}

    def set_state(self, device_id: str, state: str) -> dict[str, Any]:
        """`draining`: it finishes what it has and takes nothing new; `ready`: it takes tasks again. Raises `NotFound`, `InvalidParameter`."""
        device = self._device(device_id)
        if state not in STATES:
            raise InvalidParameter(f"`state` is `ready` or `draining`, not {state!r}", field="state")
        if (state == "draining") == self.accepts(device_id):
            (self._draining.add if state == "draining" else self._draining.discard)(device_id)
            self._events.publish(DeviceChanged(time=time.time(), device=device_id, status=state, reason="asked for"))
            if state == "ready":
                self.on_ready()
        return self._describe(device)

    def accepts(self, device_id: str) -> bool:
        """Whether the device takes new tasks."""
        return device_id not in self._draining

    def memory_available(self, device_id: str) -> int:
        """Bytes free now, at most a second old. Raises `NotFound`."""
        device = self._device(device_id)
        return self._host.usage().memory_available if device.type == "cpu" else device.memory_available

    def memory_total(self) -> int:
        """Bytes of the largest device: what needs more than that fits nowhere."""
        return max((self._describe_memory(device)["memory_total"] for device in self._devices.values()), default=0)

    def _device(self, device_id: str) -> DeviceInfo:
        device = self._devices.get(device_id)
        if device is None:
            raise NotFound(f"there is no device {device_id!r}{nearest(device_id, self._devices)}")
        return device

    def _describe(self, device: DeviceInfo) -> dict[str, Any]:
        depths, workers = self._depths(), self._workers(device.id)
        served = {lane for backend in device.backends for lane in self.lanes(device.id, backend)}
        operations = {name for backend in device.backends for name in self._runs(device.id, backend)}
        live = {
            "capabilities": sorted(operations.union(device.capabilities)),
            "status": self._status(device, workers),
            "busy": sum(worker.get("outstanding", 0) > 0 for worker in workers),
            "queued": sum(depths.get(lane, 0) for lane in served),
        }
        return device.model_dump() | self._describe_memory(device) | live

    def _status(self, device: DeviceInfo, workers: Sequence[Mapping[str, Any]]) -> str:
        if not self.accepts(device.id):
            return "draining"
        return "failed" if workers and all(worker.get("state") == "failed" for worker in workers) else device.status

    def _describe_memory(self, device: DeviceInfo) -> dict[str, Any]:
        if device.type != "cpu":
            return {"memory_total": device.memory_total, "memory_available": device.memory_available, "utilization": device.utilization}
        usage = self._host.usage()
        return {"memory_total": usage.memory_total, "memory_available": usage.memory_available, "utilization": usage.utilization}

    # -- lanes ----------------------------------------------------------------------------------------------------------------

    def lanes(self, device: str, backend: str) -> tuple[str, ...]:
        """All lanes that a slot of this device and backend serves. Raises `NotFound`."""
        return ANY, self._device(device).type, device, backend, f"{device}/{backend}"

    def places(self, lane: str, operation: str) -> Sequence[tuple[str, str]]:
        """The (device, backend) pairs of a lane that run `operation`, or may: a backend that never had a worker has not said yet."""
        return [place for place in self._places.get(lane, ()) if not (known := self._runs(*place)) or operation in known]

    def lane(self, preference: str | None, operation: str) -> str:
        """The lane for a wish: `auto`, a kind, a device, a backend or `device/backend`, on this node or as `NODE/...`; in any case.

        Raises `NoSuchDevice`, or `UnsupportedOnDevice` when nothing in that lane runs `operation`; both say what there is."""
        wish = preference or ANY
        lane = self._remembered.get((wish, operation))
        if lane is None:
            lane = self._parse(wish)
            if not self.places(lane, operation):
                raise UnsupportedOnDevice(self._unsupported(lane, operation), field="device_preference")
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[wish, operation] = lane
        return lane

    def _parse(self, preference: str) -> str:
        wish = preference.strip().casefold()
        node, slash, rest = wish.partition("/")
        if slash and node == self._node:
            wish = rest
        if wish in ("auto", ANY, ""):
            return ANY
        lanes = {lane.casefold(): lane for lane in self._places}
        if wish in lanes:
            return lanes[wish]
        first, _, backend = wish.partition("/")
        if first in {device.type for device in self._devices.values()} and backend:
            why = f"{first!r} is a kind, and a backend goes with a device"
        elif slash and wish != rest and first not in lanes and ":" not in first:
            why = f"there is no node {first!r}; this one is {self._node!r}"
        else:
            why = f"there is no device {preference.strip()!r} here"
        offer = ", ".join(lane for lane in self._places if lane != ANY) or "no devices"
        raise NoSuchDevice(f"`device_preference`: {why} (there are {offer}){nearest(wish, lanes)}", field="device_preference")

    def _unsupported(self, lane: str, operation: str) -> str:
        able = [f"{device}/{backend}" for device, backend in self.places(ANY, operation)]
        where = "anything here" if lane == ANY else lane
        return f"`{operation}` does not run on {where}; it runs on {', '.join(able)}" if able else f"`{operation}` does not run on {where}"

    def _runs(self, device: str, backend: str) -> frozenset[str]:
        """The operations of a backend on a device, kept once it has said them; empty before."""
        known = self._capabilities.get((device, backend))
        if known is None:
            known = frozenset(self._runtimes[device].capabilities(device, backend))
            if known:
                self._capabilities[device, backend] = known
                self._remembered.clear()  # what was only possible is now certain, or refused
        return known
