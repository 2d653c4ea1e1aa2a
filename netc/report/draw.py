"""A net as a diagram: one box for each layer, with its settings and the shape that it gives."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator

from netc.graph.types import Graph, Node
from netc.layers.types import Layer
from netc.report.diagram import Arrow, Box, Diagram, Kind

# What the picture tells in another way, or what says how a layer is run and not what it does.
_UNTOLD = {"top", "bottom", "phase", "engine", "name", "num_output", "bias_term"}
_MOST_TOPS = 4


def diagram_of(graph: Graph) -> Diagram:
    """Return the diagram of a net. Layers in place share the box of the layer that they follow."""
    lines: list[list[str]] = []
    kinds: list[Kind] = []
    shapes: list[tuple[str, ...]] = []
    box_of: dict[str, int] = {}
    arrows: dict[tuple[int, int], None] = {}
    for node in graph.nodes:
        host = _follows(graph, node, box_of)
        if host is None:
            host = len(lines)
            lines.append([node.name, _told(node.layer)])
            kinds.append(kind_of(node))
            for key in node.bottoms:
                arrows[box_of[key], host] = None
            shapes.append(())
        else:
            lines[host].append(f"{node.name}: {_told(node.layer)}")
        if node.tops:
            shapes[host] = tuple(_shapes(graph, node))
        box_of.update(dict.fromkeys(node.tops, host))
    boxes = tuple(
        Box((*text, *shape), kind) for text, shape, kind in zip(lines, shapes, kinds, strict=True)
    )
    title = f"{graph.name or graph.file or 'net'}, phase {graph.phase.name}"
    return Diagram(title, boxes, tuple(Arrow(*ends) for ends in arrows))


def kind_of(node: Node) -> Kind:
    """Return what a layer does, by the facts that its type states."""
    layer = node.layer
    where = layer.coordinates()
    if layer.reads_data or layer.fed:
        return Kind.DATA
    if layer.loss:
        return Kind.LOSS
    if node.params:
        return Kind.LEARNS
    if where is not None and where.axis is not None:
        return Kind.WINDOW
    if len(node.bottoms) > 1:
        return Kind.JOIN
    return Kind.ELEMENTWISE if layer.in_place else Kind.OTHER


def _follows(graph: Graph, node: Node, box_of: dict[str, int]) -> int | None:
    """Return the box of the layer whose only top this one works on in place; None for others."""
    if len(node.bottoms) != 1 or len(node.tops) != 1:
        return None
    bottom, top = graph.blobs[node.bottoms[0]], graph.blobs[node.tops[0]]
    alone = len(graph.nodes[bottom.node].tops) == 1
    return box_of[bottom.key] if bottom.name == top.name and alone else None


def _told(layer: Layer) -> str:
    """Return a layer's type and the settings that differ from the defaults."""
    return " ".join(filter(None, (layer.type, ", ".join(_settings(layer)))))


def _settings(layer: Layer) -> Iterator[str]:
    defaults = {field.name: field.default for field in dataclasses.fields(layer)}
    first = next(iter(defaults), "")
    if first and first not in _UNTOLD and isinstance(choice := getattr(layer, first), enum.Enum):
        yield choice.name  # It says what the layer is, also where it is the default.
        del defaults[first]
    for name in sorted(defaults.keys() - _UNTOLD):
        value = getattr(layer, name)
        if value == defaults[name]:
            continue
        shown = name.removesuffix("_size").removeprefix(f"{layer.type.lower()}_").replace("_", " ")
        if isinstance(value, enum.Enum):
            yield value.name
        elif value is True:
            yield shown
        elif _is_plain(value):
            numbers = value if isinstance(value, tuple) else (value,)
            yield f"{shown} {'x'.join(map(_number, dict.fromkeys(numbers)))}"


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return 0 < len(value) <= 4 and all(isinstance(item, int | float) for item in value)
    return isinstance(value, int | float)


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shapes(graph: Graph, node: Node) -> Iterator[str]:
    """Yield the shapes of the tops, without the batch."""
    tops = [graph.blobs[key] for key in node.tops]
    for blob in tops[:_MOST_TOPS]:
        shape = " x ".join(map(str, blob.shape[1:])) or ("scalar" if not blob.shape else "")
        yield f"{blob.name}: {shape or '1'}" if len(tops) > 1 else shape or "1"
    if len(tops) > _MOST_TOPS:
        yield f"and {len(tops) - _MOST_TOPS} more"
