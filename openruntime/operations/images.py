"""Image filters. An image is (h, w) or (h, w, c): uint8, uint16, or floating with any range. Channels are treated alike, but for
what finds or strengthens edges: it leaves the fourth channel of four, which in uint8 and uint16 is opacity, as it is.

Integer pixels are filtered in float32, then rounded and clipped to their range.
"""

from collections.abc import Callable
from math import sqrt
from typing import Annotated, Literal

from array_api_compat import device
from msgspec import Meta

from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.dtypes import cast, name_of
from openruntime.operations.numerics import constant, working

DTYPES = ("uint8", "uint16", "float16", "bfloat16", "float32", "float64")

Sigma = Annotated[float, Meta(gt=0, le=1000)]
Side = Annotated[int, Meta(ge=1, le=1_000_000)]
Method = Literal["bilinear", "nearest", "area"]


def _image(image: Spec, **_: object) -> Spec:
    if len(image.shape) not in (2, 3) or image.size == 0:
        raise InvalidParameter(f"`image` must be (h, w) or (h, w, c) with at least one pixel; it is {image.shape}", field="image")
    if image.dtype not in DTYPES:
        raise InvalidParameter(f"`image` must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}; it is {image.dtype}", field="image")
    return image


def _cost(image: Spec, multiplications: float, copies: float) -> Estimate:
    """`multiplications`, each with an addition, a pixel; `copies` of the image in the working precision, of at least 4 bytes."""
    work = image.size * max(4, image.nbytes // image.size)
    return Estimate(2 * multiplications * image.size, 2 * image.nbytes + 2 * copies * work, int(2 * image.nbytes + copies * work))


def _filtered(image: Array, kernel: Callable[[Array], Array], xp: Namespace) -> Array:
    """`kernel` applied in the working precision; back in the image's dtype."""
    integral = xp.isdtype(image.dtype, "integral")
    result = kernel(cast(xp, image, "float32" if integral else working(name_of(image))))
    if integral:
        result = xp.clip(xp.round(result), 0, xp.iinfo(image.dtype).max)
    return cast(xp, result, name_of(image))


def _coloured(image: Array, kernel: Callable[[Array], Array], xp: Namespace) -> Array:
    """As `_filtered`, with the opacity of an integer image of four channels left as it is."""
    if image.ndim == 2 or image.shape[2] != 4 or not xp.isdtype(image.dtype, "integral"):
        return _filtered(image, kernel, xp)
    return xp.concat([_filtered(image[:, :, :3], kernel, xp), image[:, :, 3:]], axis=2)


def _mirrored(positions: Array, size: int, xp: Namespace) -> Array:
    """The indices that stand for `positions` where edges are mirrored: d c b a | a b c d | d c b a."""
    positions = xp.remainder(positions, 2 * size)
    return xp.where(positions < size, positions, 2 * size - 1 - positions)


def _count(size: int, like: Array, xp: Namespace) -> Array:
    return xp.arange(size, dtype=xp.int64, device=device(like))


def _window(sigma: float) -> tuple[int, int]:
    """How many pixels the kernel reaches to each side, and how many outputs are worth computing from one window."""
    radius = int(4 * sigma + 0.5)
    return radius, max(32, min(1024, 2 * radius))


def _smooth(x: Array, sigma: float, xp: Namespace) -> Array:
    """Both axes of (h, w, c) convolved with a Gaussian: tiles times a band matrix, since a matrix product is what every device does best."""
    radius, tile = _window(sigma)
    width = tile + 2 * radius
    distance = _count(width, x, xp) - radius - _count(tile, x, xp)[:, None]
    bell = xp.where(xp.abs(distance) <= radius, xp.exp(-0.5 * (xp.astype(distance, x.dtype) / sigma) ** 2), constant(xp, 0.0, x))
    band = bell / xp.sum(bell, axis=1, keepdims=True)
    for _ in range(2):
        rows, columns, channels = x.shape
        tiles = -(-rows // tile)
        positions = _count(tiles, x, xp)[:, None] * tile + _count(width, x, xp) - radius
        gathered = xp.take(x, _mirrored(xp.reshape(positions, (-1,)), rows, xp), axis=0)
        smooth = xp.matmul(band, xp.reshape(gathered, (tiles, width, columns * channels)))
        smooth = xp.reshape(smooth, (tiles * tile, columns, channels))
        x = xp.permute_dims(smooth[:rows, ...], (1, 0, 2))
    return x


def _blur(x: Array, sigma: float, xp: Namespace) -> Array:
    cube = x if x.ndim == 3 else x[..., None]
    finite = xp.isfinite(cube)
    if bool(xp.all(finite)):
        return xp.reshape(_smooth(cube, sigma, xp), x.shape)
    # zero times infinity is NaN: without this a whole tile would be lost for one pixel
    reached = _smooth(xp.astype(~finite, x.dtype), sigma, xp) > 0
    smooth = _smooth(xp.where(finite, cube, xp.zeros_like(cube)), sigma, xp)
    return xp.reshape(xp.where(reached, constant(xp, float("nan"), x), smooth), x.shape)


def _blur_cost(image: Spec, sigma: float, amount: float | None = None) -> Estimate:
    radius, tile = _window(sigma)
    width = tile + 2 * radius
    padded = [-(-side // tile) * tile / side for side in image.shape[:2]]
    copies = 2 + max(padded) * (2 + width / tile) + (0 if amount is None else 2)
    cost = _cost(image, sum(padded) * width, copies)
    return Estimate(cost.flops, cost.bytes, cost.memory + 24 * width * tile)


@operation(family="images", check=_image, estimate=_blur_cost)
def gaussian_blur(image: Array, *, sigma: Sigma = 1.0, xp: Namespace) -> Array:
    """`image` convolved with a Gaussian of `sigma` pixels along both axes; shape and dtype of `image`.

    image: (h, w) or (h, w, c). The kernel ends at 4 sigma and edges are mirrored, as `scipy.ndimage.gaussian_filter` does by default.
    Opacity is blurred like a colour, so that the rim of what is cut out becomes soft. A pixel whose window holds NaN or infinity is NaN.
    """
    return _filtered(image, lambda x: _blur(x, sigma, xp), xp)


@operation(family="images", check=_image, estimate=_blur_cost, version=2)
def sharpen(image: Array, *, amount: Annotated[float, Meta(ge=0, le=1e6)] = 1.0, sigma: Sigma = 1.0, xp: Namespace) -> Array:
    """Unsharp masking: `image + amount * (image - gaussian_blur(image, sigma))`; shape and dtype of `image`.

    image: (h, w) or (h, w, c). `sigma` in pixels. Integer pixels are clipped to their range, floating ones are not.
    A pixel whose window holds NaN or infinity is NaN.
    The opacity of uint8 and uint16 images of four channels stays as it is.
    Source: Gonzalez and Woods, Digital Image Processing, section 3.6 (highboost filtering).
    """
    return _coloured(image, lambda x: x + amount * (x - _blur(x, sigma, xp)), xp)


@operation(family="images", check=_image, estimate=lambda image: _cost(image, 8, 6), version=2)
def sobel(image: Array, *, xp: Namespace) -> Array:
    """Edge strength: the gradient's magnitude by Sobel's kernels, `sqrt((x**2 + y**2) / 2)`; shape and dtype of `image`.

    image: (h, w) or (h, w, c), each channel by itself; the opacity of uint8 and uint16 images of four channels stays as it is. The
    kernels are [1, 2, 1] / 4 and [-1, 0, 1], so that the result stays within the range that the pixels span (scikit-image's scale).
    Edges are mirrored. A pixel beside NaN or infinity, diagonally too, is not finite; its own value does not count.
    Source: Sobel and Feldman, An isotropic 3x3 image gradient operator, 1968.
    """

    def beside(x: Array, axis: int) -> tuple[Array, Array]:
        size = x.shape[axis]
        return tuple(xp.take(x, _mirrored(_count(size, x, xp) + shift, size, xp), axis=axis) for shift in (-1, 1))

    def slope(x: Array, axis: int) -> Array:
        before, after = beside(x, 1 - axis)
        smooth = (before + 2 * x + after) / 4
        before, after = beside(smooth, axis)
        return after - before

    return _coloured(image, lambda x: xp.hypot(slope(x, 0), slope(x, 1)) / sqrt(2), xp)


def _footprint(i: int, source: int, target: int, method: Method, antialias: bool) -> list[tuple[int, float]]:
    """The source pixels under target pixel `i`, with weights that sum to 1."""
    if method == "nearest":
        return [((2 * i + 1) * source // (2 * target), 1.0)]
    if method == "area":
        start, end = i * source, (i + 1) * source  # in units of 1 / target of a source pixel: exact
        pixels = range(start // target, -(-end // target))
        return [(p, (min(end, (p + 1) * target) - max(start, p * target)) / source) for p in pixels]
    reach = max(1.0, source / target) if antialias else 1.0
    centre = (i + 0.5) * source / target - 0.5
    around = range(max(0, int(centre - reach)), min(source, int(centre + reach) + 2))
    weights = [(p, max(0.0, 1 - abs(p - centre) / reach)) for p in around]
    total = sum(w for _, w in weights)
    return [(p, w / total) for p, w in weights if w > 0]


def _resample(x: Array, axis: int, target: int, method: Method, antialias: bool, xp: Namespace) -> Array:
    """One axis resized: a weighted sum of as many gathers as the widest footprint has pixels."""
    source = x.shape[axis]
    if source == target:
        return x
    footprints = [_footprint(i, source, target, method, antialias) for i in range(target)]
    across = tuple(-1 if a == axis else 1 for a in range(x.ndim))
    total = None
    for t in range(max(map(len, footprints))):
        taps = [f[t] if t < len(f) else (f[-1][0], 0.0) for f in footprints]
        part = xp.take(x, constant(xp, [p for p, _ in taps], x, xp.int64), axis=axis)
        if method != "nearest":
            part = part * xp.reshape(constant(xp, [w for _, w in taps], x), across)
        total = part if total is None else total + part
    return total


def _resized(image: Spec, height: int, width: int, **others: object) -> Spec:
    _image(image)
    return Spec(image.dtype, (height, width, *image.shape[2:]))


def _resize_cost(image: Spec, height: int, width: int, method: Method, antialias: bool) -> Estimate:
    out = _resized(image, height, width)
    widen = 1 if method == "nearest" else 2
    shrink = [1.0 if method == "bilinear" and not antialias else max(1.0, s / t) for s, t in zip(image.shape, (height, width), strict=False)]
    middle = image.size * height / image.shape[0]
    pixel = max(4, image.nbytes // image.size)
    flops = 2 * widen * (middle * shrink[0] + out.size * shrink[1])
    work = pixel * (image.size + 3 * middle + 3 * out.size)
    return Estimate(flops=flops, bytes=image.nbytes + 2 * pixel * flops / 2 + out.nbytes, memory=int(image.nbytes + out.nbytes + work))


@operation(family="images", check=_resized, estimate=_resize_cost)
def resize(image: Array, *, height: Side, width: Side, method: Method = "bilinear", antialias: bool = True, xp: Namespace) -> Array:
    """`image` resampled to `height` by `width` pixels; (height, width) or (height, width, c), dtype of `image`.

    Pixel centres lie at half integers. `bilinear`: a triangle, widened when shrinking unless `antialias` is false (as Pillow does).
    `area`: the mean over the part of the source that a target pixel covers. `nearest`: the pixel under the target's centre.
    An axis that keeps its size is left as it is. A pixel that NaN or infinity has a part in is not finite.
    Source: Turkowski, Filters for common resampling tasks, Graphics Gems I, 1990.
    """

    def both(x: Array) -> Array:
        rows = _resample(x, 0, height, method, antialias, xp)
        return _resample(rows, 1, width, method, antialias, xp)

    return both(image) if method == "nearest" else _filtered(image, both, xp)
