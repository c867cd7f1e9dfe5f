"""A body and its headers as `TaskRequest`s with arrays. Only shapes of the request are judged here; operations judge their parameters."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from pydantic import ValidationError

from openruntime.contracts import npy, safetensors
from openruntime.contracts.errors import InvalidParameter, InvalidRequest, OpenRuntimeError, UnsupportedMediaType
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array, Buffer, Reference
from openruntime.gateway.errors import TASK_SHAPE, invalid
from openruntime.gateway.wire import JSON, NPY, SAFETENSORS, query

Submission = tuple[TaskRequest, Mapping[str, Array]]

_parse = msgspec.json.Decoder().decode
_validate = TaskRequest.__pydantic_validator__.validate_python
_FIELDS = TaskRequest.model_fields
BATCH = 1000
REMEMBERED_TEXT = 4096  # characters
_HOLDERS = (dict, list)  # of what a list begins with that may hold references; numbers are not looked through


def parse_json(text: Buffer | str, what: str = "the body") -> Any:
    """Strict JSON. Raises `InvalidRequest` with a hint."""
    try:
        return _parse(text)
    except RecursionError:
        raise InvalidRequest(f"{what} is nested too deeply to be read; arrays have at most 64 dimensions") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{what} is not UTF-8") from None
    except msgspec.DecodeError as error:
        end = text[-16:]
        if "surrogate" in str(error) or "\\ud" in (end if isinstance(end, str) else bytes(end).decode("latin-1")).lower():
            raise InvalidRequest(f"{what} holds half of a surrogate pair (\\uD800 to \\uDFFF alone), which is no character") from None
        hint = "" if text else ": it is empty"
        raise InvalidRequest(
            f'{what} is not JSON{hint} ({error}); NaN and infinities are written as the strings "NaN", "Infinity", "-Infinity"'
        ) from None


def task_request(found: Any) -> TaskRequest:
    """The checked request, `{"tensor": id}` and `{"task": id}` as references, in lists of arrays too. Raises `InvalidRequest`, `InvalidParameter`."""
    try:
        request: TaskRequest = _validate(found)
    except ValidationError as error:
        whole = _whole(found)
        if whole is None:
            raise invalid(error, _FIELDS, TASK_SHAPE) from None
        return task_request(whole)
    parameters = request.parameters
    listed = []
    for name, value in parameters.items():
        kind = type(value)
        if kind is dict:
            if "tensor" in value or "task" in value:
                parameters[name] = _reference(name, value)
        elif kind is list and value and type(value[0]) in _HOLDERS and dict in map(type, value) and any(map(_refers, value)):
            listed.append(name)
    for name in listed:
        _spread(parameters, name)
    return request


def _whole(found: Any) -> dict[str, Any] | None:
    """The request with `5.0`, which JSON Schema counts as an integer, as `5`; None where nothing changes."""
    if type(found) is not dict:
        return None
    odd = {name: int(value) for name, value in found.items() if name != "timeout" and type(value) is float and value.is_integer()}
    return {**found, **odd} if odd else None


def _refers(value: Any) -> bool:
    return type(value) is dict and ("tensor" in value or "task" in value)


def _spread(parameters: dict[str, Any], name: str) -> None:
    """The items of a list with references each by a name of its own: `x.0`, `x.1`, ..., as those are called that come as bytes."""
    for index, item in enumerate(parameters.pop(name)):
        own = f"{name}.{index}"
        if own in parameters:
            raise InvalidParameter(f"`{own}` is given twice: in the list `{name}` and by its own name", field=own)
        parameters[own] = _reference(own, item) if _refers(item) else item


def _reference(name: str, value: dict[str, Any]) -> Reference:
    if not all(type(item) is str for item in value.values()) or value.keys() not in ({"tensor"}, {"task"}, {"task", "output"}):
        raise InvalidParameter(
            f'`{name}` is no reference to an array: it must be {{"tensor": id}}, {{"task": id}} or {{"task": id, "output": name}}, all strings',
            field=name,
        )
    return Reference(**value)


def _from_metadata(text: str) -> TaskRequest:
    return task_request(parse_json(text, "the metadata's `task`"))


_remembered = lru_cache(1024)(_from_metadata)  # a request is frozen, and clients repeat themselves


def parse(media: str, asked: bytes, body: Buffer, first_array: Callable[[str], str]) -> Submission:
    """One request of any of the three content types; `asked` is the query, which an npy body needs."""
    if media == SAFETENSORS:
        arrays, metadata = safetensors.decode(body)
        text = metadata.get("task")
        if text is None:
            raise InvalidRequest("the safetensors `__metadata__` lacks `task`, which holds the TaskRequest as JSON", field="task")
        request = (_remembered if len(text) <= REMEMBERED_TEXT else _from_metadata)(text)
        _refuse_twice(request, arrays)
        return request, arrays
    if media == JSON:
        return task_request(parse_json(body)), {}
    if media == NPY:
        request = _from_query(asked)
        name = first_array(request.operation)
        arrays = {name: npy.decode(body)}
        _refuse_twice(request, arrays)
        return request, arrays
    raise UnsupportedMediaType(
        f"the Content-Type {media[:100]!r} is not read here; send {JSON}, {SAFETENSORS} or {NPY}",
        field="Content-Type",
    )


def parse_batch(media: str, body: Buffer) -> list[Submission | OpenRuntimeError]:
    """Up to 1,000 requests; each that is not valid is its error, in its place."""
    if media == SAFETENSORS:
        arrays, metadata = safetensors.decode(body)
        text = metadata.get("tasks")
        if text is None:
            raise InvalidRequest("the safetensors `__metadata__` lacks `tasks`, a JSON list of TaskRequests", field="tasks")
        found = parse_json(text, "the metadata's `tasks`")
    elif media == JSON:
        arrays = {}
        document = parse_json(body)
        if type(document) is not dict or document.keys() != {"tasks"}:
            raise InvalidRequest('the body must be an object {"tasks": [TaskRequest, ...]}', field="tasks")
        found = document["tasks"]
    else:
        raise UnsupportedMediaType(
            f"the Content-Type {media[:100]!r} is not read here; send a batch as {JSON} or {SAFETENSORS}", field="Content-Type"
        )
    if type(found) is not list or not 1 <= len(found) <= BATCH:
        raise InvalidRequest(f"`tasks` must be a list of 1 to {BATCH} TaskRequests", field="tasks")
    shares = _share(arrays, len(found))
    outcomes: list[Submission | OpenRuntimeError] = []
    for item, share in zip(found, shares, strict=True):
        try:
            request = task_request(item)
            _refuse_twice(request, share)
            outcomes.append((request, share))
        except OpenRuntimeError as error:
            outcomes.append(error)
    return outcomes


def _share(arrays: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """Tensors named `{index}.{parameter}`, to the requests they belong to."""
    shares: list[dict[str, Array]] = [{} for _ in range(count)]
    for name, array in arrays.items():
        index, dot, parameter = name.partition(".")
        if not dot or not index.isdecimal() or len(index) > 4 or int(index) >= count:
            raise InvalidRequest(f"tensor `{name}` belongs to no request: names are `INDEX.PARAMETER`, INDEX from 0 to {count - 1}", field=name)
        shares[int(index)][parameter] = array
    return shares


def _refuse_twice(request: TaskRequest, arrays: Mapping[str, Array]) -> None:
    for name in arrays:
        if name in request.parameters:
            raise InvalidRequest(f"`{name}` is given twice: as bytes and in `parameters`", field=name)


def _from_query(asked: bytes) -> TaskRequest:
    """TaskRequest's fields by name; every other item is a parameter as a JSON literal."""
    fields: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    for name, text in query(asked):
        if name == "tags":
            fields.setdefault(name, []).append(text)
            continue
        if name in fields or name in parameters:
            raise InvalidRequest(f"`{name}` stands twice in the query", field=name)
        if name in ("operation", "device_preference"):
            fields[name] = text
            continue
        try:
            value = _parse(text)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidRequest(f"`{name}` in the query is not a JSON literal: {text[:60]!r}; strings need double quotes", field=name) from None
        if name == "parameters" or name not in _FIELDS:
            parameters[name] = value
        else:
            fields[name] = value
    if "operation" not in fields:
        raise InvalidRequest("the query lacks `operation`; an npy body is its first array parameter", field="operation")
    return task_request({**fields, "parameters": parameters})
