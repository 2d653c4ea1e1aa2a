"""From a net's text to an executor: the stages in a row, for those who run nets.

These are training, pycaffe and the command line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from netc.backends.base import Backend, Layout
from netc.data import DataAbsent, Feed, Item, Sink, open_feed, open_sink, probe
from netc.errors import Problems, Span, fail
from netc.graph.build import NetState, Probed, build, net_state
from netc.graph.reshape import reshaped
from netc.graph.types import Graph
from netc.layers.data import ImageReader, Reader
from netc.layers.types import Array, BlobType, CodeHost, Layer, Phase
from netc.plan import Plan, Updates, plan
from netc.runtime import Executor
from netc.runtime.standin import StandIn, fill_inputs
from netc.schema import Source, netc_pb2, read_net

#: For how many shapes of its data a net remembers the plans.
PLANS = 16

Shapes = Mapping[str, tuple[int, ...]]


class Net:
    """A net's text in a state, shaped: `graph`, and its like for other shapes of its data.

    The arguments are those of `shaped`. The layers are bound once; what the code of a Python layer
    keeps in its object belongs to the net.
    """

    def __init__(
        self,
        source: Source[netc_pb2.NetParameter],
        state: NetState,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        assume: bool = False,
        host: CodeHost | None = None,
    ) -> None:
        self._layers: dict[int, Layer] = {}
        self._shaped = partial(
            shaped, source, state, shapes=shapes, assume=assume, host=host, layers=self._layers
        )
        self.graph = self._shaped()

    def reshaped(self, sizes: Shapes) -> Graph:
        """Return the graph for these sizes, which are as for `build`; no data is looked at."""
        return self._shaped(sizes=sizes)


#: As for `plan`; or what finds the keys in the graph, for those who do not have it yet.
Keep = Iterable[str] | str | Callable[[Graph], Iterable[str]]


class GraphAlone:
    """A graph that no text says, such as a deployed one, and its like for other shapes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def reshaped(self, sizes: Shapes) -> Graph:
        """Return the graph for these sizes."""
        return reshaped(self.graph, sizes)


class Plans:
    """The plans of a net by the shapes of its data, the latest `PLANS` of them: a `Replan`.

    `first` is the one for the shapes that the net has. The arguments are those of `plan`;
    `prepared` makes of each graph the one that is planned. Params lie in all plans as in the first.
    Tops that depend on the data have the shapes that it gives them; with `fill` those that a type
    can fill keep their largest shapes.
    """

    def __init__(
        self,
        net: Net | GraphAlone,
        backend: Backend,
        *,
        train: bool,
        keep: Keep = (),
        updates: Updates = Updates.NONE,
        param_layouts: Mapping[int, Layout | None] | None = None,
        prepared: Callable[[Graph], Graph] = lambda graph: graph,
        fill: bool = False,
    ) -> None:
        self._net, self._prepared = net, prepared
        self._change: Callable[[Graph], Graph] = lambda graph: graph
        if callable(keep):
            keep = keep(net.graph)
        keep = keep if isinstance(keep, str) else tuple(keep)
        self._plan = partial(plan, backend=backend, train=train, keep=keep, updates=updates)
        graph = prepared(net.graph)
        self._follow = [i for i in graph.data_dependent if not (fill and graph.nodes[i].layer.pads)]
        self.first = self._plan(graph, param_layouts=param_layouts, follow=self._follow)
        self._layouts = dict(enumerate(self.first.param_layouts))
        if self._follow:
            # Kernels that found the params' layouts free may ask for others of blobs.
            self.first = self._plan(graph, param_layouts=self._layouts, follow=self._follow)
        sizes = {key: graph.blobs[key].shape for key in graph.outside}
        self._plans = {frozenset(sizes.items()): self.first}

    def __len__(self) -> int:
        """Return how many plans are there."""
        return len(self._plans)

    def __call__(self, sizes: Shapes) -> Plan:
        """Return the plan for these sizes, which are as for `build`.

        Raises NetcError where a layer cannot take them, or would need other params.
        """
        key = frozenset(sizes.items())
        found = self._plans.pop(key, None)
        if found is None:
            graph = self._prepared(self._change(self._net.reshaped(sizes)))
            _check_params(self.first.graph, graph)
            found = self._plan(graph, param_layouts=self._layouts, follow=self._follow)
        self._plans[key] = found
        if len(self._plans) > PLANS:
            del self._plans[next(iter(self._plans))]
        return found

    def adapt(self, change: Callable[[Graph], Graph]) -> None:
        """Have all plans from here on made of what `change` makes of the net."""
        self._change = change
        self._plans.clear()


def _check_params(before: Graph, after: Graph) -> None:
    """Refuse the graph of the same net in other shapes if its params have other shapes too."""
    problems = Problems()
    for old, new in zip(before.nodes, after.nodes, strict=True):
        for i, (use, other) in enumerate(zip(old.params, new.params, strict=True)):
            if use.shape != other.shape:
                bottoms = ", ".join(str(after.blobs[key].type) for key in new.bottoms)
                problems.add(
                    fail(
                        f"param {i} depends on the shape of the data, which has changed",
                        span=new.span,
                        layer=new.label,
                        expected=f"bottoms for which it has the shape {BlobType(use.shape)}",
                        got=f"bottoms {bottoms}: shape {BlobType(other.shape)}",
                        hint="bring all data to one shape (crop_size, new_height and new_width), "
                        "or pool globally before this layer",
                    )
                )
    problems.raise_any()


def load_net(
    path: str | Path,
    phase: Phase,
    level: int = 0,
    stages: Sequence[str] = (),
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    assume: bool = False,
    host: CodeHost | None = None,
) -> Net:
    """Read a net file for one phase; the rest is as for `shaped`."""
    source = read_net(path)
    state = net_state(source.message, phase, level, stages)
    return Net(source, state, shapes=shapes, assume=assume, host=host)


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
    """Return the graph alone, for those who only look at a net."""
    return load_net(path, phase, level, stages, shapes=shapes, assume=assume, host=host).graph


def shaped(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    assume: bool = False,
    leave_open: bool = False,
    host: CodeHost | None = None,
    sizes: Shapes | None = None,
    layers: dict[int, Layer] | None = None,
) -> Graph:
    """Return the shaped graph of a net in a state.

    Data sources are opened to learn their shapes. With `assume` the graph is for looking at: where
    data is absent its shapes are those in `shapes`, else what the settings suggest, and the notes
    say so. Where nothing tells them that is an error, or with `leave_open` a note: the graph then
    lacks the layers that would need them. An upgrade of the text is noted too. `host` allows the
    code of Python layers to run; `sizes` and `layers` are as for `build`.
    """
    look = partial(_probe_or_assume, shapes or {}, leave_open) if assume else probe
    graph = build(source, state, probe=look, shapes=shapes, sizes=sizes, layers=layers, host=host)
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
    """Probe a layer's data; where there is none, take its items for what `shapes` says.

    Or for what its settings suggest.
    """
    try:
        return probe(layer, span)
    except DataAbsent as absent:
        item: Item | None = None
        with contextlib.suppress(DataAbsent):
            item = probe(layer, span, assume=True)
        if not isinstance(layer, Reader) or not layer.top:
            if item is None:
                raise
            return item
        # Labels have the shape that their layer says; the shapes of other tops must be given.
        beside = layer.beside if isinstance(layer, ImageReader) else ()
        needed = layer.top[:1] if isinstance(layer, ImageReader) else layer.top
        if all(name in shapes for name in needed):
            given = tuple(BlobType(tuple(shapes[name][1:])) for name in needed)
            types = item.types if item else given + beside
            return Item(types, f"{absent.what}: its shape is the one given")
        if item is not None:
            return item
        example = " ".join(f"-shape {name}=..." for name in needed)
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
    net: Net,
    backend: Backend,
    *,
    train: bool,
    keep: Keep = (),
    updates: Updates = Updates.NONE,
    seed: int = 0,
    params: Mapping[int, Array] | None = None,
    param_layouts: Mapping[int, Layout | None] | None = None,
) -> Executor:
    """Plan a net, open its data and give it memory; `keep` and `updates` as for `plan`.

    `params` are arrays to share, by index, which lie as `param_layouts` says. The executor follows
    the shapes of the data.
    """
    plans = Plans(
        net, backend, train=train, keep=keep, updates=updates, param_layouts=param_layouts
    )
    return Executor(
        plans.first,
        backend,
        seed=seed,
        params=params,
        feeds=open_feeds(net.graph, seed),
        sinks=open_sinks(net.graph),
        replan=plans,
    )


def timed_executor(
    net: Net,
    backend: Backend,
    *,
    train: bool,
    updates: Updates = Updates.NONE,
    replaced: Iterable[str] = (),
    prepared: Callable[[Graph], Graph] = lambda graph: graph,
) -> tuple[Executor, list[str]]:
    """Do the same for a net whose speed alone matters; return it with remarks.

    Its inputs are filled. Made-up values stand for data that is absent and for that of layers with
    a top among `replaced`, whose shapes are not those of the data. `prepared` is as for `Plans`.
    """
    plans = Plans(net, backend, train=train, updates=updates, prepared=prepared)
    graph = plans.first.graph
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
    timed = Executor(plans.first, backend, feeds=feeds, replan=plans)
    fill_inputs(timed)
    return timed, remarks


def assembled(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    backend: Backend,
    *,
    train: bool,
    keep: Keep = (),
    updates: Updates = Updates.NONE,
    seed: int = 0,
    sharing: Executor | None = None,
    host: CodeHost | None = None,
) -> Executor:
    """Return the executor of a net in a state; its params are those of `sharing` where it can.

    `host` allows the code of Python layers to run.
    """
    net = Net(source, state, host=host)
    if sharing is None:
        return executor(net, backend, train=train, keep=keep, updates=updates, seed=seed)
    shared = _shared(net.graph, sharing)
    layouts = sharing.plan.param_layouts
    return executor(
        net,
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
