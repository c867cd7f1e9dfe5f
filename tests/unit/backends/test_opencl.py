"""What the conformance suite does not see of the OpenCL backend: arrays of several stretches, the caches, memory, errors."""

import asyncio
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.errors import CompileError, NoSuchDevice, OperationFailed, OutOfMemory, UnsupportedOnDevice
from openruntime.contracts.records import Result
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.testing.cases import close, numpy_array, payload

device_module = pytest.importorskip("openruntime.backends.opencl_device", reason="PyOpenCL is not installed", exc_type=ImportError)
if not device_module.processors():
    pytest.skip("no OpenCL platform drives the processor here", allow_module_level=True)

import pyopencl as cl  # noqa: E402

from openruntime.backends.opencl import OpenCLBackend  # noqa: E402
from openruntime.backends.opencl_arrays import Engine  # noqa: E402
from openruntime.backends.opencl_device import OpenCLDevice, processors, translated  # noqa: E402

RANDOM = np.random.default_rng(31)
CATALOGUE = OperationCatalogue()


def run(backend: Any, operation: str, **parameters: Any) -> Result:
    extra = {name: parameters.pop(name) for name in ("allocate", "steps") if name in parameters}
    given = {name: payload(value) if isinstance(value, np.ndarray | np.generic) else value for name, value in parameters.items()}
    return asyncio.run(backend.execute(operation, {**CATALOGUE.bind(operation, given).parameters, **extra}))


def outputs(result: Result) -> dict[str, Any]:
    return {name: numpy_array(array) for name, array in result.outputs.items()}


@pytest.fixture(scope="module")
def backend() -> OpenCLBackend:
    return OpenCLBackend()


@pytest.fixture
def device(tmp_path: Path) -> OpenCLDevice:
    return OpenCLDevice(processors()[0], cache=tmp_path / "kernels")


def normal(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype("float32")


WITH_NAN = np.where(np.arange(200_003) == 150_000, np.float32("nan"), normal(200_003))
LARGE: list[tuple[str, dict[str, Any]]] = [
    ("sum", {"x": normal(300_001)}),
    ("sum", {"x": RANDOM.integers(-128, 127, 300_001).astype("int8")}),
    ("sum", {"x": normal(2000, 201), "axis": 0}),
    ("mean", {"x": normal(40, 301, 70), "axis": [0, 2]}),
    ("std", {"x": 1000 + RANDOM.normal(size=(3000, 130)), "axis": 0}),
    ("var", {"x": RANDOM.normal(size=200_003)}),
    ("max", {"x": WITH_NAN}),
    ("argmin", {"x": WITH_NAN}),
    ("argmax", {"x": RANDOM.integers(0, 50, (9000, 70)), "axis": 0}),
    ("cumulative_sum", {"x": RANDOM.integers(-9, 9, 100_001)}),
    ("cumulative_sum", {"x": RANDOM.normal(size=(70_000, 2)), "axis": 0, "include_initial": True}),
    ("sort", {"x": normal(150_001)}),
    ("argsort", {"x": RANDOM.integers(0, 300, (3, 70_001)), "descending": True}),
    ("top_k", {"x": RANDOM.integers(0, 3000, 100_000), "k": 20}),
    ("unique", {"x": RANDOM.integers(0, 3000, 100_000)}),
    ("histogram", {"x": normal(100_003), "bins": 37}),
    ("quantile", {"x": normal(100_003), "q": 0.3}),
    ("softmax", {"x": normal(1, 90_001)}),
    ("softmax", {"x": normal(300, 70, 5), "axis": 1}),
    ("layer_norm", {"x": normal(90, 1003)}),
    ("matmul", {"a": normal(131, 277), "b": normal(277, 143)}),
    ("matmul", {"a": normal(5, 67, 33), "b": normal(5, 33, 41)}),
    ("matmul", {"a": RANDOM.integers(-(2**31), 2**31, (40, 50)), "b": RANDOM.integers(-(2**62), 2**62, (50, 30))}),
    ("attention", {"q": normal(2, 3, 70, 16), "k": normal(3, 91, 16), "v": normal(2, 1, 91, 8), "causal": True}),
    ("conv2d", {"x": normal(3, 4, 40, 37), "weight": normal(6, 2, 5, 3), "padding": [2, 1], "stride": 2, "groups": 2}),
    ("fft", {"x": normal(2, 40_000)}),
    ("ifft", {"x": (normal(4001) + 1j * normal(4001)).astype("complex64")}),
    ("convolve", {"a": normal(60_000), "b": normal(900), "mode": "same"}),
    ("knn", {"x": RANDOM.normal(size=(30_000, 3)), "queries": RANDOM.normal(size=(2, 3)), "k": 7}),
    ("gaussian_blur", {"image": RANDOM.integers(0, 255, (150, 170, 3)).astype("uint8"), "sigma": 4.0}),
    ("sobel", {"image": 1e-30 * RANDOM.random((70, 80)).astype("float32")}),
    ("sobel", {"image": 1e30 * RANDOM.random((70, 80)).astype("float32")}),
    ("resize", {"image": RANDOM.random((150, 170, 3)), "height": 70, "width": 300}),
    ("heat2d", {"grid": normal(60, 70), "iterations": 51, "boundary": "periodic"}),
    ("nbody", {"positions": RANDOM.random((70, 3)), "velocities": RANDOM.random((70, 3)), "masses": RANDOM.random(70), "iterations": 6}),
    ("monte_carlo_pi", {"samples": 17_000_003, "seed": 3}),
    ("integers", {"shape": [70_001], "seed": 11, "high": 2**40}),
    ("expression", {"formula": "where(x > y, sqrt(abs(x)), y) * 3", "x": normal(300, 1, 70), "y": normal(40, 1)}),
    ("expression", {"formula": "sin(x)**3 - exp(-y / 2) + maximum(x, y)", "x": normal(100_003), "y": normal(1)}),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "parameters"), LARGE, ids=[f"{i}-{name}" for i, (name, _) in enumerate(LARGE)])
def test_arrays_of_several_stretches_answer_as_numpy_does(backend: OpenCLBackend, operation: str, parameters: dict[str, Any]) -> None:
    steps = {"steps": lambda *_: None}
    wanted = outputs(run(NumpyBackend(), operation, **parameters, **steps))
    for name, found in outputs(run(backend, operation, **parameters, **steps)).items():
        if found.dtype == "uint8":
            assert np.abs(found.astype(int) - wanted[name]).max() <= 1  # halves are rounded either way
        else:
            close(found, wanted[name], 2e-4 if found.dtype in ("float32", "complex64") else 1e-9, name)


def test_clusters_are_those_that_numpy_finds(backend: OpenCLBackend) -> None:
    x = (RANDOM.normal(size=(3000, 5)) + 40 * RANDOM.integers(0, 4, (3000, 1))).astype("float32")
    found, wanted = (outputs(run(which, "kmeans", x=x, k=4, seed=2, steps=lambda *_: None)) for which in (backend, NumpyBackend()))
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    close(found["centroids"], wanted["centroids"], 1e-4)


def test_a_program_is_built_once_for_each_source_and_options(device: OpenCLDevice) -> None:
    source = "__kernel void k(__global float *x) { x[get_global_id(0)] *= FACTOR; }"
    first, second = device.build(source, ["-DFACTOR=2"]), device.build(source, ["-DFACTOR=2"])
    assert (first.cached, second.cached, device.build(source, ["-DFACTOR=3"]).cached) == (False, True, False)
    restarted = OpenCLDevice(processors()[0], cache=device._cache)
    program = restarted.build(source, ["-DFACTOR=2"])
    assert program.cached
    x = np.full(4, 21, "float32")
    buffer = restarted.wrap(x, writable=True)
    cl.Kernel(program.program, "k")(restarted.queue, (4,), None, buffer)
    restarted.queue.finish()
    assert x.tolist() == [42] * 4


def test_another_driver_has_programs_of_its_own(device: OpenCLDevice) -> None:
    source = "__kernel void k(__global float *x) { x[0] = 1; }"
    device.build(source)
    device.__dict__["identity"] = device.identity + " of next year"
    assert not device.build(source).cached


def test_a_damaged_cache_file_is_built_again(device: OpenCLDevice) -> None:
    source = "__kernel void k(__global float *x) { x[0] = 1; }"
    device.build(source)
    (kept,) = device._cache.iterdir()  # type: ignore[union-attr]
    kept.write_bytes(b"not a program")
    assert not device.build(source).cached
    assert device.build(source).cached


def test_a_compile_error_has_the_log_with_lines_and_leaves_nothing_behind(device: OpenCLDevice) -> None:
    before = set(Path(tempfile.gettempdir()).glob("*.cl"))
    with pytest.raises(CompileError) as caught:
        device.build("__kernel void k(__global float *x) {\n    x[0] = y;\n}")
    assert re.search(r"kernel\.cl:2:12: .*'y'", caught.value.message)
    assert "/" not in caught.value.message.replace("kernel.cl", "")
    assert set(Path(tempfile.gettempdir()).glob("*.cl")) == before


def test_numbers_of_a_formula_share_a_kernel_and_compiling_is_told_apart(backend: OpenCLBackend) -> None:
    x = normal(1000)
    formula = "a*x + cos(x)*{:d} - x/7"
    first = run(backend, "expression", formula=formula.format(3), a=2.5, x=x)
    again = run(backend, "expression", formula=formula.format(4), a=-1.5, x=normal(777))
    assert first.compile >= 0
    assert again.compile == 0
    close(outputs(first)["output"], np.float32(2.5) * x + np.cos(x) * 3 - x / 7)


def test_large_outputs_are_computed_in_the_memory_of_the_caller(backend: OpenCLBackend) -> None:
    x = normal(300, 400)
    for operation, more in (("expression", {"formula": "2*x"}), ("softmax", {"axis": 0}), ("sort", {}), ("gaussian_blur", {}), ("fft", {})):
        slabs: list[memoryview] = []

        def allocate(nbytes: int, slabs: list[memoryview] = slabs) -> memoryview:
            whole = np.empty(nbytes + 64, "u1")
            start = -whole.ctypes.data % 64
            slabs.append(memoryview(whole)[start : start + nbytes])
            return slabs[-1]

        name = "image" if operation == "gaussian_blur" else "x"
        result = run(backend, operation, **{name: x}, **more, allocate=allocate)
        assert len(slabs) == 1, f"{operation} took memory for values on the way"
        (output,) = result.outputs.values()
        assert np.shares_memory(np.frombuffer(output.view, "u1"), np.frombuffer(slabs[0], "u1")), operation
        close(numpy_array(output), outputs(run(NumpyBackend(), operation, **{name: x}, **more))["output"], 1e-4)


def test_a_thousand_cycles_of_work_and_failure_leave_memory_flat(backend: OpenCLBackend) -> None:
    x, whole = normal(20_000), np.arange(20_000)
    device = backend.engine.device

    def cycle() -> None:
        run(backend, "sort", x=x)
        with pytest.raises(OperationFailed, match="negative"):
            run(backend, "expression", formula="x ** y", x=whole, y=-whole)

    for _ in range(3):
        cycle()
    held = device.pooled
    for _ in range(1000):
        cycle()
    assert device.pooled == held
    backend.trim()
    in_use, kept = device.pooled
    assert kept <= 2 * max(in_use, 1 << 16)


def test_memory_beyond_the_bound_is_out_of_memory_with_figures(tmp_path: Path) -> None:
    bounded = Engine(OpenCLDevice(processors()[0], memory=10_000_000))
    first = bounded.empty((6_000_000,), "uint8")
    with pytest.raises(OutOfMemory, match=r"6000000 bytes more than the 6\d+ in use are beyond the 10000000"):
        bounded.empty((6_000_000,), "uint8")
    del first
    bounded.empty((6_000_000,), "uint8")  # what the pool held went back first


def test_memory_that_the_driver_has_not_is_out_of_memory(device: OpenCLDevice) -> None:
    with pytest.raises(OutOfMemory, match="ran out of memory on"):
        device.allocate(1 << 50)


def test_a_driver_error_is_a_sentence() -> None:
    with pytest.raises(cl.Error) as caught:
        cl.Buffer(cl.Context([processors()[0]]), cl.mem_flags.READ_WRITE | cl.mem_flags.READ_ONLY, 16)
    found = translated(caught.value, "matmul", "cpu:0")
    assert isinstance(found, OperationFailed)
    assert found.message == "matmul failed on cpu:0: the OpenCL driver says INVALID_VALUE"


def test_a_device_without_doubles_lacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = OpenCLDevice.__init__

    def single(self: OpenCLDevice, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.has_double = False

    monkeypatch.setattr(OpenCLDevice, "__init__", single)
    poor = OpenCLBackend()
    assert {"float64", "complex128", "bfloat16"} <= poor.lacks.keys()
    assert outputs(run(poor, "softmax", x=normal(3, 4)))["output"].dtype == "float32"
    with pytest.raises(UnsupportedOnDevice, match="single precision only"):
        run(poor, "softmax", x=RANDOM.normal(size=(3, 4)))


def test_the_processor_is_driven_by_the_newest_of_the_best_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(name: str, version: str, kind: int = cl.device_type.CPU) -> Any:
        return SimpleNamespace(type=kind, name=name, platform=SimpleNamespace(name=name, version=version))

    old, new = fake("Portable Computing Language", "OpenCL 3.0 PoCL 3.0"), fake("Portable Computing Language", "OpenCL 3.0 PoCL 3.1+debian")
    other, card = fake("rusticl", "OpenCL 3.0"), fake("NVIDIA CUDA", "OpenCL 3.0 CUDA 13", cl.device_type.GPU)
    monkeypatch.setattr(device_module, "_all", lambda: [other, old, card, new])
    assert device_module.processors() == [new, old, other]
    assert device_module.cards() == [card]
    assert device_module.find("cuda:3", 0) is card
    with pytest.raises(NoSuchDevice, match="no OpenCL driver drives opencl:1; they drive Portable Computing Language, NVIDIA CUDA"):
        device_module.find("opencl:1", 1)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    def with_answers(extensions: str, **known: bytes) -> Any:
        codes = {int(code, 16): raw for code, raw in known.items()}
        monkeypatch.setattr(device_module, "_raw", lambda _, code, size: codes.get(code))
        return SimpleNamespace(extensions=extensions, global_mem_size=1 << 30)

    return with_answers


def test_a_card_is_identified_by_what_its_driver_tells(answers: Callable[..., Any]) -> None:
    bus = np.array([0, 65, 0, 1], "u4").tobytes()
    khronos = answers("cl_khr_device_uuid cl_khr_pci_bus_info", **{"106A": bytes(range(16)), "410F": bus})
    assert device_module.uuid_of(khronos) == bytes(range(16)).hex()
    assert device_module.pci_of(khronos) == "0000:41:00.1"
    four = {name: value.to_bytes(4, "little") for name, value in (("4008", 0x3B), ("4009", 0x08), ("400A", 1))}
    assert device_module.pci_of(answers("cl_nv_device_attribute_query", **four)) == "0001:3b:01.0"
    plain = answers("")
    assert (device_module.uuid_of(plain), device_module.pci_of(plain), device_module.free_memory_of(plain)) == (None, None, 1 << 30)
    assert device_module.free_memory_of(answers("cl_amd_device_attribute_query", **{"4039": (5 << 20).to_bytes(8, "little")})) == 5 << 30
