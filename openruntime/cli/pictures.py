"""The demo's pictures, drawn with Pillow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openruntime.cli.files import pixels

PAPER, INK, FAINT = (250, 249, 246), (28, 30, 34), (120, 122, 128)
PAD = 24
# ten colours that stay apart, after Tableau 10
PALETTE = (
    (78, 121, 167), (242, 142, 43), (225, 87, 89), (118, 183, 178), (89, 161, 79), (237, 201, 72), (176, 122, 161), (255, 157, 167),
    (156, 117, 95), (140, 136, 132),
)  # fmt: skip
# from black over violet, red and orange to pale yellow, after matplotlib's `inferno`
HEAT = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)], dtype=np.float64
)


def _font(points: int) -> Any:
    return ImageFont.load_default(points)


def side_by_side(path: Path, title: str, panels: Mapping[str, Any], *, columns: int) -> Path:
    """Arrays of one size, each under its label, `columns` a row."""
    images = [Image.fromarray(pixels(np.asarray(panel))).convert("RGB") for panel in panels.values()]
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + PAD) + PAD, 64 + rows * (height + 30 + PAD)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((PAD, 20), title, INK, font=_font(28))
    for i, (label, image) in enumerate(zip(panels, images, strict=True)):
        x, y = PAD + i % columns * (width + PAD), 64 + i // columns * (height + 30 + PAD)
        draw.text((x, y + 6), label, FAINT, font=_font(17))
        sheet.paste(image, (x, y + 30))
    sheet.save(path, optimize=True)
    return path


def clusters(path: Path, title: str, points: Any, labels: Any, members: Sequence[Any], names: Any) -> Path:
    """Left the points of (n, 2) coloured by cluster; right a row of members, images of 8 by 8, for each cluster."""
    side, tile, shown = 720, 56, 12
    row = side // len(members)
    sheet = Image.new("RGB", (side + 3 * PAD + 60 + shown * (tile + 6), side + 64 + PAD), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((PAD, 20), title, INK, font=_font(28))
    sheet.paste(_scatter(points, labels, side), (PAD, 64))
    for cluster, images in enumerate(members):
        x, y = side + 2 * PAD, 64 + cluster * row
        draw.rounded_rectangle((x, y + 4, x + 44, y + row - 12), 8, fill=PALETTE[cluster % len(PALETTE)])
        draw.text((x + 22, y + (row - 8) // 2), str(names[cluster]), (255, 255, 255), font=_font(28), anchor="mm")
        for i, image in enumerate(images[:shown]):
            ink = Image.fromarray(pixels((1 - image / 16).astype(np.float64) * 255.0 + 1e-3)).resize((tile, tile), Image.Resampling.BICUBIC)
            sheet.paste(ink.convert("RGB"), (x + 56 + i * (tile + 6), y + 4))
    sheet.save(path, optimize=True)
    return path


def _scatter(points: Any, labels: Any, side: int) -> Any:
    fine = 3  # drawn larger and reduced, so that the edges are smooth
    image = Image.new("RGBA", (side * fine, side * fine), (255, 255, 255, 255))
    low, high = points.min(0), points.max(0)
    placed = (0.04 + 0.92 * (points - low) / (high - low)) * side * fine
    for (x, y), label in zip(placed, labels, strict=True):
        dot = Image.new("RGBA", (24, 24))
        ImageDraw.Draw(dot).ellipse((2, 2, 22, 22), fill=(*PALETTE[int(label) % len(PALETTE)], 190))
        image.alpha_composite(dot, (int(np.clip(x - 12, 0, side * fine - 24)), int(np.clip(side * fine - y - 12, 0, side * fine - 24))))
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def hot_letters(text: str, height: int, width: int) -> Any:
    """A plate (height, width), float32: 1 where the letters are, 0 elsewhere."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((width / 2, height / 2), text, 255, font=_font(int(height * 0.62)), anchor="mm")
    return np.asarray(image, dtype=np.float32) / 255


def heat_map(values: Any, low: float, high: float) -> Any:
    """(h, w) as colours from `low` to `high`, so that pictures with the same bounds compare."""
    position = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * (len(HEAT) - 1)
    below = np.clip(position.astype(int), 0, len(HEAT) - 2)
    share = (position - below)[..., None]
    return np.rint(HEAT[below] * (1 - share) + HEAT[below + 1] * share).astype(np.uint8)
