"""The executor: memory for a plan, prepared calls, and the loop over them. It decides nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from netc.backends.base import Backend, Binding, Prepared
from netc.errors import fail
from netc.graph.types import Graph, Node
from netc.layers.types import Array, Refusal
from netc.plan.types import Direction, Fill, Plan, Step


class Feed(Protocol):
    """What fills the tops of a layer that reads data."""

    def fill(self, outs: tuple[Array, ...]) -> None:
        """Write the next batch into the given arrays."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


def generator(seed: int, name: str, number: int) -> np.random.Generator:
    """Return the random numbers of (seed, name, number), the same whatever ran before.

    `number` is a param's index for fillers, a forward pass for layers.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def fill_param(graph: Graph, index: int, values: Array, xp: Any, seed: int) -> None:
    """Fill the array of one param by its filler, with the random numbers of its owner."""
    param = graph.params[index]
    rng = generator(seed, graph.nodes[param.owner].name, param.index)
    values[...] = param.filler.draw(xp, rng, param.shape)


@dataclass(slots=True)
class _Clock:
    """The number of the forward pass, from which layers take their random numbers."""

    number: int = 0


class Executor:
    """A plan with memory.

    `params` are the learnable blobs, one float32 array for each of `plan.graph.params`; pass arrays
    in to share them with another executor, else they are allocated and filled from `seed`.
    `param_diffs` hold None for params without gradient; they accumulate until `clear_param_diffs`.
    `feeds` maps node indices to what fills data layers.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        *,
        seed: int = 0,
        params: Mapping[int, Array] | None = None,
        feeds: Mapping[int, Feed] | None = None,
    ) -> None:
        self.plan = plan
        self.backend = backend
        self.seed = seed
        self.feeds = dict(feeds or {})
        self._clock = _Clock()
        graph = plan.graph
        given = params or {}
        self.params: list[Array] = [
            given[i] if i in given else self._array(param.shape)
            for i, param in enumerate(graph.params)
        ]
        self.fill_params(skip=given.keys())
        wanted = {
            use.param
            for node, wants in zip(graph.nodes, plan.need.params, strict=True)
            for use, want in zip(node.params, wants, strict=True)
            if want
        }
        self.param_diffs: list[Array | None] = [
            self._array(param.shape) if i in wanted else None
            for i, param in enumerate(graph.params)
        ]
        #: What has memory of its own, by kind, key and shape.
        self._owned: dict[_Place, Array] = {}
        self._lay_out(plan, {})

    def use(
        self,
        plan: Plan,
        *,
        data: Mapping[str, Array] | None = None,
        params: Mapping[int, Array] | None = None,
    ) -> None:
        """Go on with another plan of the same net, made for other input shapes.

        Params, their gradients, feeds and the clock stay. What has memory of its own and has not
        changed its shape stays where it is, with its content: arrays that were handed out go on
        being those of the net, and so does recurrent state. `data` gives arrays for blobs to lie
        in, by key; `params` puts other arrays in the place of params, by index.
        """
        for index, array in (params or {}).items():
            self.params[index] = array
        self._lay_out(plan, data or {})

    def _lay_out(self, plan: Plan, given: Mapping[str, Array]) -> None:
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
        self.plan = plan
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
            storages[buffer.storage][: buffer.nbytes].view(buffer.dtype).reshape(buffer.shape)
            for buffer in plan.buffers
        ]
        for blob in plan.graph.loss_blobs:
            # Outputs in the objective start the backward pass; the others get a Fill step.
            own = owners.get(("diff", blob.key, blob.shape))
            if own is not None and own not in places:
                self.diff(blob.key)[...] = blob.loss_weight
        self._forward = [(step.node, self._prepare(step)) for step in plan.forward]
        self._backward = [self._prepare_backward(step) for step in plan.backward]

    # -- access ------------------------------------------------------------------------------------

    def data(self, key: str) -> Array:
        """Return the data of a blob version: a view.

        Meaningful after a pass only for blobs that the plan keeps.
        """
        return self._buffers[self.plan.data[key]]

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

    def persistent(self) -> dict[str, Array]:
        """Return the kept blobs that live from pass to pass, by "layer.blob".

        They belong to a snapshot.
        """
        return {
            self.plan.buffers[buffer].name: self._buffers[buffer]
            for (node, i), buffer in self.plan.kept.items()
            if self.plan.graph.nodes[node].kept[i].persistent
        }

    def fill_params(self, skip: Sequence[int] | Any = ()) -> None:
        """Fill the params anew from the seed, by their fillers."""
        graph = self.plan.graph
        for i in range(len(graph.params)):
            if i not in skip:
                fill_param(graph, i, self.params[i], self.backend.xp, self.seed)

    def clear_param_diffs(self) -> None:
        """Set the gradients of all params to zero."""
        for diff in self.param_diffs:
            if diff is not None:
                diff[...] = 0

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
        self._clock.number += 1
        if first == 0 and last is None:
            with _caffes_arithmetic():
                for _, call in self._forward:
                    call()
            return
        stop = len(self.plan.graph.nodes) if last is None else last
        with _caffes_arithmetic():
            for node, call in self._forward:
                if first <= node <= stop:
                    call()

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
        self._clock.number += 1
        passes = ((Direction.FORWARD, self._forward), (Direction.BACKWARD, self._backward))
        for direction, steps in passes:
            for node, call in steps:
                self.backend.synchronize()
                begin = time.perf_counter()
                with _caffes_arithmetic():
                    call()
                self.backend.synchronize()
                yield direction, node, time.perf_counter() - begin

    def first_nonfinite(self) -> tuple[Node, str] | None:
        """Run forward again on the same inputs.

        Return the first node with a NaN or Inf among its tops, and that blob.
        """
        calls = dict(self._forward)
        for step in self.plan.forward:
            node = self.plan.graph.nodes[step.node]
            if not node.layer.reads_data:
                with _caffes_arithmetic():
                    calls[step.node]()
            for key in node.tops:
                if not np.isfinite(self.backend.to_host(self.data(key))).all():
                    return node, self.plan.graph.blobs[key].name
        return None

    # -- preparing ---------------------------------------------------------------------------------

    def _array(self, shape: tuple[int, ...]) -> Array:
        nbytes = 4 * int(np.prod(shape, dtype=np.int64))
        return self.backend.allocate(nbytes).view("float32").reshape(shape)

    def _prepare_backward(self, step: Step | Fill) -> tuple[int, Prepared]:
        if isinstance(step, Fill):
            diff, value = self.diff(step.blob), step.value
            # It belongs to the first gradient that is added, of whatever part of the net is run.
            return max(self._passing_back(step.blob)), lambda: diff.fill(value)
        return step.node, self._prepare(step)

    def _passing_back(self, key: str) -> list[int]:
        """Return the readers of a blob that have a gradient for it."""
        nodes, wanted = self.plan.graph.nodes, self.plan.need.bottoms
        return [
            reader
            for reader in self.plan.graph.readers[key]
            for bottom, want in zip(nodes[reader].bottoms, wanted[reader], strict=True)
            if bottom == key and want
        ]

    def _prepare(self, step: Step) -> Prepared:
        node = self.plan.graph.nodes[step.node]
        if node.layer.reads_data:
            return self._prepare_feed(step.node, node)
        backend = next(b for b in self.backend.candidates() if b.name == step.kernel)
        kernel = backend.kernel_for(node, step.direction)
        run = kernel.prepare(self._bind(step, node))  # type: ignore[union-attr]  # the plan asked
        return _telling_the_layer(run, node)

    def _prepare_feed(self, index: int, node: Node) -> Prepared:
        outs = tuple(self.data(key) for key in node.tops)

        def fill() -> None:
            self.feeds[index].fill(outs)

        return fill

    def _bind(self, step: Step, node: Node) -> Binding:
        backward = step.direction is Direction.BACKWARD
        wants = self.plan.need.bottoms[step.node]
        wants_params = self.plan.need.params[step.node]
        return Binding(
            node=node,
            bottoms=tuple(self.data(key) for key in node.bottoms),
            tops=tuple(self.data(key) for key in node.tops),
            params=tuple(self.params[use.param].reshape(use.shape) for use in node.params),
            kept=tuple(self.kept(step.node, i) for i in range(len(node.kept))),
            top_diffs=tuple(self.diff(key) for key in node.tops) if backward else (),
            bottom_diffs=tuple(
                self.diff(key) if backward and want else None
                for key, want in zip(node.bottoms, wants, strict=True)
            ),
            param_diffs=tuple(
                self._param_diff(use.param).reshape(use.shape) if backward and want else None
                for use, want in zip(node.params, wants_params, strict=True)
            ),
            adds=step.adds,
            random=lambda: generator(self.seed, node.name, self._clock.number),
        )

    def _param_diff(self, index: int) -> Array:
        diff = self.param_diffs[index]
        assert diff is not None, "a wanted gradient has no memory"
        return diff


# What a buffer is for ("data", "diff", "kept"), of what, in which shape.
_Place = tuple[str, str | tuple[int, int], tuple[int, ...]]


def _owners(plan: Plan) -> dict[_Place, int]:
    """Return the storages outside the arena, by what lies in them."""
    kinds = (("data", plan.data), ("diff", plan.diff), ("kept", plan.kept))
    found: dict[_Place, int] = {}
    for kind, buffers in kinds:
        for key, index in buffers.items():
            buffer = plan.buffers[index]
            if plan.storages[buffer.storage].offset is None:
                found[kind, key, buffer.shape] = buffer.storage
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
