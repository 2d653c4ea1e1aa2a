"""An executor that keeps the promises of pycaffe's blobs.

In Caffe a blob is one piece of memory for data and one for diff, shared by all layers in place. The
plan gives every version of a blob memory of its own. What users see is the last version's array;
where a part of the net has run, or is about to, contents move between it and the version that
counts there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from netc.assemble import Net, Plans, open_feeds, open_sinks, shared_params
from netc.backends.base import Backend
from netc.errors import NetcError
from netc.graph.build import NetState
from netc.graph.types import Graph
from netc.layers.python import PythonCode
from netc.plan.need import find_need
from netc.pycaffe import code
from netc.pycaffe.input_arrays import InputArrays
from netc.pycaffe.layout import Layout, lay_out
from netc.runtime import Executor
from netc.schema import Source, netc_pb2

FloatArray = NDArray[np.float32]


@dataclass(slots=True)
class _InPlace:
    """A blob of several versions.

    `content` is the version whose buffer holds what Caffe's one array would hold. Once the array of
    the last version has been `seen` by a user, it is that one between runs.
    """

    keys: tuple[str, ...]
    content: str
    seen: bool = False

    @property
    def last(self) -> str:
        return self.keys[-1]


@dataclass(frozen=True, slots=True)
class Watchers:
    """Calls around each layer of a pass, with the layer's index."""

    before: list[Callable[[int], object]] = field(default_factory=list)
    after: list[Callable[[int], object]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.before or self.after)


class Runner(Executor):
    """The executor of a pycaffe net: every blob kept, Caffe's Split layers in the graph.

    Without `must_train` a net through which a gradient cannot flow still runs forward, and its
    backward pass raises the reason. Params of equal shape are shared with `sharing`, by layer name.
    """

    def __init__(
        self,
        source: Source[netc_pb2.NetParameter],
        state: NetState,
        backend: Backend,
        *,
        seed: int = 0,
        must_train: bool = False,
        sharing: Executor | None = None,
    ) -> None:
        self.source = source
        self.state = state
        self.messages = tuple(filter(state.includes, source.message.layer))
        # Arrays of another shape than the net has, given to users by Blob.reshape.
        self._reshaped: dict[str, tuple[FloatArray, FloatArray]] = {}
        # What users see as diff where no gradient reaches.
        self._no_diff: dict[str, FloatArray] = {}
        #: What the first layer gives, where the user has set it.
        self.input_arrays: InputArrays | None = None
        self.forward_watchers = Watchers()
        self.backward_watchers = Watchers()
        net = Net(source, state, host=code.host())
        # Why there is no backward pass, if there is none.
        self._refused: NetcError | None = None
        try:
            find_need(net.graph)
        except NetcError as error:
            if must_train:
                raise
            self._refused = error
        plans = Plans(
            net, backend, train=self._refused is None, keep="all", prepared=self._with_splits
        )
        #: The layers and blobs as users see them.
        self.layout: Layout = lay_out(net.graph, self.messages)
        several = {name: keys for name, keys in self.layout.blobs.items() if len(keys) > 1}
        self._data_of = {name: _InPlace(keys, keys[-1]) for name, keys in several.items()}
        self._diff_of = {name: _InPlace(keys, keys[-1]) for name, keys in several.items()}
        super().__init__(
            plans.first,
            backend,
            seed=seed,
            params=shared_params(plans.first.graph, sharing) if sharing else None,
            feeds=open_feeds(plans.first.graph, seed),
            sinks=open_sinks(plans.first.graph),
            replan=plans,
        )

    def _with_splits(self, graph: Graph) -> Graph:
        return lay_out(graph, self.messages).graph

    # -- what users see ----------------------------------------------------------------------------

    def visible_data(self, name: str) -> FloatArray:
        """Return the array that users read and write as the data of a blob."""
        if name in self._reshaped:
            return self._reshaped[name][0]
        if name in self._data_of:
            self._publish(self._data_of[name], self.data)
        array: FloatArray = self.data(self.layout.blobs[name][-1])
        return array

    def visible_diff(self, name: str) -> FloatArray:
        """Return the array that users read and write as the diff of a blob.

        Zeros where no gradient reaches.
        """
        if name in self._reshaped:
            return self._reshaped[name][1]
        key = self.layout.blobs[name][-1]
        if key in self.plan.diff:
            if name in self._diff_of:
                self._publish(self._diff_of[name], self.diff)
            array: FloatArray = self.diff(key)
            return array
        shape = self.plan.graph.blobs[key].shape
        if name not in self._no_diff or self._no_diff[name].shape != shape:
            self._no_diff[name] = self._array(shape)
        return self._no_diff[name]

    def clear_param_diffs(self) -> None:
        """Set the gradients of all params to zero, also for those who have the arrays."""
        super().clear_param_diffs()
        # An executor may put this off until somebody asks for them.
        _ = self.param_diffs

    def show_params(self) -> None:
        """Let the objects of Python layers have the net's arrays for their params."""
        for node in self.plan.graph.nodes:
            if isinstance(node.layer, PythonCode):
                node.layer.show(
                    [self.params[use.param].reshape(use.shape) for use in node.params],
                    [self.visible_param_diff(use.param).reshape(use.shape) for use in node.params],
                )

    def visible_param_diff(self, index: int) -> FloatArray:
        """Return the gradient of a param; zeros, which nothing adds to, where there is none."""
        diff: FloatArray | None = self.param_diffs[index]
        if diff is None:
            diff = self.param_diffs[index] = self._array(self.params[index].shape)
        return diff

    # -- shapes ------------------------------------------------------------------------------------

    def resize(self, name: str, shape: tuple[int, ...]) -> None:
        """Give a blob another shape, from now on for its user and from the next run for the net.

        That of an input then counts for the net; other blobs get their shape from their layer.
        """
        if shape == self.visible_data(name).shape:
            return
        self._reshaped.pop(name, None)
        if shape != self.visible_data(name).shape:
            self._reshaped[name] = (self._array(shape), self._array(shape))

    def reshape(self) -> None:
        """Make the whole net follow the shapes of its inputs.

        Raises NetcError where a layer cannot; the shapes then stay as they are until they are
        changed again.
        """
        inputs = {
            name: self._reshaped[name][0] for name in self.layout.inputs if name in self._reshaped
        }
        if inputs:
            blobs = self.layout.blobs
            self.follow(
                {blobs[name][0]: array.shape for name, array in inputs.items()},
                data={blobs[name][-1]: array for name, array in inputs.items()},
            )
            for name, array in inputs.items():
                if name in self._data_of:
                    blob = self._data_of[name]
                    blob.seen, blob.content = True, blob.last
                    if self.data(blob.last).shape != array.shape:
                        self.data(blob.keys[0])[...] = array
        self._reshaped.clear()

    # -- running -----------------------------------------------------------------------------------

    def forward(self, first: int = 0, last: int | None = None) -> None:
        """Run the nodes first..last on what users see of the blobs, and let them see the result."""
        self.reshape()
        end = len(self.plan.graph.nodes) - 1 if last is None else last
        if self.input_arrays is not None and first == 0:
            tops = self.layout.layers[0].tops
            for name, batch in zip(tops, self.input_arrays.next(), strict=False):
                self.visible_data(name)[...] = batch
        if not self.forward_watchers:
            self._forward_part(first, end)
            return
        number = self.forward_pass
        for i, layer in enumerate(self.layout.layers):
            if first <= layer.first and layer.last <= end:
                _tell(self.forward_watchers.before, i)
                # It is one pass, in however many parts.
                self.forward_pass = number
                self._forward_part(layer.first, layer.last)
                _tell(self.forward_watchers.after, i)

    def backward(self, first: int | None = None, last: int = 0) -> None:
        """Run backward from node `first` to node `last`, likewise.

        Raises NetcError where a gradient would have to pass a layer that has none.
        """
        if self._refused:
            raise self._refused
        self.reshape()
        start = len(self.plan.graph.nodes) - 1 if first is None else first
        if not self.backward_watchers:
            self._backward_part(start, last)
            return
        for i in reversed(range(len(self.layout.layers))):
            layer = self.layout.layers[i]
            if last <= layer.first and layer.last <= start:
                _tell(self.backward_watchers.before, i)
                self._backward_part(layer.last, layer.first)
                _tell(self.backward_watchers.after, i)

    def _forward_part(self, first: int, last: int) -> None:
        for blob in self._data_of.values():
            if key := self._version_read(blob, first, last):
                _move(self.data, blob.content, key)
        super().forward(first, last)
        self.show_params()
        for blob in self._data_of.values():
            for key in blob.keys:
                if first <= self._node(key) <= last and not self._is_fed(key):
                    blob.content = key
            if blob.seen:
                self._publish(blob, self.data)

    def _version_read(self, blob: _InPlace, first: int, last: int) -> str | None:
        """Return the version that the nodes first..last take as it is when they start."""
        before = [key for key in blob.keys if self._node(key) < first]
        if before:
            key = before[-1]
        elif self._is_fed(blob.keys[0]):
            key = blob.keys[0]
        else:
            return None
        readers = self.plan.graph.readers[key]
        return key if any(first <= reader <= last for reader in readers) else None

    def _backward_part(self, first: int, last: int) -> None:
        for blob in self._diff_of.values():
            if key := self._version_seeded(blob, first, last):
                _move(self.diff, blob.content, key)
        super().backward(first, last)
        self.show_params()
        for blob in self._diff_of.values():
            if self.plan.graph.blobs[blob.last].loss_weight:
                # Caffe overwrites the weight that its next backward pass would have to start from.
                # Here it stays, and is what users see.
                continue
            for key in reversed(blob.keys):
                if key in self.plan.diff and self._is_written(key, first, last):
                    blob.content = key
            if blob.seen:
                self._publish(blob, self.diff)

    def _version_seeded(self, blob: _InPlace, first: int, last: int) -> str | None:
        """Return the version whose diff the nodes take as users left it, from `first` down."""
        key = next((k for k in reversed(blob.keys) if self._node(k) <= first), None)
        if key is None or self._node(key) < last or key not in self.plan.diff:
            return None
        if self.plan.graph.blobs[key].loss_weight:
            return None
        # What a reader overwrites first need not be brought.
        return None if self._is_written(key, first, last) else key

    def _is_written(self, key: str, first: int, last: int) -> bool:
        """Say whether one of the nodes, from `first` down to `last`, gives the blob a gradient."""
        return any(last <= reader <= first for reader in self._passing_back(key))

    def _publish(self, blob: _InPlace, array: Callable[[str], FloatArray]) -> None:
        """Bring the content to the array that users have."""
        _move(array, blob.content, blob.last)
        blob.seen, blob.content = True, blob.last

    def _node(self, key: str) -> int:
        return self.plan.graph.blobs[key].node

    def _is_fed(self, key: str) -> bool:
        return self.plan.graph.nodes[self._node(key)].layer.fed


def _move(array: Callable[[str], FloatArray], source: str, target: str) -> None:
    """Copy between two versions of a blob.

    A layer that changes the shape in place, which only netc allows, keeps them apart.
    """
    if source != target and array(source).shape == array(target).shape:
        np.copyto(array(target), array(source))


def _tell(watchers: list[Callable[[int], object]], layer: int) -> None:
    for call in watchers:
        call(layer)
