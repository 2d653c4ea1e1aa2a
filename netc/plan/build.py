"""`plan(graph, backend)`: run the passes and choose a kernel for every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netc.backends.base import Backend, Declined
from netc.graph.types import Graph, Node
from netc.plan.memory import Memory, assign
from netc.plan.need import find_need, no_need
from netc.plan.types import Direction, Fill, Need, Plan, Step


def plan(
    graph: Graph, backend: Backend, *, train: bool = False, keep: Iterable[str] | str = ()
) -> Plan:
    """Compile a graph for a backend.

    `train` plans the backward pass too. `keep` lists blob keys whose data must be readable after a
    pass, besides inputs and outputs; "all" keeps the data and diff of every blob. Raises NetcError
    where a gradient cannot flow.
    """
    need = find_need(graph) if train else no_need(graph)
    keep_all = keep == "all"
    names = frozenset() if isinstance(keep, str) else frozenset(keep)
    memory = assign(graph, need, names, keep_all)
    return Plan(
        graph=graph,
        train=train,
        keep_all=keep_all,
        need=need,
        forward=_forward(graph, backend, memory),
        backward=_backward(graph, backend, need, memory),
        buffers=memory.buffers,
        storages=memory.storages,
        data=memory.data,
        diff=memory.diff,
        kept=memory.kept,
        arena_bytes=memory.arena_bytes,
    )


def _forward(graph: Graph, backend: Backend, memory: Memory) -> tuple[Step, ...]:
    steps = []
    for index, node in enumerate(graph.nodes):
        if node.layer.fed or (node.layer.view and _shares(memory, memory.data, node)):
            continue
        steps.append(_step(node, index, backend, Direction.FORWARD))
    return tuple(steps)


def _backward(
    graph: Graph, backend: Backend, need: Need, memory: Memory
) -> tuple[Step | Fill, ...]:
    """Plan the backward pass: the first gradient that reaches a diff overwrites it.

    The others add.
    """
    steps: list[Step | Fill] = []
    written: set[str] = set()
    for blob in graph.loss_blobs:
        if _reached(graph, need, blob.key):
            steps.append(Fill(blob.key, blob.loss_weight))
            written.add(blob.key)
    for index in reversed(range(len(graph.nodes))):
        if not need.runs[index]:
            continue
        node = graph.nodes[index]
        adds = []
        for key, wanted in zip(node.bottoms, need.bottoms[index], strict=True):
            adds.append(wanted and key in written)
            if wanted:
                written.add(key)
        if node.layer.view and not any(adds) and _shares(memory, memory.diff, node):
            continue
        steps.append(_step(node, index, backend, Direction.BACKWARD, tuple(adds)))
    return tuple(steps)


def _reached(graph: Graph, need: Need, key: str) -> bool:
    """Say whether a reader of the blob passes a gradient back to it."""
    return any(
        need.bottoms[reader][i]
        for reader in graph.readers[key]
        for i, bottom in enumerate(graph.nodes[reader].bottoms)
        if bottom == key
    )


def _shares(memory: Memory, where: Mapping[str, int], node: Node) -> bool:
    """Say whether all tops of a node lie where its bottom lies."""
    keys = (node.bottoms[0], *node.tops)
    if any(key not in where for key in keys):
        return False
    return len({memory.buffers[where[key]].storage for key in keys}) == 1


def _step(
    node: Node,
    index: int,
    backend: Backend,
    direction: Direction,
    adds: tuple[bool, ...] = (),
) -> Step:
    """Ask the backend, then its fallbacks, for a kernel; remember why the faster ones declined."""
    declined: list[str] = []
    for candidate in backend.candidates():
        answer = candidate.kernel_for(node, direction)
        if not isinstance(answer, Declined):
            return Step(index, direction, candidate.name, tuple(declined), adds)
        declined.append(f"{candidate.name}: {answer.reason}")
    raise AssertionError(f"no backend has a kernel for {node.label}; the reference has all")
