"""A table of a net's layers: shapes, params, multiply-adds, activation memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from netc.graph.types import Graph
from netc.report.machine import to_json
from netc.report.table import size, table


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
        return to_json(asdict(summary))
    header = ("layer", "type", "bottoms", "tops", "params", "multiply-adds", "memory")
    body: list[tuple[str, ...]] = [
        (
            row.name,
            row.type,
            _shapes(row.bottoms),
            _shapes(row.tops),
            f"{row.params:,}" if row.params else "-",
            f"{row.macs:,}" if row.macs else "-",
            size(row.bytes),
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
        size(summary.bytes),
    )
    title = f"net {summary.net or '(unnamed)'}, phase {summary.phase}"
    markdown = form == "markdown"
    return "\n".join(
        [
            *([f"## {title}", ""] if markdown else [title]),
            *table(header, body, total, right=range(4, 7), markdown=markdown),
            *([""] if markdown and summary.notes else []),
            *(f"note: {note}" for note in summary.notes),
        ]
    )


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("x".join(map(str, shape)) if shape else "scalar" for shape in shapes) or "-"
