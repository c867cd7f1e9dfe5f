"""Kernels in this process: what reaches them, what comes back, what the disk keeps. OpenCL C on PoCL, WGSL on Mesa's software Vulkan."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openruntime.backends.kernel_backend import KernelBackend
from openruntime.contracts.errors import CompileError, OperationFailed
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.kernels import COMPILE, PROGRAM, KernelSpec, encoded
from openruntime.contracts.payload import Array
from openruntime.contracts.registry import KERNELS

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "complex64", "complex128")
_C = ("uchar", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "float", "double", "float2", "double2")
C_TYPES = dict(zip(DTYPES, _C, strict=True))
Arrays = list[tuple[str, str, list[Any]]]  # name, dtype, shape


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENRUNTIME_CACHE_DIR", str(folder))
        yield folder / "kernels"


@pytest.fixture(scope="module")
def opencl(cache: Path) -> KernelBackend:
    pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
    backend: KernelBackend = KERNELS.load("opencl-kernels")(device="cpu:0", threads=1)
    return backend


@pytest.fixture(scope="module")
def wgsl(cache: Path) -> KernelBackend:
    pytest.importorskip("wgpu", reason="the extra webgpu is not installed")
    backend: KernelBackend = KERNELS.load("wgsl-kernels")(device="cpu:0", threads=1)
    return backend


def spec(
    source: str, inputs: list[tuple[str, str, list[Any]]], outputs: list[tuple[str, str, list[Any]]], grid: list[Any], **more: Any
) -> KernelSpec:
    def arrays(given: list[tuple[str, str, list[Any]]]) -> list[dict[str, Any]]:
        return [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in given]

    return read({"name": "k", "language": "opencl", "source": source, "inputs": arrays(inputs), "outputs": arrays(outputs), "grid": grid} | more)


def run(backend: KernelBackend, kernel: KernelSpec, **given: Any) -> dict[str, np.ndarray[Any, Any]]:
    parameters = {name: Array(x.dtype.name, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    result = asyncio.run(backend.execute("k", {PROGRAM: encoded(kernel), **parameters}))
    return {name: np.frombuffer(array.view, array.dtype).reshape(array.shape) for name, array in result.outputs.items()}


def compile_(backend: KernelBackend, kernel: KernelSpec) -> dict[str, Any]:
    result = asyncio.run(backend.execute(COMPILE, {PROGRAM: encoded(kernel)}))
    found: dict[str, Any] = json.loads(bytes(result.outputs["report"].view))
    return found


def test_every_dtype_passes_through_opencl(opencl: KernelBackend) -> None:
    arguments = [f"__global const {kind} *a{i}" for i, kind in enumerate(C_TYPES.values())]
    arguments += [f"__global {kind} *b{i}" for i, kind in enumerate(C_TYPES.values())]
    body = " ".join(f"b{i}[i] = a{i}[i];" for i in range(len(DTYPES)))
    kernel = spec(
        f"__kernel void k({', '.join(arguments)}) {{ size_t i = get_global_id(0); {body} }}",
        [(f"a{i}", dtype, ["n"]) for i, dtype in enumerate(DTYPES)], [(f"b{i}", dtype, ["n"]) for i, dtype in enumerate(DTYPES)], ["n"],
    )  # fmt: skip
    bits = np.random.default_rng(0).integers(0, 2, (len(DTYPES), 37 * 16), np.uint8)
    given = {
        f"a{i}": row.view(np.uint8)[: 37 * np.dtype(dtype).itemsize].view(dtype) for i, (dtype, row) in enumerate(zip(DTYPES, bits, strict=True))
    }
    found = run(opencl, kernel, **given)
    for i, dtype in enumerate(DTYPES):
        assert found[f"b{i}"].dtype == dtype
        assert found[f"b{i}"].tobytes() == given[f"a{i}"].tobytes()
    empty = run(opencl, kernel, **{name: array[:0] for name, array in given.items()})
    assert {array.shape for array in empty.values()} == {(0,)}


SCALARS = """__kernel void k(__global double *y, const uchar b, const char c, const short s, const long l, const float f, const double d) {
    y[0] = b; y[1] = c; y[2] = s; y[3] = l; y[4] = f; y[5] = d;
}"""


def test_scalars_arrive_as_they_are_declared(opencl: KernelBackend) -> None:
    names = {"b": "bool", "c": "int8", "s": "int16", "l": "int64", "f": "float32", "d": "float64"}
    kernel = spec(SCALARS, [], [("y", "float64", [6])], [1], scalars=[{"name": name, "dtype": dtype} for name, dtype in names.items()])
    found = run(opencl, kernel, b=True, c=-7, s=-300, l=1 << 50, f="NaN", d="-Infinity")["y"]
    assert np.array_equal(found, [1, -7, -300, float(1 << 50), np.nan, -np.inf], equal_nan=True)


TRANSPOSE = """__kernel void k(__global const float *x, __global float *y, __global int *groups, const int n, const int m) {
    int i = get_global_id(0), j = get_global_id(1);
    if (i < m && j < n) y[i * n + j] = x[j * m + i];
    if (i == 0 && j == 0) { groups[0] = get_local_size(0); groups[1] = get_local_size(1); }
}"""


@pytest.mark.parametrize(("local", "groups"), [([], None), ([4, 2], [4, 2])])
def test_two_dimensions_two_outputs_and_groups(opencl: KernelBackend, local: list[int], groups: list[int] | None) -> None:
    def sized(local: list[int]) -> KernelSpec:
        outputs: Arrays = [("y", "float32", ["m", "n"]), ("groups", "int32", [2])]
        sizes = [{"name": name, "dtype": "int32"} for name in "nm"]
        return spec(TRANSPOSE, [("x", "float32", ["n", "m"])], outputs, ["m", "n"], scalars=sizes, local=local)

    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    found = run(opencl, sized(local), x=x)
    assert np.array_equal(found["y"], x.T)
    if groups is not None:
        assert found["groups"].tolist() == groups
    with pytest.raises(OperationFailed, match="INVALID_WORK_GROUP_SIZE"):
        run(opencl, sized([1 << 16, 1]), x=x)


def test_outputs_begin_as_zeros_and_inputs_are_copies(opencl: KernelBackend) -> None:
    source = "__kernel void k(__global float *x, __global float *y) { x[0] = 9; if (get_global_id(0) == 1) y[1] = x[1]; }"
    x = np.array([1, 2, 3], np.float32)
    kernel = spec(source, [("x", "float32", ["n"])], [("y", "float32", ["n"])], ["n"])
    for _ in range(2):
        assert run(opencl, kernel, x=x)["y"].tolist() == [0, 2, 0]
    assert x.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("index", "said"), [("-1", "before its beginning"), ("3", "past its end"), ("130", "past its end")])
def test_a_stray_write_is_told_by_the_array(opencl: KernelBackend, index: str, said: str) -> None:
    kernel = spec(f"__kernel void k(__global float *y, const int at) {{ y[{index}] = at; }}", [], [("y", "float32", [3])], [1],
                  scalars=[{"name": "at", "dtype": "int32"}])  # fmt: skip
    with pytest.raises(OperationFailed, match=f"k wrote outside of `y`, {said}"):
        run(opencl, kernel, at=1)


def test_what_was_compiled_rests_on_disk(opencl: KernelBackend, cache: Path) -> None:
    source = "__kernel void k(__global float *y) { y[0] = SCALE; }"
    kernel = spec(source, [], [("y", "float32", [1])], [1], options=["-DSCALE=3"])
    assert compile_(opencl, kernel)["cached"] is False
    assert compile_(opencl, kernel)["cached"] is True
    assert run(opencl, kernel)["y"].tolist() == [3]
    other = spec(source, [], [("y", "float32", [1])], [1], options=["-DSCALE=4"])
    assert compile_(opencl, other)["cached"] is False
    assert run(opencl, other)["y"].tolist() == [4]
    for kept in cache.glob("*.opencl"):
        kept.write_bytes(b"damaged")
    assert compile_(opencl, kernel)["cached"] is False
    assert compile_(opencl, kernel)["cached"] is True


def test_the_signature_is_compared_with_the_source_from_the_disk_too(opencl: KernelBackend) -> None:
    kernel = spec("__kernel void k(__global double *y) { y[0] = 1; }", [], [("y", "float32", [1])], [1])
    for _ in range(2):
        report = compile_(opencl, kernel)
        assert (report["ok"], report["field"]) == (False, "source")
        assert "argument 1 of k is `double*` in the source, and `y` is float32: `float*`" in report["message"]
        with pytest.raises(CompileError):
            run(opencl, kernel)


WGSL = """// @group(0) @binding(0) var<storage, read> wrong: array<f32>;
@group(0) @binding(0) var<storage, read> a: array<i32>;
@binding(1) @group(0) var<storage> b: array<u32>;
@group(0) @binding(2) var<storage, read> c: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> z: array<vec2<f32>>;
@group(0) @binding(5) var<uniform> f: f32;
@group(0) @binding(6) var<uniform> i: i32;
@group(0) @binding(7) var<uniform> u: u32;
const WIDTH = 4u;
@compute @workgroup_size(WIDTH, 2)
fn k(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x < arrayLength(&a) && at.y == 0u) {
        y[at.x] = f32(a[at.x] + i) + f32(b[at.x] + u) + f;
        z[at.x] = c[at.x] * 2.0;
    }
}
"""


def test_every_dtype_passes_through_wgsl(wgsl: KernelBackend) -> None:
    inputs = [("a", "int32", ["n"]), ("b", "uint32", ["n"]), ("c", "complex64", ["n"])]
    outputs = [("y", "float32", ["n"]), ("z", "complex64", ["n"])]
    scalars = [{"name": "f", "dtype": "float32"}, {"name": "i", "dtype": "int32"}, {"name": "u", "dtype": "uint32"}]
    kernel = spec(WGSL, inputs, outputs, ["n", 1], scalars=scalars, language="wgsl")
    a, b, c = np.arange(-3, 4, dtype=np.int32), np.arange(7, dtype=np.uint32), np.arange(7).astype(np.complex64) * (1 + 2j)
    found = run(wgsl, kernel, a=a, b=b, c=c.astype(np.complex64), f=0.5, i=-2, u=5)
    assert np.array_equal(found["y"], a - 2 + b + 5 + np.float32(0.5))
    assert np.array_equal(found["z"], 2 * c)
    wide = spec(WGSL, inputs, outputs, ["n", 1], scalars=scalars, language="wgsl", local=[8, 2])
    with pytest.raises(OperationFailed, match="they must be the same"):
        run(wgsl, wide, a=a, b=b, c=c.astype(np.complex64), f=0.5, i=-2, u=5)


def test_a_stray_index_changes_nothing_in_wgsl(wgsl: KernelBackend) -> None:
    source = """@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn k() { for (var i = 0u; i < 100000u; i++) { y[i] = 1.0; } }"""
    kernel = spec(source, [], [("y", "float32", [3])], [1], language="wgsl")
    assert run(wgsl, kernel)["y"].tolist() == [1, 1, 1]
