"""Random numbers on OpenCL: the same counter-based generator as everywhere, Philox4x32-10 of `operations/random.py`, an item a block of it."""

from math import pi, prod
from typing import Any

import numpy as np

from openruntime.backends.opencl_arrays import Engine, Tensor, scalar
from openruntime.backends.opencl_reduce import sum_
from openruntime.backends.opencl_source import C_TYPE
from openruntime.contracts.interfaces import Steps

_PHILOX = """
uint4 philox(ulong index, uint k0, uint k1) {
    uint c0 = (uint)index, c1 = (uint)(index >> 32), c2 = 0, c3 = 0;
    for (int i = 0; i < 10; ++i) {
        const ulong a = (ulong)0xD2511F53u * c0, b = (ulong)0xCD9E8D57u * c2;  // some drivers' mul_hi is slow
        c0 = (uint)(b >> 32) ^ c1 ^ k0; c1 = (uint)b; c2 = (uint)(a >> 32) ^ c3 ^ k1; c3 = (uint)a;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
    }
    return (uint4)(c0, c1, c2, c3);
}
"""
# eight blocks at a time: drivers for processors have fast functions of vectors only
_DRAWN = """
__kernel void drawn(const long groups, const long n, const uint k0, const uint k1, const T start, const T scale, __global T *restrict out) {
    FOR_EACH(group, groups) {
        T u[EACH][8];
        for (int l = 0; l < 8; ++l) {
            const uint4 w = philox(group * 8 + l, k0, k1);
            UNIFORMS
        }
        BELL
        const size_t first = group * 8 * EACH, here = min((size_t)n - first, (size_t)8 * EACH);
        for (size_t i = 0; i < here; ++i) out[first + i] = start + scale * u[i % EACH][i / EACH];
    }
}"""
_UNIFORMS = {
    "float32": " ".join(f"u[{i}][l] = (w.{word} >> 8) * 0x1p-24f;" for i, word in enumerate("xyzw")),
    "float64": " ".join(f"u[{i}][l] = (((ulong)(w.{pair[0]} >> 5) << 26) + (w.{pair[1]} >> 6)) * 0x1p-53;" for i, pair in enumerate(("xy", "zw"))),
}
_BELL = f"""for (int i = 0; i < EACH; i += 2) {{
            const T8 radius = sqrt(-2 * log(1 - vload8(0, u[i]))), angle = (T){2 * pi!r} * vload8(0, u[i + 1]);
            vstore8(radius * cos(angle), 0, u[i]); vstore8(radius * sin(angle), 0, u[i + 1]);
        }}"""
_INTEGERS = """
__kernel void integers(const long n, const uint k0, const uint k1, const ulong size, const ulong low, __global R *restrict out) {
    FOR_EACH(i, n) {
        const uint4 w = philox(i, k0, k1);
        const ulong upper = ((ulong)w.x << 32) | w.y, lower = ((ulong)w.z << 32) | w.w;
        const ulong middle = upper * size, carried = middle + mul_hi(lower, size);
        out[i] = (R)((size ? mul_hi(upper, size) + (carried < middle) : upper) + low);
    }
}"""
_WITHIN = """
__kernel void within(const long items, const long blocks, const long first, const long samples, const uint k0, const uint k1,
        __global ulong *restrict out) {
    FOR_EACH(item, items) {
        const ulong each = (blocks + items - 1) / items, until = min((ulong)blocks, (item + 1) * each);
        ulong inside = 0;
        for (ulong block = item * each; block < until; ++block) {
            const uint4 w = philox(first + block, k0, k1);
            const ulong a = w.x >> 1, b = w.y >> 1, c = w.z >> 1, d = w.w >> 1;
            inside += a * a + b * b < (1ul << 62);
            inside += c * c + d * d < (1ul << 62) && 2 * block + 1 < (ulong)samples;
        }
        out[item] = inside;
    }
}"""
_SAMPLES = 1 << 24  # between two reports of progress


def _key(seed: int) -> tuple[Any, Any]:
    return np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)


def _drawn(engine: Engine, shape: Any, seed: int, dtype: str, start: float, scale: float, bell: str) -> Tensor:
    out = engine.output(shape, dtype)
    each = 2 if dtype == "float64" else 4
    body = _DRAWN.replace("UNIFORMS", _UNIFORMS[dtype]).replace("BELL", bell)
    groups = -(-prod(shape) // (8 * each))
    source = f"#define T {C_TYPE[dtype][1]}\n#define T8 {C_TYPE[dtype][1]}8\n#define EACH {each}\n{_PHILOX}{body}"
    engine.run(source, "drawn", groups, groups, prod(shape), *_key(seed), scalar(start, dtype), scalar(scale, dtype), out, work=500)
    return out


def uniform(engine: Engine, shape: Any, seed: int, low: float = 0.0, high: float = 1.0, dtype: str = "float64") -> Tensor:
    return _drawn(engine, shape, seed, dtype, low, high - low, "")


def normal(engine: Engine, shape: Any, seed: int, mean: float = 0.0, std: float = 1.0, dtype: str = "float64") -> Tensor:
    return _drawn(engine, shape, seed, dtype, mean, std, _BELL)


def integers(engine: Engine, shape: Any, seed: int, high: int, low: int = 0, dtype: str = "int64") -> Tensor:
    out = engine.output(shape, dtype)
    bits = (1 << 64) - 1  # a range of all 64 bits has the size 0 here
    size, start = np.uint64(high - low & bits), np.uint64(low & bits)
    source = f"#define R {C_TYPE[dtype][0]}\n{_PHILOX}{_INTEGERS}"
    engine.run(source, "integers", out.size, out.size, *_key(seed), size, start, out, work=60)
    return out


def monte_carlo_pi(engine: Engine, *, samples: int, seed: int = 0, steps: Steps) -> Tensor:
    inside = 0
    items = engine.device.units * (4 if engine.device.processor else 1024)
    for start in range(0, samples, _SAMPLES):
        steps(start, samples)
        count = min(_SAMPLES, samples - start)
        found = engine.empty((items,), "uint64")
        blocks = -(-count // 2)
        engine.run(_PHILOX + _WITHIN, "within", items, items, blocks, start // 2, count, *_key(seed), found, work=60 * -(-blocks // items))
        inside += int(engine.read(sum_(engine, found)))
    return engine.constant(4 * inside / samples, "float64")
