"""From a net's text to an executor: the stages in a row, for those who run nets.

These are training, pycaffe and the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from netc.backends.base import Backend, Layout
from netc.data import DataAbsent, Feed, Item, Sink, open_feed, open_sink, probe
from netc.errors import Span
from netc.graph.build import NetState, Probed, build, net_state
from netc.graph.types import Graph
from netc.layers.data import ImageReader, Reader
from netc.layers.types import Array, BlobType, CodeHost, Layer, Phase
from netc.plan import Updates, plan
from netc.runtime import Executor
from netc.runtime.standin import StandIn, fill_inputs
from netc.schema import Source, netc_pb2, read_net


def load_graph(
    path: str | Path,
    phase: Phase,
    level: int = 0,
    stages: Sequence[str] = (),
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    assume: bool = False,
    host: CodeHost | None = None,
) -> Graph:
    """Read a net file and return its shaped graph for one phase; the rest is as for `shaped`."""
    source = read_net(path)
    state = net_state(source.message, phase, level, stages)
    return shaped(source, state, shapes=shapes, assume=assume, host=host)


def shaped(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    assume: bool = False,
    leave_open: bool = False,
    host: CodeHost | None = None,
) -> Graph:
    """Return the shaped graph of a net in a state.

    Data sources are opened to learn their shapes. With `assume` the graph is for looking at: where
    data is absent its shapes are those in `shapes`, else what the settings suggest, and the notes
    say so. Where nothing tells them that is an error, or with `leave_open` a note: the graph then
    lacks the layers that would need them. An upgrade of the text is noted too. `host` allows the
    code of Python layers to run.
    """
    look = partial(_probe_or_assume, shapes or {}, leave_open) if assume else probe
    graph = build(source, state, probe=look, shapes=shapes, host=host)
    upgrades = tuple(f"{source.file}: {change}" for change in source.upgraded)
    return replace(graph, notes=upgrades + graph.notes)


@dataclass(frozen=True, slots=True)
class _Open:
    """The answer for data of which nothing tells the shape."""

    assumed: str
    types: None = None


def _probe_or_assume(
    shapes: Mapping[str, Sequence[int]], leave_open: bool, layer: Layer, span: Span | None
) -> Probed:
    """Probe a layer's data; where there is none, take its items for what `shapes` says."""
    try:
        return probe(layer, span, assume=True)
    except DataAbsent as absent:
        if not isinstance(layer, Reader) or not layer.top:
            raise
        # Labels are one number each, whatever their layer; the shapes of other tops must be given.
        n_needed = 1 if isinstance(layer, ImageReader) else len(layer.top)
        if all(name in shapes for name in layer.top[:n_needed]):
            types = tuple(BlobType(tuple(shapes[name][1:])) for name in layer.top[:n_needed])
            return Item(types, f"{absent.what}: its shape is the one given")
        example = " ".join(f"-shape {name}=..." for name in layer.top[:n_needed])
        if leave_open:
            return _Open(f"{absent.what}: shapes behind it are not checked ({example} tells them)")
        raise DataAbsent(
            absent.what,
            expected=absent.expected,
            got=absent.got,
            hint=f"{absent.hint}\n{example} does without the data".strip(),
            setting=absent.setting,
        ) from absent


def open_feeds(graph: Graph, seed: int) -> dict[int, Feed]:
    """Open the data source of every layer that reads one, by node index."""
    return {
        index: _open(graph, index, seed)
        for index, node in enumerate(graph.nodes)
        if node.layer.reads_data
    }


def open_sinks(graph: Graph) -> dict[int, Sink]:
    """Return what writes the files of every layer that writes one, by node index."""
    return {
        index: open_sink(node.layer, node.name, node.span)
        for index, node in enumerate(graph.nodes)
        if node.layer.writes_data
    }


def _open(graph: Graph, index: int, seed: int) -> Feed:
    node = graph.nodes[index]
    shapes = tuple(graph.blobs[key].shape for key in node.tops)
    return open_feed(node.layer, node.name, shapes, phase=graph.phase, seed=seed, span=node.span)


def executor(
    graph: Graph,
    backend: Backend,
    *,
    train: bool,
    keep: Iterable[str] | str = (),
    updates: Updates = Updates.NONE,
    seed: int = 0,
    params: Mapping[int, Array] | None = None,
    param_layouts: Mapping[int, Layout | None] | None = None,
) -> Executor:
    """Plan a graph, open its data and give it memory; `keep` and `updates` as for `plan`.

    `params` are arrays to share, by index, which lie as `param_layouts` says.
    """
    planned = plan(
        graph, backend, train=train, keep=keep, updates=updates, param_layouts=param_layouts
    )
    return Executor(
        planned,
        backend,
        seed=seed,
        params=params,
        feeds=open_feeds(graph, seed),
        sinks=open_sinks(graph),
    )


def timed_executor(
    graph: Graph,
    backend: Backend,
    *,
    train: bool,
    updates: Updates = Updates.NONE,
    replaced: Iterable[str] = (),
) -> tuple[Executor, list[str]]:
    """Do the same for a net whose speed alone matters; return it with remarks.

    Its inputs are filled. Made-up values stand for data that is absent and for that of layers with
    a top among `replaced`, whose shapes are not those of the data.
    """
    feeds: dict[int, Feed | StandIn] = {}
    remarks = []
    for index, node in enumerate(graph.nodes):
        if not node.layer.reads_data:
            continue
        absent = replaced_here = any(graph.blobs[key].name in replaced for key in node.tops)
        if not replaced_here:
            try:
                probe(node.layer, node.span)
            except DataAbsent:
                absent = True
        if absent:
            feeds[index] = StandIn(graph, index)
            remarks.append(f"layer {node.label} gives random values, and no data is read")
        else:
            feeds[index] = _open(graph, index, 0)
    net = Executor(plan(graph, backend, train=train, updates=updates), backend, feeds=feeds)
    fill_inputs(net)
    return net, remarks


def assembled(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    backend: Backend,
    *,
    train: bool,
    keep: Iterable[str] | str = (),
    updates: Updates = Updates.NONE,
    seed: int = 0,
    sharing: Executor | None = None,
) -> Executor:
    """Return the executor of a net in a state; its params are those of `sharing` where it can."""
    graph = shaped(source, state)
    if sharing is None:
        return executor(graph, backend, train=train, keep=keep, updates=updates, seed=seed)
    shared = _shared(graph, sharing)
    layouts = sharing.plan.param_layouts
    return executor(
        graph,
        backend,
        train=train,
        keep=keep,
        seed=seed,
        params={ours: sharing.params[theirs] for ours, theirs in shared.items()},
        param_layouts={ours: layouts[theirs] for ours, theirs in shared.items()},
    )


def shared_params(graph: Graph, trained: Executor) -> dict[int, Array]:
    """Return the arrays of `trained` that the params of another graph of the same net stand for.

    Matched by layer name and place, as Caffe shares a training net's params with its test nets.
    """
    return {ours: trained.params[theirs] for ours, theirs in _shared(graph, trained).items()}


def _shared(graph: Graph, trained: Executor) -> dict[int, int]:
    """Return for each param of a graph the one of `trained` that it stands for, by index."""
    theirs = trained.plan.graph
    by_place = {
        (node.name, i): use.param for node in theirs.nodes for i, use in enumerate(node.params)
    }
    found: dict[int, int] = {}
    for node in graph.nodes:
        for i, use in enumerate(node.params):
            index = by_place.get((node.name, i))
            if index is None:
                continue
            if theirs.params[index].shape == graph.params[use.param].shape:
                found.setdefault(use.param, index)
    return found
