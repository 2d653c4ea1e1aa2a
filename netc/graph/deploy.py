"""The net for inference, derived from the text that trains it.

Data layers become inputs, losses their activations, accuracies go, and with them all that only they
needed. So one file is enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from netc.errors import fail, nearest
from netc.graph.types import Blob, Graph, Node, ParamUse
from netc.layers.input import BlobShape, Input
from netc.layers.types import Layer

ACTIVATION_TOP = "prob"


def deploy(graph: Graph) -> Graph:
    """Return the graph for inference of a TEST graph.

    Its params are those of `graph` that are still used. The activation of a net's only loss is
    called "prob", as in Caffe's deploy files; several are called after their layers. Raises
    NetcError when nothing is left to compute.
    """
    stands: list[Layer | None] = [node.layer.deployed() for node in graph.nodes]
    tops = _activation_tops(graph, stands)
    wanted = _outputs(graph, stands)
    kept = _ancestors(graph, stands, wanted)
    if all(graph.nodes[i].layer.is_source() for i in kept):
        raise fail(
            f"net '{graph.name}' computes nothing for inference",
            expected="a layer that is neither data nor accuracy",
            got=f"{len(graph.nodes)} layers: {', '.join(n.type for n in graph.nodes[:6])}",
        )
    read = {
        key
        for i in kept
        for key in graph.nodes[i].bottoms[: 1 if _replaced(graph, stands, i) else None]
    } | wanted
    nodes = []
    for i in sorted(kept):
        node = graph.nodes[i]
        if node.layer.is_source():
            node = _as_input(node, graph, read)
        elif _replaced(graph, stands, i):
            node = _as_activation(node, graph, stands[i], tops[i])
        nodes.append(node)
    return _rebuilt(graph, nodes)


def select(graph: Graph, names: Sequence[str]) -> Graph:
    """Return the part of a graph that some blobs need, with these as its outputs.

    `names` are the text's; of a blob that layers write in place the last version is meant. A blob
    may be an output and be read by layers too. Raises NetcError for names that the net does not
    have.
    """
    for name in names:
        if name not in graph.last:
            raise fail(
                f"net '{graph.name}' has no blob '{name}' to give out",
                expected=", ".join(graph.last),
                got=name,
                hint=nearest(name, graph.last),
            )
    wanted = {graph.last[name] for name in names}
    kept = sorted(_ancestors(graph, [node.layer for node in graph.nodes], wanted))
    read = {key for i in kept for key in graph.nodes[i].bottoms} | wanted
    nodes = [graph.nodes[i] for i in kept]
    nodes = [_as_input(node, graph, read) if node.layer.fed else node for node in nodes]
    return dataclasses.replace(_rebuilt(graph, nodes), asked=frozenset(wanted))


def _rebuilt(graph: Graph, kept: Iterable[Node]) -> Graph:
    """Return a graph of some nodes, its params and blobs numbered anew."""
    nodes: list[Node] = []
    blobs: dict[str, Blob] = {}
    params: dict[int, int] = {}
    owners: dict[int, int] = {}
    for node in kept:
        for use in node.params:
            if use.param not in params:
                params[use.param] = len(params)
                owners[use.param] = len(nodes)
        uses = tuple(ParamUse(params[use.param], use.shape) for use in node.params)
        for position, (key, blob_type) in enumerate(
            zip(node.tops, node.signature.tops, strict=True)
        ):
            name = graph.blobs[key].name if key in graph.blobs else key
            blobs[key] = Blob(key, name, blob_type, len(nodes), position)
        nodes.append(dataclasses.replace(node, params=uses))
    return dataclasses.replace(
        graph,
        nodes=tuple(nodes),
        blobs=blobs,
        params=tuple(dataclasses.replace(graph.params[old], owner=owners[old]) for old in params),
        force_backward=False,
    )


def _replaced(graph: Graph, stands: list[Layer | None], i: int) -> bool:
    return stands[i] is not None and stands[i] is not graph.nodes[i].layer


def _activation_tops(graph: Graph, stands: list[Layer | None]) -> dict[int, str]:
    """Name the activations that stand for losses."""
    replaced = [i for i in range(len(stands)) if _replaced(graph, stands, i)]
    names = {blob.name for blob in graph.blobs.values()}
    found = {}
    for i in replaced:
        node = graph.nodes[i]
        if len(node.tops) > 1:
            found[i] = node.tops[1]
        elif len(replaced) == 1 and ACTIVATION_TOP not in names:
            found[i] = ACTIVATION_TOP
        else:
            found[i] = f"{node.name}_{ACTIVATION_TOP}"
    return found


def _outputs(graph: Graph, stands: list[Layer | None]) -> set[str]:
    """Return the keys of the blobs that must be computed: kept outputs, and the scores of losses.

    Of a net that has none, what its dropped layers judge: detections that are only evaluated.
    """
    wanted: set[str] = set()
    judged: set[str] = set()
    for i, node in enumerate(graph.nodes):
        if stands[i] is None:
            (wanted if node.layer.loss else judged).update(node.bottoms[:1])
        elif _replaced(graph, stands, i):
            wanted.add(node.bottoms[0])
        elif not node.layer.is_source():
            wanted.update(key for key in node.tops if not graph.readers[key])
    return wanted or judged


def _ancestors(graph: Graph, stands: list[Layer | None], wanted: set[str]) -> set[int]:
    """Return the nodes that the wanted blobs need, and the activations themselves."""
    kept = {i for i in range(len(stands)) if _replaced(graph, stands, i)}
    open_keys = list(wanted)
    while open_keys:
        producer = graph.blobs[open_keys.pop()].node
        if producer in kept:
            continue
        kept.add(producer)
        open_keys += graph.nodes[producer].bottoms
    return kept


def _as_input(node: Node, graph: Graph, read: set[str]) -> Node:
    keys = tuple(key for key in node.tops if key in read)
    layer = Input(
        shape=tuple(BlobShape(graph.blobs[key].shape) for key in keys),
        top=tuple(graph.blobs[key].name for key in keys),
    )
    return dataclasses.replace(
        node, layer=layer, tops=keys, signature=layer.infer(), params=(), propagate_down=()
    )


def _as_activation(node: Node, graph: Graph, layer: Layer | None, top: str) -> Node:
    assert layer is not None
    bottom = node.bottoms[0]
    return dataclasses.replace(
        node,
        layer=layer,
        bottoms=(bottom,),
        tops=(top,),
        params=(),
        signature=layer.infer(graph.blobs[bottom].type),
        propagate_down=(None,),
    )
