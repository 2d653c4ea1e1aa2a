"""The layer graph: plain, immutable data.

Blobs are single-assignment. A name that the text writes twice (in-place layers) becomes `conv1` and
`conv1#1`; a user still says `conv1` and means the last of them. A blob read by several layers needs
no split layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from netc.errors import Span
from netc.layers.fillers import Filler
from netc.layers.types import BlobType, KeptType, Layer, Neurons, Phase, Signature

#: What weight decay can penalise: the absolute values of a param, or their squares.
REGULARIZATION_TYPES = ("L1", "L2")


@dataclass(frozen=True, slots=True)
class Blob:
    """One version of a blob.

    `key` is unique in the graph ("conv1#1"), `name` is what the text says ("conv1"). `node` is the
    index of the producer, `top` its position among the producer's tops. `loss_weight` is 0 for a
    blob outside the objective.
    """

    key: str
    name: str
    type: BlobType
    node: int
    top: int
    loss_weight: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.type.shape


@dataclass(frozen=True, slots=True)
class Param:
    """One learnable blob as the solver sees it; layers that share a name share one of these.

    `owner` is the node whose filler and shape count, `index` its place among that node's params.
    `regularization_type` is L1 or L2, "" where the solver's counts; `neurons` as in `ParamType`.
    """

    owner: int
    index: int
    shape: tuple[int, ...]
    filler: Filler
    lr_mult: float
    decay_mult: float
    name: str = ""
    regularization_type: str = ""
    neurons: Neurons | None = None


@dataclass(frozen=True, slots=True)
class ParamUse:
    """One node's view of a param: `param` indexes `Graph.params`.

    The shape differs only with PERMISSIVE sharing.
    """

    param: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of the net, resolved: its rules, blobs, params and place in the text.

    `propagate_down` holds True, False or None (not said) for each bottom.
    """

    name: str
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[ParamUse, ...]
    signature: Signature
    propagate_down: tuple[bool | None, ...]
    span: Span | None

    @property
    def type(self) -> str:
        """The layer type's name."""
        return self.layer.type

    @property
    def kept(self) -> tuple[KeptType, ...]:
        """The blobs that the layer keeps for itself."""
        return self.signature.kept

    @property
    def label(self) -> str:
        """`'conv1' (Convolution)`, for messages."""
        return f"'{self.name}' ({self.type})"


@dataclass(frozen=True)
class Graph:
    """A net for one phase, shaped. `blobs` maps keys to blobs in order of production.

    `notes` are remarks for the user (an assumed shape, an upgrade). `asked` are the keys of the
    outputs that somebody chose, None for the net's own.
    """

    name: str
    phase: Phase
    nodes: tuple[Node, ...]
    blobs: dict[str, Blob]
    params: tuple[Param, ...]
    force_backward: bool = False
    notes: tuple[str, ...] = ()
    file: str = ""
    asked: frozenset[str] | None = None

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Blob key -> indices of the nodes that read it, once per bottom, in order."""
        found: dict[str, list[int]] = {key: [] for key in self.blobs}
        for index, node in enumerate(self.nodes):
            for key in node.bottoms:
                found[key].append(index)
        return {key: tuple(nodes) for key, nodes in found.items()}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Keys of the blobs that the caller sets, in order."""
        return tuple(key for node in self.nodes if node.layer.fed for key in node.tops)

    @cached_property
    def outside(self) -> tuple[str, ...]:
        """Keys of the blobs whose shapes come from outside: inputs and data, in order."""
        return tuple(
            key
            for node in self.nodes
            if node.layer.fed or node.layer.reads_data
            for key in node.tops
        )

    @cached_property
    def data_dependent(self) -> tuple[int, ...]:
        """Indices of the nodes whose tops have shapes that only the forward pass tells."""
        return tuple(i for i, node in enumerate(self.nodes) if node.layer.data_dependent)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Keys of the chosen blobs, else of those that no layer reads, in order of production."""
        if self.asked is not None:
            return tuple(key for key in self.blobs if key in self.asked)
        return tuple(key for key, readers in self.readers.items() if not readers)

    @cached_property
    def last(self) -> dict[str, str]:
        """Blob name in the text -> key of its last version."""
        return {blob.name: key for key, blob in self.blobs.items()}

    @cached_property
    def loss_blobs(self) -> tuple[Blob, ...]:
        """The blobs with a loss weight, in order."""
        return tuple(blob for blob in self.blobs.values() if blob.loss_weight)

    def node_index(self, name: str) -> int:
        """Return the index of the first node of that name; KeyError if there is none."""
        for index, node in enumerate(self.nodes):
            if node.name == name:
                return index
        raise KeyError(name)

    def verify(self) -> None:
        """Check the invariants; AssertionError names the broken one.

        Run after every pass in tests.
        """
        produced: set[str] = set()
        for index, node in enumerate(self.nodes):
            for key in node.bottoms:
                assert key in produced, f"{node.label} reads {key} before it is produced"
            assert len(node.tops) == len(node.signature.tops), (
                f"{node.label}: tops and types differ"
            )
            for position, (key, blob_type) in enumerate(
                zip(node.tops, node.signature.tops, strict=True)
            ):
                blob = self.blobs[key]
                assert key not in produced, f"{key} is produced twice"
                assert (blob.key, blob.node, blob.top) == (key, index, position), (
                    f"{key} is misfiled"
                )
                assert blob.type == blob_type, (
                    f"{key}: shape {blob.type} is not that of its producer"
                )
                produced.add(key)
            assert len(node.params) == len(node.signature.params), f"{node.label}: params differ"
            for use, declared in zip(node.params, node.signature.params, strict=True):
                assert 0 <= use.param < len(self.params), f"{node.label}: no param {use.param}"
                assert use.shape == declared.shape, f"{node.label}: param shapes differ"
            assert len(node.propagate_down) == len(node.bottoms), f"{node.label}: propagate_down"
        assert produced == set(self.blobs), "a blob lacks a producer"
