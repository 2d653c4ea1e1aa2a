"""From a net's text to an executor: the stages in a row, for those who run nets (train, pycaffe.

The command line).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from netc.backends.base import Backend
from netc.data import Feed, open_feed, probe
from netc.graph.build import NetState, build, net_state
from netc.graph.types import Graph
from netc.layers.types import Array, Phase
from netc.plan import plan
from netc.runtime import Executor
from netc.schema import Source, netc_pb2, read_net


def load_graph(
    path: str | Path,
    phase: Phase,
    level: int = 0,
    stages: Sequence[str] = (),
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """Read a net file and return its shaped graph for one phase."""
    source = read_net(path)
    return shaped(source, net_state(source.message, phase, level, stages), shapes=shapes)


def shaped(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """Return the shaped graph of a net in a state.

    Data sources are opened to learn their shapes.
    """
    return build(source, state, probe=probe, shapes=shapes)


def open_feeds(graph: Graph, seed: int) -> dict[int, Feed]:
    """Open the data source of every layer that reads one, by node index."""
    return {
        index: open_feed(
            node.layer,
            node.name,
            tuple(graph.blobs[key].shape for key in node.tops),
            phase=graph.phase,
            seed=seed,
            span=node.span,
        )
        for index, node in enumerate(graph.nodes)
        if node.layer.reads_data
    }


def executor(
    graph: Graph,
    backend: Backend,
    *,
    train: bool,
    keep: Iterable[str] | str = (),
    seed: int = 0,
    params: Mapping[int, Array] | None = None,
) -> Executor:
    """Plan a graph, open its data and give it memory."""
    planned = plan(graph, backend, train=train, keep=keep)
    return Executor(planned, backend, seed=seed, params=params, feeds=open_feeds(graph, seed))


def assembled(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    backend: Backend,
    *,
    train: bool,
    keep: Iterable[str] | str = (),
    seed: int = 0,
    sharing: Executor | None = None,
) -> Executor:
    """Return the executor of a net in a state; its params are those of `sharing` where it can."""
    graph = shaped(source, state)
    params = shared_params(graph, sharing) if sharing else None
    return executor(graph, backend, train=train, keep=keep, seed=seed, params=params)


def shared_params(graph: Graph, trained: Executor) -> dict[int, Array]:
    """Return the arrays of `trained` that the params of another graph of the same net stand for.

    Matched by layer name and place, as Caffe shares a training net's params with its test nets.
    """
    by_place = {
        (node.name, i): trained.params[use.param]
        for node in trained.plan.graph.nodes
        for i, use in enumerate(node.params)
    }
    found: dict[int, Array] = {}
    for node in graph.nodes:
        for i, use in enumerate(node.params):
            array = by_place.get((node.name, i))
            if array is not None and array.shape == graph.params[use.param].shape:
                found.setdefault(use.param, array)
    return found
