"""What gateway and worker say to each other: length-prefixed msgpack over a socket pair; large arrays by descriptor.

Two pairs a worker: on the task channel jobs go down and outcomes come up, both in order, read by the compute thread itself,
so that a tiny job costs no hand-over between threads; the control channel carries cancels to the control thread.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Abilities
from openruntime.runtimes.shared_memory import Slab, SlabPool, locate

INLINE_BYTES = 64 * 1024
ALIGNMENT = 64  # bytes, of each array in shared memory
_LENGTH = struct.Struct("<I")
MAX_DESCRIPTORS = 64  # in one message; the kernel's bound is 253


class WireArray(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An array in a message: its bytes (`data`), or where they lie in a slab."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview | None = None
    slab: int = 0
    offset: int = 0


class Segment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A slab and its size; `fresh` ones have their descriptor in this message, in order."""

    slab: int
    size: int
    fresh: bool


class Job(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One task for a worker. Arrays in a list parameter are named `name.0`, `name.1`, ..."""

    id: int
    operation: str
    scalars: dict[str, Any]
    arrays: dict[str, WireArray]
    out: Segment | None = None


class Run(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """`alone`: those of the jobs that must not run together with others."""

    jobs: list[Job]
    segments: list[Segment] = []
    unmap: list[int] = []
    threads: int = 0
    alone: Sequence[int] = ()


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A worker is ready."""

    abilities: Abilities
    seconds: float  # from exec to ready


class Done(msgspec.Struct, array_like=True, frozen=True, tag=2, gc=False):
    """Monotonic seconds: when the job started, and when its outputs were ready to travel; the others are as in `Result`.

    `batch`: how many ran as one with it, and which of them it was, from 1 on; the seconds as in `Result` are then its share.
    """

    id: int
    outputs: dict[str, WireArray]
    seconds: float
    started: float
    finished: float
    transfer: float = 0.0
    compile: float = 0.0
    batch: tuple[int, int] | None = None


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=3, gc=False):
    id: int
    code: str
    message: str
    started: float
    finished: float


class Progress(msgspec.Struct, array_like=True, frozen=True, tag=4, gc=False):
    id: int
    progress: float
    message: str | None


class Began(msgspec.Struct, array_like=True, frozen=True, tag=5, gc=False):
    """Jobs that waited have begun, together with the one whose turn it was."""

    jobs: list[int]


Outcome = Hello | Done | Failed | Progress | Began

_encoder = msgspec.msgpack.Encoder()
run_decoder = msgspec.msgpack.Decoder(Run)
outcome_decoder = msgspec.msgpack.Decoder(Outcome)
cancel_decoder = msgspec.msgpack.Decoder(int)


def frame(message: Any) -> bytearray:
    """A message as it stands on the wire: four bytes of length (little-endian), then msgpack."""
    body = bytearray(4)
    _encoder.encode_into(message, body, 4)
    _LENGTH.pack_into(body, 0, len(body) - 4)
    return body


class FrameReader:
    """Cuts a byte stream into frames. A frame of more than `longest` bytes raises `ValueError`: the other side speaks rubbish."""

    def __init__(self, longest: int = 1 << 31) -> None:
        self._longest = longest
        self._rest = bytearray()
        self._wanted = 4  # bytes that the rest has to have before there is a frame in it

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """The whole frames now at hand; what is left waits for the next call. They lie in `data` where they came whole."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data, self._rest = self._rest, bytearray()
        view, at, end = memoryview(data).toreadonly(), 0, len(data)
        self._wanted = 4
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._longest:
                raise ValueError(f"a frame of {length} bytes")
            if end - at - 4 < length:
                self._wanted = length + 4
                break
            yield view[at + 4 : at + 4 + length]
            at += 4 + length
        if at < end:
            self._rest += view[at:]


def output_bytes(specs: Iterable[Spec]) -> int:
    """Shared memory that the outputs of a call need: the small ones come back in the message."""
    return sum(-(-spec.nbytes // ALIGNMENT) * ALIGNMENT for spec in specs if spec.nbytes > INLINE_BYTES)


Outgoing = tuple[int, str, Mapping[str, Any], memoryview | None]  # a job's id, operation, parameters, and memory for its large outputs


class JobWriter:
    """Turns tasks into `Run` messages for one worker, and remembers which slabs that worker has mapped."""

    def __init__(self, pool: SlabPool) -> None:
        self._pool = pool
        self._mapped: set[int] = set()
        self._unmapped = 0

    def messages(
        self, jobs: Sequence[Outgoing], threads: int, alone: Sequence[int] = ()
    ) -> tuple[list[tuple[bytearray, list[int]]], list[memoryview]]:
        """As messages with the descriptors to send along, and views to hold until answered.

        Raises `Unavailable` without shared memory for an input, `OverflowError` for an integer beyond 64 bits."""
        segments: list[Segment] = []
        descriptors: list[int] = []
        held: list[memoryview] = []
        closed = self._pool.closed_ids[self._unmapped :]
        gone = [slab for slab in closed if slab in self._mapped]
        try:
            wire = [
                Job(i, name, *self._split(parameters, segments, descriptors, held), self._out(out, segments, descriptors))
                for i, name, parameters, out in jobs
            ]
            messages, at = [], 0
            while len(segments) - at > MAX_DESCRIPTORS:
                messages.append((frame(Run([], segments[at : at + MAX_DESCRIPTORS])), descriptors[at : at + MAX_DESCRIPTORS]))
                at += MAX_DESCRIPTORS
            messages.append((frame(Run(wire, segments[at:], gone, threads, alone)), descriptors[at:]))
        except BaseException:
            self._mapped.difference_update(segment.slab for segment in segments)  # nothing of it is sent
            raise
        self._unmapped += len(closed)
        self._mapped.difference_update(gone)
        return messages, held

    def _split(
        self, parameters: Mapping[str, Any], segments: list[Segment], descriptors: list[int], held: list[memoryview]
    ) -> tuple[dict[str, Any], dict[str, WireArray]]:
        scalars: dict[str, Any] = {}
        arrays: dict[str, WireArray] = {}
        for name, value in parameters.items():
            if type(value) is Array:
                arrays[name] = self._array(value, segments, descriptors, held)
            elif type(value) is list and value and type(value[0]) is Array:
                for index, item in enumerate(value):
                    arrays[f"{name}.{index}"] = self._array(item, segments, descriptors, held)
            else:
                scalars[name] = value
        return scalars, arrays

    def _array(self, array: Array, segments: list[Segment], descriptors: list[int], held: list[memoryview]) -> WireArray:
        view = array.view
        if view.nbytes <= INLINE_BYTES:
            return WireArray(array.dtype, array.shape, view)
        place = None if view.readonly else locate(view)
        if place is None:  # it came from a blob or from JSON: one copy into memory the worker can map
            shared = self._pool.allocate(view.nbytes)
            shared[:] = view
            held.append(shared)
            place = locate(shared)
            assert place is not None
        slab, offset = place
        self._declare(slab, segments, descriptors)
        return WireArray(array.dtype, array.shape, None, slab.id, offset)

    def _out(self, out: memoryview | None, segments: list[Segment], descriptors: list[int]) -> Segment | None:
        if out is None:
            return None
        place = locate(out)
        assert place is not None
        self._declare(place[0], segments, descriptors)
        return Segment(place[0].id, out.nbytes, False)

    def _declare(self, slab: Slab, segments: list[Segment], descriptors: list[int]) -> None:
        if slab.id not in self._mapped:
            self._mapped.add(slab.id)
            segments.append(Segment(slab.id, slab.size, True))
            descriptors.append(slab.fd)


def receive(sock: socket.socket, size: int = 1 << 18) -> tuple[bytes, list[int]]:
    """Block for bytes and the descriptors that came with them. Empty bytes: the other side has closed."""
    data, descriptors, _flags, _address = socket.recv_fds(sock, size, MAX_DESCRIPTORS)
    return data, descriptors
