"""The plan: plain data saying what runs, in which order, with which kernel, in which memory."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from functools import cached_property

from netc.backends.base import Kernel, Layout
from netc.graph.types import Graph, ParamUse

# What a value of each type that buffers may have takes in memory.
ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "bool": 1,
}


class Direction(enum.Enum):
    """Which pass a step belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Updates(enum.Enum):
    """Whether the backward pass updates params, and what the solver makes of a gradient.

    NONE: gradients stay until they are cleared. WHOLE: a param is updated from its gradient, with
    no regard to those of others. PIECES: so is each element of a param, with no regard to others.
    """

    NONE = "none"
    WHOLE = "whole"
    PIECES = "pieces"


@dataclass(frozen=True, slots=True)
class Need:
    """Who needs a gradient: per node whether its backward runs.

    And for which bottoms and params.
    """

    runs: tuple[bool, ...]
    bottoms: tuple[tuple[bool, ...], ...]
    params: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, slots=True)
class Storage:
    """A piece of memory. `offset` is its place in the arena in bytes; None: memory of its own.

    `first` and `last` are the times of its life: forward of node i is time i, backward of node i of
    n is 2n-1-i.
    """

    nbytes: int
    first: int
    last: int
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Buffer:
    """A typed view of a storage: the data or diff of a blob version, a kept blob, or a copy.

    `layout` None: C order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    storage: int
    layout: Layout | None = None

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        if self.layout is not None:
            return self.layout.nbytes
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call.

    `nodes` are the layers that it runs, `node` the first of them. `adds[i]` says whether the
    gradient for bottom i adds to what its diff holds already or overwrites it. A step of the
    backward pass with `again` computes a top once more, for that layer and those that come later.
    `kernel` names the backend whose kernel runs, `declined` why faster ones do not; `choice` is its
    place in `Plan.kernels`. The other fields are buffers, and the params in the layers' order.
    """

    node: int
    direction: Direction
    kernel: str
    declined: tuple[str, ...] = ()
    adds: tuple[bool, ...] = ()
    nodes: tuple[int, ...] = ()
    choice: int = 0
    bottoms: tuple[int, ...] = ()
    tops: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    top_diffs: tuple[int, ...] = ()
    bottom_diffs: tuple[int | None, ...] = ()
    scratch: int | None = None
    params: tuple[ParamUse, ...] = ()
    wants_params: tuple[bool, ...] = ()
    again: int | None = None


@dataclass(frozen=True, slots=True)
class Reorder:
    """A copy from one layout to another, on behalf of a layer; with `add`, added to the target."""

    node: int
    direction: Direction
    source: int
    target: int
    add: bool = False


@dataclass(frozen=True, slots=True)
class Fill:
    """Before the backward pass reaches a blob that is in the objective and also read.

    Start its diff at its weight.
    """

    blob: str
    value: float


@dataclass(frozen=True, slots=True)
class Update:
    """The moment from which the gradient of a param is complete and nobody reads the param again.

    The solver may change the param here; the gradient, a buffer like any other, is dead behind it.
    """

    node: int
    param: int
    gradient: int


@dataclass(frozen=True)
class Plan:
    """What the runtime runs, frozen and printable.

    `data` and `diff` map blob keys to buffers, `kept` maps (node, i). A diff that no gradient
    reaches is absent from `diff`, a blob inside a chain of layers that run as one from both; a blob
    that shares memory with another names the same storage. A node whose tops all lie where its
    bottom lies has no step. `param_layouts` says how each param and its gradient lie.
    `updated` are the params that the backward pass updates, `param_diff` the buffers of their
    gradients, as far as these do not come in pieces; both are empty where gradients have memory of
    their own and stay until they are cleared. `follow` are the nodes after which another plan may
    go on: what lives across them has memory of its own.
    """

    graph: Graph
    train: bool
    keep_all: bool
    follow: frozenset[int]
    need: Need
    forward: tuple[Step | Reorder, ...]
    backward: tuple[Step | Reorder | Fill | Update, ...]
    kernels: tuple[Kernel | None, ...] = field(repr=False, compare=False)
    buffers: tuple[Buffer, ...]
    storages: tuple[Storage, ...]
    data: dict[str, int]
    diff: dict[str, int]
    kept: dict[tuple[int, int], int]
    param_diff: dict[int, int]
    updated: frozenset[int]
    param_layouts: tuple[Layout | None, ...]
    arena_bytes: int

    @cached_property
    def own_bytes(self) -> int:
        """Bytes of the storages outside the arena."""
        return sum(s.nbytes for s in self.storages if s.offset is None)

    @cached_property
    def unshared_bytes(self) -> int:
        """Bytes that the same buffers would take with a memory of its own for each."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @cached_property
    def reorders(self) -> tuple[Reorder, ...]:
        """The copies of blobs and diffs between layouts, in both passes."""
        return tuple(s for s in (*self.forward, *self.backward) if isinstance(s, Reorder))

    @cached_property
    def inner_reorders(self) -> tuple[str, ...]:
        """The copies inside kernels and of params: "conv2: weights for backward"."""
        found = []
        for step in (*self.forward, *self.backward):
            if not isinstance(step, Step) or step.direction is Direction.BACKWARD:
                continue
            kernel = self.kernels[step.choice]
            if kernel is None:
                continue
            name = self.graph.nodes[step.node].name
            found += [f"{name}: {what}" for what in kernel.terms.reorders]
            found += [
                f"{name}: param {i}"
                for i, (use, layout) in enumerate(
                    zip(step.params, kernel.terms.params, strict=True)
                )
                if layout != self.param_layouts[use.param]
            ]
        return tuple(found)

    def place(self, buffer: int) -> str:
        """Return where a buffer lies, for printing: "@4096" in the arena, "@own" outside."""
        storage = self.storages[self.buffers[buffer].storage]
        return "@own" if storage.offset is None else f"@{storage.offset}"

    def render(self) -> str:
        """Return the plan as text: one line for each step, then the memory."""
        lines = []
        for step in (*self.forward, *self.backward):
            match step:
                case Fill():
                    lines.append(self._render_fill(step))
                case Reorder():
                    lines.append(self._render_reorder(step))
                case Update():
                    lines.append(self._render_update(step))
                case Step():
                    lines.append(self._render_step(step))
        moved = sum(self.buffers[step.target].nbytes for step in self.reorders)
        lines.append(
            f"reorders: {len(self.reorders)} of blobs and diffs ({moved} bytes), "
            f"{len(self.inner_reorders)} within kernels"
        )
        lines += [f"{'':<10}{what}" for what in self.inner_reorders]
        lines.append(
            f"memory: arena {self.arena_bytes} bytes, outside {self.own_bytes} bytes, "
            f"without sharing {self.unshared_bytes} bytes"
        )
        return "\n".join(lines)

    def _render_fill(self, fill: Fill) -> str:
        return f"{'fill':<8} diff {fill.blob} = {fill.value:g}"

    def _render_update(self, step: Update) -> str:
        param = self.graph.params[step.param]
        owner = self.graph.nodes[param.owner].label
        return f"{'update':<8} param {param.index} of {owner}  {self._render_buffer(step.gradient)}"

    def _render_reorder(self, step: Reorder) -> str:
        source, target = self.buffers[step.source], self.buffers[step.target]
        return (
            f"{'add' if step.add else 'reorder':<8} {target.name}  "
            f"{source.layout or 'plain'}{self.place(step.source)} "
            f"{'+=' if step.add else '->'} {target.layout or 'plain'}{self.place(step.target)}"
        )

    def _render_step(self, step: Step) -> str:
        if step.direction is Direction.FORWARD or step.again is not None:
            reads = [self._render_buffer(buffer) for buffer in step.bottoms]
            writes = [self._render_buffer(buffer) for buffer in step.tops]
        else:
            reads = [self.buffers[buffer].name for buffer in step.top_diffs]
            writes = [
                self._render_buffer(buffer) + (" +=" if add else "")
                for buffer, add in zip(step.bottom_diffs, step.adds, strict=True)
                if buffer is not None
            ]
            writes += [f"diff of param {i}" for i, want in enumerate(step.wants_params) if want]
        labels = " + ".join(self.graph.nodes[node].label for node in step.nodes)
        what = step.direction.value if step.again is None else "again"
        text = (
            f"{what:<8} {labels}  [{step.kernel}]  "
            f"{', '.join(reads) or '-'} -> {', '.join(writes) or '-'}"
        )
        return "\n".join([text, *(f"{'':<10}declined: {reason}" for reason in step.declined)])

    def _render_buffer(self, index: int) -> str:
        buffer = self.buffers[index]
        layout = f" {buffer.layout}" if buffer.layout else ""
        return f"{buffer.name}{layout}{self.place(index)}"
