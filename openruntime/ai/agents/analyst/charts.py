"""Charts as SVG: text, without any library. Lines, points and bars, at most a few series."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, isfinite, log10

from openruntime.contracts.agents import Chart

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 40, 58
COLOURS = ("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#b07aa1")  # after Tableau 10: they stay apart
LABELS = 6  # along an axis
INK, FAINT, PAPER = "#1c1e22", "#8a8c90", "#faf9f6"


def svg(chart: Chart) -> str:
    """A picture of 720 by 320. What has no value leaves a gap."""
    values = [value for series in chart.series.values() for value in series if value is not None and isfinite(value)]
    low, high, step = ticks(min([0.0, *values]), max(values, default=1.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        _text(LEFT, 24, chart.title, 15, INK),
    ]
    for i in range(round((high - low) / step) + 1):
        level = low + i * step
        y = _y(level, low, high)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{FAINT}" stroke-opacity="0.3"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{level:.4g}", 11, FAINT, "end"))
    count = max(1, len(chart.x))
    parts += [
        _text(_x(i, count, chart.kind), HEIGHT - BOTTOM + 16, _short(str(chart.x[i])), 11, FAINT, "middle")
        for i in range(0, len(chart.x), ceil(count / LABELS))
    ]
    if chart.x_label:
        parts.append(_text(WIDTH - RIGHT, HEIGHT - 26, chart.x_label, 11, FAINT, "end"))
    if chart.y_label:
        parts.append(_text(8, 24, chart.y_label, 11, FAINT))
    for n, (name, series) in enumerate(chart.series.items()):
        colour = COLOURS[n % len(COLOURS)]
        parts += _drawn(chart.kind, series, colour, low, high, count, n, len(chart.series))
        if len(chart.series) > 1:
            parts.append(f'<rect x="{LEFT + 160 * n}" y="{HEIGHT - 20}" width="10" height="10" fill="{colour}"/>')
            parts.append(_text(LEFT + 160 * n + 14, HEIGHT - 11, _short(name, 22), 11, INK))
    return "\n".join([*parts, "</svg>"])


def _drawn(kind: str, series: Sequence[float | None], colour: str, low: float, high: float, count: int, n: int, of: int) -> list[str]:
    points = [(i, value) for i, value in enumerate(series[:count]) if value is not None and isfinite(value)]
    if kind == "bar":
        room = (WIDTH - LEFT - RIGHT) / count
        wide = room * 0.7 / of
        zero = _y(max(low, 0.0), low, high)
        found = []
        for i, value in points:
            y = _y(value, low, high)
            x = LEFT + room * (i + 0.15) + wide * n
            found.append(f'<rect x="{x:.1f}" y="{min(y, zero):.1f}" width="{wide:.1f}" height="{abs(zero - y):.1f}" fill="{colour}"/>')
        return found
    if kind == "scatter":
        return [f'<circle cx="{_x(i, count, kind):.1f}" cy="{_y(value, low, high):.1f}" r="2.5" fill="{colour}"/>' for i, value in points]
    runs: list[list[tuple[int, float]]] = []
    for i, value in points:
        if runs and runs[-1][-1][0] == i - 1:
            runs[-1].append((i, value))
        else:
            runs.append([(i, value)])
    found = []
    for run in runs:
        if len(run) == 1:
            found.append(f'<circle cx="{_x(run[0][0], count, kind):.1f}" cy="{_y(run[0][1], low, high):.1f}" r="2" fill="{colour}"/>')
        else:
            path = " ".join(f"{_x(i, count, kind):.1f},{_y(value, low, high):.1f}" for i, value in run)
            found.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return found


def ticks(low: float, high: float) -> tuple[float, float, float]:
    """Bounds and step of an axis that holds both: steps of 1, 2 or 5 times a power of ten, about five of them."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 5
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, step


def _x(i: int, count: int, kind: str) -> float:
    room = WIDTH - LEFT - RIGHT
    return LEFT + room * (i + 0.5) / count if kind == "bar" else LEFT + room * i / max(1, count - 1)


def _y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def _text(x: float, y: float, text: str, size: int, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(text: str, most: int = 18) -> str:
    if len(text) == 20 and text.endswith("Z") and text[10] == "T":
        return text[11:19]  # a moment of this day
    return text if len(text) <= most else f"{text[: most - 1]}…"
