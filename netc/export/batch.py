"""Another batch size for a shaped net, and whether its size can be left open.

The shape rules decide, not ONNX: every rule is asked again with another first axis of the inputs.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from netc.errors import NetcError, Problems, fail
from netc.graph.reshape import problem, reshaped
from netc.graph.types import Graph, Node
from netc.layers.types import BlobType, Refusal, Signature


def batch_size(graph: Graph) -> int:
    """Return the size of the inputs' first axis; NetcError if they disagree or there is none."""
    shapes = {graph.blobs[key].name: graph.blobs[key].type for key in graph.inputs}
    sizes = {blob_type.shape[0] for blob_type in shapes.values() if blob_type.axes}
    if len(sizes) == 1:
        return sizes.pop()
    raise fail(
        "the batch size cannot be changed: the inputs do not have one size in their first axis",
        expected="inputs of shapes (N, ...) with the same N",
        got=", ".join(f"'{name}' of shape {t}" for name, t in shapes.items()) or "no inputs",
        hint="export without -batch, with the shapes of the text",
    )


def with_batch(graph: Graph, n: int) -> Graph:
    """Return the same net with n as the first axis of every input, shaped anew.

    Raises NetcError naming each layer that refuses the size, or whose params depend on it.
    """
    batch_size(graph)
    sizes = {key: graph.blobs[key].shape for key in graph.inputs}
    return reshaped(
        graph,
        {key: (n, *shape[1:]) for key, shape in sizes.items() if shape},
        partial(_check_params, n=n),
    )


def _check_params(node: Node, signature: Signature, n: int) -> None:
    for before, after in zip(node.signature.params, signature.params, strict=True):
        if before.shape != after.shape:
            raise Refusal(
                "the params depend on the batch size",
                expected=f"a param of shape {BlobType(before.shape)}, as in the weights",
                got=f"shape {BlobType(after.shape)} with batch size {n}",
                hint="export with the batch size of the text",
            )


def open_blobs(graph: Graph) -> frozenset[str]:
    """Return the keys of the blobs whose first axis is the batch, all other axes being fixed.

    The others do not depend on the batch size. Raises NetcError naming each layer that mixes the
    batch axis with others, or fixes it.
    """
    n = batch_size(graph)
    problems = Problems()
    try:
        other = with_batch(graph, n + 1)
    except NetcError as error:
        for found_problem in error.problems:
            what = f"works with batch size {n} only; with {n + 1}: {found_problem.what}"
            hint = f"export with a fixed batch size: -batch {n}"
            problems.add(dataclasses.replace(found_problem, what=what, hint=hint))
    problems.raise_any()
    found: set[str] = set()
    blamed: set[str] = set()
    for node in graph.nodes:
        for key in node.tops:
            before, after = graph.blobs[key].type, other.blobs[key].type
            if before == after:
                continue
            if before.axes and after.shape == (n + 1, *before.shape[1:]) and before.shape[0] == n:
                found.add(key)
            elif not blamed.intersection(node.bottoms):
                # Told once: what reads such a blob is not to blame.
                got = ", ".join(str(graph.blobs[k].type) for k in node.bottoms)
                problems.add(problem(node, mixed(f"{got} to {before}", n)))
                blamed.add(key)
            else:
                blamed.add(key)
    problems.raise_any()
    return frozenset(found)


def mixed(got: str, n: int) -> Refusal:
    """Return the refusal to leave the batch size open at a layer that turns shapes as in `got`."""
    return Refusal(
        "the batch axis is mixed with others, so that its size cannot be left open",
        expected="a top of shape (N, ...) for a bottom of shape (N, ...)",
        got=got,
        hint=f"export with a fixed batch size: -batch {n}",
    )


def counted_blobs(graph: Graph) -> dict[str, str]:
    """Return the keys of blobs whose first axis is a number of items that only the data tell.

    With a name for that number: the layer's that selects them. Raises NetcError naming each layer
    that cannot follow the number.
    """
    found: dict[str, str] = {}
    problems = Problems()
    for index in graph.data_dependent:
        node = graph.nodes[index]
        if node.layer.pads:
            continue
        shapes = {key: graph.blobs[key].shape for key in node.tops}
        sizes = {key: (shape[0] + 1, *shape[1:]) for key, shape in shapes.items() if shape}
        try:
            other = reshaped(graph, sizes)
        except NetcError as error:
            for told in error.problems:
                what = f"does not follow the items that {node.label} gives: {told.what}"
                problems.add(dataclasses.replace(told, what=what))
            continue
        for key, blob in graph.blobs.items():
            before, after = blob.shape, other.blobs[key].shape
            if before != after and after == (before[0] + 1, *before[1:]):
                found[key] = node.name
    problems.raise_any()
    return found
