"""Second pass: which layers run together.

A unit is one layer, or a chain of layers that the backend runs as one: nothing else sees the blobs
between them, so that these have no memory. It runs where its last layer stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.graph.types import Graph, ParamUse
from netc.plan.types import Need


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer or a chain, with what comes from outside and what leaves it.

    `bottoms` are those of the first layer, then what later ones read besides the chain.
    """

    nodes: tuple[int, ...]
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[ParamUse, ...]
    runs: bool
    wants_bottoms: tuple[bool, ...]
    wants_params: tuple[bool, ...]

    @property
    def at(self) -> int:
        """The index of the last layer: the unit's place in the forward pass."""
        return self.nodes[-1]


def units_of(
    graph: Graph, need: Need, chains: Sequence[tuple[str, ...]], visible: frozenset[str]
) -> list[Unit]:
    """Return the units in the order in which they run forward.

    `chains` are the layer types that may run as one, the longest first; `visible` the blobs that
    must be there after the pass.
    """
    taken: set[int] = set()
    found = []
    for index in range(len(graph.nodes)):
        if index in taken:
            continue
        nodes: tuple[int, ...] = (index,)
        for chain in chains:
            longer = _follow(graph, need, index, chain, visible)
            if longer and not taken.intersection(longer):
                nodes = longer
                break
        taken.update(nodes)
        found.append(_unit(graph, need, nodes))
    return sorted(found, key=lambda unit: unit.at)


def alone(graph: Graph, need: Need, unit: Unit) -> list[Unit]:
    """Return the layers of a chain as units of their own."""
    return [_unit(graph, need, (node,)) for node in unit.nodes]


def _follow(
    graph: Graph, need: Need, first: int, chain: tuple[str, ...], visible: frozenset[str]
) -> tuple[int, ...]:
    """Return the nodes of a chain that starts at node `first`, () if there is none."""
    nodes = [first]
    if graph.nodes[first].type != chain[0]:
        return ()
    for kind in chain[1:]:
        node = graph.nodes[nodes[-1]]
        if len(node.tops) != 1 or node.tops[0] in visible:
            return ()
        readers = graph.readers[node.tops[0]]
        if len(readers) != 1 or graph.nodes[readers[0]].type != kind:
            return ()
        if need.runs[readers[0]] != need.runs[first]:
            return ()
        nodes.append(readers[0])
    return tuple(nodes)


def _unit(graph: Graph, need: Need, nodes: tuple[int, ...]) -> Unit:
    inside = {key for index in nodes[:-1] for key in graph.nodes[index].tops}
    outside = [
        (key, want)
        for index in nodes
        for key, want in zip(graph.nodes[index].bottoms, need.bottoms[index], strict=True)
        if key not in inside
    ]
    return Unit(
        nodes=nodes,
        bottoms=tuple(key for key, _ in outside),
        tops=graph.nodes[nodes[-1]].tops,
        params=tuple(use for index in nodes for use in graph.nodes[index].params),
        runs=need.runs[nodes[-1]],
        wants_bottoms=tuple(want for _, want in outside),
        wants_params=tuple(want for index in nodes for want in need.params[index]),
    )
