"""The devices of this node: what there is, what it can run, how it is doing, and which lane a wish means."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.ai import LANE, REQUIRES
from openruntime.contracts.errors import InvalidParameter, NoSuchDevice, NotFound, Unavailable, UnsupportedOnDevice, nearest
from openruntime.contracts.events import DeviceChanged
from openruntime.contracts.interfaces import EventSink
from openruntime.contracts.kernels import LANGUAGES, WORKERS
from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.records import Abilities, Call, Task, Usage
from openruntime.contracts.status import TaskStatus
from openruntime.devices.gpu import UNIFIED
from openruntime.devices.host import Host, cpu_name, load_average
from openruntime.devices.roofline import Roofline
from openruntime.runtimes.manager import RuntimeManager
from openruntime.runtimes.probe import Report

ANY = "any"
KERNELS = f"{ANY}{WORKERS}"
STATES = ("ready", "draining")
REMEMBERED = 4096  # lanes found for wishes: as many as a client can spell, so they are bounded
CONNECT = "connect a device that it drives, and install its driver; `openruntime doctor` shows what is there"
MEND = "mend what the reason names, or uninstall the package that brings it; `openruntime doctor` shows what is installed"
LOOKING = 10.0  # seconds that `found` waits at most

Place = tuple[str, str]  # device, backend
Refusal = tuple[str | None, str | None]  # the dtype it is about, None where it is the operation; the reason, where the backend gives one


class DeviceManager:
    """Implements the `Devices` interface over what the runtime managers found.

    `depths()` gives waiting tasks by lane; `workers(device)` one mapping a slot, in which `outstanding` counts the tasks sent to its worker
    and `state` is `failed` where no worker comes up; `models(device)` one a model that is taken up there. `registered` are the backends that
    `adopt` will tell of.
    """

    def __init__(
        self,
        runtimes: Sequence[RuntimeManager],
        events: EventSink,
        *,
        node: str = "local",
        registered: Sequence[str] = (),
        depths: Callable[[], Mapping[str, int]] = dict,
        workers: Callable[[str], Sequence[Mapping[str, Any]]] = lambda device: (),
        models: Callable[[str], Sequence[Mapping[str, Any]]] = lambda device: (),
        host: Host | None = None,
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None  # what to do when a device takes tasks again
        self.roofline = Roofline()
        self._events = events
        self._node = node.casefold()
        self._depths = depths
        self._workers = workers
        self._models = models
        self._host = host or Host()
        self._managers = runtimes
        self._registered = registered
        self._reports: dict[str, Report] = {}
        self._looked = asyncio.Event()
        self._devices: dict[str, DeviceInfo] = {}
        self._runtimes: dict[str, RuntimeManager] = {}
        self._draining: set[str] = set()
        self._remembered: dict[tuple[str | None, str, str, tuple[str, ...]], str] = {}
        self._places: dict[str, list[Place]] = {}  # lane that a client can name -> who serves it
        self._lanes: dict[Place, list[str]] = {}  # the lists that the slots hold
        self._joined: dict[str, None] = {}  # lanes of several places that no name stands for
        self.io_lanes: list[str] = []  # those of models that tasks were put into, growing
        self._read()
        if not registered:
            self._looked.set()

    def _read(self) -> None:
        """Take the devices as the runtime managers have them now."""
        self._devices.clear()
        self._remembered.clear()
        self._places = {ANY: [], KERNELS: []}
        for runtime in self._managers:
            for found in runtime.devices():
                if found.id in self._devices:
                    raise ValueError(f"two runtime managers list the device {found.id}")
                self._runtimes[found.id] = runtime
                self._devices[found.id] = found.model_copy(update={"name": cpu_name()}) if found.type == "cpu" else found
                for backend in found.backends:
                    place = found.id, backend
                    suffix = WORKERS if backend.endswith(WORKERS) else ""  # kernels and operations wait apart: neither runs the other's
                    lanes = [f"{wide}{suffix}" for wide in (ANY, found.type, found.id)] + [backend, f"{found.id}/{backend}"]
                    self._lanes.setdefault(place, lanes)
                    for lane in lanes:
                        self._places.setdefault(lane, []).append(place)
        self.serve(self._joined)

    def adopt(self, reports: Sequence[Report]) -> None:
        """Take up the backends that were asked, with the devices they drive."""
        for report in reports:
            self._reports[report.backend] = report
            for runtime in self._managers:
                runtime.adopt(report)
        self._read()
        self._looked.set()

    async def found(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), LOOKING)

    # -- what there is and how it is doing ------------------------------------------------------------------------------------

    def list(self) -> Sequence[dict[str, Any]]:
        """Each device as `DeviceInfo` fields, live."""
        return [self._describe(device) for device in self._devices.values()]

    def get(self, device_id: str) -> dict[str, Any]:
        """`DeviceInfo` fields, `load`, `workers`, `models` and `ceilings` (FLOP/s and bytes/s, null until they are measured). Raises `NotFound`."""
        device = self._device(device_id)
        described = self._describe(device)
        load = {"busy": described["busy"], "slots": device.slots, "queued": described["queued"], "utilization": described["utilization"]}
        if device.type == "cpu":
            load["average"] = load_average()
        workers = [dict(worker) for worker in self._workers(device_id)]
        models = [dict(model) for model in self._models(device_id)]
        return described | {"load": load, "workers": workers, "models": models, "ceilings": self.roofline.describe(device_id)}

    def achieved(self, task: Task) -> dict[str, Any]:
        """How well a task used its device, as `Roofline.judge` has it."""
        if task.call.requires.startswith(REQUIRES):
            return self.roofline.judge(task.call, None, None) | {"reason": "what a model computes for an answer is not counted"}
        computed = task.life.status is TaskStatus.COMPLETED and not task.cached
        found = self.roofline.judge(task.call, task.device, task.seconds if computed else None)
        if not computed:
            found["reason"] = "answered from the cache" if task.cached else f"it is {task.life.status.value}; only a completed task computed it all"
        return found

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
        return self._usage(self._device(device_id)).memory_available

    def memory_total(self, device_id: str | None = None) -> int:
        """Bytes of a device, or of the largest: what needs more than that fits nowhere. Raises `NotFound`."""
        asked = self._devices.values() if device_id is None else (self._device(device_id),)
        return max((self._usage(device).memory_total for device in asked), default=0)

    def _device(self, device_id: str) -> DeviceInfo:
        device = self._devices.get(device_id)
        if device is None:
            raise NotFound(f"there is no device {device_id!r}{nearest(device_id, self._devices)}")
        return device

    def _describe(self, device: DeviceInfo) -> dict[str, Any]:
        depths, workers = self._depths(), self._workers(device.id)
        served = {lane for backend in device.backends for lane in self.lanes(device.id, backend)}
        told = [self._abilities((device.id, backend)) for backend in device.backends]
        operations: frozenset[str] = frozenset().union(*(known.operations for known in told if known))
        live = {
            "capabilities": sorted(operations.union(device.capabilities)),
            "backends": [backend for backend in device.backends if not backend.endswith(WORKERS)],
            "status": self._status(device, workers),
            "busy": sum(worker.get("outstanding", 0) > 0 for worker in workers),
            "queued": sum(depths.get(lane, 0) for lane in served),
        }
        return {**device.model_dump(), **msgspec.structs.asdict(self._usage(device)), **live}

    def _status(self, device: DeviceInfo, workers: Sequence[Mapping[str, Any]]) -> str:
        if not self.accepts(device.id):
            return "draining"
        return "failed" if workers and all(worker.get("state") == "failed" for worker in workers) else device.status

    def _usage(self, device: DeviceInfo) -> Usage:
        host = self._host.usage()
        if device.type == "cpu":
            return host
        found = self._runtimes[device.id].usage(device)
        if found is not None:
            return found
        if UNIFIED in device.capabilities:  # it is the processor's memory: what others hold of it is not free
            return Usage(device.memory_total, min(device.memory_total, host.memory_available), device.utilization)
        return Usage(device.memory_total, device.memory_available, device.utilization)

    def backends(self) -> Sequence[dict[str, Any]]:
        """Each backend that is registered: where it works, or why it does not."""
        names = dict.fromkeys([backend for _, backend in self._places[ANY]] + list(self._registered))
        return [self._backend(name) for name in names if not name.endswith(WORKERS)]

    def _backend(self, name: str) -> dict[str, Any]:
        places = [place for place in self._places[ANY] if place[1] == name]
        report = self._reports.get(name)
        status, reason, remedy = "ready", None, None
        if not places and report is None:
            status, reason = "looking", "it is being asked which devices it drives"
        elif report is not None and report.failure is not None:
            status, reason, remedy = "failed", report.failure, MEND
            if report.extra is not None:
                status, remedy = "absent", f"pip install 'openruntime[{report.extra}]'"
        elif not places:
            status, reason, remedy = "absent", (report and report.nothing) or "no device that it can drive was found", CONNECT
        else:
            workers = [worker for device, _ in places for worker in self._workers(device) if worker["backend"] == name]
            if (why := next((worker["reason"] for worker in workers if worker.get("reason")), None)) is not None:
                status, reason, remedy = "failed", why, MEND
        known = next((told for place in places if (told := self._runtimes[place[0]].abilities(*place))), None)
        return {
            "name": name, "status": status, "devices": [device for device, _ in places], "reason": reason, "remedy": remedy,
            "unsupported": known.unsupported if known else {}, "lacks": known.lacks if known else {},
        }  # fmt: skip

    # -- lanes ----------------------------------------------------------------------------------------------------------------

    def lanes(self, device: str, backend: str) -> Sequence[str]:
        """All lanes that a slot of this device and backend serves; grows while it is held. Raises `NotFound`."""
        return self._lanes[self._device(device).id, backend]

    def serve(self, lanes: Iterable[str]) -> None:
        """Have the slots serve these lanes too, where they are of several places, and note those of models: tasks wait there since an earlier
        start, or from another server."""
        lanes = list(lanes)
        self.io_lanes += [lane for lane in lanes if lane.startswith(LANE) and lane not in self.io_lanes]
        for lane in [lane for lane in lanes if "+" in lane and not lane.startswith(LANE)]:
            self._joined[lane] = None
            for place in lane.split("+"):
                device, _, backend = place.partition("/")
                served = self._lanes.get((device, backend))
                if served is not None and lane not in served:
                    served.append(lane)

    def places(self, lane: str, operation: str) -> Sequence[Place]:
        """The (device, backend) pairs of a lane that run `operation`, or may: a backend that never had a worker has not said yet."""
        if operation.startswith(REQUIRES):
            return ()
        named = [*self._places.get(lane, ()), *(self._places[KERNELS] if lane == ANY else ())]
        places = named or [(device, backend) for device, _, backend in (place.partition("/") for place in lane.split("+"))]
        return [place for place in places if place in self._lanes and (not (known := self._abilities(place)) or operation in known.operations)]

    def takes(self, device: str, backend: str, call: Call) -> bool:
        """Whether the device takes tasks, and the backend runs the call there, as far as it has said."""
        return self.accepts(device) and self._refusal((device, backend), call) is None

    def lane(self, preference: str | None, call: Call) -> str:
        """The lane for a wish: `auto`, a kind, a device, a backend or `device/backend`, on this node or as `NODE/...`; in any case.

        Where only some of its backends can run `call`, the lane that only those serve. Raises `NoSuchDevice`, `UnsupportedOnDevice` when
        nothing in that lane runs it, both with what there is; `Unavailable` while backends are being asked what they drive."""
        key = (preference, call.ability, call.dtype, call.others)
        return self._remembered.get(key) or self._find(key, call)

    def _find(self, key: tuple[str | None, str, str, tuple[str, ...]], call: Call) -> str:
        lane = self._parse(key[0] or ANY)
        if call.requires.startswith(REQUIRES):
            return self._model_lane(lane, key[0], call)
        if call.requires:  # `opencl` and `cpu:0/opencl` mean its kernel workers
            device, slash, backend = lane.rpartition("/")
            language = call.requires.partition(":")[2]
            named = f"{device}{slash}{language}{WORKERS}"
            lane = named if backend in LANGUAGES.get(language, ()) and named in self._places else lane
            wide = f"{lane}{WORKERS}"
            lane = wide if lane in (ANY, *self._devices, *(device.type for device in self._devices.values())) and wide in self._places else lane
        places = self._places[lane]
        refusals = {place: refusal for place in places if (refusal := self._refusal(place, call)) is not None}
        able = [place for place in places if place not in refusals]
        if not able:
            raise self._no_language(call) if lane == KERNELS else self._unsupported(lane, call, refusals.values())
        if refusals:
            lane = self._lane_of(able)
        if all(map(self._abilities, places)):  # else what is only possible now is certain, or refused, soon
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = lane
        return lane

    def _model_lane(self, lane: str, preference: str | None, call: Call) -> str:
        if lane != ANY:
            raise UnsupportedOnDevice(
                f"`device_preference` is {preference!r}, and {call.operation} is a model, which its adapter places; leave it out, or send `auto`",
                field="device_preference",
            )
        found = LANE + call.requires.removeprefix(REQUIRES)
        self.serve([found])
        return found

    def _lane_of(self, places: Sequence[Place]) -> str:
        named = next((lane for lane, served in self._places.items() if served == places), None)
        if named is None:
            named = "+".join(f"{device}/{backend}" for device, backend in places)
            self.serve([named])
        return named

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
        if not self._looked.is_set():
            raise Unavailable(
                f"`device_preference`: {preference.strip()!r} is not known yet; backends are being asked what they drive", retry_after=1
            )
        first, _, backend = wish.partition("/")
        report = self._reports.get(backend or first)
        if report is not None and report.failure is not None:
            why = report.failure + (f"; install it with `pip install 'openruntime[{report.extra}]'`" if report.extra else "")
        elif first in {device.type for device in self._devices.values()} and backend:
            why = f"{first!r} is a kind, and a backend goes with a device"
        elif slash and wish != rest and first not in lanes and ":" not in first:
            why = f"there is no node {first!r}; this one is {self._node!r}"
        else:
            why = f"there is no device {preference.strip()!r} here"
        offer = ", ".join(lane for lane in self._places if lane != ANY and not lane.endswith(WORKERS)) or "no devices"
        raise NoSuchDevice(f"`device_preference`: {why} (there are {offer}){nearest(wish, lanes)}", field="device_preference")

    # -- what backends cannot do ----------------------------------------------------------------------------------------------

    def _abilities(self, place: Place) -> Abilities | None:
        return self._runtimes[place[0]].abilities(*place)

    def _refusal(self, place: Place, call: Call) -> Refusal | None:
        known = self._abilities(place)
        if known is None:
            return (None, None) if call.requires else None  # an operation it may have
        if call.operation in known.unsupported or call.ability not in known.operations:
            return None, known.unsupported.get(call.operation)
        if known.lacks:
            for dtype in (call.dtype, *call.others):
                reason = known.lacks.get(dtype) or known.lacks.get(f"{call.operation} {dtype}")
                if reason is not None:
                    return dtype, reason
        return None

    def _no_language(self, call: Call) -> Unavailable | NoSuchDevice:
        """Why kernels of this language run nowhere here."""
        language = call.requires.partition(":")[2]
        backend = LANGUAGES.get(language, (language,))[0]
        if not self._looked.is_set():
            return Unavailable(f"it is not known yet what runs {language} kernels here; backends are being asked what they drive", retry_after=1)
        why = next((row["reason"] for row in self.backends() if row["name"] == backend), None) or f"there is no {backend} device"
        remedy = next((row["remedy"] for row in self.backends() if row["name"] == backend), None)
        return NoSuchDevice(f"`language`: no device here runs {language} kernels: {why}{f' ({remedy})' if remedy else ''}", field="language")

    def _unsupported(self, lane: str, call: Call, refusals: Iterable[Refusal]) -> UnsupportedOnDevice:
        """Says why, and where it would run."""
        places = self._places[KERNELS if call.requires else ANY]
        able = [f"{device}/{backend}" for device, backend in places if self._refusal((device, backend), call) is None]
        where = "anything here" if lane == ANY else lane.removesuffix(WORKERS)
        refusals = tuple(refusals)
        reasons = "; ".join(dict.fromkeys(reason for _, reason in refusals if reason))
        told = (f": {reasons}" if reasons else "") + (f"; it runs on {', '.join(able)}" if able else "")
        dtype = next((dtype for dtype, _ in refusals if dtype), None)
        if dtype is None:
            return UnsupportedOnDevice(f"`{call.operation}` does not run on {where}{told}", field="device_preference")
        field, what = _of_dtype(call, dtype)
        return UnsupportedOnDevice(f"{what} {dtype}, which does not run on {where}{told}", field=field)


def _of_dtype(call: Call, dtype: str) -> tuple[str, str]:
    """The parameter that brings a dtype in, and the beginning of a sentence about it."""
    for name, value in call.parameters.items():
        for item in value if isinstance(value, list) else (value,):
            if item == dtype or getattr(item, "dtype", None) == dtype:
                return name, f"`{name}` of {call.operation} is"
    return "parameters", f"an array of {call.operation} is"
