"""A table of how long each layer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from netc.plan.types import Direction, Plan, Step
from netc.report.machine import to_json
from netc.report.table import table


@dataclass(frozen=True, slots=True)
class Row:
    """One layer; mean milliseconds, None for a pass in which it does nothing of its own.

    `kernel` is the backend that runs it. `within` names the layer with which it is run as one, and
    whose times include it.
    """

    name: str
    type: str
    kernel: str
    forward_ms: float | None
    backward_ms: float | None
    within: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """The rows and their sums, for one iteration."""

    net: str
    phase: str
    backend: str
    iterations: int
    rows: tuple[Row, ...]
    forward_ms: float
    backward_ms: float
    notes: tuple[str, ...]


def timing(
    plan: Plan,
    durations: Mapping[tuple[Direction, int], float],
    *,
    backend: str,
    iterations: int,
    notes: Sequence[str] = (),
) -> Timing:
    """Return the table for mean durations in seconds, by (direction, index of the node)."""
    graph = plan.graph
    steps = {step.node: step for step in plan.forward if isinstance(step, Step)}
    leads = {node: step.node for step in steps.values() for node in step.nodes[1:]}
    rows = []
    for index, node in enumerate(graph.nodes):
        lead = leads.get(index, index)
        forward, backward = (
            None if seconds is None else 1000 * seconds
            for direction in (Direction.FORWARD, Direction.BACKWARD)
            for seconds in [durations.get((direction, index))]
        )
        rows.append(
            Row(
                node.name,
                node.type,
                steps[lead].kernel if lead in steps and not node.layer.reads_data else "",
                forward,
                backward,
                graph.nodes[lead].name if lead != index else "",
            )
        )
    return Timing(
        graph.name,
        graph.phase.name,
        backend,
        iterations,
        tuple(rows),
        sum(row.forward_ms or 0.0 for row in rows),
        sum(row.backward_ms or 0.0 for row in rows),
        tuple(notes),
    )


def render(found: Timing, form: str = "text") -> str:
    """Return the table as "text", "markdown" or "json"."""
    total = found.forward_ms + found.backward_ms
    if form == "json":
        return to_json(asdict(found) | {"total_ms": total})
    title = (
        f"net {found.net or '(unnamed)'}, phase {found.phase}, backend {found.backend}: "
        f"mean of {found.iterations} iterations"
    )
    rows = [
        (
            row.name,
            row.type,
            row.kernel or "-",
            _ms(row.forward_ms, row.within),
            _ms(row.backward_ms, row.within),
            _share((row.forward_ms or 0.0) + (row.backward_ms or 0.0), total),
        )
        for row in found.rows
    ]
    last = ("total", "", "", _ms(found.forward_ms), _ms(found.backward_ms), f"{total:.3f} ms")
    header = ("layer", "type", "kernel", "forward ms", "backward ms", "share")
    markdown = form == "markdown"
    return "\n".join(
        [
            *([f"## {title}", ""] if markdown else [title]),
            *table(header, rows, last, right=range(3, 6), markdown=markdown),
            *([""] if markdown and found.notes else []),
            *(f"note: {note}" for note in found.notes),
        ]
    )


def _ms(value: float | None, within: str = "") -> str:
    if value is None:
        return f"with {within}" if within else "-"
    return f"{value:.3f}"


def _share(value: float, total: float) -> str:
    return f"{100 * value / total:.1f} %" if total and value else "-"
