"""Image filters: what holds beyond the cases of the backend suite."""

from functools import partial
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from openruntime.operations.images import gaussian_blur, resize, sharpen, sobel

random = np.random.default_rng(32)
PHOTO = random.integers(0, 256, (60, 80, 3)).astype("uint8")


@pytest.mark.parametrize("shape", [(1, 200), (64, 64), (65, 31), (129, 300)])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0, 7.3, 60.0])
def test_blur_is_that_of_scipy(shape: tuple[int, int], sigma: float) -> None:
    image = random.normal(size=shape)
    np.testing.assert_allclose(gaussian_blur(image, sigma=sigma, xp=xp), ndimage.gaussian_filter(image, sigma), atol=1e-12)


def test_blur_keeps_what_is_flat_and_the_total() -> None:
    np.testing.assert_allclose(gaussian_blur(np.full((40, 50), 3.5), sigma=4.0, xp=xp), 3.5, rtol=1e-13)
    image = random.random((40, 50))
    assert gaussian_blur(image, sigma=9.0, xp=xp).sum() == pytest.approx(image.sum(), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_pixel_spoils_its_window_and_no_more(bad: float) -> None:
    image = random.random((200, 200))
    clean = gaussian_blur(image, sigma=1.5, xp=xp)
    image[100, 70] = bad
    found = gaussian_blur(image, sigma=1.5, xp=xp)
    spoilt = np.zeros((200, 200), bool)
    spoilt[94:107, 64:77] = True
    np.testing.assert_array_equal(np.isnan(found), spoilt)
    np.testing.assert_allclose(found[~spoilt], clean[~spoilt], rtol=1e-12)


def test_filters_keep_shape_and_dtype_of_a_photograph() -> None:
    for found in (gaussian_blur(PHOTO, xp=xp), sharpen(PHOTO, amount=9.0, xp=xp), sobel(PHOTO, xp=xp)):
        assert (found.shape, found.dtype) == (PHOTO.shape, PHOTO.dtype)


def test_sharpening_clips_and_does_not_wrap() -> None:
    edge = np.repeat(np.array([[0, 0, 0, 255, 255, 255]], "uint8"), 6, axis=0)
    np.testing.assert_array_equal(sharpen(edge, amount=5.0, xp=xp), edge)


def test_sobel_of_the_steepest_edge_stays_in_range() -> None:
    corner = np.zeros((9, 9))
    corner[:5, :5] = 1.0
    assert 0.7 < sobel(corner, xp=xp).max() <= 1.0
    np.testing.assert_array_equal(sobel(np.full((5, 5), 7.0), xp=xp), 0.0)


@pytest.mark.parametrize("method", ["bilinear", "nearest", "area"])
def test_a_kept_size_keeps_every_pixel(method: Any) -> None:
    np.testing.assert_array_equal(resize(PHOTO, height=60, width=80, method=method, xp=xp), PHOTO)


@pytest.mark.parametrize("size", [(30, 40), (17, 99), (120, 160), (1, 1)])
def test_bilinear_is_that_of_pillow(size: tuple[int, int]) -> None:
    image = random.random((60, 80)).astype("float32")
    known = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize(image, height=size[0], width=size[1], xp=xp), known, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 16), (60, 8), (7, 11), (90, 100)])
def test_areas_keep_the_mean(height: int, width: int) -> None:
    image = random.random((60, 80))
    assert resize(image, height=height, width=width, method="area", xp=xp).mean() == pytest.approx(image.mean(), rel=1e-12)


def test_areas_of_whole_pixels_are_their_means() -> None:
    image = random.random((60, 80))
    np.testing.assert_allclose(resize(image, height=20, width=20, method="area", xp=xp), image.reshape(20, 3, 20, 4).mean((1, 3)), rtol=1e-12)


def test_nearest_doubles_every_pixel() -> None:
    np.testing.assert_array_equal(resize(PHOTO, height=120, width=160, method="nearest", xp=xp), PHOTO.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("edges", [sobel, sharpen])
def test_opacity_is_no_colour(edges: Any, dtype: str) -> None:
    picture = random.integers(0, 256, (20, 30, 4)).astype(dtype)
    found = edges(picture, xp=xp)
    assert (found.dtype, found.shape) == (picture.dtype, picture.shape)
    np.testing.assert_array_equal(found[..., 3], picture[..., 3])
    np.testing.assert_array_equal(found[..., :3], edges(picture[..., :3], xp=xp))


def test_four_channels_of_floats_are_alike() -> None:
    channels = random.random((20, 30, 4))
    np.testing.assert_array_equal(sobel(channels, xp=xp)[..., 3], sobel(channels[..., 3], xp=xp))


@pytest.mark.parametrize("change", [partial(gaussian_blur, sigma=3.0), partial(resize, height=7, width=50)])
def test_what_is_opaque_stays_opaque(change: Any) -> None:
    picture = random.integers(0, 256, (20, 30, 4)).astype("uint8")
    picture[..., 3] = 255
    assert (change(picture, xp=xp)[..., 3] == 255).all()
