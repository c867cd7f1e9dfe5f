"""Image filters on OpenCL. An image is seen as (outer, n, inner), where n runs along the axis that is filtered.

Definitions and sources as in `operations/images.py`.
"""

from functools import lru_cache, partial
from math import exp
from typing import Any

import numpy as np

from openruntime.backends.opencl_arrays import Engine, Tensor, scalar
from openruntime.backends.opencl_source import C_TYPE, load, store
from openruntime.operations.dtypes import is_integer
from openruntime.operations.images import Method, _footprint
from openruntime.operations.numerics import working

_BLOCK = 64

# a block of positions that no edge touches is a run of multiplications side by side; the others look up where their neighbours are mirrored to
_BLUR = """
T finite(T v) { return isfinite(v) ? v : NAN; }
__kernel void blurred(const long items, const long n, const long inner, const long reach, const long blocks, __global const X *restrict x,
        __global const T *restrict weights, __global const int *restrict mirrored, ORIGINAL const T amount, __global R *restrict out) {
    FOR_EACH(item, items) {
        const size_t o = item / blocks, begin = item % blocks * BLOCK, length = n * inner, width = min((size_t)BLOCK, length - begin);
        const size_t first = o * length + begin;
        T sums[BLOCK];
        for (size_t l = 0; l < BLOCK; ++l) sums[l] = 0;
        if (begin >= (size_t)(reach * inner) && begin + BLOCK + reach * inner <= length) {
            for (long t = -reach; t <= reach; ++t) {
                const T w = weights[t + reach];
                const size_t from = first + t * inner;
                for (size_t l = 0; l < BLOCK; ++l) sums[l] += w * GET(from + l);
            }
        } else {
            for (size_t l = 0; l < width; ++l) {
                const size_t i = (begin + l) / inner, j = (begin + l) % inner;
                T sum = 0;
                for (long t = 0; t <= 2 * reach; ++t) sum += weights[t] * GET(o * length + mirrored[i + t] * inner + j);
                sums[l] = sum;
            }
        }
        for (size_t l = 0; l < width; ++l) { const size_t at = first + l; T v = sums[l]; FINISH }
    }
}"""
_SOBEL = """
__kernel void sobel(const long rows, const long height, const long width, const long channels, __global const X *restrict x,
        __global R *restrict out) {
    FOR_EACH(row, rows) {
        const size_t above = (row ? row - 1 : 0) * width * channels, below = min(row + 1, (size_t)height - 1) * width * channels;
        const size_t here = row * width * channels;
        T top = 0;
        // the hypotenuse by a plain root, and where its squares may have left the numbers' range once more with care
        for (int careful = 0; careful < 2; ++careful) {
            if (careful && ((top > LEAST && top < MOST) || top == 0)) break;
            for (size_t i = 0; i < (size_t)width; ++i) {
                const size_t before = (i ? i - 1 : 0) * channels, after = min(i + 1, (size_t)width - 1) * channels, now = i * channels;
                for (size_t c = 0; c < (size_t)channels; ++c) {
                    const size_t at = here + now + c;
                    const T a = GET(above + before + c), b = GET(above + now + c), d = GET(above + after + c), e = GET(here + before + c);
                    const T f = GET(here + after + c), g = GET(below + before + c), h = GET(below + now + c), k = GET(below + after + c);
                    const T down = (g + 2 * h + k) / 4 - (a + 2 * b + d) / 4, across = (d + 2 * f + k) / 4 - (a + 2 * e + g) / 4;
                    const T size = max(fabs(down), fabs(across));
                    top = max(top, size);
                    T v = (careful ? hypot(down, across) : sqrt(down * down + across * across)) / (T)1.4142135623730951;
                    FINISH
                }
            }
        }
    }
}"""
_RESIZED = """
__kernel void resized(const long items, const long source, const long target, const long inner, const long taps, __global const X *restrict x,
        __global const long *restrict starts, __global const W *restrict weights, __global R *restrict out) {
    FOR_EACH(item, items) {
        const size_t i = item % target, o = item / target, from = (o * source + starts[i]) * inner;
        for (size_t j = 0; j < (size_t)inner; ++j) {
            const size_t at = item * inner + j;
            PICK
        }
    }
}"""
_SUMMED = """T v = 0;
            for (size_t t = 0; t < (size_t)taps; ++t) {
                const T w = weights[i * taps + t];
                if (w != 0) v += w * GET(from + t * inner + j);
            }
            FINISH"""


def _put(dtype: str) -> str:
    """`v`, rounded and clipped to what an integer pixel can be."""
    return f"out[at] = convert_{C_TYPE[dtype][1]}_sat_rte(v);" if is_integer(dtype) else store(dtype, "out", "at", "v")


@lru_cache(maxsize=128)
def _source(text: str, given: str, dtype: str, t: str, finish: str = "", *, finite: bool = False) -> str:
    get = f"({C_TYPE[t][1]}){load(given, 'x', '(k)')}"
    kinds = {"T": C_TYPE[t][1], "X": C_TYPE[given][0], "R": C_TYPE[dtype][0], "W": C_TYPE[t][1], "BLOCK": str(_BLOCK)}
    macros = "".join(f"#define {name} {value}\n" for name, value in kinds.items())
    least, most = ("1e-15", "1e18") if t == "float32" else ("1e-130", "1e150")  # whose squares the dtype holds
    macros += f"#define LEAST ({C_TYPE[t][1]}){least}\n#define MOST ({C_TYPE[t][1]}){most}\n"
    macros += f"#define GET(k) {f'finite({get})' if finite and not is_integer(given) else get}\n"
    original = "__global const X0 *restrict original, " if "original" in finish else ""
    return macros + text.replace("ORIGINAL", original).replace("FINISH", finish or _put(dtype))


def _work(dtype: str) -> str:
    return "float32" if is_integer(dtype) else working(dtype)


def _opaque(image: Tensor) -> bool:
    """Whether its fourth channel is opacity, which edges have no part in."""
    return image.ndim == 3 and image.shape[2] == 4 and is_integer(image.dtype)


def _blur(engine: Engine, image: Tensor, sigma: float, amount: float | None) -> Tensor:
    t = _work(image.dtype)
    reach = int(4 * sigma + 0.5)
    bell = [exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
    weights = engine.constant([w / sum(bell) for w in bell], t)
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    down = engine.empty(image.shape, t)
    out = engine.output(image.shape, image.dtype)
    finish = _put(image.dtype)
    if amount is not None:
        kept = "if (at % 4 == 3) v = base;" if _opaque(image) else ""
        finish = f"const T base = {load(image.dtype, 'original', 'at')}; v = base + amount * (base - v); {kept} {finish}"
    for x, target, outer, n, inner in ((image, down, 1, height, width * channels), (down, out, height, width, channels)):
        last = target is out
        source = f"#define X0 {C_TYPE[image.dtype][0]}\n" + _source(_BLUR, x.dtype, target.dtype, t, finish if last else "", finite=True)
        places = np.arange(-reach, n + reach) % (2 * n)
        mirrored = engine.constant(np.where(places < n, places, 2 * n - 1 - places), "int32")
        blocks = -(-n * inner // _BLOCK)
        original = [image] if last and amount is not None else []
        where = (n, inner, reach, blocks, x, weights, mirrored, *original, scalar(amount or 0.0, t), target)
        engine.run(source, "blurred", outer * blocks, outer * blocks, *where, work=_BLOCK * (2 * reach + 1) // 4)
    return out


def gaussian_blur(engine: Engine, image: Tensor, *, sigma: float = 1.0) -> Tensor:
    return _blur(engine, image, sigma, None)


def sharpen(engine: Engine, image: Tensor, *, amount: float = 1.0, sigma: float = 1.0) -> Tensor:
    return _blur(engine, image, sigma, amount)


def sobel(engine: Engine, image: Tensor) -> Tensor:
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    out = engine.output(image.shape, image.dtype)
    kept = f"if (c == 3) v = {load(image.dtype, 'x', 'at')}; " if _opaque(image) else ""
    source = _source(_SOBEL, image.dtype, image.dtype, _work(image.dtype), kept + _put(image.dtype))
    engine.run(source, "sobel", height, height, height, width, channels, image, out, work=20 * width * channels)
    return out


def _resample(engine: Engine, x: Tensor, axis: int, target: int, method: Method, antialias: bool, dtype: str, t: str) -> Tensor:
    source = x.shape[axis]
    if source == target:
        return x
    footprints = [_footprint(i, source, target, method, antialias) for i in range(target)]
    taps = max(map(len, footprints))
    starts = engine.constant([footprint[0][0] for footprint in footprints], "int64")
    table = np.zeros((target, taps))
    for row, footprint in zip(table, footprints, strict=True):
        row[: len(footprint)] = [weight for _, weight in footprint]
    shape = (*x.shape[:axis], target, *x.shape[axis + 1 :])
    out = engine.output(shape, dtype)
    outer, inner = int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis + 1 :]))
    picked = f"const {C_TYPE[x.dtype][1]} v = {load(x.dtype, 'x', '(from + j)')}; {store(dtype, 'out', 'at', 'v')}"
    text = _RESIZED.replace("PICK", picked if method == "nearest" else _SUMMED)
    items = outer * target
    where = (source, target, inner, taps, x, starts, engine.constant(table, t), out)
    engine.run(_source(text, x.dtype, dtype, t), "resized", items, items, *where, work=2 * taps * inner)
    return out


def resize(engine: Engine, image: Tensor, *, height: int, width: int, method: Method = "bilinear", antialias: bool = True) -> Tensor:
    t = _work(image.dtype)
    between = image.dtype if method == "nearest" or width == image.shape[1] else t
    step = partial(_resample, engine, method=method, antialias=antialias, t=t)
    rows = step(image, 0, height, dtype=between)
    found: Any = step(rows, 1, width, dtype=image.dtype)
    return found if found.dtype == image.dtype else engine.cast(found, image.dtype)
