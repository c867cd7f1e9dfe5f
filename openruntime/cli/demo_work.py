"""What the demo computes, and what it finds out: each job takes a bench and a directory, and yields sentences."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import datasets

from openruntime.cli import pictures

if TYPE_CHECKING:
    from openruntime.cli.demo import Bench

Job = Callable[["Bench", Path], Iterator[str]]

NOISE = 0.035  # standard deviation, of a range of 1
STRIPES = ((71, 31, 0.16), (-38, 61, 0.13))  # cycles across and down the picture, amplitude
NOTCH = 0.002  # cycles a pixel: how much around a stripe's frequency is taken out
K = 10


def jobs() -> list[Job]:
    """In order."""
    return [photograph, digits, heat, pi, product]


def photograph(bench: "Bench", output: Path) -> Iterator[str]:
    """Stripes and noise are put on a photograph, and taken out again where they stand out: in its spectrum."""
    clean = datasets.load_sample_image("china.jpg").astype(np.float32) / 255
    spoilt = _spoil(clean)
    height, width, _ = clean.shape
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    dips = [f"(1 - exp(-((u - {s * a / width})**2 + (v - {s * d / height})**2) / {2 * NOTCH**2}))" for a, d, _ in STRIPES for s in (1, -1)]
    # each step's output goes into the next on the server; only the last one travels
    spectrum = bench.start("fft2", np.moveaxis(spoilt, -1, 0).copy())
    notch = bench.start("expression", formula=" * ".join(dips), u=across.astype(np.float32), v=down.astype(np.float32))
    weaker = "spectrum * notch * maximum(1 - noise / abs(spectrum)**2, 0)"  # spectral subtraction: Boll, 1979
    kept = bench.start("expression", formula=weaker, spectrum=spectrum, notch=notch, noise=NOISE**2 * height * width)
    restored = bench.finish("photograph: restored through its spectrum", bench.start("ifft2", kept))
    picture = np.clip(np.moveaxis(restored.real, 0, -1), 0, 1)
    smooth = bench.start("gaussian_blur", picture, sigma=0.6)  # the noise that is left is finer than what sharpening is for
    crisp = np.clip(bench.finish("photograph: sharpened", bench.start("sharpen", smooth, amount=0.5, sigma=1.5)), 0, 1)
    before, after = _psnr(spoilt, clean), _psnr(picture, clean)
    panels = {
        f"spoilt: stripes and noise, {before:.1f} dB": np.clip(spoilt, 0, 1), f"restored by fft2, {after:.1f} dB": picture,
        "smoothed, then sharpened": crisp, "the original": clean,
    }  # fmt: skip
    bench.pictures.append(pictures.side_by_side(output / "photograph.png", "A photograph, cleaned in its spectrum", panels, columns=2))
    yield f"the photograph came back from {before:.1f} dB to {after:.1f} dB of signal to noise"


def digits(bench: "Bench", output: Path) -> Iterator[str]:
    """Handwritten digits sorted into ten piles, without being told which digit is which."""
    data = datasets.load_digits()
    x = data.data.astype(np.float32)
    reduced = bench.run("digits: 64 pixels to 30 components", "pca", x=x, components=30)
    found = bench.run("digits: in ten clusters", "kmeans", x=reduced["projected"], k=K, seed=3)
    labels = np.asarray(found["labels"])
    majority = np.array([np.bincount(data.target[labels == cluster], minlength=10).argmax() for cluster in range(K)])
    purity = float((majority[labels] == data.target).mean())
    sheet = [data.images[labels == cluster] for cluster in range(K)]
    points = np.asarray(reduced["projected"])[:, :2]
    path = pictures.clusters(output / "digits.png", f"1,797 handwritten digits: pca, then kmeans; {purity:.0%} pure", points, labels, sheet, majority)
    bench.pictures.append(path)
    yield f"k-means put {purity:.1%} of the handwritten digits on a pile of their own kind, without knowing any"


def heat(bench: "Bench", output: Path) -> Iterator[str]:
    """Heat spreads through a plate that starts with the product's name written in hot ink."""
    start = pictures.hot_letters("OpenRuntime", 320, 1280)
    end = bench.run("heat2d: 2,000 steps", "heat2d", start, iterations=2000)
    shown = {"at the start": start, "after 2,000 steps": np.asarray(end)}
    panels = {f"{label}: up to {values.max():.2f}": pictures.heat_map(values, 0.0, float(start.max())) for label, values in shown.items()}
    bench.pictures.append(pictures.side_by_side(output / "heat.png", "Heat in a plate", panels, columns=1))
    yield f"the plate's hottest point cooled from {start.max():.2f} to {np.asarray(end).max():.2f}"


def pi(bench: "Bench", output: Path) -> Iterator[str]:
    samples = 100_000_000
    found = float(bench.run("monte_carlo_pi: 100 million samples", "monte_carlo_pi", samples=samples, seed=1))
    yield f"a hundred million random points make π {found:.6f} (off by {abs(found - np.pi):.6f})"


def product(bench: "Bench", output: Path) -> Iterator[str]:
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    got = bench.run("matmul: two 2048 by 2048 matrices", "matmul", a, a.T.copy())
    row = float(np.abs(got[0] - a[0] @ a.T).max())
    yield f"the product of two matrices agrees with NumPy's to {row:.1e}"


def _spoil(clean: Any) -> Any:
    height, width, _ = clean.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    stripes = sum(amplitude * np.sin(2 * np.pi * (across * x / width + down * y / height)) for across, down, amplitude in STRIPES)
    noise = np.random.default_rng(7).normal(0, NOISE, clean.shape)
    return (clean + stripes[..., None] + noise).astype(np.float32)


def _psnr(found: Any, clean: Any) -> float:
    return float(-10 * np.log10(np.mean((found - clean) ** 2)))
