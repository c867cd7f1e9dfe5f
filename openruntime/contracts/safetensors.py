"""The safetensors format: a JSON header and raw bytes, read and written without copying the arrays.

Source: https://huggingface.co/docs/safetensors (eight bytes of header length, little-endian; the header; the arrays without holes).
complex64 is the format's `C64`; complex128 has no code there and is `C128`, an extension of ours. Where every reader must open the
body, complex arrays are split: floats with a last axis of 2 (real, imaginary), their names under the metadata key `complex`.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Annotated, Any

import msgspec

from openruntime.contracts.errors import InvalidRequest, NotAcceptable, nearest
from openruntime.contracts.payload import ITEMSIZE, Array, Buffer

REMEMBERED_HEADER = 4096  # bytes
COPIED = 16_384  # bytes: a smaller array is copied, because a view costs 200 bytes and holds the whole body while its task waits
HEADER_LIMIT = 100_000_000  # bytes, as in the reference implementation
DIMENSIONS = 64
JSON_OUTPUT = "json"  # metadata of ours: the name of the output whose bytes are JSON

CODES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "complex64": "C64", "complex128": "C128",
}  # fmt: skip
SPLIT = {"complex64": "F32", "complex128": "F64"}  # what a complex array is sent as, with a last axis of 2
_JOINED = {"float32": "complex64", "float64": "complex128"}
_DTYPES = {code: (dtype, ITEMSIZE[dtype]) for dtype, code in CODES.items()}
_Place = tuple[str, str, tuple[int, ...], int, int]  # name, dtype, shape, start and end in the data
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, gc=False):
    """The defaults fit no array: what lacks a field is refused, and `__metadata__` passes through the same fast decoder."""

    dtype: str = ""
    shape: Annotated[tuple[_Natural, ...], msgspec.Meta(max_length=DIMENSIONS)] = (-1,)
    data_offsets: tuple[_Natural, _Natural] = (1, 0)


class _Extra(msgspec.Struct, gc=False):
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


_entries = msgspec.json.Decoder(dict[str, _Entry]).decode
_extra = msgspec.json.Decoder(_Extra).decode
_encode = msgspec.json.Encoder().encode


def encode(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, split: bool = False) -> list[Buffer]:
    """The header in the order given, then a view on each array. The bytes of wider elements come first: every array stays aligned.

    `split`: complex arrays as pairs of floats. Raises `NotAcceptable` where a name has a comma and so cannot be listed.
    """
    parted = [name for name, array in arrays.items() if array.dtype in SPLIT] if split else []
    if parted:
        odd = next((name for name in parted if "," in name), None)
        if odd is not None:
            raise NotAcceptable(f"the complex array `{odd}` has a comma in its name and cannot be sent split; ask for it as it is", field="Accept")
        metadata = {**(metadata or {}), "complex": ",".join(parted)}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    header.update(dict.fromkeys(arrays))
    views: list[Buffer] = [b""]
    end = 0
    items = arrays.items() if len(arrays) < 2 else sorted(arrays.items(), key=lambda item: -ITEMSIZE[item[1].dtype])
    for name, array in items:
        start, view = end, array.view
        end += view.nbytes
        code, shape = (SPLIT[array.dtype], (*array.shape, 2)) if name in parted else (CODES[array.dtype], array.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (start, end)}
        views.append(view)
    text = _encode(header)
    size = -(-len(text) // 8) * 8
    views[0] = size.to_bytes(8, "little") + text.ljust(size)
    return views


def decode(body: Buffer) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays as views on `body`, small ones as copies, and the metadata. Raises `InvalidRequest` naming the tensor that is wrong."""
    view = memoryview(body)
    total = view.nbytes
    size = int.from_bytes(view[:8], "little")
    if total < 8 or size > total - 8 or size > HEADER_LIMIT:
        raise _bad_length(total, size)
    text = bytes(view[8 : 8 + size])
    places, metadata, end = (_remembered if size <= REMEMBERED_HEADER else _read)(text)
    if end != total - 8 - size:
        raise _bad_end(places, end, total - 8 - size)
    at = 8 + size
    arrays = {}
    for name, dtype, shape, start, stop in places:
        part = slice(at + start, at + stop)
        if stop - start > COPIED:
            data: Buffer = view[part]
        else:
            data = bytes(view[part]) if isinstance(body, memoryview) else body[part]  # of a bytearray one that can be written to
        arrays[name] = Array(dtype, shape, data)
    return arrays, dict(metadata)


def _read(text: bytes) -> tuple[tuple[_Place, ...], dict[str, str], int]:
    """Where each array lies in the data, the metadata, and where the data ends."""
    try:
        metadata = _extra(text).metadata
        entries = _entries(text)
        entries.pop("__metadata__", None)
    except (ValueError, RecursionError):
        entries, metadata = _slowly(text)
    if text.count(b'"data_offsets"') != len(entries) or b"\\u" in text or text.count(b'"__metadata__"') > 1:
        _refuse_duplicates(text)
    end = 0
    places: dict[str, _Place] = {}
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # alike arrays share theirs
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        known = _DTYPES.get(entry.dtype)
        if known is None:
            raise InvalidRequest(f"tensor `{name}` has the unknown dtype {entry.dtype!r}{nearest(entry.dtype, _DTYPES)}", field=name)
        if start != end or stop - start != prod(entry.shape) * known[1]:
            raise _bad_place(name, entry, end)
        end = stop
        places[name] = (name, known[0], shapes.setdefault(entry.shape, entry.shape), start, stop)
    if "complex" in metadata:
        metadata = dict(metadata)
        _join(places, metadata.pop("complex"))
    return tuple(places[name] for name in entries), metadata, end


def _join(places: dict[str, _Place], names: str) -> None:
    """Arrays that were split become complex again. Their bytes are the same."""
    for name in names.split(",") if names else ():
        if name not in places:
            raise InvalidRequest(f"the metadata's `complex` names the tensor `{name}`, which was not sent{nearest(name, places)}", field="complex")
        _, dtype, shape, start, stop = places[name]
        if dtype not in _JOINED or shape[-1:] != (2,):
            raise InvalidRequest(
                f"tensor `{name}` is listed as `complex`, so it must be F32 or F64 with a last axis of 2 (real, imaginary), "
                f"not {CODES[dtype]} of shape {list(shape)}",
                field=name,
            )
        places[name] = (name, _JOINED[dtype], shape[:-1], start, stop)


_remembered = lru_cache(1024)(_read)  # clients repeat themselves: the same call has the same header, byte for byte


def _bad_end(places: tuple[_Place, ...], end: int, total: int) -> InvalidRequest:
    for name, _, _, _, stop in sorted(places, key=lambda place: place[3]):
        if stop > total:
            return InvalidRequest(
                f"tensor `{name}` ends at byte {stop}, but only {total} bytes of data were sent: the body was cut off or the offsets are wrong",
                field=name,
            )
    return InvalidRequest(f"the tensors end at byte {end} of the data, but {total} bytes were sent; remove what follows the last tensor")


def _bad_length(total: int, size: int) -> InvalidRequest:
    if total < 8:
        return InvalidRequest(f"a safetensors body begins with 8 bytes that hold the header's length; {total} bytes were sent")
    if size > HEADER_LIMIT:
        return InvalidRequest(f"the safetensors header claims {size} bytes; the limit is {HEADER_LIMIT}")
    return InvalidRequest(f"the safetensors header claims {size} bytes, but only {total - 8} follow: the length is wrong or the body was cut off")


def _slowly(text: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Entry by entry, to name the one that is wrong; or to read metadata whose keys look like an entry's."""
    try:
        header = msgspec.json.decode(text)
    except RecursionError:
        raise InvalidRequest("the safetensors header is nested too deeply; it is an object of flat objects") from None
    except ValueError as cause:
        raise InvalidRequest(f"the safetensors header is not JSON in UTF-8: {cause}") from None
    if not isinstance(header, dict):
        raise InvalidRequest("the safetensors header is not a JSON object; it maps each tensor's name to its dtype, shape and data_offsets")
    name = "__metadata__"
    try:
        metadata = msgspec.convert(header.pop(name, {}), dict[str, str])
        entries = {}
        for name, entry in header.items():
            entries[name] = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as cause:
        raise InvalidRequest(f"`{name}` in the safetensors header is wrong: {cause}", field=name) from None
    return entries, metadata


def _bad_place(name: str, entry: _Entry, end: int) -> InvalidRequest:
    start, stop = entry.data_offsets
    if entry.shape == (-1,) or entry.data_offsets == (1, 0):
        return InvalidRequest(f"tensor `{name}` lacks its `shape` or `data_offsets`, or ends before it starts", field=name)
    need = prod(entry.shape) * _DTYPES[entry.dtype][1]
    if start > stop:
        why = f"ends at byte {stop}, before its start at {start}"
    elif stop - start != need:
        why = f"has {stop - start} bytes, but dtype {entry.dtype} and shape {list(entry.shape)} need {need}"
    elif start < end:
        why = f"starts at byte {start}, inside the tensor before it, which ends at {end}"
    else:
        why = f"starts at byte {start}, leaving a hole after byte {end}; tensors must follow each other without gaps"
    return InvalidRequest(f"tensor `{name}` {why}", field=name)


def _refuse_duplicates(text: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest(f"`{twice}` stands twice in the safetensors header; names must be unique", field=twice)
        return found

    try:
        json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the safetensors header is not JSON in UTF-8: {error}") from None
