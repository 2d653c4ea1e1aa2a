"""Which blobs hold labels, indices or flags rather than measurements."""

from __future__ import annotations

from netc.graph.types import Graph, Node


def discrete_blobs(graph: Graph) -> frozenset[str]:
    """Return the keys of the blobs that are read as whole numbers, as far as the net shows it.

    For whoever makes up an input: a label of 0.37 is no label. Such a blob is a bottom that no
    gradient flows into although the layer learns or has other bottoms (the labels of a loss, the
    indices of an Embed, the flags of an LSTM), and whatever reaches only such bottoms, unchanged by
    params.
    """
    found: set[str] = set()
    for node in reversed(graph.nodes):
        passes_on = bool(node.tops) and found.issuperset(node.tops) and not node.params
        found.update(
            key for i, key in enumerate(node.bottoms) if passes_on or _reads_whole(node, i)
        )
    return frozenset(found)


def _reads_whole(node: Node, i: int) -> bool:
    # A lone bottom without a gradient (ArgMax, Threshold) is still a measurement.
    stops = not node.layer.gradient_bottoms(len(node.bottoms))[i]
    return stops and (i > 0 or bool(node.params))
