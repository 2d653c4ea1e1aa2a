"""Drawings as SVG, PNG and DOT."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import cv2
import numpy as np
import pydot
import pytest

from netc.report import picture
from netc.report.diagram import DIRECTIONS, Arrow, Box, Diagram, Kind, draw

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("data", 'a "quoted" \\ <b> & \N{GREEK SMALL LETTER ALPHA}', "loss")
DIAGRAM = Diagram(
    "two & three",
    (
        Box((NAMES[0], "Data"), Kind.DATA),
        Box((NAMES[1], "Convolution kernel 3", "8 x 4 x 4"), Kind.LEARNS),
        Box((NAMES[2],), Kind.LOSS),
    ),
    (Arrow(0, 1, "64 <b>"), Arrow(1, 2), Arrow(0, 2)),
)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_svg_has_every_box_arrow_and_word(direction: str) -> None:
    root = ET.fromstring(picture.svg(DIAGRAM, direction))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for box in DIAGRAM.boxes:
        assert set(box.lines) <= set(texts)
    assert root.findtext(f"{SVG}title") == texts[0] == "two & three" and "64 <b>" in texts
    rects = list(root.iter(f"{SVG}rect"))[1:]
    assert [rect.get("fill") for rect in rects] == [box.kind.value for box in DIAGRAM.boxes]
    assert len(list(root.iter(f"{SVG}path"))) == len(list(root.iter(f"{SVG}polygon"))) == 3
    width, height = (float(root.get(side, "")) for side in ("width", "height"))
    for rect in rects:
        x, y, w, h = (float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
        assert 0 < x < x + w < width and 0 < y < y + h < height
    assert b"http" not in picture.svg(DIAGRAM).replace(b"http://www.w3.org/2000/svg", b"")


def colour_at(image: np.ndarray, x: float, y: float) -> str:
    blue, green, red = image[round(y), round(x)]
    return f"#{red:02x}{green:02x}{blue:02x}"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_png_shows_the_same(direction: str) -> None:
    image = cv2.imdecode(np.frombuffer(picture.png(DIAGRAM, direction), np.uint8), cv2.IMREAD_COLOR)
    root = ET.fromstring(picture.svg(DIAGRAM, direction))
    assert image.shape == (int(root.get("height", "")), int(root.get("width", "")), 3)
    for rect, box in zip(list(root.iter(f"{SVG}rect"))[1:], DIAGRAM.boxes, strict=True):
        x, y, w, h = (float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
        assert colour_at(image, x + 4, y + h / 2) == box.kind.value
        inside = image[round(y) + 3 : round(y + h) - 3, round(x) + 3 : round(x + w) - 3]
        assert (inside.min(axis=(0, 1)) < 110).all(), "there is text in it"
    for polygon in root.iter(f"{SVG}polygon"):
        corners = np.array([corner.split(",") for corner in polygon.get("points", "").split()])
        x, y = corners.astype(float).mean(0)
        assert image[round(y), round(x)].max() < 200, "there is the head of an arrow"
    assert colour_at(image, 2, image.shape[0] - 2) == "#ffffff"


def test_a_large_png_is_drawn_as_it_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = picture.png(DIAGRAM)
    monkeypatch.setattr(picture, "_MOST_PIXELS", 10)
    coarse = picture.png(DIAGRAM)
    images = [cv2.imdecode(np.frombuffer(raw, np.uint8), 1).astype(int) for raw in (fine, coarse)]
    assert images[0].shape == images[1].shape
    assert 0 < np.abs(images[0] - images[1]).mean() < 12


# pydot's own parser calls pyparsing by names that newer versions of it advise against.
@pytest.mark.filterwarnings("ignore::pyparsing.warnings.PyparsingDeprecationWarning")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_dot_is_what_graphviz_reads(direction: str) -> None:
    (graph,) = pydot.graph_from_dot_data(picture.dot(DIAGRAM, direction).decode())
    assert graph.get("rankdir") == direction

    def shown(label: Any) -> str:
        return str(label)[1:-1].replace('\\"', '"').replace("\\\\", "\\")

    nodes = {node.get_name(): node for node in graph.get_nodes() if node.get_name() != "node"}
    assert [shown(node.get("label")) for node in nodes.values()] == [
        "\\n".join(box.lines) for box in DIAGRAM.boxes
    ]
    ends = [(edge.get_source(), edge.get_destination()) for edge in graph.get_edges()]
    assert ends == [("n0", "n1"), ("n1", "n2"), ("n0", "n2")]
    assert shown(graph.get_edges()[0].get("label")) == "64 <b>"


def test_the_title_of_a_small_net_has_room() -> None:
    small = Diagram("a rather long name of a net", (Box(("x",)),), ())
    root = ET.fromstring(picture.svg(small))
    assert float(root.get("width", "")) > draw(small).size[0] + 150
