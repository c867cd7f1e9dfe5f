"""Layers of neural networks. Half precisions are computed in float32 and rounded once; integer arrays count as float64."""

from math import prod, sqrt
from typing import Annotated, Any

from array_api_compat import device
from array_api_extra import pad
from msgspec import Meta

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations import dtypes
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.numerics import BLOCK, blocks, common, constant, joined, need_rank, real, working
from openruntime.operations.shapes import axis_of, broadcast
from openruntime.operations.stacking import along, apart

Pair = int | tuple[int, int]


def _cost(flops: float, dtype: str, *arrays: Spec | None, work: float = 0.0) -> Estimate:
    """Every array moved once, `work` elements of temporaries written and read; at most a few blocks of those exist at a time."""
    width = ITEMSIZE[working(dtype)]
    size = sum(spec.nbytes for spec in arrays if spec is not None)
    casts = sum(spec.size * width for spec in arrays if spec is not None and spec.dtype != working(dtype))
    return Estimate(flops, size + 2 * casts + 2 * work * width, int(size + casts + 3 * min(work, BLOCK) * width))


def _linear(x: Spec, weight: Spec, bias: Spec | None) -> Spec:
    need_rank(weight, "weight", "linear", "(outputs, inputs)")
    outputs, inputs = weight.shape
    if not x.shape or x.shape[-1] != inputs:
        raise InvalidParameter(f"`x` of linear must be (..., {inputs}) to fit `weight`, and has shape {list(x.shape)}", field="x")
    if bias is not None and bias.shape != (outputs,):
        raise InvalidParameter(f"`bias` of linear must have shape [{outputs}], one a row of `weight`; it is {list(bias.shape)}", field="bias")
    return Spec(real("linear", x=x, weight=weight, bias=bias), (*x.shape[:-1], outputs))


def _linear_cost(x: Spec, weight: Spec, bias: Spec | None) -> Estimate:
    out = _linear(x, weight, bias)
    return _cost(2.0 * x.size * weight.shape[0], out.dtype, x, weight, bias, out)


@operation(family="neural", check=_linear, estimate=_linear_cost, batch=lambda x, **_: {"x": apart(x.shape)})
def linear(x: Array, weight: Array, bias: Array | None = None, *, xp: Namespace) -> Array:
    """`x @ weight.T + bias`: (..., outputs), in the arrays' common floating dtype.

    x: (..., inputs). weight: (outputs, inputs). bias: (outputs,) or absent. With no inputs the answer is the bias, or zeros.
    NaN makes its row of the answer NaN (in `x`), or its column (in `weight` or `bias`).
    """
    dtype, (x, weight, bias) = common(xp, x, weight, bias)
    result = xp.matmul(x, xp.matrix_transpose(weight)) if x.ndim > 1 else xp.matmul(weight, x)
    if bias is not None:
        result += bias
    return dtypes.cast(xp, result, dtype)


def _pair(value: Pair, field: str, least: int) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else value
    if min(both) < least:
        raise InvalidParameter(f"`{field}` of conv2d must be at least {least}, and is {value}", field=field)
    return both


def _conv2d(x: Spec, weight: Spec, bias: Spec | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Spec:
    need_rank(x, "x", "conv2d", "(images, channels, height, width)")
    need_rank(weight, "weight", "conv2d", "(outputs, channels / groups, height, width)")
    images, channels, *area = x.shape
    outputs, inputs, *kernel = weight.shape
    if channels % groups or outputs % groups:
        raise InvalidParameter(f"`groups` of conv2d must divide {channels} channels and {outputs} outputs, and is {groups}", field="groups")
    if inputs * groups != channels:
        raise InvalidParameter(
            f"`weight` of conv2d must have {channels // groups} channels ({channels} in `x`, {groups} groups), and has {inputs}", field="weight"
        )
    if min(kernel) < 1:
        raise InvalidParameter(f"`weight` of conv2d must have a kernel of at least one element; its shape is {list(weight.shape)}", field="weight")
    if bias is not None and bias.shape != (outputs,):
        raise InvalidParameter(f"`bias` of conv2d must have shape [{outputs}], one an output; it is {list(bias.shape)}", field="bias")
    steps, pads, gaps = _pair(stride, "stride", 1), _pair(padding, "padding", 0), _pair(dilation, "dilation", 1)
    sides = tuple((a + 2 * p - g * (k - 1) - 1) // s + 1 for a, k, s, p, g in zip(area, kernel, steps, pads, gaps, strict=True))
    if min(sides) < 1:
        raise InvalidParameter(
            f"`x` of conv2d is too small: with padding its images are {[a + 2 * p for a, p in zip(area, pads, strict=True)]}, and the dilated"
            f" kernel is {[g * (k - 1) + 1 for k, g in zip(kernel, gaps, strict=True)]}", field="x"
        )  # fmt: skip
    return Spec(real("conv2d", x=x, weight=weight, bias=bias), (images, outputs, *sides))


def _conv2d_cost(x: Spec, weight: Spec, bias: Spec | None, groups: int, **options: Pair) -> Estimate:
    out = _conv2d(x, weight, bias, groups=groups, **options)
    taps = prod(weight.shape[1:])
    columns = out.size / max(1, out.shape[1]) * taps * groups
    return _cost(2.0 * out.size * taps, out.dtype, x, weight, bias, out, work=columns)


@operation(family="neural", check=_conv2d, estimate=_conv2d_cost, batch=lambda x, **_: {"x": x.shape})
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: Annotated[int, Meta(ge=1)] = 1,
    xp: Namespace,
) -> Array:
    """Cross-correlation of images with kernels, what neural networks call convolution: (images, outputs, height, width).

    x: (images, channels, height, width). weight: (outputs, channels / groups, height, width). bias: (outputs,) or absent. `stride`,
    `padding` (with zeros, on both sides) and `dilation` in pixels, one number or [vertical, horizontal]. In the arrays' common
    floating dtype. No images give an empty answer; no channels give the bias. NaN makes every output NaN whose window holds it, its
    weight zero or not; in `weight` or `bias` its whole channel.
    Source: Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing, 2006 (im2col).
    """
    dtype, (x, weight, bias) = common(xp, x, weight, bias)
    (down, right), (top, left), (gap_y, gap_x) = _pair(stride, "stride", 1), _pair(padding, "padding", 0), _pair(dilation, "dilation", 1)
    if top or left:
        x = pad(x, ((0, 0), (0, 0), (top, top), (left, left)), xp=xp)
    images, channels, *area = x.shape
    outputs, inputs, kernel_y, kernel_x = weight.shape
    height, width = (area[0] - gap_y * (kernel_y - 1) - 1) // down + 1, (area[1] - gap_x * (kernel_x - 1) - 1) // right + 1
    matrix = xp.reshape(weight, (groups, outputs // groups, inputs * kernel_y * kernel_x))
    taps = channels * kernel_y * kernel_x
    done = []
    for some in blocks(images, taps * height * width):
        count = some.stop - some.start
        bands = []
        for part in blocks(height, count * taps * width):
            rows = part.stop - part.start
            columns = xp.stack(
                [
                    x[some, :, y + part.start * down : y + (part.stop - 1) * down + 1 : down, z : z + (width - 1) * right + 1 : right]
                    for y in range(0, kernel_y * gap_y, gap_y)
                    for z in range(0, kernel_x * gap_x, gap_x)
                ],
                axis=2,
            )
            product = xp.matmul(matrix, xp.reshape(columns, (count, groups, taps // groups, rows * width)))
            bands.append(xp.reshape(product, (count, outputs, rows, width)))
        done.append(joined(xp, bands, axis=2))
    result = joined(xp, done)
    if bias is not None:
        result += bias[:, None, None]
    return dtypes.cast(xp, result, dtype)


def _softmax(x: Spec, axis: int) -> Spec:
    axis_of("softmax", "axis", axis, x.shape)
    return Spec(real("softmax", x=x), x.shape)


def _softmax_cost(x: Spec, axis: int) -> Estimate:
    return _cost(5.0 * x.size, working(x.dtype), x, x, work=2 * x.size)


@operation(family="neural", check=_softmax, estimate=_softmax_cost, batch=along())
def softmax(x: Array, *, axis: int = -1, xp: Namespace) -> Array:
    """Exponentials of `x`, scaled to sum to 1 along `axis`; shape of `x`, its floating dtype.

    Where a line holds NaN, +inf, or nothing but -inf, it is NaN (as in SciPy). An empty `x` gives an empty answer.
    """
    dtype, (x,) = common(xp, x)
    if x.size == 0:
        return dtypes.cast(xp, x, dtype)
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))  # shifted: exp cannot overflow
    return dtypes.cast(xp, e / xp.sum(e, axis=axis, keepdims=True), dtype)


def _layer_norm(x: Spec, weight: Spec | None, bias: Spec | None, axis: int, epsilon: float) -> Spec:
    features = x.shape[axis_of("layer_norm", "axis", axis, x.shape) :]
    for field, spec in (("weight", weight), ("bias", bias)):
        if spec is not None and spec.shape != features:
            raise InvalidParameter(
                f"`{field}` of layer_norm must have the shape of the normalised axes, {list(features)}; it is {list(spec.shape)}", field=field
            )
    return Spec(real("layer_norm", x=x, weight=weight, bias=bias), x.shape)


def _layer_norm_cost(x: Spec, weight: Spec | None, bias: Spec | None, **_: float) -> Estimate:
    return _cost(8.0 * x.size, working(x.dtype), x, weight, bias, x, work=3 * x.size)


@operation(family="neural", check=_layer_norm, estimate=_layer_norm_cost, batch=along())
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = -1,
    epsilon: Annotated[float, Meta(ge=0, le=1e6)] = 1e-5,
    xp: Namespace,
) -> Array:
    """`(x - mean) / sqrt(variance + epsilon) * weight + bias`, mean and variance over `axis` and all axes after it; shape of `x`.

    weight, bias: `x.shape[axis:]`, or absent. In the arrays' common floating dtype. NaN makes its own features NaN. An empty `x`
    gives an empty answer.
    Source: Ba, Kiros and Hinton, Layer normalization, arXiv:1607.06450; axes as in ONNX's LayerNormalization.
    """
    dtype, (x, weight, bias) = common(xp, x, weight, bias)
    if x.size == 0:
        return dtypes.cast(xp, x, dtype)
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - xp.mean(x, axis=axes, keepdims=True)
    result = centred / xp.sqrt(xp.mean(centred * centred, axis=axes, keepdims=True) + epsilon)
    result = result if weight is None else result * weight
    return dtypes.cast(xp, result if bias is None else result + bias, dtype)


def _batch(q: Spec | Array, k: Spec | Array, v: Spec | Array) -> tuple[int, ...]:
    return broadcast("attention", [("q", tuple(q.shape[:-2])), ("k", tuple(k.shape[:-2])), ("v", tuple(v.shape[:-2]))])


def _attention(q: Spec, k: Spec, v: Spec, mask: Spec | None, causal: bool, scale: float | None) -> Spec:
    for field, spec, shape in (("q", q, "(..., n, d)"), ("k", k, "(..., m, d)"), ("v", v, "(..., m, e)")):
        if len(spec.shape) < 2:
            raise InvalidParameter(f"`{field}` of attention must be {shape}, and has shape {list(spec.shape)}", field=field)
    if k.shape[-1] != q.shape[-1]:
        raise InvalidParameter(f"`k` of attention must have {q.shape[-1]} features as `q` has, and has {k.shape[-1]}", field="k")
    if v.shape[-2] != k.shape[-2]:
        raise InvalidParameter(f"`v` of attention must have one row for each of the {k.shape[-2]} keys, and has {v.shape[-2]}", field="v")
    batch = _batch(q, k, v)
    scores = (*batch, q.shape[-2], k.shape[-2])
    if mask is not None:
        dtypes.need(mask, "mask", "attention", "bf", "booleans (true: may be attended to) or floating numbers (added to the scores)")
        if broadcast("attention", [("scores", scores), ("mask", mask.shape)]) != scores:
            raise InvalidParameter(f"`mask` of attention must broadcast to {list(scores)}, and has shape {list(mask.shape)}", field="mask")
    return Spec(real("attention", q=q, k=k, v=v), (*batch, q.shape[-2], v.shape[-1]))


def _attention_cost(q: Spec, k: Spec, v: Spec, mask: Spec | None, **options: Any) -> Estimate:
    out = _attention(q, k, v, mask, **options)
    scores = prod(out.shape[:-1]) * k.shape[-2]
    return _cost(scores * (2.0 * q.shape[-1] + 2.0 * v.shape[-1] + 5), out.dtype, q, k, v, mask, out, work=3 * scores)


def _heads(q: Spec, k: Spec, v: Spec, mask: Spec | None, **_: Any) -> dict[str, Any]:
    rank = len(_batch(q, k, v)) + 2
    return {name: apart(spec.shape, rank) for name, spec in (("q", q), ("k", k), ("v", v), ("mask", mask)) if spec is not None}


@operation(family="neural", check=_attention, estimate=_attention_cost, batch=_heads)
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    causal: bool = False,
    scale: Annotated[float, Meta(ge=-1e6, le=1e6)] | None = None,
    xp: Namespace,
) -> Array:
    """Scaled dot-product attention, `softmax(scale * q @ k.T + mask) @ v`: (..., n, e), in the common floating dtype of q, k, v.

    q: (..., n, d). k: (..., m, d). v: (..., m, e). Leading axes (batch, heads) broadcast. mask: broadcasts to (..., n, m); booleans say
    which keys a query may attend to, floating numbers are added to the scores. `causal`: query i attends to the keys 0 to i only.
    `scale`: 1 / sqrt(d) unless given. A query that may attend to no key gives zeros. NaN in `q` makes its query's row NaN, in
    `k` the rows of the queries that may attend to it, in `v` its column. Scores are worked through in blocks, so that memory does not
    grow with n times m.
    Source: Vaswani et al., Attention is all you need, arXiv:1706.03762.
    """
    dtype, (q, k, v) = common(xp, q, k, v)
    batch, (n, d), (m, e) = _batch(q, k, v), q.shape[-2:], v.shape[-2:]
    count = prod(batch)
    if 0 in (count, n, m, e):
        return dtypes.cast(xp, xp.zeros((*batch, n, e), dtype=q.dtype, device=device(q)), dtype)

    def flat(a: Array) -> Array:
        return xp.reshape(xp.broadcast_to(a, (*batch, *a.shape[-2:])), (count, *a.shape[-2:]))

    q, k, v = flat(q * (1 / sqrt(max(1, d)) if scale is None else scale)), flat(k), flat(v)
    if mask is not None:
        mask = flat(xp.reshape(mask, (1,) * (2 - mask.ndim) + mask.shape))
        mask = mask if xp.isdtype(mask.dtype, "bool") else xp.astype(mask, q.dtype)
    nothing = constant(xp, float("-inf"), q)
    done = []
    for some in blocks(count, n * m):
        parts = []
        for rows in blocks(n, (some.stop - some.start) * m):
            scores = xp.matmul(q[some, rows, :], xp.matrix_transpose(k[some, :, :]))
            if mask is not None:
                part = mask[some, rows if mask.shape[1] > 1 else slice(None), :]
                scores = xp.where(part, scores, nothing) if xp.isdtype(part.dtype, "bool") else scores + part
            if causal:
                allowed = xp.arange(m, device=device(q)) <= xp.arange(rows.start, rows.stop, device=device(q))[:, None]
                scores = xp.where(allowed, scores, nothing)
            top = xp.max(scores, axis=-1, keepdims=True)
            weights = xp.exp(scores - xp.where(top == nothing, xp.zeros_like(top), top))
            total = xp.sum(weights, axis=-1, keepdims=True)
            parts.append(xp.matmul(weights, v[some, :, :]) / xp.where(total == 0, xp.ones_like(total), total))
        done.append(joined(xp, parts, axis=1))
    return dtypes.cast(xp, xp.reshape(joined(xp, done), (*batch, n, e)), dtype)
