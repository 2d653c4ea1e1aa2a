"""Last pass but one: lifetimes, sharing and arena offsets.

Forward of node i happens at time i, backward of node i of n at time 2n-1-i. A buffer lives from its
first write to its last read. Two that never live at the same time may lie at the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from netc.graph.types import Graph, Node
from netc.layers.types import Reads
from netc.plan.types import Buffer, Need, Storage

ALIGNMENT = 64  # one cache line, and the widest vector register


@dataclass
class _Group:
    """Buffers that share one place: their joint life.

    And whether the place must outlive the pass.
    """

    nbytes: int
    first: int
    last: int
    fixed: bool


@dataclass(frozen=True)
class Memory:
    """The answer of the pass."""

    buffers: tuple[Buffer, ...]
    storages: tuple[Storage, ...]
    data: dict[str, int]
    diff: dict[str, int]
    kept: dict[tuple[int, int], int]
    arena_bytes: int


def assign(graph: Graph, need: Need, keep: frozenset[str], keep_all: bool) -> Memory:
    """Give every buffer its place. `keep` are blob keys that must survive the pass.

    Besides inputs and outputs.
    """
    return _Assignment(graph, need, keep, keep_all).run()


class _Assignment:
    def __init__(self, graph: Graph, need: Need, keep: frozenset[str], keep_all: bool) -> None:
        self.graph = graph
        self.need = need
        self.keep_all = keep_all
        # What was read from files stays, so that a pass can be repeated to find where it went
        # wrong.
        sources = [key for node in graph.nodes if node.layer.reads_data for key in node.tops]
        losses = [blob.key for blob in graph.loss_blobs]
        self.fixed = frozenset((*graph.inputs, *graph.outputs, *sources, *losses, *keep))
        self.n = len(graph.nodes)
        self.buffers: list[Buffer] = []
        self.groups: list[_Group] = []
        self.data: dict[str, int] = {}
        self.diff: dict[str, int] = {}
        self.kept: dict[tuple[int, int], int] = {}

    def run(self) -> Memory:
        for index, node in enumerate(self.graph.nodes):
            self._place_tops(index, node)
            self._place_kept(index, node)
        for index in reversed(range(self.n)):
            self._place_diffs(index, self.graph.nodes[index])
        storages, arena_bytes = _offsets(self.groups)
        return Memory(tuple(self.buffers), storages, self.data, self.diff, self.kept, arena_bytes)

    def _backward_time(self, index: int) -> int:
        return 2 * self.n - 1 - index

    def _last_read(self, key: str) -> int:
        """Return the last time at which a blob's data is looked at."""
        blob = self.graph.blobs[key]
        times = [blob.node, *self.graph.readers[key]]
        for reader in self.graph.readers[key]:
            if self.need.runs[reader] and Reads.BOTTOM in self._reads(reader):
                times.append(self._backward_time(reader))
        if self.need.runs[blob.node] and Reads.TOP in self._reads(blob.node):
            times.append(self._backward_time(blob.node))
        return max(times)

    def _reads(self, index: int) -> Reads:
        return self.graph.nodes[index].layer.backward_reads()

    def _add(self, name: str, shape: tuple[int, ...], dtype: str, group: int) -> int:
        self.buffers.append(Buffer(name, shape, dtype, group))
        self.groups[group].nbytes = max(self.groups[group].nbytes, self.buffers[-1].nbytes)
        return len(self.buffers) - 1

    def _new_group(self, first: int, last: int, fixed: bool) -> int:
        self.groups.append(_Group(0, first, last, fixed or self.keep_all))
        return len(self.groups) - 1

    def _join(self, group: int, last: int, fixed: bool) -> int:
        self.groups[group].last = max(self.groups[group].last, last)
        self.groups[group].fixed |= fixed
        return group

    def _place_tops(self, index: int, node: Node) -> None:
        for key in node.tops:
            blob = self.graph.blobs[key]
            last, fixed = self._last_read(key), key in self.fixed
            host = self._host(index, node)
            group = (
                self._new_group(index, last, fixed)
                if host is None
                else self._join(host, last, fixed)
            )
            self.data[key] = self._add(key, blob.shape, "float32", group)

    def _host(self, index: int, node: Node) -> int | None:
        """Return the group of bottom 0 when the tops may lie there."""
        if not node.bottoms:
            return None
        bottom = self.buffers[self.data[node.bottoms[0]]]
        group = self.groups[bottom.storage]
        if node.layer.view:
            # Also where every blob is kept: the content is the same, and stays.
            return bottom.storage
        if self.keep_all:
            return None
        alone = len(node.tops) == 1 and node.bottoms.count(node.bottoms[0]) == 1
        same = alone and self.graph.blobs[node.tops[0]].shape == bottom.shape
        if node.layer.in_place and same and not group.fixed and group.last <= index:
            return bottom.storage
        return None

    def _place_kept(self, index: int, node: Node) -> None:
        last = self._backward_time(index) if self.need.runs[index] else index
        for i, kept in enumerate(node.kept):
            group = self._new_group(index, last, kept.persistent)
            name = f"{node.name}.{kept.name}"
            self.kept[index, i] = self._add(name, kept.shape, kept.dtype, group)

    def _place_diffs(self, index: int, node: Node) -> None:
        """Place the diffs of a node's tops, if nothing wrote them before, and of its bottoms."""
        if not self.need.runs[index]:
            return
        time = self._backward_time(index)
        for key in node.tops:
            if key not in self.diff:
                # No reader passes a gradient back: it is set from outside, or it is zero.
                self._place_diff(key, self._new_group(0, time, fixed=True))
        for i, key in enumerate(node.bottoms):
            if not self.need.bottoms[index][i] or key in self.diff:
                continue
            last = max(time, self._backward_time(self.graph.blobs[key].node))
            host = self._diff_host(index, node, i)
            fixed = key in self.graph.inputs
            group = (
                self._new_group(self._first_write(key, time), last, fixed)
                if host is None
                else self._join(host, last, fixed)
            )
            self._place_diff(key, group)

    def _first_write(self, key: str, time: int) -> int:
        """Return when a diff is first written: at once for a blob in the objective (see Fill)."""
        return self.n if self.graph.blobs[key].loss_weight else time

    def _diff_host(self, index: int, node: Node, i: int) -> int | None:
        """Return the group of the top diff when the diff of bottom i may lie there."""
        movable = node.layer.in_place or node.layer.view
        if self.keep_all or not movable or i != 0 or len(node.tops) != 1:
            return None
        if self.graph.blobs[node.bottoms[0]].loss_weight or node.bottoms.count(node.bottoms[0]) > 1:
            return None
        top = self.buffers[self.diff[node.tops[0]]]
        if self.graph.blobs[node.bottoms[0]].type.count != math.prod(top.shape):
            return None
        return None if self.groups[top.storage].fixed else top.storage

    def _place_diff(self, key: str, group: int) -> None:
        self.diff[key] = self._add(f"diff {key}", self.graph.blobs[key].shape, "float32", group)


def _offsets(groups: list[_Group]) -> tuple[tuple[Storage, ...], int]:
    """Place groups in the arena, the largest first.

    Each at the lowest offset that is free during its life.
    """
    storages = [
        Storage(-(-group.nbytes // ALIGNMENT) * ALIGNMENT, group.first, group.last)
        for group in groups
    ]
    placed: list[int] = []
    order = [i for i, group in enumerate(groups) if not group.fixed]
    order.sort(key=lambda i: (-storages[i].nbytes, groups[i].first))
    size = 0
    for i in order:
        offset = 0
        for j in placed:
            other = storages[j]
            if other.first > groups[i].last or groups[i].first > other.last:
                continue
            assert other.offset is not None
            if offset + storages[i].nbytes <= other.offset:
                break
            offset = max(offset, other.offset + other.nbytes)
        storages[i] = replace(storages[i], offset=offset)
        size = max(size, offset + storages[i].nbytes)
        placed.append(i)
        placed.sort(key=lambda k: storages[k].offset or 0)
    return tuple(storages), size
