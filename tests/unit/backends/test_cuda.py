"""How CuPy's streams are used, with a stand-in for CuPy that computes with NumPy and notes what is under way. On a card: not run here."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openruntime.contracts.errors import OperationFailed, OutOfMemory, TaskCancelled, WorkerCrashed
from openruntime.testing.cases import payload


class CUDARuntimeError(RuntimeError):
    status = 700


class Event:
    def record(self, stream: "Stream") -> None: ...

    def synchronize(self) -> None: ...


class Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.pending: list[str] = []
        self.lost = False

    def use(self) -> None: ...

    def wait_event(self, event: Event) -> None: ...

    def record(self) -> Event:
        return Event()

    def synchronize(self) -> None:
        if self.lost:
            raise CUDARuntimeError("an illegal memory access was encountered")
        self.pending.clear()


class Pointer:
    def __init__(self, address: int) -> None:
        self._address = address

    def copy_from_host_async(self, source: int, nbytes: int, stream: Stream) -> None:
        ctypes.memmove(self._address, source, nbytes)
        stream.pending.append("to the card")

    def copy_to_host_async(self, target: int, nbytes: int, stream: Stream) -> None:
        ctypes.memmove(target, self._address, nbytes)
        stream.pending.append("from the card")


class OnCard(np.ndarray[Any, Any]):
    @property
    def data(self) -> Any:  # type: ignore[override]
        return Pointer(self.ctypes.data)


def _module(name: str, **contents: Any) -> ModuleType:
    found = ModuleType(name)
    vars(found).update(contents)
    return found


class Plans:
    cleared = 0

    def clear(self) -> None:
        self.cleared += 1


@pytest.fixture
def plans() -> Plans:
    return Plans()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, plans: Plans) -> Iterator[ModuleType]:
    """`openruntime.backends.cuda` over the stand-in."""
    runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError)
    driver = SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {}))
    device = lambda index: SimpleNamespace(use=lambda: None)  # noqa: E731
    pool = SimpleNamespace(set_limit=lambda size: None, free_all_blocks=lambda: None)
    low = _module("cupy.cuda", runtime=runtime, driver=driver, Device=device, Stream=Stream, Event=Event, get_elapsed_time=lambda a, b: 1.0)
    fakes = {
        "cupy": _module(
            "cupy", cuda=low, get_default_memory_pool=lambda: pool, get_default_pinned_memory_pool=lambda: pool,
            empty=lambda shape, dtype: np.empty(shape, dtype).view(OnCard), ascontiguousarray=lambda x: np.ascontiguousarray(x).view(OnCard),
            asarray=lambda x: np.asarray(x).view(OnCard), broadcast_to=np.broadcast_to,
            fft=SimpleNamespace(config=SimpleNamespace(get_plan_cache=lambda: plans)),
        ),
        "cupy.cuda": low,
        "cupyx": _module("cupyx", errstate=lambda **_: nullcontext()),
        "array_api_compat.cupy": import_module("array_api_compat.numpy"),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(import_module("array_api_compat"), "cupy", fakes["array_api_compat.cupy"], raising=False)
    monkeypatch.delitem(sys.modules, "openruntime.backends.cuda", raising=False)
    yield import_module("openruntime.backends.cuda")
    del sys.modules["openruntime.backends.cuda"]


@pytest.fixture
def backend(cuda: ModuleType) -> Any:
    return cuda.CudaBackend()


def _under_way(backend: Any) -> list[str]:
    return [*backend._sending.pending, *backend._computing.pending, *backend._fetching.pending]


async def test_a_cancelled_call_leaves_nothing_running(backend: Any) -> None:
    def steps(done: int, total: int, message: str | None = None) -> None:
        backend._computing.pending.append("a step's kernel")
        raise TaskCancelled("stopped between steps")

    with pytest.raises(TaskCancelled):
        await backend.execute("heat2d", {"grid": payload(np.ones((8, 8))), "iterations": 100, "steps": steps})
    assert _under_way(backend) == []


async def test_a_call_that_fails_among_parts_leaves_no_copy_running(backend: Any, cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers were on their way into memory that the caller takes back."""
    monkeypatch.setattr(cuda, "STREAMED", 1)
    monkeypatch.setattr(cuda, "PART", 80)
    x = payload(np.arange(100.0))
    found = await backend.execute("expression", {"formula": "2*x", "x": x})
    np.testing.assert_array_equal(np.frombuffer(found.outputs["output"].view), np.arange(100.0) * 2)
    made, seen = cuda.cupy.ascontiguousarray, []

    def exhausted(array: Any) -> Any:
        seen.append(array)
        if len(seen) == 3:
            assert backend._fetching.pending
            raise MemoryError("Out of memory allocating 80 bytes")
        return made(array)

    monkeypatch.setattr(cuda.cupy, "ascontiguousarray", exhausted)
    with pytest.raises(OutOfMemory, match="allocating 80 bytes"):
        await backend.execute("expression", {"formula": "2*x", "x": x})
    assert _under_way(backend) == []


async def test_where_it_cannot_be_waited_for_the_worker_ends(backend: Any) -> None:
    def steps(done: int, total: int, message: str | None = None) -> None:
        backend._computing.lost = True
        raise TaskCancelled("stopped between steps")

    with pytest.raises(WorkerCrashed, match="illegal memory access"):
        await backend.execute("heat2d", {"grid": payload(np.ones((8, 8))), "iterations": 100, "steps": steps})


async def test_no_memory_of_the_caller_is_held_after_a_call(backend: Any) -> None:
    await backend.execute("sum", {"x": payload(np.ones(9))})
    assert backend._outputs.inputs == []


def test_a_trim_lets_go_of_the_plans_of_transforms(backend: Any, plans: Plans) -> None:
    backend.trim()
    assert plans.cleared == 1


def test_a_missing_library_of_the_toolkit_is_named(backend: Any) -> None:
    told = backend.translate("matmul", ImportError('Failure finding "libcublas.so.13"'))
    assert isinstance(told, OperationFailed)
    assert "libcublas.so.13" in told.message
    assert "openruntime[cuda]" in told.message
