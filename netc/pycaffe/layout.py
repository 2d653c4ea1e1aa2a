"""The net as pycaffe shows it: the text's layers, and the Split layers that Caffe adds.

netc's graph needs no Split: a blob may have any number of readers. Users of pycaffe see Caffe's,
though: in the list of layers, as blobs such as `conv1_relu1_0_split_0`, as the output that a
weighted blob with readers turns into, and in what backward over a part of the net leaves in the
diffs, because there each reader has a diff of its own.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from netc.graph.build import AUTOMATIC_TOP
from netc.graph.types import Blob, Graph, Node
from netc.layers.shape import Split
from netc.schema import netc_pb2


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer as users count them.

    `first` and `last` are the nodes that it consists of: several where its type stands for a small
    net. `bottoms` and `tops` are blob names.
    """

    name: str
    type: str
    first: int
    last: int
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A graph with Caffe's Split layers, and its layers and blobs in Caffe's order.

    `blobs` maps the name of each blob to the keys of its versions, of which there are several where
    layers work in place. Outputs are in alphabetical order, as in Caffe.
    """

    graph: Graph
    layers: tuple[LayerView, ...]
    blobs: dict[str, tuple[str, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def lay_out(graph: Graph, messages: Iterable[netc_pb2.LayerParameter]) -> Layout:
    """Return the layout of a graph; `messages` are the layers of its text that belong to it."""
    layers = [
        (_reading(graph, message, nodes), message)
        for message, nodes in _by_layer(graph.nodes, messages)
    ]
    splitting = _Splitting(
        graph, Counter(key for layer, _ in layers for key in layer.reads if key is not None)
    )
    for layer, message in layers:
        splitting.add(layer, message)
    return splitting.finished()


def _by_layer(
    nodes: Sequence[Node], messages: Iterable[netc_pb2.LayerParameter]
) -> Iterator[tuple[netc_pb2.LayerParameter, range]]:
    """Yield the layers of the text, each with the nodes that it became."""
    at = 0
    for message in messages:
        first = nodes[at]
        end = at + 1
        if first.name != message.name:
            # A small net. Its nodes are named after the layer, and lie at its place in the text.
            prefix = f"{message.name}/"
            while (
                end < len(nodes)
                and nodes[end].name.startswith(prefix)
                and nodes[end].span == first.span
            ):
                end += 1
        yield message, range(at, end)
        at = end
    assert at == len(nodes), "a node belongs to no layer of the text"


@dataclass(frozen=True, slots=True)
class _Reading:
    """A layer of the text: its nodes, the keys that it reads, once for each bottom, and its tops.

    A small net reads a bottom once, however many of its nodes do. A bottom that it names twice or
    makes no use of has no key.
    """

    nodes: range
    reads: tuple[str | None, ...]
    tops: tuple[str, ...]


def _reading(graph: Graph, message: netc_pb2.LayerParameter, nodes: range) -> _Reading:
    tops = tuple(message.top)
    if len(nodes) == 1:
        node = graph.nodes[nodes[0]]
        tops = tops or tuple(graph.blobs[key].name for key in node.tops)
        return _Reading(nodes, node.bottoms, tops)
    outside = {
        graph.blobs[key].name: key
        for index in nodes
        for key in graph.nodes[index].bottoms
        if graph.blobs[key].node not in nodes
    }
    reads = tuple(outside.pop(name, None) for name in message.bottom)
    return _Reading(nodes, reads, tops)


@dataclass
class _Splitting:
    """Builds the new graph layer by layer, naming and numbering things as Caffe's InsertSplits."""

    graph: Graph
    n_reads: Counter[str]
    nodes: list[Node] = field(default_factory=list)
    blobs: dict[str, Blob] = field(default_factory=dict)
    layers: list[LayerView] = field(default_factory=list)
    # Old index of a node -> new one.
    moved: dict[int, int] = field(default_factory=dict)
    # Key of a blob with several readers -> its copies that no reader has yet.
    copies: dict[str, list[str]] = field(default_factory=dict)

    def add(self, layer: _Reading, message: netc_pb2.LayerParameter) -> None:
        """Add a layer of the text, and a Split behind it for each top that needs one."""
        taken = [None if key is None else self._copy_of(key) for key in layer.reads]
        instead = dict(zip(layer.reads, taken, strict=True))
        single = len(layer.nodes) == 1
        first = len(self.nodes)
        for index in layer.nodes:
            node = self.graph.nodes[index]
            bottoms = taken if single else [instead.get(key) or key for key in node.bottoms]
            self.moved[index] = len(self.nodes)
            self._append(dataclasses.replace(node, bottoms=tuple(b for b in bottoms if b)))
        self.layers.append(
            LayerView(
                message.name,
                message.type,
                first,
                len(self.nodes) - 1,
                tuple(
                    name if key is None else self.blobs[key].name
                    for name, key in zip(message.bottom, taken, strict=True)
                ),
                layer.tops,
            )
        )
        for index in layer.nodes:
            for key in self.graph.nodes[index].tops:
                if self.graph.blobs[key].name in layer.tops:
                    self._split(key, message, layer.tops)

    def _copy_of(self, key: str) -> str:
        copies = self.copies.get(key)
        return copies.pop(0) if copies else key

    def _append(self, node: Node, weights: Sequence[float] | None = None) -> None:
        for top, (key, blob_type) in enumerate(zip(node.tops, node.signature.tops, strict=True)):
            old = self.graph.blobs.get(key)
            weight = weights[top] if weights else old.loss_weight if old else 0.0
            name = old.name if old else key
            self.blobs[key] = Blob(key, name, blob_type, len(self.nodes), top, weight)
        self.nodes.append(node)

    def _split(self, key: str, message: netc_pb2.LayerParameter, tops: tuple[str, ...]) -> None:
        """Copy a blob for its readers where there are several.

        The objective counts as one, and gets the first copy, where the text gives the weight.
        """
        blob = self.blobs[key]
        weighted = bool(message.loss_weight) and blob.loss_weight != 0
        n_copies = self.n_reads[key] + weighted
        if n_copies < 2:
            return
        name = f"{blob.name}_{message.name}_{tops.index(blob.name)}_split"
        copies = tuple(f"{name}_{i}" for i in range(n_copies))
        if any(copy in self.graph.blobs or copy in self.blobs for copy in copies):
            return  # A blob of the text has this name; the readers can do without copies.
        split = Split(top=copies)
        signature = split.infer(blob.type)
        span = self.nodes[blob.node].span
        weights = [0.0] * n_copies
        if weighted:
            weights[0] = blob.loss_weight
            self.blobs[key] = dataclasses.replace(blob, loss_weight=0.0)
        index = len(self.nodes)
        self._append(Node(name, split, (key,), copies, (), signature, (None,), span), weights)
        self.layers.append(LayerView(name, split.type, index, index, (blob.name,), copies))
        self.copies[key] = list(copies[weighted:])

    def finished(self) -> Layout:
        graph = dataclasses.replace(
            self.graph,
            nodes=tuple(self.nodes),
            blobs=self.blobs,
            params=tuple(
                dataclasses.replace(param, owner=self.moved[param.owner])
                for param in self.graph.params
            ),
        )
        named: dict[str, tuple[str, ...]] = {}
        for layer in self.layers:
            for node in self.nodes[layer.first : layer.last + 1]:
                for key in node.tops:
                    name = self.blobs[key].name
                    if name == AUTOMATIC_TOP:
                        named[name] = (key,)  # Each is a blob by itself; the last one is seen.
                    elif name in layer.tops:
                        named[name] = (*named.get(name, ()), key)
        outputs = {graph.blobs[key].name for key in graph.outputs}
        return Layout(
            graph,
            tuple(self.layers),
            named,
            tuple(graph.blobs[key].name for key in graph.inputs),
            tuple(sorted(outputs & named.keys() - {AUTOMATIC_TOP})),
        )
