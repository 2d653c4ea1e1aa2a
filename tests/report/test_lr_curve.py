"""The picture of a sweep, and the page around it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from netc.report.lr_curve import page, svg

RATES = [10.0 ** (i / 10 - 4) for i in range(41)]
LOSSES = [2 - 0.03 * i + (50.0 if i == 40 else 0) for i in range(41)]


def numbers(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_the_curve_lies_inside_and_falls_as_the_loss_does() -> None:
    tree = ElementTree.fromstring(svg(RATES, LOSSES, LOSSES, RATES[20]))
    width, height = float(tree.attrib["width"]), float(tree.attrib["height"])
    lines = [
        numbers(line.attrib["points"]) for line in tree.iter() if line.tag.endswith("polyline")
    ]
    assert len(lines) == 2
    for points in lines:
        assert len(points) == 41
        assert all(0 < x < width and 0 < y < height for x, y in points)
        xs, ys = zip(*points, strict=True)
        assert list(xs) == sorted(xs)
        assert list(ys[:40]) == sorted(ys[:40]), "a lower loss lies lower: y counts from the top"
    texts = [text.text for text in tree.iter() if text.tag.endswith("text")]
    assert {"0.0001", "0.001", "0.01", "0.1", "1", "learning rate", "loss"} <= set(texts)
    assert "falls fastest at 0.01" in texts


def test_a_flat_curve_is_drawn_too() -> None:
    ElementTree.fromstring(svg(RATES, [1.0] * 41, [1.0] * 41, None))


def test_the_page_needs_nothing_from_elsewhere_and_escapes_names() -> None:
    text = page("a <b> & c", ["1 < 2"], svg(RATES, LOSSES, LOSSES, None), [("lr",), ("<x>",)])
    assert "a &lt;b&gt; &amp; c" in text
    assert "1 &lt; 2" in text
    assert "&lt;x&gt;" in text
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]+)', text)
    assert not links
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
