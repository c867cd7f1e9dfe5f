"""The curves of the documentation."""

from pathlib import Path
from xml.etree import ElementTree

from openruntime.cli.curves import Axis, Curve, draw, short

SVG = "{http://www.w3.org/2000/svg}"


def test_points_lie_where_the_axes_say(tmp_path: Path) -> None:
    curve = Curve("a < b", [(1, 10), (10, 20), (100, 40)])
    draw(tmp_path / "x.svg", "Title & more", Axis("n", log=True), Axis("s"), [curve], goal=30)
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    circles = [(float(found.get("cx", 0)), float(found.get("cy", 0))) for found in root.iter(f"{SVG}circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert abs((x1 - x0) - (x2 - x1)) < 0.2  # decades are alike
    assert abs((y0 - y1) * 2 - (y1 - y2)) < 0.5  # and the other axis is linear
    texts = [found.text for found in root.iter(f"{SVG}text")]
    assert {"Title & more", "a < b", "n", "s"} <= set(texts)


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0, 1, 1500, 2.5e6, 0.002, 5e-5, 1e9)] == ["0", "1", "1.5k", "2.5M", "2m", "50µ", "1G"]
