"""Which blobs hold labels, indices or flags rather than measurements, and which hold regions."""

from __future__ import annotations

from netc.graph.types import Graph, Node


def discrete_blobs(graph: Graph) -> frozenset[str]:
    """Return the keys of the blobs that are read as whole numbers, as far as the net shows it.

    For whoever makes up an input: a label of 0.37 is no label. Such a blob is a bottom of which its
    layer says so (the labels of a loss, the flags of an LSTM), the first bottom of a layer that
    learns although no gradient flows into it (the indices of an Embed), and whatever reaches only
    such bottoms, unchanged by params.
    """
    found: set[str] = set()
    for node in reversed(graph.nodes):
        passes_on = bool(node.tops) and found.issuperset(node.tops) and not node.params
        found.update(
            key for i, key in enumerate(node.bottoms) if passes_on or _reads_whole(node, i)
        )
    return frozenset(found)


def _reads_whole(node: Node, i: int) -> bool:
    n = len(node.bottoms)
    learns = bool(node.params) and not node.layer.gradient_bottoms(n)[i]
    return learns or node.layer.whole_bottoms(n)[i]


def region_blobs(graph: Graph) -> dict[str, tuple[float, float]]:
    """Return the keys of the blobs that hold regions, with height and width of their image."""
    found: dict[str, tuple[float, float]] = {}
    for node in reversed(graph.nodes):
        types = tuple(graph.blobs[key].type for key in node.bottoms)
        found |= {node.bottoms[i]: size for i, size in node.layer.region_bottoms(types).items()}
        if node.layer.view and any(key in found for key in node.tops):
            found[node.bottoms[0]] = next(found[key] for key in node.tops if key in found)
    return found
