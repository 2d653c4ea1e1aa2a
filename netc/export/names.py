"""Names for the model: the text's own wherever it has one.

- Inputs and outputs have exactly the text's names. The other blobs too; of a blob that in-place
  layers write several times, the last version has the plain name (as in Caffe, where that is what
  is left in the end) and the earlier ones are `conv1#0`, `conv1#1`. An input that is written in
  place keeps its name for itself, and the later versions are `data#1`, ...
- A node is called after its layer; the further nodes of a layer `bn1/Reshape`.
- A param is called `conv1.weight`, `conv1.bias`, after the layer that owns it; another constant
  after the layer and the input that it is for: `bn1.input_mean`.

A blob that is the same tensor as its bottom (Dropout, Split) has no name of its own, except an
output, which becomes the result of an Identity node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netc.export.builder import Operator, Tensor
from netc.graph.types import Graph


class Names:
    """Hands out names that are not taken yet."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str, separator: str = "_") -> str:
        """Return the name, or the first free one of `name_1`, `name_2`, ..., and take it."""
        free, count = name, 0
        while free in self._taken:
            count += 1
            free = f"{name}{separator}{count}"
        self._taken.add(free)
        return free

    def free(self, name: str) -> bool:
        """Say whether nobody has the name."""
        return name not in self._taken


@dataclass(frozen=True, slots=True)
class Interface:
    """The names of a model's inputs and outputs by blob key, in order."""

    inputs: dict[str, str]
    outputs: dict[str, str]

    @classmethod
    def of(cls, graph: Graph) -> Interface:
        """Return the interface that the model of a graph has.

        An input that nobody reads is an output in Caffe's eyes, but no use as one.
        """
        names = Names()
        inputs = {key: names.unique(graph.blobs[key].name, "#") for key in graph.inputs}
        outputs = [key for key in graph.outputs if key not in inputs]
        return cls(inputs, {key: names.unique(graph.blobs[key].name, "#") for key in outputs})


def name_tensors(
    graph: Graph,
    ends: Interface,
    blobs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    operators: Sequence[Operator],
    opset: int,
) -> dict[Tensor, str]:
    """Return a name for every tensor of the model.

    `blobs` and `outputs` give tensors by blob key; no two outputs are one tensor, nor are an output
    and an input or a constant.
    """
    names = Names()
    found: dict[Tensor, str] = {}
    for key, name in ends.inputs.items():
        found[blobs[key]] = names.unique(name)
    for key, name in ends.outputs.items():
        found[outputs[key]] = names.unique(name)
    made = {tensor for operator in operators for tensor in operator.outputs}
    # Plain names first: a version that is called conv1#0 must not keep the name from a blob that
    # the text calls so.
    for name, key in graph.last.items():
        if blobs[key] in made and blobs[key] not in found and names.free(name):
            found[blobs[key]] = names.unique(name)
    for key, blob in graph.blobs.items():
        if blobs[key] in made and blobs[key] not in found:
            found[blobs[key]] = names.unique(f"{blob.name}#0" if key == blob.name else key)
    _name_constants(graph, operators, opset, names, found)
    for operator in operators:
        for tensor in operator.outputs:
            if tensor not in found:
                found[tensor] = names.unique(f"{graph.nodes[operator.layer].name}/{operator.type}")
    return found


def _name_constants(
    graph: Graph,
    operators: Sequence[Operator],
    opset: int,
    names: Names,
    found: dict[Tensor, str],
) -> None:
    uses: dict[Tensor, str] = {}
    for operator in operators:
        for position, tensor in enumerate(operator.inputs):
            if tensor and tensor.data is not None and tensor not in uses:
                role = operator.formal_name(position, opset) or "constant"
                uses[tensor] = f"{graph.nodes[operator.layer].name}.{role}"
    for tensor in uses:
        if tensor.title:
            found[tensor] = names.unique(tensor.title)
    for tensor, use in uses.items():
        if tensor not in found:
            # A param in another shape is still that param, if the model has it only so.
            origin = tensor.origin
            title = origin.title if origin and origin not in uses else ""
            found[tensor] = names.unique(title or use)


def name_nodes(
    graph: Graph, tops: Mapping[str, Tensor], operators: Sequence[Operator]
) -> list[str]:
    """Return a name for each node: that of the layer for the first one that makes a top of it."""
    names = Names()
    heads: dict[int, int] = {}
    for index, operator in enumerate(operators):
        made = [tops[key] for key in graph.nodes[operator.layer].tops]
        if any(tensor in made for tensor in operator.outputs):
            heads.setdefault(operator.layer, index)
    found = {index: names.unique(graph.nodes[layer].name) for layer, index in heads.items()}
    for index, operator in enumerate(operators):
        if index not in found:
            layer = graph.nodes[operator.layer].name
            found[index] = names.unique(f"{layer}/{operator.type}")
    return [found[index] for index in range(len(operators))]
