"""The demo's pictures."""

import numpy as np
from scipy.ndimage import gaussian_filter

from openruntime.cli import pictures


def test_equal_heat_has_equal_colours_in_every_picture() -> None:
    hot, cool = np.array([[0.0, 0.4, 1.0]]), np.array([[0.0, 0.4, 0.2]])
    first, second = pictures.heat_map(hot, 0.0, 1.0), pictures.heat_map(cool, 0.0, 1.0)
    np.testing.assert_array_equal(first[0, :2], second[0, :2])
    assert first[0, 2].tolist() == [252, 255, 164]
    assert pictures.heat_map(np.array([[-1.0, 9.0]]), 0.0, 1.0)[0].tolist() == [[0, 0, 4], [252, 255, 164]]


def test_sharpening_after_smoothing_leaves_less_noise_than_there_was() -> None:
    """The amounts of the demo's photograph, on noise alone."""
    noise = np.random.default_rng(0).normal(0, 1, (200, 200))
    smooth = gaussian_filter(noise, 0.6)
    assert (smooth + 0.5 * (smooth - gaussian_filter(smooth, 1.5))).std() < noise.std()
