"""The curve of a learning-rate sweep: a picture (SVG), and a page around it that opens offline."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 20, 52


def svg(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marked: float | None,
) -> str:
    """Return the picture: loss over the logarithm of the rate, with a line at the marked one."""
    low, high = math.log10(rates[0]), math.log10(rates[-1])
    # From the best loss to the first, with some room: what explodes must not press that flat.
    extent = smoothed[0] - min(smoothed) or 1.0
    least, most = min(smoothed) - 0.1 * extent, smoothed[0] + 0.25 * extent

    def x(rate: float) -> float:
        share = (math.log10(rate) - low) / (high - low or 1)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(loss: float) -> float:
        share = (min(max(loss, least), most) - least) / (most - least)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in zip(rates, values, strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        *_axes(x, y, low, high, least, most),
        line(losses, 'stroke="#bbb" stroke-width="1"'),
        line(smoothed, 'stroke="#1f5fa8" stroke-width="2"'),
    ]
    if marked is not None:
        at = x(marked)
        # Beside the line, on the side where there is room.
        anchor, gap = ("start", 6) if at < _WIDTH / 2 else ("end", -6)
        parts += [
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
            'stroke="#c0392b" stroke-dasharray="5 4"/>',
            f'<text x="{at + gap:.1f}" y="{_TOP + 14}" text-anchor="{anchor}" fill="#c0392b">'
            f"falls fastest at {marked:.2g}</text>",
        ]
    return "\n".join([*parts, "</svg>"])


def _axes(
    x: Callable[[float], float],
    y: Callable[[float], float],
    low: float,
    high: float,
    least: float,
    most: float,
) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    grey = 'stroke="#ddd" stroke-width="1"'
    parts = []
    for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1):
        at = x(10.0**power)
        parts += [
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}" {grey}/>',
            f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>',
        ]
    step = _step(most - least)
    tick = math.ceil(least / step) * step
    while tick <= most:
        parts += [
            f'<line x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" {grey}/>',
            f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>',
        ]
        tick += step
    middle = (_TOP + bottom) / 2
    parts += [
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        "learning rate</text>",
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        "loss</text>",
    ]
    return parts


def _step(extent: float) -> float:
    """Return a round distance of ticks, about six of them."""
    rough = extent / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def page(title: str, lines: Sequence[str], picture: str, table: Sequence[Sequence[str]]) -> str:
    """Return a page that needs nothing but itself: what was found, the picture, the numbers."""
    header, *rows = (
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table
    )
    paragraphs = "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 800px; margin: 2em auto; padding: 0 1em; }}
svg {{ max-width: 100%; height: auto; }}
td {{ padding: 0 1.5em 0 0; text-align: right; font-variant-numeric: tabular-nums; }}
thead td {{ font-weight: bold; }}
</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{paragraphs}
{picture}
<p>Grey: the loss of each iteration. Blue: smoothed.</p>
<details>
<summary>The numbers</summary>
<table>
<thead>{header}</thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>
</details>
</body>
</html>
"""
