"""Fourth pass: the steps with their buffers, then lifetimes, sharing and arena offsets.

Forward of node i happens at time i, backward of node i of n at time 2n-1-i. A buffer lives from its
first write to its last read. Two that never live at the same time may lie at the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from netc.backends.base import Layout
from netc.graph.types import Graph
from netc.layers.types import Reads
from netc.plan.choose import Choice, Choices
from netc.plan.types import Buffer, Direction, Fill, Need, Reorder, Step, Storage, Update

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


@dataclass
class _Value:
    """A buffer to be: its life as far as it is known."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: Layout | None
    times: list[int] = field(default_factory=list)
    fixed: bool = False

    def buffer(self, storage: int) -> Buffer:
        dtype = self.dtype if self.layout is None else self.layout.dtype
        return Buffer(self.name, self.shape, dtype, storage, self.layout)


@dataclass(frozen=True)
class _Guest:
    """A value that may lie where another lies: always for a view, else if nobody minds."""

    value: int
    host: int
    time: int
    view: bool


@dataclass(frozen=True)
class Memory:
    """The answer of the pass."""

    forward: tuple[Step | Reorder, ...]
    backward: tuple[Step | Reorder | Fill | Update, ...]
    buffers: tuple[Buffer, ...]
    storages: tuple[Storage, ...]
    data: dict[str, int]
    diff: dict[str, int]
    kept: dict[tuple[int, int], int]
    param_diff: dict[int, int]
    updated: frozenset[int]
    arena_bytes: int


def visible_blobs(graph: Graph, keep: Iterable[str]) -> frozenset[str]:
    """Return the blobs that must be there after a pass: inputs, outputs, losses, and `keep`.

    Data stay too, so that a pass can be repeated to find where it went wrong.
    """
    sources = [key for node in graph.nodes if node.layer.is_source() for key in node.tops]
    losses = [blob.key for blob in graph.loss_blobs]
    return frozenset((*graph.inputs, *graph.outputs, *sources, *losses, *keep))


def assign(
    graph: Graph,
    need: Need,
    choices: Choices,
    visible: frozenset[str],
    keep_all: bool,
    updates: bool,
    follow: frozenset[int],
) -> Memory:
    """Lay out the steps and give every buffer its place.

    `visible` blobs survive the pass; with `updates` gradients of params are buffers, too. Behind
    the nodes `follow` another plan may go on, that of other shapes from there. What it needs of the
    steps before must be where this plan left it, so that no other buffer may lie there.
    """
    return _Assignment(graph, need, choices, visible, keep_all, updates, follow).run()


class _Assignment:
    def __init__(
        self,
        graph: Graph,
        need: Need,
        choices: Choices,
        visible: frozenset[str],
        keep_all: bool,
        updates: bool,
        follow: frozenset[int],
    ) -> None:
        self.follow = follow
        self.graph, self.need, self.choices = graph, need, choices
        self.visible, self.keep_all = visible, keep_all
        #: For each param the unit that uses it last in the backward pass, where it is updated.
        self.updated_at: dict[int, int] = {}
        if updates:
            for index, choice in reversed(list(enumerate(choices.choices))):
                if choice.unit.runs:
                    self.updated_at |= {use.param: index for use in choice.unit.params}
        self.n = len(graph.nodes)
        self.values: list[_Value] = []
        self.guests: dict[int, _Guest] = {}
        self.data: dict[str, int] = {}
        self.diff: dict[str, int] = {}
        self.kept: dict[tuple[int, int], int] = {}
        self.param_diff: dict[int, int] = {}
        self.updated: set[int] = set()
        #: Blobs that are computed again in the backward pass: by whom, and then where they lie.
        self.makers: dict[int, int] = {}
        self.made_again: dict[int, int] = {}
        #: Blobs that were copied to another layout, for the next who wants them so.
        self.copies: dict[tuple[str, Layout | None], int] = {}
        self.operands: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.forward: list[Step | Reorder] = []
        self.backward: list[Step | Reorder | Fill | Update] = []

    def run(self) -> Memory:
        for index, choice in enumerate(self.choices.choices):
            self._walk_forward(index, choice)
        self._find_makers()
        written: set[str] = set()
        for blob in self.graph.loss_blobs:
            if self._reached(blob.key):
                self.backward.append(Fill(blob.key, blob.loss_weight))
                written.add(blob.key)
        for index in reversed(range(len(self.choices.choices))):
            if self.choices.choices[index].unit.runs:
                self._walk_backward(index, self.choices.choices[index], written)
        groups, group_of = self._share()
        buffers = tuple(
            value.buffer(group) for value, group in zip(self.values, group_of, strict=True)
        )
        storages, arena_bytes = _offsets(groups)
        return Memory(
            tuple(step for step in self.forward if not self._is_nothing(step, group_of)),
            tuple(step for step in self.backward if not self._is_nothing(step, group_of)),
            buffers,
            storages,
            self.data,
            self.diff,
            self.kept,
            self.param_diff,
            frozenset(self.updated),
            arena_bytes,
        )

    # -- values ------------------------------------------------------------------------------------

    def _value(
        self,
        name: str,
        shape: tuple[int, ...],
        layout: Layout | None,
        *times: int,
        dtype: str = "float32",
        fixed: bool = False,
    ) -> int:
        self.values.append(_Value(name, shape, dtype, layout, list(times), fixed))
        return len(self.values) - 1

    def _touch(self, values: Iterable[int], time: int) -> None:
        for value in values:
            self.values[value].times.append(time)

    def _copy(self, source: int, layout: Layout | None, time: int) -> int:
        """Return a new value for the content of another in some layout."""
        original = self.values[source]
        return self._value(original.name, original.shape, layout, time)

    # -- forward -----------------------------------------------------------------------------------

    def _walk_forward(self, index: int, choice: Choice) -> None:
        unit, terms, time = choice.unit, choice.terms, choice.unit.at
        direction = Direction.FORWARD
        if not self.follow.isdisjoint(unit.nodes):
            # Whether a later step would read a blob or a copy of it may depend on the shapes.
            self.copies.clear()
        bottoms = tuple(
            self._read(key, layout, time, unit.nodes[0], direction)
            for key, layout in zip(unit.bottoms, terms.bottoms, strict=True)
        )
        tops, after = [], []
        for key, wanted in zip(unit.tops, terms.tops, strict=True):
            layout = self.choices.blobs[key]
            shape = self.graph.blobs[key].shape
            fixed = key in self.visible or self.keep_all
            stored = self.data[key] = self._value(key, shape, layout, time, fixed=fixed)
            top = stored
            if wanted != layout:
                top = self._copy(stored, wanted, time)
                after.append(Reorder(unit.nodes[-1], direction, top, stored))
                if not self.keep_all:
                    self.copies[key, wanted] = top
            tops.append(top)
        self.operands[index] = bottoms, tuple(tops)
        layer = self.graph.nodes[unit.nodes[0]].layer
        view = len(unit.nodes) == 1 and layer.view
        if view:
            for top in tops:
                self.guests[top] = _Guest(top, bottoms[0], time, view=True)
        elif terms.in_place and not self.keep_all and len(tops) == 1 and bottoms:
            same = self._fits(bottoms[0], tops[0])
            if same and unit.bottoms.count(unit.bottoms[0]) == 1:
                self.guests[tops[0]] = _Guest(tops[0], bottoms[0], time, view=False)
        for i, kept in enumerate(terms.kept):
            name = f"{self.graph.nodes[unit.nodes[0]].name}.{kept.name}"
            fixed = kept.persistent or self.keep_all
            value = self._value(name, kept.shape, None, time, dtype=kept.dtype, fixed=fixed)
            self.kept[unit.nodes[0], i] = value
        if layer.fed:
            return
        self.forward.append(
            Step(
                unit.nodes[0],
                direction,
                choice.backend,
                choice.declined,
                nodes=unit.nodes,
                choice=index,
                bottoms=bottoms,
                tops=tuple(tops),
                kept=self._kept_of(choice),
                scratch=self._scratch(terms.forward_scratch, time),
                params=unit.params,
            )
        )
        self.forward += after

    def _read(
        self, key: str, layout: Layout | None, time: int, node: int, direction: Direction
    ) -> int:
        """Return a blob's data in a layout, with the reorder where it is not there yet."""
        stored = self.data[key]
        if self.values[stored].layout == layout:
            self._touch((stored,), time)
            return stored
        if (key, layout) in self.copies:
            self._touch((self.copies[key, layout],), time)
            return self.copies[key, layout]
        self._touch((stored,), time)
        copy = self._copy(stored, layout, time)
        steps = self.forward if direction is Direction.FORWARD else self.backward
        steps.append(Reorder(node, direction, stored, copy))
        # Where every blob is kept, somebody may change it between two steps.
        if not self.keep_all:
            self.copies[key, layout] = copy
        return copy

    def _kept_of(self, choice: Choice) -> tuple[int, ...]:
        return tuple(self.kept[choice.unit.nodes[0], i] for i in range(len(choice.terms.kept)))

    def _scratch(self, nbytes: int, time: int) -> int | None:
        return self._value("scratch", (nbytes,), None, time, dtype="uint8") if nbytes else None

    def _fits(self, host: int, guest: int) -> bool:
        one, two = self.values[host], self.values[guest]
        return one.layout == two.layout and math.prod(one.shape) == math.prod(two.shape)

    # -- backward ----------------------------------------------------------------------------------

    def _walk_backward(self, index: int, choice: Choice, written: set[str]) -> None:
        unit, terms = choice.unit, choice.terms
        node, direction = unit.nodes[0], Direction.BACKWARD
        time = 2 * self.n - 1 - unit.at
        kept = self._kept_of(choice)
        self._touch(kept, time)
        bottoms, tops = self._data_again(index, choice, time)
        top_diffs = tuple(
            self._top_diff(key, layout, time, node)
            for key, layout in zip(unit.tops, terms.tops, strict=True)
        )
        adds: list[bool] = []
        diffs: list[int | None] = []
        after: list[Reorder] = []
        for key, layout, want in zip(unit.bottoms, terms.bottoms, unit.wants_bottoms, strict=True):
            add = want and key in written
            diff = None
            if want:
                fresh = key not in self.diff
                stored = self._place_diff(key, time)
                self._touch((stored,), time)
                written.add(key)
                diff = stored
                if self.values[stored].layout != layout or (add and not terms.can_add):
                    diff = self._copy(stored, layout, time)
                    after.append(Reorder(node, direction, diff, stored, add))
                    add = False
                if fresh or diff != stored:
                    self._invite(choice, len(diffs), diff, top_diffs, time)
            adds.append(add)
            diffs.append(diff)
        self.backward.append(
            Step(
                node,
                direction,
                choice.backend,
                choice.declined,
                tuple(adds),
                nodes=unit.nodes,
                choice=index,
                bottoms=bottoms,
                tops=tops,
                kept=kept,
                top_diffs=top_diffs,
                bottom_diffs=tuple(diffs),
                scratch=self._scratch(terms.backward_scratch, time),
                params=unit.params,
                wants_params=unit.wants_params,
            )
        )
        self.backward += after
        self._place_gradients(index, choice, time)

    def _place_gradients(self, index: int, choice: Choice, time: int) -> None:
        """Give the gradients of a unit's params their lives, which end where they are used."""
        if not self.updated_at:
            return
        unit = choice.unit
        for i, (use, want) in enumerate(zip(unit.params, unit.wants_params, strict=True)):
            if want:
                self.updated.add(use.param)
            if want and use.param not in self.param_diff and i not in choice.terms.pieces:
                param = self.graph.params[use.param]
                name = f"diff of param {param.index} of {self.graph.nodes[param.owner].name}"
                layout = self.choices.params[use.param]
                self.param_diff[use.param] = self._value(name, param.shape, layout, time)
        for used in dict.fromkeys(use.param for use in unit.params):
            if used in self.param_diff and self.updated_at[used] == index:
                gradient = self.param_diff[used]
                self._touch((gradient,), time)
                self.backward.append(Update(unit.nodes[0], used, gradient))

    def _data_again(
        self, index: int, choice: Choice, time: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the data of bottoms and tops; only what backward reads has to be there still."""
        unit, terms = choice.unit, choice.terms
        bottoms, tops = self.operands[index]
        if Reads.BOTTOM in terms.reads:
            bottoms = tuple(self._again(bottom, unit.nodes[0], time) for bottom in bottoms)
        if not self.keep_all:
            self._touch(bottoms if Reads.BOTTOM in terms.reads else (), time)
            self._touch(tops if Reads.TOP in terms.reads else (), time)
            return bottoms, tops
        both = []
        for keys, layouts, values, what in (
            (unit.bottoms, terms.bottoms, bottoms, Reads.BOTTOM),
            (unit.tops, terms.tops, tops, Reads.TOP),
        ):
            if what in terms.reads:
                values = tuple(
                    self._read(key, layout, time, unit.nodes[-1], Direction.BACKWARD)
                    for key, layout in zip(keys, layouts, strict=True)
                )
            both.append(values)
        return both[0], both[1]

    def _find_makers(self) -> None:
        """Find the tops that need not live until the backward pass, as they are made again there.

        Whoever makes one has its own bottom until its backward, which comes after that of all who
        read the top. The top must not be seen from outside or through a view.
        """
        if self.keep_all:
            return
        for index, choice in enumerate(self.choices.choices):
            unit = choice.unit
            if not (choice.terms.again and unit.runs and Reads.BOTTOM in choice.terms.reads):
                continue
            (key,) = unit.tops
            value = self.operands[index][1][0]
            readers = [self.graph.nodes[reader].layer for reader in self.graph.readers[key]]
            seen = key in self.visible or any(layer.view for layer in readers)
            if not seen and value == self.data[key]:
                self.makers[value] = index

    def _again(self, value: int, reader: int, time: int) -> int:
        """Return what stands for a value in the backward pass; plan the step that makes it."""
        if value not in self.makers:
            return value
        if value not in self.made_again:
            index = self.makers[value]
            choice = self.choices.choices[index]
            unit = choice.unit
            bottoms = tuple(self._again(one, reader, time) for one in self.operands[index][0])
            kept = self._kept_of(choice)
            self._touch((*bottoms, *kept), time)
            original = self.values[value]
            made = self._value(f"{original.name} again", original.shape, original.layout, time)
            self.made_again[value] = made
            self.backward.append(
                Step(
                    unit.nodes[0],
                    Direction.BACKWARD,
                    choice.backend,
                    nodes=unit.nodes,
                    choice=index,
                    bottoms=bottoms,
                    tops=(made,),
                    kept=kept,
                    params=unit.params,
                    again=reader,
                )
            )
        return self.made_again[value]

    def _top_diff(self, key: str, layout: Layout | None, time: int, node: int) -> int:
        if key not in self.diff:
            # No reader passes a gradient back: it is set from outside, or it is zero.
            shape = self.graph.blobs[key].shape
            self.diff[key] = self._value(f"diff {key}", shape, None, 0, fixed=True)
        stored = self.diff[key]
        self._touch((stored,), time)
        if self.values[stored].layout == layout:
            return stored
        copy = self._copy(stored, layout, time)
        self.backward.append(Reorder(node, Direction.BACKWARD, stored, copy))
        return copy

    def _place_diff(self, key: str, time: int) -> int:
        if key not in self.diff:
            blob = self.graph.blobs[key]
            # A blob in the objective has its weight there from the start (see Fill).
            first = self.n if blob.loss_weight else time
            fixed = key in self.graph.inputs or self.keep_all
            layout = self.choices.blobs[key]
            self.diff[key] = self._value(f"diff {key}", blob.shape, layout, first, fixed=fixed)
            # Its producer reads it, if it runs; else somebody may look at it.
            self._touch((self.diff[key],), 2 * self.n - 1 - blob.node)
        return self.diff[key]

    def _invite(
        self, choice: Choice, i: int, diff: int, top_diffs: Sequence[int], time: int
    ) -> None:
        """Let the diff of bottom i lie where the diff of the top lies, if that may be."""
        unit = choice.unit
        view = len(unit.nodes) == 1 and self.graph.nodes[unit.nodes[0]].layer.view
        if self.keep_all or not (choice.terms.in_place or view):
            return
        if i != 0 or len(unit.tops) != 1:
            return
        key = unit.bottoms[0]
        if self.graph.blobs[key].loss_weight or unit.bottoms.count(key) > 1:
            return
        if self._fits(top_diffs[0], diff):
            self.guests[diff] = _Guest(diff, top_diffs[0], time, view=False)

    def _reached(self, key: str) -> bool:
        """Say whether a reader of the blob passes a gradient back to it."""
        return any(
            self.need.bottoms[reader][i]
            for reader in self.graph.readers[key]
            for i, bottom in enumerate(self.graph.nodes[reader].bottoms)
            if bottom == key
        )

    # -- sharing -----------------------------------------------------------------------------------

    def _share(self) -> tuple[list[_Group], list[int]]:
        """Form the groups of values that share a place; return each value's group."""
        groups: list[_Group] = []
        group_of: list[int] = []
        for index, value in enumerate(self.values):
            first, last = min(value.times), max(value.times)
            value.fixed |= any(first <= time < last for time in self.follow)
            nbytes = value.buffer(0).nbytes
            guest = self.guests.get(index)
            if guest is not None and guest.host < index:
                host = groups[group_of[guest.host]]
                if guest.view or (not host.fixed and host.last <= guest.time):
                    host.last = max(host.last, last)
                    host.fixed |= value.fixed
                    host.nbytes = max(host.nbytes, nbytes)
                    group_of.append(group_of[guest.host])
                    continue
            groups.append(_Group(nbytes, first, last, value.fixed))
            group_of.append(len(groups) - 1)
        return groups, group_of

    def _is_nothing(self, step: Step | Reorder | Fill | Update, group_of: Sequence[int]) -> bool:
        """Say whether a step is that of a layer whose tops lie where its bottoms lie."""
        if not isinstance(step, Step):
            return False
        node = self.graph.nodes[step.node]
        if not node.layer.view or len(step.nodes) > 1 or any(step.adds):
            return False
        if step.direction is Direction.FORWARD:
            places = (*step.bottoms, *step.tops)
        elif step.bottom_diffs[0] is None:
            return False
        else:
            places = (step.bottom_diffs[0], *step.top_diffs)
        return len({group_of[value] for value in places}) == 1


def _offsets(groups: list[_Group]) -> tuple[tuple[Storage, ...], int]:
    """Place the groups that do not outlive the pass.

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
