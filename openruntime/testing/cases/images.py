"""References: scipy.ndimage, and for `resize` the weights of every pixel by the definition, as a matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from openruntime.testing.cases import Case, close

_random = np.random.default_rng(22)
_GREY = {t: (200 * _random.random((21, 34))).astype(t) for t in ("uint8", "uint16", "float16", "float32", "float64")}
_COLOUR = _random.integers(0, 256, (18, 13, 3)).astype("uint8")
_HOLED = np.where(np.arange(30 * 30).reshape(30, 30) == 455, np.nan, _random.random((30, 30)))


def _rounded(reference: Callable[..., Any]) -> Callable[..., None]:
    """What holds of an answer: it is the exact one, or for integer pixels the exact one clipped and rounded, halves either way."""

    def verify(outputs: Any, image: Any, **others: Any) -> None:
        found, exact = outputs["output"], reference(image.astype("f8"), **others)
        if image.dtype.kind == "u":
            exact = np.clip(exact, 0, np.iinfo(image.dtype).max)
            assert found.shape == exact.shape
            assert np.abs(found - exact).max() <= 0.5 + 1e-3
        else:
            close(found, exact)

    return verify


@_rounded
def _blur(image: Any, sigma: float = 1.0) -> Any:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], mode="reflect", truncate=4.0)


@_rounded
def _sharpen(image: Any, amount: float = 1.0, sigma: float = 1.0) -> Any:
    return image + amount * (image - ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim]))


@_rounded
def _sobel(image: Any) -> Any:
    planes = np.moveaxis(image.reshape(*image.shape[:2], -1), -1, 0)
    edges = [np.hypot(ndimage.sobel(plane, 0), ndimage.sobel(plane, 1)) for plane in planes]
    return np.stack(edges, -1).reshape(image.shape) / np.sqrt(32)


def _weights(source: int, target: int, method: str, antialias: bool) -> Any:
    """(target, source): what a target pixel takes of each source pixel, from dense samples of the kernel's definition."""
    if source == target:
        return np.eye(source)
    step = source / target
    if method == "area":
        edges = np.arange(source + 1) / step  # of the source's pixels, measured in target pixels
        low, high = np.maximum(edges[:-1], np.arange(target)[:, None]), np.minimum(edges[1:], np.arange(target)[:, None] + 1)
        return np.clip(high - low, 0, None)
    centres = (np.arange(target) + 0.5) * step - 0.5
    if method == "nearest":
        return np.eye(source)[np.floor(centres + 0.5 + 1e-9).astype(int)]
    reach = max(step, 1.0) if antialias else 1.0
    found = np.clip(1 - np.abs(np.arange(source) - centres[:, None]) / reach, 0, None)
    return found / found.sum(1, keepdims=True)


@_rounded
def _resize(image: Any, height: int, width: int, method: str = "bilinear", antialias: bool = True) -> Any:
    down, across = _weights(image.shape[0], height, method, antialias), _weights(image.shape[1], width, method, antialias)
    return np.einsum("hi,wj,ij...->hw...", down, across, image)


_SIZES = [(21, 34), (7, 11), (40, 50), (1, 1), (30, 5)]

CASES = [
    *(Case("gaussian_blur", {"image": image}, verify=_blur) for image in _GREY.values()),
    *(Case("gaussian_blur", {"image": _COLOUR.astype("float32"), "sigma": sigma}, verify=_blur) for sigma in (0.1, 0.8, 3.0, 30.0)),
    Case("gaussian_blur", {"image": _COLOUR}, verify=_blur),
    Case("gaussian_blur", {"image": np.array([[7.0]]), "sigma": 2.0}, verify=_blur, note="of one pixel"),
    Case("gaussian_blur", {"image": _random.random((2, 300)), "sigma": 2.5}, verify=_blur),
    Case("gaussian_blur", {"image": _HOLED}, verify=_blur, note="NaN reaches its window only"),
    Case("gaussian_blur", {"image": np.zeros((0, 4))}, refused="image"),
    Case("gaussian_blur", {"image": np.zeros(4)}, refused="image"),
    Case("gaussian_blur", {"image": np.zeros((4, 4), "int64")}, refused="image"),
    Case("gaussian_blur", {"image": np.zeros((4, 4)), "sigma": 0.0}, refused="sigma"),
    Case("gaussian_blur", {"image": np.zeros((4, 4)), "sigma": float("nan")}, refused="sigma"),
    *(Case("sharpen", {"image": image}, verify=_sharpen) for image in _GREY.values()),
    Case("sharpen", {"image": _COLOUR, "amount": 2.5, "sigma": 1.7}, verify=_sharpen, note="is clipped"),
    Case("sharpen", {"image": _GREY["float64"], "amount": 0.0}, lambda image, amount: image),
    Case("sharpen", {"image": _GREY["float64"], "amount": -1.0}, refused="amount"),
    *(Case("sobel", {"image": image}, verify=_sobel) for image in (*_GREY.values(), _COLOUR, _COLOUR.astype("float64"))),
    Case("sobel", {"image": np.array([[3.0]])}, np.array([[0.0]])),
    Case("sobel", {"image": np.zeros((3, 3, 3, 3))}, refused="image"),
    *(Case("resize", {"image": _GREY["float64"], "height": h, "width": w, "method": method}, verify=_resize)
      for h, w in _SIZES for method in ("bilinear", "nearest", "area")),
    *(Case("resize", {"image": image, "height": 10, "width": 45}, verify=_resize) for image in (*_GREY.values(), _COLOUR)),
    Case("resize", {"image": _COLOUR, "height": 5, "width": 4, "antialias": False}, verify=_resize),
    Case("resize", {"image": _COLOUR, "height": 5, "width": 4, "method": "nearest"}, verify=_resize),
    Case("resize", {"image": _COLOUR, "height": 0, "width": 4}, refused="height"),
    Case("resize", {"image": _COLOUR, "height": 4}, refused="width"),
    Case("resize", {"image": _COLOUR, "height": 4, "width": 4, "method": "cubic"}, refused="method"),
]  # fmt: skip
