"""Curves as SVG: logarithmic or linear axes, a legend, and numbers a person reads. No library."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 44, 52
COLOURS = ("#4e79a7", "#e15759", "#59a14f", "#f28e2b", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#ff9da7", "#79706e")
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"))


@dataclass(frozen=True)
class Curve:
    """`line` through the points, `marks` on them."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = True
    marks: bool = True


@dataclass(frozen=True)
class Axis:
    """`log`: every decade is as long as the next. `low` and `high` widen it beyond the points; a linear axis begins at 0."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None

    def span(self, values: Sequence[float]) -> tuple[float, float]:
        low = min([*values, *filter(None, [self.low])])
        high = max([*values, *filter(None, [self.high])])
        if self.log:
            return 10 ** floor(log10(low) + 1e-9), 10 ** ceil(log10(high) - 1e-9)
        step = _step(high)
        return 0.0, step * ceil(high / step)

    def ticks(self, low: float, high: float) -> list[float]:
        if self.log:
            first, last = round(log10(low)), round(log10(high))
            return [10.0**power for power in range(first, last + 1)]
        step = _step(high)
        return [step * number for number in range(round(high / step) + 1)]

    def place(self, value: float, low: float, high: float) -> float:
        """0 to 1."""
        return log10(value / low) / log10(high / low) if self.log else (value - low) / (high - low)


def draw(path: Path, title: str, x: Axis, y: Axis, curves: Sequence[Curve], *, goal: float | None = None) -> None:
    """`goal`: a dashed line across."""
    across = x.span([point[0] for curve in curves for point in curve.points])
    up = y.span([point[1] for curve in curves for point in curve.points] + ([goal] if goal is not None else []))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return (
            LEFT + x.place(point[0], *across) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y.place(point[1], *up) * (HEIGHT - TOP - BOTTOM),
        )

    lines = [_text(LEFT, 24, title, "start", 15, "600")]
    for tick in x.ticks(*across):
        px, _ = at((tick, up[0]))
        lines += [_line(px, TOP, px, HEIGHT - BOTTOM), _text(px, HEIGHT - BOTTOM + 18, short(tick), "middle")]
    for tick in y.ticks(*up):
        _, py = at((across[0], tick))
        lines += [_line(LEFT, py, WIDTH - RIGHT, py), _text(LEFT - 8, py + 4, short(tick), "end")]
    lines.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x.label, "middle"))
    lines.append(f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>')
    if goal is not None:
        _, py = at((across[0], goal))
        lines.append(f'<path d="M{LEFT} {py:.1f}H{WIDTH - RIGHT}" stroke="#888" stroke-dasharray="5 4"/>')
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        placed = [at(point) for point in curve.points]
        if curve.line:
            lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in placed)}"/>')
        if curve.marks:
            lines += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in placed]
        lines.append(f'<rect x="{WIDTH - RIGHT - 150}" y="{TOP + 6 + 17 * number}" width="10" height="10" fill="{colour}"/>')
        lines.append(_text(WIDTH - RIGHT - 135, TOP + 15 + 17 * number, curve.name, "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">'
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, paper, *lines, "</svg>"]) + "\n", encoding="utf-8")


def short(value: float) -> str:
    """1500 as 1.5k, 0.002 as 2m."""
    if value == 0:
        return "0"
    for size, prefix in _PREFIXES:
        if abs(value) >= size * 0.9999:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def _step(high: float) -> float:
    """Of a linear axis: 1, 2 or 5 times a power of ten, so that there are four to eight of them."""
    if high <= 0:
        return 1.0
    rough = high / 6
    power = 10 ** floor(log10(rough))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough))


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, weight: str = "400") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#e4e4e4"/>'
