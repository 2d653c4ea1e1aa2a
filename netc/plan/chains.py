"""Second pass: which layers run together.

A unit is one layer, or a chain of layers that the backend runs as one: nothing else sees the blobs
between them, so that these have no memory. It runs where its last layer stands.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netc.graph.types import Graph, ParamUse
from netc.plan.types import Need


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer or a chain, with what comes from outside and what leaves it.

    `bottoms` are those of the first layer, then what later ones read besides the chain. Units that
    were one chain before that found no kernel are of one `family`.
    """

    nodes: tuple[int, ...]
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[ParamUse, ...]
    runs: bool
    wants_bottoms: tuple[bool, ...]
    wants_params: tuple[bool, ...]
    family: int

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
    return _cut(graph, need, chains, visible, range(len(graph.nodes)), {}, None)


def cut_again(
    graph: Graph,
    need: Need,
    chains: Sequence[tuple[str, ...]],
    visible: frozenset[str],
    units: Sequence[Unit],
    longest: Mapping[int, int],
) -> list[Unit]:
    """Return other units of the same nodes, after a chain among them found no kernel.

    `longest` says how many nodes a unit may have at most that starts at some node.
    """
    nodes = sorted(node for unit in units for node in unit.nodes)
    return _cut(graph, need, chains, visible, nodes, longest, units[0].family)


def _cut(
    graph: Graph,
    need: Need,
    chains: Sequence[tuple[str, ...]],
    visible: frozenset[str],
    nodes: Sequence[int],
    longest: Mapping[int, int],
    family: int | None,
) -> list[Unit]:
    """Return units that consist of these nodes."""
    free = set(nodes)
    found = []
    starting = _by_start(tuple(chains))
    for index in nodes:
        if index not in free:
            continue
        members: tuple[int, ...] = (index,)
        for chain in starting.get(graph.nodes[index].type, ()):
            if len(chain) > longest.get(index, len(chain)):
                continue
            longer = _follow(graph, need, index, chain, visible)
            if longer and free.issuperset(longer):
                members = longer
                break
        free.difference_update(members)
        found.append(_unit(graph, need, members, index if family is None else family))
    return sorted(found, key=lambda unit: unit.at)


@functools.lru_cache(maxsize=4)
def _by_start(chains: tuple[tuple[str, ...], ...]) -> dict[str, list[tuple[str, ...]]]:
    """Return the chains by the type that they start with, in their order."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for chain in chains:
        found.setdefault(chain[0], []).append(chain)
    return found


def _follow(
    graph: Graph, need: Need, first: int, chain: tuple[str, ...], visible: frozenset[str]
) -> tuple[int, ...]:
    """Return the nodes of a chain that starts with node `first`, () if it does not go on."""
    nodes = [first]
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


def _unit(graph: Graph, need: Need, nodes: tuple[int, ...], family: int) -> Unit:
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
        family=family,
    )
