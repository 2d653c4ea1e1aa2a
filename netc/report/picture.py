"""Drawings as files: SVG, PNG, and Graphviz's DOT for those who want to lay them out anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from netc.report.diagram import CHARACTER, LINE, MARGIN, Diagram, Drawing, Point, draw

_BORDER = 18.0
_TITLE = 26.0
_FONT = 11.0
_INK = "#333333"
_FAINT = "#7a7a7a"
_HEAD = 7.0

# A PNG is drawn so much larger and then reduced, for smooth edges, unless that would be too large
# for OpenCV.
_FINER = 3
_MOST_PIXELS = 32000


def svg(diagram: Diagram, direction: str = "TB") -> bytes:
    """Return the drawing as SVG, which every browser shows, without anything from elsewhere."""
    drawing = draw(diagram, direction)
    width, height = _canvas(drawing)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="{_FONT:g}" text-anchor="middle">',
        f"<title>{escape(diagram.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_BORDER:g}" y="{_BORDER:g}" text-anchor="start" font-size="14" '
        f'font-weight="bold" fill="{_INK}">{escape(diagram.title)}</text>',
        f'<g fill="none" stroke="{_FAINT}" stroke-width="1.2">',
    ]
    for way in _ways(drawing):
        start = way[0]
        curves = " ".join(
            "C" + " ".join(f"{x:.1f},{y:.1f}" for x, y in curve)
            for curve in _curves(way, drawing.across)
        )
        parts.append(f'<path d="M{start[0]:.1f},{start[1]:.1f} {curves}"/>')
    parts.append(f'</g>\n<g fill="{_FAINT}">')
    for way in _ways(drawing):
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in _head(way[-1], drawing))
        parts.append(f'<polygon points="{corners}"/>')
    parts.append("</g>")
    for box, (x, y) in zip(diagram.boxes, _corners(drawing), strict=True):
        w, h = box.size
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="4" '
            f'fill="{box.kind.value}" stroke="{_FAINT}"/>'
        )
        for index, line in enumerate(box.lines):
            bold = ' font-weight="bold"' if index == 0 else ""
            parts.append(
                f'<text x="{x + w / 2:.1f}" y="{y + _baseline(index):.1f}"{bold} '
                f'fill="{_INK}">{escape(line)}</text>'
            )
    for arrow, (x, y) in _labels(drawing):
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{_FAINT}">{escape(arrow)}</text>')
    return "\n".join([*parts, "</svg>", ""]).encode()


def png(diagram: Diagram, direction: str = "TB") -> bytes:
    """Return the drawing as PNG. Its font knows ASCII only; other characters become "?"."""
    drawing = draw(diagram, direction)
    canvas = _Canvas(_canvas(drawing))
    for way in _ways(drawing):
        points = [way[0]]
        for curve in _curves(way, drawing.across):
            points += _sampled(points[-1], curve)
        canvas.line(points)
        canvas.head(_head(way[-1], drawing))
    for box, (x, y) in zip(diagram.boxes, _corners(drawing), strict=True):
        width, height = box.size
        canvas.box((x, y), (x + width, y + height), box.kind.value)
        for index, text in enumerate(box.lines):
            place = x + width / 2, y + _baseline(index)
            canvas.write(text, place, _INK, bold=index == 0, most=width - MARGIN)
    for text, place in _labels(drawing):
        canvas.write(text, place, _FAINT)
    canvas.write(diagram.title, (_BORDER, _BORDER), _INK, bold=True, left=True)
    return canvas.png()


class _Canvas:
    """An image of pixels, drawn larger than it will be."""

    def __init__(self, size: tuple[int, int]) -> None:
        import cv2
        import numpy as np

        self._cv2, self._np = cv2, np
        self._finer = _FINER if max(size) * _FINER <= _MOST_PIXELS else 1
        width, height = (side * self._finer for side in size)
        self._pixels = np.full((height, width, 3), 255, np.uint8)

    def _at(self, point: Point) -> tuple[int, int]:
        return round(point[0] * self._finer), round(point[1] * self._finer)

    def _array(self, points: Sequence[Point]) -> Any:
        return self._np.array([self._at(point) for point in points], self._np.int32)

    def line(self, points: Sequence[Point]) -> None:
        """Draw an arrow's line through points."""
        cv2 = self._cv2
        line = self._array(points)
        cv2.polylines(self._pixels, [line], False, _bgr(_FAINT), self._finer, cv2.LINE_AA)

    def head(self, corners: Sequence[Point]) -> None:
        """Draw an arrow's head."""
        cv2 = self._cv2
        cv2.fillPoly(self._pixels, [self._array(corners)], _bgr(_FAINT), cv2.LINE_AA)

    def box(self, corner: Point, opposite: Point, colour: str) -> None:
        """Draw a box."""
        ends = self._at(corner), self._at(opposite)
        self._cv2.rectangle(self._pixels, *ends, _bgr(colour), -1)
        self._cv2.rectangle(self._pixels, *ends, _bgr(_FAINT), self._finer)

    def write(
        self,
        text: str,
        place: Point,
        colour: str,
        *,
        bold: bool = False,
        left: bool = False,
        most: float = math.inf,
    ) -> None:
        """Write a line around a place on its baseline, or from there; no wider than `most`."""
        cv2, finer = self._cv2, self._finer
        font = cv2.FONT_HERSHEY_SIMPLEX
        shown = text.encode("ascii", "replace").decode()
        scale = _FONT / 30 * finer
        weight = max(1, finer - 1) + 2 * bold
        wide = cv2.getTextSize(shown, font, scale, weight)[0][0] / finer
        if wide > most:
            scale, wide = scale * most / wide, most
        start = self._at((place[0] if left else place[0] - wide / 2, place[1]))
        cv2.putText(self._pixels, shown, start, font, scale, _bgr(colour), weight, cv2.LINE_AA)

    def png(self) -> bytes:
        """Return the image in its final size."""
        cv2, factor = self._cv2, 1 / self._finer
        smooth = cv2.resize(self._pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".png", smooth)[1])


def dot(diagram: Diagram, direction: str = "TB") -> bytes:
    """Return the text that Graphviz's `dot` makes a drawing of."""
    lines = [
        f"digraph {_quoted(diagram.title)} {{",
        f"  rankdir={direction};",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];',
    ]
    for index, box in enumerate(diagram.boxes):
        text = "\\n".join(_quoted(line)[1:-1] for line in box.lines)
        lines.append(f'  n{index} [label="{text}", fillcolor="{box.kind.value}"];')
    for arrow in diagram.arrows:
        label = f" [label={_quoted(arrow.label)}]" if arrow.label else ""
        lines.append(f"  n{arrow.source} -> n{arrow.target}{label};")
    return "\n".join([*lines, "}", ""]).encode()


#: What a file's name may end in -> the writer.
FORMS: Mapping[str, Callable[..., bytes]] = {"svg": svg, "png": png, "dot": dot}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _canvas(drawing: Drawing) -> tuple[int, int]:
    width, height = drawing.size
    title = len(drawing.diagram.title) * 9.0
    width = max(width, title)
    return math.ceil(width + 2 * _BORDER), math.ceil(height + _TITLE + 2 * _BORDER)


def _moved(point: Point) -> Point:
    return point[0] + _BORDER, point[1] + _BORDER + _TITLE


def _corners(drawing: Drawing) -> list[Point]:
    return [_moved(corner) for corner in drawing.corners]


def _ways(drawing: Drawing) -> list[list[Point]]:
    return [[_moved(point) for point in way] for way in drawing.ways]


def _labels(drawing: Drawing) -> list[tuple[str, Point]]:
    """Return the labels of arrows, each beside the middle of the arrow's last part."""
    found = []
    for arrow, way in zip(drawing.diagram.arrows, _ways(drawing), strict=True):
        if arrow.label:
            (x0, y0), (x1, y1) = way[-2:]
            beside = 0.0 if drawing.across else len(arrow.label) * CHARACTER / 2 + 3
            above = 5.0 if drawing.across else 0.0
            found.append((arrow.label, ((x0 + x1) / 2 + beside, (y0 + y1) / 2 - above)))
    return found


def _baseline(index: int) -> float:
    return MARGIN / 2 + (index + 0.75) * LINE


def _curves(way: list[Point], across: bool) -> list[tuple[Point, Point, Point]]:
    """Return a way as Bezier curves that leave and arrive along the direction of the drawing."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(way):
        if across:
            middle = (x0 + x1) / 2
            found.append(((middle, y0), (middle, y1), (x1, y1)))
        else:
            middle = (y0 + y1) / 2
            found.append(((x0, middle), (x1, middle), (x1, y1)))
    return found


def _sampled(start: Point, curve: tuple[Point, Point, Point], count: int = 12) -> list[Point]:
    points = (start, *curve)
    found = []
    for step in range(1, count + 1):
        t = step / count
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(w * p[axis] for w, p in zip(weights, points, strict=True)) for axis in (0, 1))
        found.append((x, y))
    return found


def _head(tip: Point, drawing: Drawing) -> list[Point]:
    x, y = tip
    back = _HEAD if drawing.back else -_HEAD
    if drawing.across:
        return [tip, (x + back, y - _HEAD / 2), (x + back, y + _HEAD / 2)]
    return [tip, (x - _HEAD / 2, y + back), (x + _HEAD / 2, y + back)]


def _bgr(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return blue, green, red
