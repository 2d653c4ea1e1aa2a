"""The plan: plain data saying what runs, in which order, with which kernel, in which memory."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from functools import cached_property

from netc.graph.types import Graph

# What a value of each type that buffers may have takes in memory.
ITEM_BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}


class Direction(enum.Enum):
    """Which pass a step belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"


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
    """A typed view of a storage: the data or diff of a blob version, or a kept blob."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    storage: int

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call.

    `adds[i]` says whether the gradient for bottom i adds to what its diff holds already or
    overwrites it. `kernel` names the backend whose kernel runs, `declined` why faster ones do not.
    """

    node: int
    direction: Direction
    kernel: str
    declined: tuple[str, ...] = ()
    adds: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Fill:
    """Before the backward pass reaches a blob that is in the objective and also read.

    Start its diff at its weight.
    """

    blob: str
    value: float


@dataclass(frozen=True)
class Plan:
    """What the runtime runs, frozen and printable.

    `data` and `diff` map blob keys to buffers, `kept` maps (node, i). A diff that no gradient
    reaches is absent from `diff`; a blob that shares memory with another names the same storage. A
    node whose tops all lie where its bottom lies has no step.
    """

    graph: Graph
    train: bool
    keep_all: bool
    need: Need
    forward: tuple[Step, ...]
    backward: tuple[Step | Fill, ...]
    buffers: tuple[Buffer, ...]
    storages: tuple[Storage, ...]
    data: dict[str, int]
    diff: dict[str, int]
    kept: dict[tuple[int, int], int]
    arena_bytes: int

    @cached_property
    def own_bytes(self) -> int:
        """Bytes of the storages outside the arena."""
        return sum(s.nbytes for s in self.storages if s.offset is None)

    @cached_property
    def unshared_bytes(self) -> int:
        """Bytes that the same buffers would take with a memory of its own for each."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def place(self, buffer: int) -> str:
        """Return where a buffer lies, for printing: "@4096" in the arena, "own" outside."""
        storage = self.storages[self.buffers[buffer].storage]
        return "own" if storage.offset is None else f"@{storage.offset}"

    def render(self) -> str:
        """Return the plan as text: one line for each step, then the memory."""
        lines = []
        for step in (*self.forward, *self.backward):
            lines.append(
                self._render_fill(step) if isinstance(step, Fill) else self._render_step(step)
            )
        lines.append(
            f"memory: arena {self.arena_bytes} bytes, outside {self.own_bytes} bytes, "
            f"without sharing {self.unshared_bytes} bytes"
        )
        return "\n".join(lines)

    def _render_fill(self, fill: Fill) -> str:
        return f"{'fill':<8} diff {fill.blob} = {fill.value:g}"

    def _render_step(self, step: Step) -> str:
        node = self.graph.nodes[step.node]
        if step.direction is Direction.FORWARD:
            reads = [f"{key}{self.place(self.data[key])}" for key in node.bottoms]
            writes = [f"{key}{self.place(self.data[key])}" for key in node.tops]
        else:
            reads = [f"diff {key}" for key in node.tops if key in self.diff]
            wanted = self.need.bottoms[step.node]
            writes = [
                f"diff {key}{self.place(self.diff[key])}{' +=' if add else ''}"
                for key, want, add in zip(node.bottoms, wanted, step.adds, strict=True)
                if want
            ]
            writes += [
                f"diff of param {i}" for i, want in enumerate(self.need.params[step.node]) if want
            ]
        text = (
            f"{step.direction.value:<8} {node.label}  [{step.kernel}]  "
            f"{', '.join(reads) or '-'} -> {', '.join(writes) or '-'}"
        )
        return "\n".join([text, *(f"{'':<10}declined: {reason}" for reason in step.declined)])
