"""References: SciPy's correlate and softmax, and float64 NumPy by the definition."""

from typing import Any

import numpy as np
from scipy import signal, special

from openruntime.testing.cases import Case

_random = np.random.default_rng(20)


def _normal(*shape: int, dtype: str = "float64") -> Any:
    return _random.normal(size=shape).astype(dtype)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    found = np.einsum("...i,oi->...o", x.astype("f8"), weight.astype("f8"))
    return found if bias is None else found + bias


def _both(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _conv2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """One kernel spread out with zeros, one channel at a time, then every `stride`-th answer."""
    (s0, s1), (p0, p1), (d0, d1) = _both(stride), _both(padding), _both(dilation)
    x = np.pad(x.astype("f8"), ((0, 0), (0, 0), (p0, p0), (p1, p1)))
    outputs, inputs, height, width = weight.shape
    wide = np.zeros((outputs, inputs, d0 * (height - 1) + 1, d1 * (width - 1) + 1))
    wide[:, :, ::d0, ::d1] = weight
    images = []
    for image in x:
        planes = []
        for output in range(outputs):
            first = output // (outputs // groups) * inputs
            full = sum(signal.correlate(image[first + i], wide[output, i], "valid", "direct") for i in range(inputs))
            planes.append(full[::s0, ::s1] + (0 if bias is None else bias[output]))
        images.append(planes)
    return np.array(images)


def _layer_norm(x: Any, weight: Any = None, bias: Any = None, axis: int = -1, epsilon: float = 1e-5) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.astype("f8")
    found = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + epsilon)
    return found * (1 if weight is None else weight) + (0 if bias is None else bias)


def _attention(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None) -> Any:
    scores = q.astype("f8") @ np.swapaxes(k, -1, -2).astype("f8") * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    weights = special.softmax(scores, axis=-1)
    return np.where(np.isneginf(scores), 0, weights) @ v.astype("f8")


_HEADS = {"q": _normal(2, 3, 5, 4), "k": _normal(3, 7, 4), "v": _normal(2, 1, 7, 6)}
_SOME = _random.random((3, 5, 7)) > 0.3
_SOME[1, 2] = False  # a query that may attend to nothing

CASES = [
    *(Case("linear", {"x": _normal(3, 5, dtype=t), "weight": _normal(4, 5, dtype=t), "bias": _normal(4, dtype=t)}, _linear)
      for t in ("float16", "float32", "float64")),
    Case("linear", {"x": _normal(2, 3, 5, dtype="float32"), "weight": _normal(4, 5)}, _linear, note="promotes"),
    Case("linear", {"x": np.arange(3), "weight": np.arange(6).reshape(2, 3)}, _linear, note="of integers"),
    Case("linear", {"x": _normal(0, 5), "weight": _normal(4, 5), "bias": _normal(4)}, _linear),
    Case("linear", {"x": _normal(2, 0), "weight": _normal(4, 0), "bias": _normal(4)}, _linear),
    Case("linear", {"x": _normal(3, 5), "weight": _normal(5, 4)}, refused="x"),
    Case("linear", {"x": _normal(3, 5), "weight": _normal(5)}, refused="weight"),
    Case("linear", {"x": _normal(3, 5), "weight": _normal(4, 5), "bias": _normal(5)}, refused="bias"),
    Case("linear", {"x": _normal(3, 5).astype("complex64"), "weight": _normal(4, 5)}, refused="x"),
    *(Case("conv2d", {"x": _normal(2, 3, 9, 8, dtype=t), "weight": _normal(4, 3, 3, 2, dtype=t), "bias": _normal(4, dtype=t)}, _conv2d)
      for t in ("float16", "float32", "float64")),
    Case("conv2d", {"x": _normal(2, 6, 9, 11), "weight": _normal(4, 3, 3, 2), "stride": [2, 3], "padding": [1, 2], "dilation": [2, 1],
                    "groups": 2}, _conv2d),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(3, 1, 3, 3), "padding": 1, "groups": 3}, _conv2d, note="by depth"),
    Case("conv2d", {"x": _normal(1, 3, 4, 5), "weight": _normal(2, 3, 1, 1), "stride": 2}, _conv2d),
    Case("conv2d", {"x": np.ones((1, 1, 4, 4), "int64"), "weight": np.ones((1, 1, 2, 2), "int64")}, _conv2d, note="of integers"),
    Case("conv2d", {"x": _normal(0, 3, 6, 6), "weight": _normal(2, 3, 3, 3)}, np.zeros((0, 2, 4, 4))),
    Case("conv2d", {"x": _normal(2, 0, 6, 6), "weight": _normal(2, 0, 3, 3), "bias": np.array([1.0, 2.0])},
         np.broadcast_to(np.array([1.0, 2.0])[:, None, None], (2, 2, 4, 4))),
    Case("conv2d", {"x": _normal(3, 6, 6), "weight": _normal(2, 3, 3, 3)}, refused="x"),
    Case("conv2d", {"x": _normal(1, 3, 2, 6), "weight": _normal(2, 3, 3, 3)}, refused="x"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 4, 3, 3)}, refused="weight"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 0, 3)}, refused="weight"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 3, 3), "bias": _normal(3)}, refused="bias"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 3, 3), "groups": 2}, refused="groups"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 3, 3), "stride": 0}, refused="stride"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 3, 3), "stride": [1]}, refused="stride"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 3, 3), "padding": -1}, refused="padding"),
    Case("conv2d", {"x": _normal(1, 3, 6, 6), "weight": _normal(2, 3, 3, 3), "dilation": 1.5}, refused="dilation"),
    *(Case("softmax", {"x": 5 * _normal(4, 6, dtype=t), "axis": axis}, lambda x, axis: special.softmax(x.astype("f8"), axis))
      for t in ("float16", "float32", "float64") for axis in (-1, 0)),
    Case("softmax", {"x": np.array([1000.0, 1001.0, -1000.0])}, special.softmax, note="does not overflow"),
    Case("softmax", {"x": np.array([[-np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0], [-np.inf] * 3, [np.inf, 0.0, 1.0]])},
         lambda x: special.softmax(x, -1), note="NaN and infinity"),
    Case("softmax", {"x": np.arange(4)}, lambda x: special.softmax(x.astype("f8")), note="of integers"),
    Case("softmax", {"x": np.zeros((3, 0), "float32")}, np.zeros((3, 0))),
    Case("softmax", {"x": _normal(3), "axis": 1}, refused="axis"),
    Case("softmax", {"x": np.array(1.0)}, refused="axis"),
    *(Case("layer_norm", {"x": 3 + _normal(4, 6, dtype=t), "weight": _normal(6, dtype=t), "bias": _normal(6, dtype=t)}, _layer_norm)
      for t in ("float16", "float32", "float64")),
    Case("layer_norm", {"x": _normal(2, 3, 4), "weight": _normal(3, 4), "axis": 1, "epsilon": 0.1}, _layer_norm),
    Case("layer_norm", {"x": np.array([[np.nan, 1.0], [1.0, 2.0]])}, _layer_norm, note="NaN stays in its row"),
    Case("layer_norm", {"x": np.zeros((0, 4), "float32")}, np.zeros((0, 4))),
    Case("layer_norm", {"x": np.zeros((4, 0), "float32")}, np.zeros((4, 0))),
    Case("layer_norm", {"x": _normal(4, 6), "weight": _normal(4)}, refused="weight"),
    Case("layer_norm", {"x": _normal(4, 6), "bias": _normal(4, 6)}, refused="bias"),
    Case("layer_norm", {"x": _normal(4, 6), "epsilon": -1.0}, refused="epsilon"),
    *(Case("attention", {"q": _normal(3, 5, 4, dtype=t), "k": _normal(3, 7, 4, dtype=t), "v": _normal(3, 7, 2, dtype=t)}, _attention)
      for t in ("float16", "float32", "float64")),
    Case("attention", _HEADS | {"causal": True, "scale": 0.7}, _attention, note="broadcasts"),
    Case("attention", _HEADS | {"mask": _SOME}, _attention, note="a query without keys"),
    Case("attention", _HEADS | {"mask": _SOME[0, :1], "causal": True}, _attention, note="a mask of keys"),
    Case("attention", _HEADS | {"mask": _normal(2, 1, 5, 7)}, _attention, note="added"),
    Case("attention", {"q": 1e4 * _normal(2, 3), "k": 1e4 * _normal(4, 3), "v": _normal(4, 3)}, _attention, note="does not overflow"),
    Case("attention", {"q": _normal(3, 4), "k": _normal(0, 4), "v": _normal(0, 2)}, np.zeros((3, 2)), note="no keys"),
    Case("attention", {"q": _normal(0, 4), "k": _normal(5, 4), "v": _normal(5, 2)}, np.zeros((0, 2)), note="no queries"),
    Case("attention", {"q": _normal(4), "k": _normal(5, 4), "v": _normal(5, 2)}, refused="q"),
    Case("attention", {"q": _normal(3, 4), "k": _normal(5, 3), "v": _normal(5, 2)}, refused="k"),
    Case("attention", {"q": _normal(3, 4), "k": _normal(5, 4), "v": _normal(6, 2)}, refused="v"),
    Case("attention", {"q": _normal(3, 4), "k": _normal(5, 4), "v": _normal(5, 2), "mask": np.ones((3, 5), "int64")}, refused="mask"),
    Case("attention", {"q": _normal(3, 4), "k": _normal(5, 4), "v": _normal(5, 2), "mask": np.ones((2, 3, 5), bool)}, refused="mask"),
]  # fmt: skip
