"""Task records as rows, and named values with arrays inside as msgpack. No pickle: arrays, references and tuples are tagged."""

import ctypes
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic, time
from typing import Any

import msgspec

from openruntime.contracts.payload import Array, Reference
from openruntime.contracts.records import Task

Row = tuple[Any, ...]

_ARRAY, _REFERENCE, _TUPLE, _INTEGER = 1, 2, 3, 4


class _Array(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes | None
    blob: str | None


_encode = msgspec.msgpack.Encoder().encode
_decode_array = msgspec.msgpack.Decoder(_Array).decode
_decode_reference = msgspec.msgpack.Decoder(Reference).decode
_decode_task = msgspec.msgpack.Decoder(Task).decode


def wrap(value: Any, blobs: list[str]) -> Any:
    """The value as msgpack can have it; `blobs` gets the digests that arrays inside name."""
    kind = type(value)
    if kind is Array:
        if value.blob is not None:
            blobs.append(value.blob)
            return msgspec.msgpack.Ext(_ARRAY, _encode((value.dtype, value.shape, None, value.blob)))
        return msgspec.msgpack.Ext(_ARRAY, _encode((value.dtype, value.shape, value.view, None)))
    if kind is dict:
        return {key: wrap(item, blobs) for key, item in value.items()}
    if kind is list:
        return [wrap(item, blobs) for item in value]
    if kind is tuple:
        return msgspec.msgpack.Ext(_TUPLE, _encode([wrap(item, blobs) for item in value]))
    if kind is Reference:
        return msgspec.msgpack.Ext(_REFERENCE, _encode(value))
    if kind is int and not -(2**63) <= value < 2**63:
        return msgspec.msgpack.Ext(_INTEGER, hex(value).encode())
    return value


def unwrap(code: int, data: memoryview) -> Any:
    """Undo `wrap`: the decoder's hook."""
    if code == _ARRAY:
        found = _decode_array(data)
        return Array(found.dtype, found.shape, found.data, found.blob)
    if code == _TUPLE:
        return tuple(_decode(data))
    if code == _REFERENCE:
        return _decode_reference(data)
    if code == _INTEGER:
        return int(bytes(data), 16)
    raise msgspec.DecodeError(f"a value is tagged {code}, which this version does not know")


_decode = msgspec.msgpack.Decoder(ext_hook=unwrap).decode


def pack(values: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """The values as msgpack, and the digests of the blobs they count. An array with a `blob` goes without its bytes."""
    blobs: list[str] = []
    return _encode({key: wrap(value, blobs) for key, value in values.items()}), blobs


def unpack(data: bytes) -> dict[str, Any]:
    values: dict[str, Any] = _decode(data)
    return values


def arrays(value: Any) -> Iterator[Array]:
    """Every array anywhere inside."""
    if type(value) is Array:
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from arrays(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays(item)


def exchange(value: Any, change: Callable[[Array], Array]) -> Any:
    """A copy with every array inside exchanged."""
    if type(value) is Array:
        return change(value)
    if isinstance(value, Mapping):
        return {key: exchange(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(exchange(item, change) for item in value)
    return value


def row(task: Task) -> Row:
    """The row that `put_task` writes of an ended task, which keeps no inputs."""
    outputs = None
    blobs: list[str] = []
    if task.outputs is not None:
        outputs, blobs = pack(task.outputs)
    return (
        task.id,
        task.tenant,
        task.life.status.value,
        task.call.operation,
        task.device,
        json.dumps(task.tags) if task.tags else None,
        task.idempotency,
        task.finished,
        result_bytes(task),
        json.dumps(blobs) if blobs else None,
        _encode(bare(task)),
        outputs,
    )


def bare(task: Task) -> Task:
    """A copy of the record without inputs and outputs."""
    call = task.call
    if call.parameters:
        call = msgspec.structs.replace(call, parameters={})
    return msgspec.structs.replace(task, call=call, outputs=None)


def arrived(task: Task) -> Task:
    """A task from another process: how long ago it was submitted is known by the time of day alone."""
    task.arrived = monotonic() - max(0.0, time() - task.created)
    return task


def task_of(meta: bytes, *, outputs: bytes | None = None) -> Task:
    task = arrived(_decode_task(meta))
    if outputs is not None:
        task.outputs = _decode(outputs)
    return task


def memory(values: Iterable[Any], inline: int) -> int:
    """Bytes, nearly, that values take here. Arrays over `inline` bytes in shared memory, which has a bound of its own, are left out."""
    size = 0
    for value in values:  # without a call for each: this is asked of every task
        kind = type(value)
        if kind is Array:
            data = value.data
            if type(data) is not memoryview:
                size += len(data) if data is not None else 0
            elif data.nbytes <= inline or not isinstance(data.obj, ctypes.Array):
                size += data.nbytes
        elif kind is str:
            size += len(value)
        elif kind is dict:
            size += memory(value.values(), inline)
        elif kind is list or kind is tuple:
            size += memory(value, inline)
        else:
            size += 8
    return size


def result_bytes(task: Task) -> int:
    size = 0
    if task.outputs:
        for array in task.outputs.values():
            data = array.data
            size += len(data) if type(data) is bytes else array.nbytes
    return size
