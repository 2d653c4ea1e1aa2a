"""A table of a net's layers: shapes, params, multiply-adds, activation memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from netc.errors import NetcError
from netc.graph.types import Graph, Node
from netc.plan.types import Plan
from netc.report.machine import to_json
from netc.report.table import size, table


@dataclass(frozen=True, slots=True)
class Row:
    """One layer.

    `params` counts learned values (shared ones where they appear first), `macs` multiply-adds,
    `bytes` the memory of its tops; a top that is written in place of the bottom takes none.
    """

    name: str
    type: str
    bottoms: tuple[tuple[int, ...], ...]
    tops: tuple[tuple[int, ...], ...]
    params: int
    macs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the params, and of all blobs as netc plans them, to run and to train.

    Training adds the gradients of blobs and params; what a solver keeps besides is not counted.
    None where the net cannot be trained.
    """

    params: int
    run: int
    train: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows and their sums, for one forward pass of the whole batch."""

    net: str
    phase: str
    rows: tuple[Row, ...]
    params: int
    macs: int
    bytes: int
    memory: Memory
    notes: tuple[str, ...]


def summarize(graph: Graph, make: Callable[..., Plan]) -> Summary:
    """Compute the table of a graph; `make(train=...)` gives its plans."""
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
                bytes=4 * _new_values(graph, node),
            )
        )
    return Summary(
        net=graph.name,
        phase=graph.phase.name,
        rows=tuple(rows),
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        bytes=sum(row.bytes for row in rows),
        memory=_memory(graph, make),
        notes=graph.notes,
    )


def _new_values(graph: Graph, node: Node) -> int:
    names = {graph.blobs[key].name for key in node.bottoms}
    tops = (graph.blobs[key] for key in node.tops)
    return sum(blob.type.count for blob in tops if blob.name not in names)


def _memory(graph: Graph, make: Callable[..., Plan]) -> Memory:
    params = 4 * sum(math.prod(param.shape) for param in graph.params)
    run = params + _blobs(make(train=False))
    try:
        plan = make(train=True)
    except NetcError:
        return Memory(params, run, None)
    if not any(plan.need.runs):
        return Memory(params, run, None)
    learned = {
        use.param
        for node, wants in zip(graph.nodes, plan.need.params, strict=True)
        for use, want in zip(node.params, wants, strict=True)
        if want
    }
    diffs = 4 * sum(math.prod(graph.params[i].shape) for i in learned)
    return Memory(params, run, params + diffs + _blobs(plan))


def _blobs(plan: Plan) -> int:
    return plan.arena_bytes + plan.own_bytes


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
            size(row.bytes) if row.bytes else "-",
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
            *([""] if markdown else []),
            _told(summary.memory),
            *(f"note: {note}" for note in summary.notes),
        ]
    )


def _told(memory: Memory) -> str:
    train = f", {size(memory.train)} to train" if memory.train is not None else ""
    return f"as planned, in all: {size(memory.run)} to run{train} (params: {size(memory.params)})"


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("x".join(map(str, shape)) if shape else "scalar" for shape in shapes) or "-"
