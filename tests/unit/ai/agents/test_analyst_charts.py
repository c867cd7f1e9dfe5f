"""Charts are well-formed pictures of what they were given."""

from xml.etree import ElementTree

import pytest

from openruntime.ai.agents.analyst.charts import svg, ticks
from openruntime.contracts.agents import Chart

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_has_a_gap_where_there_is_no_value() -> None:
    tree = ElementTree.fromstring(svg(Chart("Waits", [1, 2, 3, 4, 5], {"a": [1.0, 2.0, None, 2.0, 1.0]})))
    lines = tree.findall(f"{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]
    low, high = ([float(point.split(",")[1]) for point in line.attrib["points"].split()] for line in lines)
    assert low[0] > low[1]  # more is higher up
    assert low == high[::-1]


def test_bars_are_as_high_as_their_values() -> None:
    tree = ElementTree.fromstring(svg(Chart("Cost", ["x", "y"], {"s": [1.0, 4.0]}, "bar")))
    heights = [float(bar.attrib["height"]) for bar in tree.findall(f"{SVG}rect")[1:]]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.2)


def test_names_of_others_are_text() -> None:
    tree = ElementTree.fromstring(svg(Chart("<script>alert(1)</script>", ['"><b>'], {"a": [1.0], "</svg>": [2.0]}, "scatter")))
    assert tree.find(f".//{SVG}script") is None
    assert len(tree.findall(f"{SVG}circle")) == 2


@pytest.mark.parametrize("values", [[], [None], [0.0], [-5.0, 3.0], [1e-9, 2e-9], [1e12], [float("nan"), float("inf"), 1.0]])
def test_no_values_break_it(values: list[float | None]) -> None:
    for kind in ("line", "bar", "scatter"):
        ElementTree.fromstring(svg(Chart("x", list(range(len(values))), {"a": values}, kind)))


def test_an_axis_has_round_steps() -> None:
    assert ticks(0, 0.97) == (0.0, 1.0, 0.2)
    assert ticks(0, 7) == (0.0, 8.0, 2.0)
    assert ticks(0, 0) == (0.0, 1.0, 0.2)
