"""Discrete Fourier transforms and convolution.

Booleans, integers and float64 give complex128; float32 and float16 complex64.
"""

from functools import partial
from itertools import product
from math import log2, prod
from typing import Annotated, Any, Literal

from msgspec import Meta

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.dtypes import cast, complex_of, inexact, is_complex, name_of, need, promote, real
from openruntime.operations.shapes import axes_of, axis_of, rank_of, replaced
from openruntime.operations.stacking import along

Length = Annotated[int, Meta(ge=1)]
Scaling = Literal["backward", "ortho", "forward"]
DIRECT = 32  # elements of the smaller array up to which a convolution is summed rather than transformed


def _length(name: str, x: Spec, n: int | None, axis: int, least: int = 1) -> int:
    found = n or x.shape[axis]
    if x.shape[axis] < 1 or found < least:
        raise InvalidParameter(f"`x` of {name} has {x.shape[axis]} elements along axis {axis}, and needs at least {least}", field="x")
    return found


def _whole(name: str, x: Spec, n: int | None, axis: int, norm: str) -> Spec:
    axis = axis_of(name, "axis", axis, x.shape)
    return Spec(complex_of(x.dtype), replaced(x.shape, axis, _length(name, x, n, axis)))


def _half(x: Spec, n: int | None, axis: int, norm: str) -> Spec:
    need(x, "x", "rfft", "biuf", "real numbers; fft takes complex ones")
    axis = axis_of("rfft", "axis", axis, x.shape)
    return Spec(complex_of(x.dtype), replaced(x.shape, axis, _length("rfft", x, n, axis) // 2 + 1))


def _back(x: Spec, n: int | None, axis: int, norm: str) -> Spec:
    axis = axis_of("irfft", "axis", axis, x.shape)
    length = n or 2 * (_length("irfft", x, None, axis, 2) - 1)
    return Spec(real(complex_of(x.dtype)), replaced(x.shape, axis, length))


def _flops(size: float, length: float) -> float:
    return 5.0 * size * log2(max(2.0, length))  # of a radix-2 transform; the usual yardstick (fftw.org/speed)


def _cost(check: Any) -> Any:
    def cost(x: Spec, axis: int, **other: Any) -> Estimate:
        output = check(x=x, axis=axis, **other)
        size = max(x.size, output.size)
        return Estimate(_flops(size, output.shape[axis]), memory=x.nbytes + output.nbytes + size * ITEMSIZE[complex_of(x.dtype)])

    return cost


@operation(check=partial(_whole, "fft"), estimate=_cost(partial(_whole, "fft")), batch=along())
def fft(x: Array, n: Length | None = None, axis: int = -1, norm: Scaling = "backward", *, xp: Namespace) -> Array:
    """The discrete Fourier transform of `x` along `axis`: X[k] = sum of x[j] exp(-2πi jk/n). Complex, shape of `x` with `n` along `axis`.

    `n` cuts `x`, or pads it with zeros. `norm` says which direction is divided: `backward` the inverse by n, `forward` this one by n,
    `ortho` both by sqrt(n). At least one element is needed. NaN or infinity spreads over its whole transform.
    Source: Cooley and Tukey, 1965; Bluestein, 1970, for lengths with large primes.
    """
    return xp.fft.fft(cast(xp, x, complex_of(name_of(x))), n=n, axis=axis, norm=norm)


@operation(check=partial(_whole, "ifft"), estimate=_cost(partial(_whole, "ifft")), batch=along())
def ifft(x: Array, n: Length | None = None, axis: int = -1, norm: Scaling = "backward", *, xp: Namespace) -> Array:
    """The inverse of `fft`: x[j] = (1/n) sum of X[k] exp(+2πi jk/n). Parameters, shape and NaN as there."""
    return xp.fft.ifft(cast(xp, x, complex_of(name_of(x))), n=n, axis=axis, norm=norm)


@operation(check=_half, estimate=_cost(_half), batch=along())
def rfft(x: Array, n: Length | None = None, axis: int = -1, norm: Scaling = "backward", *, xp: Namespace) -> Array:
    """`fft` of real numbers, without the half that follows by symmetry: n // 2 + 1 along `axis`. Complex input is refused. NaN as in `fft`."""
    return xp.fft.rfft(cast(xp, x, real(complex_of(name_of(x)))), n=n, axis=axis, norm=norm)


@operation(check=_back, estimate=_cost(_back), batch=along())
def irfft(x: Array, n: Length | None = None, axis: int = -1, norm: Scaling = "backward", *, xp: Namespace) -> Array:
    """The inverse of `rfft`: real, with `n` elements along `axis`, by default 2 (m - 1) of m. Give `n` to get an odd length back.

    Imaginary parts that a real signal cannot have (of the first element, and of the last when n is even) are ignored. NaN gives NaN
    wherever its sine or cosine is not 0.
    """
    return xp.fft.irfft(cast(xp, x, complex_of(name_of(x))), n=n, axis=axis, norm=norm)


def _plane(name: str, x: Spec, shape: tuple[int, ...] | None, axes: tuple[int, ...], norm: str) -> Spec:
    rank_of(name, "x", x, 2)
    if len(axes) != 2 or (shape is not None and len(shape) != 2):
        field = "axes" if len(axes) != 2 else "shape"
        raise InvalidParameter(f"`{field}` of {name} must have two elements", field=field)
    found = x.shape
    for axis, n in zip(axes_of(name, "axes", axes, x.shape), shape or (None, None), strict=True):
        found = replaced(found, axis, _length(name, x, n, axis))
    return Spec(complex_of(x.dtype), found)


def _plane_cost(name: str) -> Any:
    def cost(x: Spec, axes: tuple[int, ...], **other: Any) -> Estimate:
        output = _plane(name, x=x, axes=axes, **other)
        points = float(output.shape[axes[0]] * output.shape[axes[1]])
        return Estimate(_flops(output.size, points), memory=x.nbytes + 2 * output.nbytes)

    return cost


Shape2 = tuple[Length, ...] | None


@operation(check=partial(_plane, "fft2"), estimate=_plane_cost("fft2"), batch=along("axes"))
def fft2(x: Array, shape: Shape2 = None, axes: tuple[int, ...] = (-2, -1), norm: Scaling = "backward", *, xp: Namespace) -> Array:
    """The Fourier transform over two axes, such as an image's. `shape` cuts or pads them (two lengths). NaN and all else as in `fft`."""
    return xp.fft.fftn(cast(xp, x, complex_of(name_of(x))), s=shape, axes=axes, norm=norm)


@operation(check=partial(_plane, "ifft2"), estimate=_plane_cost("ifft2"), batch=along("axes"))
def ifft2(x: Array, shape: Shape2 = None, axes: tuple[int, ...] = (-2, -1), norm: Scaling = "backward", *, xp: Namespace) -> Array:
    """The inverse of `fft2`. NaN as there."""
    return xp.fft.ifftn(cast(xp, x, complex_of(name_of(x))), s=shape, axes=axes, norm=norm)


def _convolve(a: Spec, b: Spec, mode: str) -> Spec:
    rank_of("convolve", "a", a, 1)
    for field, spec in (("a", a), ("b", b)):
        if not spec.size:
            raise InvalidParameter(f"`{field}` of convolve has no elements (shape {list(spec.shape)})", field=field)
    if len(a.shape) != len(b.shape):
        raise InvalidParameter(f"`a` has {len(a.shape)} and `b` {len(b.shape)} dimensions; convolve needs as many of both", field="b")
    pairs = list(zip(a.shape, b.shape, strict=True))
    if mode == "valid" and not (all(m >= n for m, n in pairs) or all(m <= n for m, n in pairs)):
        raise InvalidParameter(
            f"one array of a `valid` convolution must be at least as large as the other everywhere; they are {list(a.shape)} and {list(b.shape)}",
            field="b",
        )
    return Spec(inexact(promote(a.dtype, b.dtype)), tuple(kept(m, n, mode)[1] for m, n in pairs))


def kept(m: int, n: int, mode: str) -> tuple[int, int]:
    """Where the kept part of a full convolution of m and n elements starts, and its length."""
    if mode == "full":
        return 0, m + n - 1
    return ((n - 1) // 2, m) if mode == "same" else (min(m, n) - 1, max(m, n) - min(m, n) + 1)


def _convolve_cost(a: Spec, b: Spec, mode: str) -> Estimate:
    full = prod(m + n - 1 for m, n in zip(a.shape, b.shape, strict=True))
    small = min(a.size, b.size)
    flops = 2.0 * small * full if small <= DIRECT else 3 * _flops(full, full)
    return Estimate(flops, memory=a.nbytes + b.nbytes + 4 * full * ITEMSIZE[complex_of(promote(a.dtype, b.dtype))])


@operation(check=_convolve, estimate=_convolve_cost)
def convolve(a: Array, b: Array, mode: Literal["full", "same", "valid"] = "full", *, xp: Namespace) -> Array:
    """The discrete convolution of two arrays of any, equal rank: out[k] = sum of a[j] b[k - j], zeros beyond the edges.

    `full` has m + n - 1 elements an axis, `same` the middle of it in the shape of `a`, `valid` only what needs no zeros beyond the
    edges. Booleans and integers give float64. Up to 32 elements of the smaller array are summed directly, and NaN makes its own sums NaN;
    beyond, Fourier transforms are multiplied: exact to rounding relative to the largest output, and one NaN makes every output NaN.
    """
    dtype = inexact(promote(name_of(a), name_of(b)))
    work = promote(dtype, "float32")  # no half-precision transforms
    a, b = cast(xp, a, work), cast(xp, b, work)
    full = tuple(m + n - 1 for m, n in zip(a.shape, b.shape, strict=True))
    if min(prod(a.shape), prod(b.shape)) <= DIRECT:
        found = _summed(xp, a, b, full)
    else:
        axes = tuple(range(len(full)))
        forward, inverse = (xp.fft.fftn, xp.fft.ifftn) if is_complex(work) else (xp.fft.rfftn, xp.fft.irfftn)
        lengths = tuple(_smooth(n) for n in full)
        found = inverse(forward(a, s=lengths, axes=axes) * forward(b, s=lengths, axes=axes), s=lengths, axes=axes)
    parts = [kept(m, n, mode) for m, n in zip(a.shape, b.shape, strict=True)]
    return cast(xp, found[tuple(slice(start, start + length) for start, length in parts)], dtype)


def _summed(xp: Namespace, a: Array, b: Array, full: tuple[int, ...]) -> Array:
    if prod(a.shape) < prod(b.shape):
        a, b = b, a
    for axis, n in enumerate(b.shape):
        edge = xp.zeros((*a.shape[:axis], n - 1, *a.shape[axis + 1 :]), dtype=a.dtype)
        a = xp.concat([edge, a, edge], axis=axis)
    total = xp.zeros(full, dtype=a.dtype)
    for index in product(*(range(n) for n in b.shape)):
        shifted = a[tuple(slice(n - 1 - i, n - 1 - i + length) for i, n, length in zip(index, b.shape, full, strict=True))]
        total = total + shifted * b[index]
    return total


def _smooth(n: int) -> int:
    """The next number with no prime factor above 5: such transforms are fast in every library."""
    best = 1 << max(0, n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-n // three)
            best = min(best, three * (1 << max(0, rest - 1).bit_length()))
            three *= 3
        five *= 5
    return best
