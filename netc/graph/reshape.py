"""A shaped graph for other shapes of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from netc.errors import Problem, Problems
from netc.graph.types import Blob, Graph, Node
from netc.layers.types import BlobType, Refusal, Signature

Check = Callable[[Node, Signature], None]


def reshaped(
    graph: Graph,
    sizes: Mapping[str, tuple[int, ...]],
    check: Check = lambda node, signature: None,
) -> Graph:
    """Return the same net with these shapes of inputs and of tops that depend on the data, by key.

    Every shape rule is asked again; layers that were expanded stay the ones they were expanded to.
    `check` may refuse what a rule says. Raises NetcError naming each layer that cannot follow.
    """
    problems = Problems()
    nodes: list[Node] = []
    blobs: dict[str, Blob] = {}
    for node in graph.nodes:
        try:
            signature = _signature(node, tuple(blobs[key].type for key in node.bottoms), sizes)
            check(node, signature)
        except Refusal as refusal:
            problems.add(problem(node, refusal))
            # The tops keep their shapes, so that one mistake is not told again by all that follow.
            signature = node.signature
        nodes.append(dataclasses.replace(node, signature=signature))
        for key, blob_type in zip(node.tops, signature.tops, strict=True):
            blobs[key] = dataclasses.replace(graph.blobs[key], type=blob_type)
    problems.raise_any()
    return dataclasses.replace(graph, nodes=tuple(nodes), blobs=blobs)


def _signature(
    node: Node, bottoms: tuple[BlobType, ...], sizes: Mapping[str, tuple[int, ...]]
) -> Signature:
    signature = node.signature if not bottoms else node.layer.infer(*bottoms)
    tops = signature.tops[: len(node.tops)]
    if node.layer.fed or node.layer.data_dependent:
        tops = tuple(
            BlobType(sizes[key]) if key in sizes else blob_type
            for key, blob_type in zip(node.tops, tops, strict=True)
        )
    return dataclasses.replace(signature, tops=tops)


def problem(node: Node, refusal: Refusal) -> Problem:
    """Return what a layer refused, with its place in the text."""
    return Problem(refusal.what, node.span, node.label, refusal.expected, refusal.got, refusal.hint)
