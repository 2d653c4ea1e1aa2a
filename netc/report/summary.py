"""A table of a net's layers: shapes, params, multiply-adds, activation memory."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from netc.graph.types import Graph


@dataclass(frozen=True, slots=True)
class Row:
    """One layer. `params` counts values (shared ones where they appear first).

    `macs` multiply-adds, `bytes` its tops.
    """

    name: str
    type: str
    bottoms: tuple[tuple[int, ...], ...]
    tops: tuple[tuple[int, ...], ...]
    params: int
    macs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows and their sums, for one forward pass of the whole batch."""

    net: str
    phase: str
    rows: tuple[Row, ...]
    params: int
    macs: int
    bytes: int
    notes: tuple[str, ...]


def summarize(graph: Graph) -> Summary:
    """Compute the table of a graph."""
    rows = []
    for index, node in enumerate(graph.nodes):
        bottoms = tuple(graph.blobs[key].type for key in node.bottoms)
        owned = {use.param for use in node.params if graph.params[use.param].owner == index}
        rows.append(
            Row(
                name=node.name,
                type=node.type,
                bottoms=tuple(b.shape for b in bottoms),
                tops=tuple(graph.blobs[key].shape for key in node.tops),
                params=sum(math.prod(graph.params[i].shape) for i in owned),
                macs=node.layer.cost(bottoms, node.signature),
                bytes=4 * sum(graph.blobs[key].type.count for key in node.tops),
            )
        )
    return Summary(
        net=graph.name,
        phase=graph.phase.name,
        rows=tuple(rows),
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        bytes=sum(row.bytes for row in rows),
        notes=graph.notes,
    )


def render(summary: Summary, form: str = "text") -> str:
    """Return the summary as "text", "markdown" or "json"."""
    if form == "json":
        return json.dumps(asdict(summary), indent=1)
    header = ("layer", "type", "bottoms", "tops", "params", "multiply-adds", "memory")
    body: list[tuple[str, ...]] = [
        (
            row.name,
            row.type,
            _shapes(row.bottoms),
            _shapes(row.tops),
            f"{row.params:,}" if row.params else "-",
            f"{row.macs:,}" if row.macs else "-",
            _size(row.bytes),
        )
        for row in summary.rows
    ]
    total = (
        "total",
        f"{len(body)} layers",
        "",
        "",
        f"{summary.params:,}",
        f"{summary.macs:,}",
        _size(summary.bytes),
    )
    table = _markdown if form == "markdown" else _text
    title = f"net {summary.net or '(unnamed)'}, phase {summary.phase}"
    heading = [f"## {title}", ""] if form == "markdown" else [title]
    return "\n".join(
        [*heading, *table(header, body, total), *(f"note: {n}" for n in summary.notes)]
    )


def _text(
    header: tuple[str, ...], body: list[tuple[str, ...]], total: tuple[str, ...]
) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *body, total)) for i in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        cells = [
            cell.rjust(width) if i >= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return [line(header), rule, *map(line, body), rule, line(total)]


def _markdown(
    header: tuple[str, ...], body: list[tuple[str, ...]], total: tuple[str, ...]
) -> list[str]:
    def line(row: tuple[str, ...]) -> str:
        return "| " + " | ".join(row) + " |"

    rule = "|" + "|".join(" ---: " if i >= 4 else " --- " for i in range(len(header))) + "|"
    return [
        line(header),
        rule,
        *map(line, body),
        line(tuple(f"**{c}**" if c else "" for c in total)),
    ]


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("x".join(map(str, shape)) if shape else "scalar" for shape in shapes) or "-"


def _size(count: int) -> str:
    """Return a number of bytes with a unit, powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
