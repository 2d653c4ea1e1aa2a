"""The contract between plan, runtime and backends."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from netc.graph.types import Node
from netc.layers.types import Array, ArrayNamespace, KeptType, Reads

# A step ready to run: everything is looked up and shaped, calling it does the work.
Prepared = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Declined:
    """A backend's answer for nodes it has no kernel for.

    With the reason that `netc time -plan` shows.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How the elements of an array lie in memory where that is not float32 in C order.

    `name` is the backend's word for it ("aBcd16b"), for arrays of `dims`; these are the shape of
    the blob, or a shape with as many elements that the backend sees it in. `nbytes` counts the
    padding that the layout needs, which holds zeros. `dtype` is what NumPy takes the memory for:
    "uint16" where it holds bfloat16. None stands for float32 in C order everywhere.
    """

    dims: tuple[int, ...]
    name: str
    nbytes: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return self.name


class Precision(enum.Enum):
    """What kernels compute in: float32, or bfloat16 with sums, params and statistics in float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Job:
    """What a kernel is asked for: one node, or a chain of nodes run as one.

    `bottoms` are the shapes that come from outside the chain, `layouts` how they lie in memory.
    `params` are the layouts that the params have already, "" for those that are still free. `train`
    says whether backward runs, the wants for what. `pieces`: whose gradients may be handed over in
    pieces, as nobody needs them whole. `precision` is what the user asks for: kernels that gain
    nothing by bfloat16 may stay with float32, all others of a chain follow their bottom.
    """

    nodes: tuple[Node, ...]
    bottoms: tuple[tuple[int, ...], ...]
    tops: tuple[tuple[int, ...], ...]
    layouts: tuple[Layout | None, ...]
    params: tuple[Layout | str | None, ...]
    train: bool
    wants_bottoms: tuple[bool, ...]
    wants_params: tuple[bool, ...]
    pieces: tuple[bool, ...] = ()
    precision: Precision = Precision.FP32

    @property
    def node(self) -> Node:
        """The first node: the only one, unless it is a chain."""
        return self.nodes[0]


@dataclass(frozen=True, slots=True)
class Binding:
    """The arrays and facts of one step, each array in the layout that the kernel asked for.

    Arrays in C order have the blob's shape; the others are flat, padding included. Diffs that
    nobody wants are None. `adds[i]`: the gradient for bottom i is added to what its diff holds;
    only for kernels that can add. Gradients of params overwrite. `hand_over(i, start, piece)` takes
    elements start.. of the gradient of param i, as the param lies in memory, where the terms say
    that it comes in pieces; the param may change during the call. `scratch` is memory for
    the duration of the step. `random()` gives the numpy Generator of (seed, layer, pass),
    `progress()` the share of the training that is done.

    Where only the forward pass finds the shapes of the tops, `tops` is empty: `place(shapes)` then
    gives the arrays, in C order, and may be called once in each run of the step.
    """

    node: Node
    bottoms: tuple[Array, ...]
    tops: tuple[Array, ...]
    params: tuple[Array, ...]
    kept: tuple[Array, ...]
    top_diffs: tuple[Array, ...]
    bottom_diffs: tuple[Array | None, ...]
    param_diffs: tuple[Array | None, ...]
    adds: tuple[bool, ...]
    random: Callable[[], Any]
    progress: Callable[[], float]
    scratch: Array
    hand_over: Callable[[int, int, Array], None]
    place: Callable[[Sequence[tuple[int, ...]]], tuple[Array, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a kernel needs from the plan.

    `bottoms`, `tops` and `params`: the layouts that it takes, also of the diffs. `kept`: what it
    leaves in forward for backward. `reads`: what its backward looks at. `in_place`: the top may lie
    where bottom 0 lies, the diff of bottom 0 where that of the top lies. `can_add`: its gradients
    for bottoms can be added to what is there. `pieces`: the params, by place, whose gradients it
    hands over in pieces instead of writing them anywhere. `again`: prepares, as
    `Kernel.forward` does, to compute the top once more in the backward pass, with the same bits,
    from the bottom and what the kernel keeps; for kernels to which that is little work.
    `forward_scratch` and `backward_scratch`: bytes for the duration of a step. `reorders`: copies
    between layouts inside the kernel, for printing.
    """

    bottoms: tuple[Layout | None, ...]
    tops: tuple[Layout | None, ...]
    params: tuple[Layout | None, ...]
    kept: tuple[KeptType, ...] = ()
    reads: Reads = Reads.NOTHING
    in_place: bool = False
    can_add: bool = False
    pieces: frozenset[int] = frozenset()
    again: Callable[[Binding], Prepared] | None = None
    forward_scratch: int = 0
    backward_scratch: int = 0
    reorders: tuple[str, ...] = ()


class Kernel(Protocol):
    """A node, or a chain of nodes, on one backend: both directions."""

    @property
    def terms(self) -> Terms:
        """What it needs from the plan."""
        ...

    def forward(self, binding: Binding) -> Prepared:
        """Do all the work that need not be repeated and return the call that is."""
        ...

    def backward(self, binding: Binding) -> Prepared:
        """Likewise for the backward pass."""
        ...


class MomentumStep(Protocol):
    """v = momentum v + rate (g + decay w); w -= v, for flat arrays, in place."""

    def __call__(
        self, values: Array, gradient: Array, history: Array, *, rate: float, momentum: float,
        decay: float,
    ) -> int:  # fmt: skip
        """Do it for some of the first elements; return how many."""
        ...


class Backend(Protocol):
    """A device or library that runs nodes."""

    @property
    def name(self) -> str:
        """The name on the command line and in plans."""
        ...

    @property
    def xp(self) -> ArrayNamespace:
        """The array namespace of its memory."""
        ...

    def candidates(self) -> Sequence[Backend]:
        """Return the backends to ask for a kernel, this one first, the reference last."""
        ...

    def chains(self) -> Sequence[tuple[str, ...]]:
        """Return the chains of layer types that it may run as one, the longest first."""
        ...

    def kernel_for(self, job: Job) -> Kernel | Declined:
        """Return a kernel, or why there is none."""
        ...

    def reorder(
        self,
        shape: tuple[int, ...],
        source: Array,
        source_layout: Layout | None,
        target: Array,
        target_layout: Layout | None,
        *,
        add: bool = False,
    ) -> Prepared:
        """Return the call that copies between layouts, or adds to the target.

        `shape` is that of the blob.
        """
        ...

    def momentum_step(self) -> MomentumStep | None:
        """Return a fast form of this step, None where NumPy's operations are the fastest."""
        ...

    def allocate(self, nbytes: int) -> Array:
        """Return zeroed memory as a uint8 array, aligned to a cache line."""
        ...

    def to_host(self, array: Array) -> Any:
        """Return a NumPy view or copy."""
        ...

    def synchronize(self) -> None:
        """Wait until all started work is done."""
        ...
