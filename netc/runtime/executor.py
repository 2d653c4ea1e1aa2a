"""The executor: memory for a plan, prepared calls, and the loop over them. It decides nothing."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from netc.backends.base import Backend, Binding, Kernel, Layout, Prepared
from netc.errors import fail
from netc.graph.types import Graph, Node
from netc.layers.types import Array, Refusal
from netc.plan.memory import ALIGNMENT
from netc.plan.types import Direction, Fill, Plan, Reorder, Step, Update
from netc.runtime.statistics import Statistics


class Feed(Protocol):
    """What fills the tops of a layer that reads data."""

    def next_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the next batch."""
        ...

    def fill(self, outs: tuple[Array, ...]) -> None:
        """Write the next batch into the given arrays."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class Sink(Protocol):
    """What takes the bottoms of a layer that writes data."""

    def write(self, arrays: tuple[Array, ...]) -> None:
        """Write them, arrays of the host."""
        ...


class Replan(Protocol):
    """Other plans of the same net."""

    def __call__(self, sizes: Mapping[str, tuple[int, ...]], /) -> Plan:
        """Return that for shapes of inputs, of data and of tops that depend on it, by blob key."""
        ...

    def adapt(self, change: Callable[[Graph], Graph]) -> None:
        """Have all plans from here on made of what `change` makes of the net."""
        ...


def generator(seed: int, name: str, number: int) -> np.random.Generator:
    """Return the random numbers of (seed, name, number), the same whatever ran before.

    `number` is a param's index for fillers, a forward pass for layers.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def drawn_param(graph: Graph, index: int, xp: Any, seed: int) -> Array:
    """Return what the filler of one param makes, with the random numbers of its owner."""
    param = graph.params[index]
    rng = generator(seed, graph.nodes[param.owner].name, param.index)
    return param.filler.draw(xp, rng, param.shape)


@dataclass(slots=True)
class _Clock:
    """The number of the forward pass, from which layers take their random numbers.

    And the share of the training that is done.
    """

    number: int = 0
    progress: float = 1.0


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """The first layer that gave a NaN or Inf: which of its tops, what is in that and its bottoms.

    Of layers that run as one, the first is named, with its bottoms and the last one's top.
    """

    node: Node
    blob: str
    top: Statistics
    bottoms: tuple[Statistics, ...]


class Executor:
    """A plan with memory.

    `params` are the learnable blobs, one float32 array for each of `plan.graph.params`; pass arrays
    in to share them with another executor, else they are allocated and filled from `seed`.
    `param_diffs` hold None for params without gradient; they accumulate until `clear_param_diffs`.
    Both lie as `plan.param_layouts` says: an array in C order has the param's shape, any other is
    flat, for rules that go element by element (padding holds zeros). Where the plan has updates,
    there are no `param_diffs`: the backward pass calls `on_gradient(index, start, gradient)` once
    the gradient of a param is complete, or a piece of it, from element `start` on as the param lies
    in memory; the call may change both. `param_array`, `set_param` and
    `param_diff_array` speak C order whatever the layout. `feeds` maps node indices to what fills
    data layers, `sinks` those of layers that write data to what takes it; where there is none,
    nothing is written. `replan` is asked for a plan when data come in other shapes, at the start of
    a pass or in the midst of it; without it the shapes are fixed.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        *,
        seed: int = 0,
        params: Mapping[int, Array] | None = None,
        feeds: Mapping[int, Feed] | None = None,
        sinks: Mapping[int, Sink] | None = None,
        replan: Replan | None = None,
    ) -> None:
        self.replan = replan
        self.plan = plan
        self.backend = backend
        self.seed = seed
        self.feeds = dict(feeds or {})
        self.sinks = dict(sinks or {})
        #: What forward passes have spent on waiting for data and copying it, in seconds.
        self.data_seconds = 0.0
        #: See above; whoever runs a plan with updates backward sets it.
        self.on_gradient: Callable[[int, int, Array], None] = _nobody
        self._clock = _Clock()
        graph = plan.graph
        given = params or {}
        self.params: list[Array] = [
            self._own_or_shared(i, given.get(i)) for i in range(len(graph.params))
        ]
        self.fill_params(skip=given.keys())
        self._param_diffs: list[Array | None] = [None] * len(graph.params)
        #: Params whose gradient counts as zero: the next one overwrites what is in memory.
        self._cleared: set[int] = set()
        self._make_gradients(plan, former=frozenset())
        self._arena = backend.allocate(0)
        #: What has memory of its own.
        self._owned: dict[_Place, Array] = {}
        self._lay_out(plan, {})

    def use(
        self,
        plan: Plan,
        *,
        data: Mapping[str, Array] | None = None,
        params: Mapping[int, Array] | None = None,
        after: int = -1,
    ) -> None:
        """Go on with another plan of the same net, for other shapes of its data or other needs.

        Params, their gradients, feeds and the clock stay; a param that begins to be trained gets a
        gradient, one that ceases to be loses it. What has memory of its own and has not changed its
        shape stays where it is, with its content: arrays that were handed out go on being those of
        the net, and so does recurrent state. `data` gives arrays for blobs to lie in, by key;
        `params` puts other arrays in the place of params, by index. `after` is the node behind
        which a pass goes on with this plan, one of those that both plans `follow`.
        """
        assert plan.param_layouts == self.plan.param_layouts, "the params would have to move"
        for index, array in (params or {}).items():
            self.params[index] = array
        self._make_gradients(plan, former=_trained(self.plan))
        self._lay_out(plan, data or {}, after)

    def adapt(self, change: Callable[[Graph], Graph]) -> None:
        """Go on with another version of the net, in the shapes that its data have now.

        `change` makes it of the net's own: the same layers, blobs and params, of which others are
        trained. The params stay where they are.
        """
        assert self.replan is not None, "nobody plans for other needs"
        self.replan.adapt(change)
        graph = self.plan.graph
        self.use(self.replan({key: graph.blobs[key].shape for key in graph.outside}))

    def _make_gradients(self, plan: Plan, former: frozenset[int]) -> None:
        """Give memory to the gradients that the plan wants besides the `former` ones."""
        wanted = _trained(plan)
        for index in wanted - former:
            self._param_diffs[index] = None if plan.updated else self._raw(index)
            self._cleared.add(index)
        for index in former - wanted:
            self._param_diffs[index] = None
            self._cleared.discard(index)

    def _lay_out(self, plan: Plan, given: Mapping[str, Array], after: int = -1) -> None:
        """Give every buffer its place, and prepare the steps."""
        places = {
            plan.buffers[plan.data[key]].storage: array.reshape(-1).view("uint8")
            for key, array in given.items()
        }
        sizes = [0] * len(plan.storages)
        for buffer in plan.buffers:
            sizes[buffer.storage] = max(sizes[buffer.storage], buffer.nbytes)
        owners = _owners(plan)
        taken: set[int] = set()
        for what, storage in owners.items():
            memory = self._owned.get(what)
            # Two that lay in one place before need not do so now.
            if memory is None or storage in places or id(memory) in taken:
                continue
            if memory.nbytes >= sizes[storage]:
                places[storage] = memory
                taken.add(id(memory))
        for buffer in (plan.buffers[i] for i in (*plan.data.values(), *plan.kept.values())):
            life = plan.storages[buffer.storage]
            crosses = life.first < after < life.last
            assert not crosses or buffer.storage in places, f"{buffer.name} would be lost"
        self.plan = plan
        if self._arena.nbytes < plan.arena_bytes:
            self._arena = self.backend.allocate(plan.arena_bytes)
        storages = [
            self._arena[storage.offset : storage.offset + storage.nbytes]
            if storage.offset is not None
            else places[index]
            if index in places
            else self.backend.allocate(storage.nbytes)
            for index, storage in enumerate(plan.storages)
        ]
        self._owned = {what: storages[storage] for what, storage in owners.items()}
        self._buffers = [
            storages[buffer.storage][: buffer.nbytes]
            .view(buffer.dtype)
            .reshape(buffer.shape if buffer.layout is None else -1)
            for buffer in plan.buffers
        ]
        for param, gradient in plan.param_diff.items():
            self._param_diffs[param] = self._buffers[gradient]
            # It is gone behind its update: between two passes there is none.
            self._cleared.add(param)
        self._params_scratch = self.backend.allocate(_params_scratch(plan))
        for blob in plan.graph.loss_blobs:
            # Outputs in the objective start the backward pass; the others get a Fill step.
            if blob.key in plan.diff:
                own = plan.buffers[plan.diff[blob.key]].storage
                if plan.storages[own].offset is None and own not in places:
                    self.diff(blob.key)[...] = blob.loss_weight
        self._forward = [(step.node, self._prepare(step)) for step in plan.forward]
        self._backward = [self._prepare_backward(step) for step in plan.backward]

    # -- shapes ------------------------------------------------------------------------------------

    def follow(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        data: Mapping[str, Array] | None = None,
        after: int = -1,
    ) -> None:
        """Follow other shapes of inputs and data, by key, with a plan made for them.

        `data` gives arrays for blobs to lie in, by key, where the blob then has the array's shape.
        After a node, in the midst of a pass, `shapes` may give those of its tops; tops after it
        that depend on the data have their largest shapes until they are there. Raises NetcError
        where a layer cannot follow; the shapes then stay as they are.
        """
        assert self.replan is not None, "nobody plans for other shapes"
        graph = self.plan.graph
        found = [key for i in graph.data_dependent if i <= after for key in graph.nodes[i].tops]
        now = {key: graph.blobs[key].shape for key in (*graph.outside, *found)}
        plan = self.replan({**now, **shapes})
        blobs = plan.graph.blobs
        fits = {k: a for k, a in (data or {}).items() if blobs[k].shape == a.shape}
        self.use(plan, data=fits, after=after)

    def _follow_feeds(self, first: int, last: int) -> None:
        """Change the shapes where the next batch of a data layer has others."""
        if self.replan is None:
            return
        graph = self.plan.graph
        found: dict[str, tuple[int, ...]] = {}
        for index, feed in self.feeds.items():
            if first <= index <= last:
                shapes = zip(graph.nodes[index].tops, feed.next_shapes(), strict=True)
                found |= {key: shape for key, shape in shapes if graph.blobs[key].shape != shape}
        if found:
            self.follow(found)

    def _place(self, node: int, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
        """Return the tops of a node in the shapes that its forward pass has found."""
        graph = self.plan.graph
        found = dict(zip(graph.nodes[node].tops, shapes, strict=False))
        if any(graph.blobs[key].shape != shape for key, shape in found.items()):
            self.follow(found, after=node)
        return tuple(map(self.data, found))

    # -- access ------------------------------------------------------------------------------------

    def data(self, key: str) -> Array:
        """Return the data of a blob version: a view.

        Meaningful after a pass only for blobs that the plan keeps: others may be overwritten, lie
        in another order than C's (flat then), or not be there at all (KeyError).
        """
        return self._buffers[self.plan.data[key]]

    def _plain(self, index: int) -> Array:
        buffer, values = self.plan.buffers[index], self._buffers[index]
        if buffer.layout is None:
            return values
        plain = self._array(buffer.shape)
        self.backend.reorder(buffer.shape, values, buffer.layout, plain, None)()
        return plain

    def diff(self, key: str) -> Array:
        """Return the diff of a blob version, likewise; KeyError when no gradient reaches it."""
        return self._buffers[self.plan.diff[key]]

    def kept(self, node: int, index: int) -> Array:
        """Return a blob that a layer keeps for itself."""
        return self._buffers[self.plan.kept[node, index]]

    @property
    def forward_pass(self) -> int:
        """How many forward passes were started; part of a snapshot.

        As random layers depend on it.
        """
        return self._clock.number

    @forward_pass.setter
    def forward_pass(self, number: int) -> None:
        self._clock.number = number

    @property
    def progress(self) -> float:
        """The share of the training that is done, 1 where there is none: layers may ask for it."""
        return self._clock.progress

    @progress.setter
    def progress(self, share: float) -> None:
        self._clock.progress = share

    def persistent(self) -> dict[str, Array]:
        """Return the kept blobs that live from pass to pass, by "layer.blob".

        They belong to a snapshot.
        """
        found = {}
        for step in self.plan.forward:
            kernel = self.plan.kernels[step.choice] if isinstance(step, Step) else None
            if kernel is None or not isinstance(step, Step):
                continue
            for kept, buffer in zip(kernel.terms.kept, step.kept, strict=True):
                if kept.persistent:
                    found[self.plan.buffers[buffer].name] = self._buffers[buffer]
        return found

    def fill_params(self, skip: Sequence[int] | Any = ()) -> None:
        """Fill the params anew from the seed, by their fillers."""
        for i in range(len(self.params)):
            if i not in skip:
                self.set_param(i, drawn_param(self.plan.graph, i, self.backend.xp, self.seed))

    def clear_param_diffs(self) -> None:
        """Set the gradients of all params to zero."""
        # They become zero when somebody looks; usually the next gradient is there before.
        self._cleared.update(i for i, diff in enumerate(self._param_diffs) if diff is not None)

    @property
    def param_diffs(self) -> list[Array | None]:
        """The gradients of the params, None for those without; the list and its arrays are live."""
        assert not self.plan.updated, "these gradients are gone once they were used"
        for i in self._cleared:
            diff = self._param_diffs[i]
            assert diff is not None
            diff[...] = 0
        self._cleared.clear()
        return self._param_diffs

    def param_array(self, index: int) -> Array:
        """Return a param in C order: its own memory where it lies so, else a copy."""
        return self.to_plain(index, self.params[index])

    def set_param(self, index: int, values: Array) -> None:
        """Set a param to values in C order, of its shape or one with as many elements."""
        self.from_plain(index, values, self.params[index])

    def param_diff_array(self, index: int) -> Array | None:
        """Return the gradient of a param in C order, likewise; None if it has none."""
        diff = self.param_diffs[index]
        return None if diff is None else self.to_plain(index, diff)

    def to_plain(self, index: int, raw: Array) -> Array:
        """Return what lies like param `index` in C order: itself if it does, else a copy."""
        layout = self.plan.param_layouts[index]
        if layout is None:
            return raw
        shape = self.plan.graph.params[index].shape
        values = self._array(shape)
        self.backend.reorder(shape, raw, layout, values, None)()
        return values

    def from_plain(self, index: int, values: Array, raw: Array) -> None:
        """Write values in C order into an array that lies like param `index`."""
        layout = self.plan.param_layouts[index]
        shape = self.plan.graph.params[index].shape
        if layout is None:
            raw.reshape(shape)[...] = values.reshape(shape)
            return
        given = values.reshape(shape)
        if type(given) is not type(raw) or given.dtype != raw.dtype or not given.flags.c_contiguous:
            given = self._array(shape)
            given[...] = values.reshape(shape)
        self.backend.reorder(shape, given, None, raw, layout)()

    def loss(self) -> float:
        """Return the objective after a forward pass.

        The sum over the weighted blobs of weight * sum of the blob.
        """
        return float(
            sum(
                blob.loss_weight * self.backend.to_host(self.data(blob.key)).sum()
                for blob in self.plan.graph.loss_blobs
            )
        )

    # -- running -----------------------------------------------------------------------------------

    def forward(self, first: int = 0, last: int | None = None) -> None:
        """Run the layers first..last (indices of nodes, both included; all by default)."""
        stop = len(self.plan.graph.nodes) if last is None else last
        self._follow_feeds(first, stop)
        self._clock.number += 1
        with _caffes_arithmetic():
            for node, call in self._forward_steps():
                if first <= node <= stop:
                    call()

    def _forward_steps(self) -> Iterator[tuple[int, Prepared]]:
        """Yield the steps of a pass; where one has led to another plan, go on with that."""
        i = 0
        while i < len(self._forward):
            steps = self._forward
            yield steps[i]
            i += 1
            if steps is not self._forward:
                found = enumerate(self.plan.forward)
                node = steps[i - 1][0]
                i = 1 + next(j for j, s in found if isinstance(s, Step) and s.node == node)

    def backward(self, first: int | None = None, last: int = 0) -> None:
        """Run backward from node `first` down to node `last`, both included; all by default."""
        if first is None and last == 0:
            with _caffes_arithmetic():
                for _, call in self._backward:
                    call()
            return
        start = len(self.plan.graph.nodes) if first is None else first
        with _caffes_arithmetic():
            for node, call in self._backward:
                if last <= node <= start:
                    call()

    def timed(self) -> Iterator[tuple[Direction, int, float]]:
        """Run forward and, where it is planned, backward; yield each step once it is done.

        As (direction, index of the node, seconds).
        """
        self._follow_feeds(0, len(self.plan.graph.nodes))
        self._clock.number += 1
        for node, call in self._forward_steps():
            yield Direction.FORWARD, node, self._seconds(call)
        # The forward pass may have ended with another plan.
        for node, call in self._backward:
            yield Direction.BACKWARD, node, self._seconds(call)

    def _seconds(self, call: Prepared) -> float:
        self.backend.synchronize()
        begin = time.perf_counter()
        with _caffes_arithmetic():
            call()
        self.backend.synchronize()
        return time.perf_counter() - begin

    def first_nonfinite(self) -> Nonfinite | None:
        """Run forward again on the same inputs, up to the first layer that gives a NaN or Inf."""
        nodes = self.plan.graph.nodes
        for step, (_, call) in zip(self.plan.forward, self._forward, strict=True):
            layer = nodes[step.node].layer
            # Now: a layer that works in place overwrites them.
            bottoms = () if isinstance(step, Reorder) else self._statistics(step.bottoms)
            # What code of others makes need not be the same again; it is still there.
            if not (layer.reads_data or layer.writes_data or step.node in self.plan.follow):
                with _caffes_arithmetic():
                    call()
            if isinstance(step, Reorder):
                continue
            last = nodes[step.nodes[-1]]
            tops = self._statistics(step.tops)
            for key, top in zip(last.tops, tops, strict=True):
                if not top.finite:
                    name = self.plan.graph.blobs[key].name
                    return Nonfinite(nodes[step.node], name, top, bottoms)
        return None

    def _statistics(self, buffers: Sequence[int]) -> tuple[Statistics, ...]:
        return tuple(Statistics.of(self.backend.to_host(self._plain(i))) for i in buffers)

    # -- preparing ---------------------------------------------------------------------------------

    def _array(self, shape: tuple[int, ...]) -> Array:
        nbytes = 4 * int(np.prod(shape, dtype=np.int64))
        return self.backend.allocate(nbytes).view("float32").reshape(shape)

    def _raw(self, index: int) -> Array:
        """Return new memory that lies like a param."""
        layout = self.plan.param_layouts[index]
        if layout is None:
            return self._array(self.plan.graph.params[index].shape)
        return self._array((layout.nbytes // 4,))

    def _own_or_shared(self, index: int, given: Array | None) -> Array:
        """Return the memory of a param: the given array if it lies as planned, else new memory.

        With the values of the given array.
        """
        if given is None:
            return self._raw(index)
        layout = self.plan.param_layouts[index]
        if layout is None or given.ndim == 1:
            return given
        own = self._raw(index)
        self.from_plain(index, given, own)
        return own

    def _prepare_backward(self, step: Step | Reorder | Fill | Update) -> tuple[int, Prepared]:
        if isinstance(step, Update):
            return step.node, self._prepare_update(step)
        if isinstance(step, Fill):
            diff, value = self.diff(step.blob), step.value
            # It belongs to the first gradient that is added, of whatever part of the net is run.
            return max(self._passing_back(step.blob)), lambda: diff.fill(value)
        made_for = step.again if isinstance(step, Step) else None
        return step.node if made_for is None else made_for, self._prepare(step)

    def _passing_back(self, key: str) -> list[int]:
        """Return the readers of a blob that have a gradient for it."""
        nodes, wanted = self.plan.graph.nodes, self.plan.need.bottoms
        return [
            reader
            for reader in self.plan.graph.readers[key]
            for bottom, want in zip(nodes[reader].bottoms, wanted[reader], strict=True)
            if bottom == key and want
        ]

    def _prepare(self, step: Step | Reorder) -> Prepared:
        if isinstance(step, Reorder):
            return self._prepare_reorder(step)
        node = self.plan.graph.nodes[step.node]
        if node.layer.reads_data:
            return self._prepare_feed(step.node, node)
        if node.layer.writes_data:
            return self._prepare_sink(step)
        kernel = self.plan.kernels[step.choice]
        assert kernel is not None
        params, before = self._prepare_params(step, kernel.terms.params)
        if step.direction is Direction.FORWARD and step.node in self.plan.follow:
            bound = self._bind(step, node, params, ())
            place = partial(self._place, step.node)
            run = kernel.forward(replace(bound, tops=(), place=place))
        elif step.direction is Direction.FORWARD:
            run = kernel.forward(self._bind(step, node, params, ()))
        elif step.again is not None:
            assert kernel.terms.again is not None
            run = kernel.terms.again(self._bind(step, node, params, ()))
        elif any(step.wants_params):
            run = self._prepare_gradients(step, node, kernel, params)
        else:
            run = kernel.backward(self._bind(step, node, params, (None,) * len(params)))
        return _telling_the_layer(_in_a_row(*before, run), node)

    def _prepare_update(self, step: Update) -> Prepared:
        index, gradient = step.param, self._buffers[step.gradient]

        def update() -> None:
            self.on_gradient(index, 0, gradient)
            self._cleared.add(index)

        return update

    def _prepare_reorder(self, step: Reorder) -> Prepared:
        source, target = (self.plan.buffers[i] for i in (step.source, step.target))
        return self.backend.reorder(
            source.shape,
            self._buffers[step.source],
            source.layout,
            self._buffers[step.target],
            target.layout,
            add=step.add,
        )

    def _prepare_params(
        self, step: Step, layouts: Sequence[Layout | None]
    ) -> tuple[tuple[Array, ...], list[Prepared]]:
        """Return the params in the layouts that the kernel takes, and the copies to make before."""
        found, before = [], []
        free = self._params_scratch
        for use, layout in zip(step.params, layouts, strict=True):
            array, own = self.params[use.param], self.plan.param_layouts[use.param]
            if layout == own:
                found.append(array.reshape(use.shape) if own is None else array)
                continue
            copy, free = _cut(free, use.shape, layout)
            before.append(self.backend.reorder(use.shape, array, own, copy, layout))
            found.append(copy)
        return tuple(found), before

    def _prepare_gradients(
        self, step: Step, node: Node, kernel: Kernel, params: tuple[Array, ...]
    ) -> Prepared:
        """Return the call of a step with gradients for params.

        The first after `clear_param_diffs` is written where it belongs, if it lies so; else it is
        written elsewhere, then copied or added.
        """
        wanted = [
            (i, use.param, layout)
            for i, (use, want, layout) in enumerate(
                zip(step.params, step.wants_params, kernel.terms.params, strict=True)
            )
            if want and i not in kernel.terms.pieces
        ]
        indices = [index for _, index, _ in wanted]
        cleared = self._cleared

        def targets(arrays: Mapping[int, Array]) -> tuple[Array | None, ...]:
            return tuple(arrays.get(i) for i in range(len(step.params)))

        straight = all(layout == self.plan.param_layouts[index] for _, index, layout in wanted)
        direct: Prepared | None = None
        if straight and len(set(indices)) == len(indices):
            arrays = {
                i: self._param_diff(index).reshape(step.params[i].shape if layout is None else -1)
                for i, index, layout in wanted
            }
            direct = kernel.backward(self._bind(step, node, params, targets(arrays)))
        detour: list[Prepared] = []
        adding: dict[int, tuple[Prepared, Prepared]] = {}

        def prepare_detour() -> None:
            arrays = {}
            for i, index, layout in wanted:
                use = step.params[i]
                memory = self.backend.allocate(_nbytes(use.shape, layout))
                arrays[i], _ = _cut(memory, use.shape, layout)
                own = self.plan.param_layouts[index]
                copy, add = (
                    self.backend.reorder(
                        use.shape, arrays[i], layout, self._param_diff(index), own, add=add
                    )
                    for add in (False, True)
                )
                adding[i] = copy, add
            detour.append(kernel.backward(self._bind(step, node, params, targets(arrays))))

        def run() -> None:
            if direct is not None and cleared.issuperset(indices):
                direct()
                cleared.difference_update(indices)
                return
            if not detour:
                prepare_detour()
            detour[0]()
            for i, index, _ in wanted:
                copy, add = adding[i]
                if index in cleared:
                    copy()
                    cleared.discard(index)
                else:
                    add()

        return run

    def _prepare_feed(self, index: int, node: Node) -> Prepared:
        outs = tuple(self.data(key) for key in node.tops)

        def fill() -> None:
            begin = time.perf_counter()
            self.feeds[index].fill(outs)
            self.data_seconds += time.perf_counter() - begin

        return fill

    def _prepare_sink(self, step: Step) -> Prepared:
        bottoms = tuple(self._buffers[index] for index in step.bottoms)

        def write() -> None:
            if sink := self.sinks.get(step.node):
                sink.write(tuple(self.backend.to_host(bottom) for bottom in bottoms))

        return write

    def _bind(
        self,
        step: Step,
        node: Node,
        params: tuple[Array, ...],
        param_diffs: tuple[Array | None, ...],
    ) -> Binding:
        def arrays(buffers: Sequence[int]) -> tuple[Array, ...]:
            return tuple(self._buffers[i] for i in buffers)

        def hand_over(i: int, start: int, piece: Array) -> None:
            self.on_gradient(step.params[i].param, start, piece)

        names = [self.plan.graph.nodes[i].name for i in step.nodes]
        return Binding(
            node=node,
            bottoms=arrays(step.bottoms),
            tops=arrays(step.tops),
            params=params,
            kept=arrays(step.kept),
            top_diffs=arrays(step.top_diffs),
            bottom_diffs=tuple(
                None if i is None else self._buffers[i]
                for i in step.bottom_diffs or (None,) * len(step.bottoms)
            ),
            param_diffs=param_diffs or (None,) * len(params),
            adds=step.adds,
            random=lambda: generator(self.seed, names[-1], self._clock.number),
            progress=lambda: self._clock.progress,
            scratch=_NOTHING if step.scratch is None else self._buffers[step.scratch],
            hand_over=hand_over,
        )

    def _param_diff(self, index: int) -> Array:
        diff = self._param_diffs[index]
        assert diff is not None, "a wanted gradient has no memory"
        return diff


_NOTHING = np.empty(0, np.uint8)


def _nobody(index: int, start: int, gradient: Array) -> None:
    raise AssertionError("a plan with updates runs backward, and nobody takes its gradients")


def _nbytes(shape: tuple[int, ...], layout: Layout | None) -> int:
    return 4 * int(np.prod(shape, dtype=np.int64)) if layout is None else layout.nbytes


def _cut(memory: Array, shape: tuple[int, ...], layout: Layout | None) -> tuple[Array, Array]:
    """Cut an array of a shape in a layout off the front of some memory; return it and the rest."""
    nbytes = _nbytes(shape, layout)
    array = memory[:nbytes].view("float32")
    rest = memory[-(-nbytes // ALIGNMENT) * ALIGNMENT :]
    return (array.reshape(shape) if layout is None else array), rest


def _params_scratch(plan: Plan) -> int:
    """Return the bytes that the params of one step take at most in layouts not their own."""
    most = 0
    for step in plan.forward:
        kernel = plan.kernels[step.choice] if isinstance(step, Step) else None
        if kernel is None or not isinstance(step, Step):
            continue
        total = 0
        for use, layout in zip(step.params, kernel.terms.params, strict=True):
            if layout != plan.param_layouts[use.param]:
                total += -(-_nbytes(use.shape, layout) // ALIGNMENT) * ALIGNMENT
        most = max(most, total)
    return most


def _in_a_row(*calls: Prepared) -> Prepared:
    """Return a call that makes these calls."""
    if len(calls) == 1:
        return calls[0]

    def run() -> None:
        for call in calls:
            call()

    return run


def _trained(plan: Plan) -> frozenset[int]:
    """Return the params that a plan computes gradients for."""
    return frozenset(
        use.param
        for node, wants in zip(plan.graph.nodes, plan.need.params, strict=True)
        for use, want in zip(node.params, wants, strict=True)
        if want
    )


# A buffer's name, shape and layout, and how many of that name come before it.
_Place = tuple[str, tuple[int, ...], Layout | None, int]


def _owners(plan: Plan) -> dict[_Place, int]:
    """Return the storages outside the arena, by what lies in them."""
    count: Counter[str] = Counter()
    found: dict[_Place, int] = {}
    for buffer in plan.buffers:
        if plan.storages[buffer.storage].offset is None:
            place = (buffer.name, buffer.shape, buffer.layout, count[buffer.name])
            found[place] = buffer.storage
        count[buffer.name] += 1
    return found


def _caffes_arithmetic() -> np.errstate:
    """Let overflow, log of 0 and their like give Inf or NaN without a word.

    The solver looks for those.
    """
    return np.errstate(all="ignore")


def _telling_the_layer(run: Callable[[], None], node: Node) -> Prepared:
    """Turn a rule's refusal of its data (a label out of range) into an error with the layer."""

    def call() -> None:
        try:
            run()
        except Refusal as refusal:
            raise fail(
                refusal.what,
                span=node.span,
                layer=node.label,
                expected=refusal.expected,
                got=refusal.got,
                hint=refusal.hint,
            ) from None

    return call
