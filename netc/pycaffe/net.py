"""`Net`: a net with memory, as pycaffe's users know it."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from netc.backends import find_backend
from netc.errors import fail, nearest
from netc.graph.build import net_state
from netc.layers.types import Array, Phase
from netc.learned import load_weights, weights_of
from netc.pycaffe import code
from netc.pycaffe.blob import Blob, Layer, NetBlob, NetLayer, ParamBlob
from netc.pycaffe.errors import RuntimeMistake, told_as
from netc.pycaffe.input_arrays import InputArrays
from netc.pycaffe.layout import LayerView
from netc.pycaffe.runner import FloatArray, Runner
from netc.pycaffe.settings import logger, phase_of, seeds
from netc.schema import read_net
from netc.weights import atomic_write, hdf5, write_weights

Path: TypeAlias = "str | os.PathLike[str]"
# Whatever NumPy can turn into an array.
Values: TypeAlias = Any
Outputs: TypeAlias = "dict[str, FloatArray]"


class Net:
    """A net for one phase, with memory for every blob and its gradient.

        net = Net("deploy.prototxt", TEST, weights="net.caffemodel")
        net.blobs["data"].data[...] = images
        probabilities = net.forward()["prob"]

    `level` and `stages` count for the `include` and `exclude` rules of layers. The older order
    `Net(file, weights, phase)` is understood too. Raises NetcError, which as in pycaffe is a
    RuntimeError too, for files that are missing or wrong. Fillers draw from a random seed, see
    `set_random_seed`.

    The layers and blobs are those that Caffe has, its Split layers included.
    """

    @told_as(RuntimeMistake)
    def __init__(
        self,
        network_file: Path,
        phase: int | Phase | Path,
        level: int | Phase | None = None,
        stages: Sequence[str] | None = None,
        weights: Path | None = None,
    ) -> None:
        if isinstance(phase, str | os.PathLike) and level is not None:
            weights, phase, level = phase, level, None
        which = phase_of(phase)
        if isinstance(level, Phase):
            raise fail("a level is a whole number", expected="level=0", got=repr(level))
        if isinstance(stages, str):
            raise fail("stages are a list", expected=f"stages=[{stages!r}]", got=repr(stages))
        source = read_net(os.fspath(network_file))
        state = net_state(source.message, which, level or 0, tuple(stages or ()))
        self._runner = Runner(source, state, find_backend(), seed=seeds.next())
        self._set_up()
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def _of(cls, runner: Runner) -> Net:
        """Return the net that a runner runs."""
        net = cls.__new__(cls)
        net._runner = runner
        net._set_up()
        return net

    def _set_up(self) -> None:
        runner = self._runner
        self._blob_views: OrderedDict[str, Blob] = OrderedDict(
            (name, NetBlob(runner, name)) for name in runner.layout.blobs
        )
        self._layers = [self._layer(view) for view in self._views]
        runner.show_params()

    def _layer(self, view: LayerView) -> Layer:
        """Return a layer as users see it: a Python layer is the object of its own class."""
        nodes = self._runner.plan.graph.nodes[view.first : view.last + 1]
        own: Layer | None = code.object_of(nodes[0].layer)
        if own is not None:
            return own
        blobs: list[Blob] = [
            ParamBlob(self._runner, use, f"param {i} of layer '{view.name}'")
            for i, use in enumerate(use for node in nodes for use in node.params)
        ]
        return NetLayer(view.type, blobs)

    # -- what there is -----------------------------------------------------------------------------

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """The blobs by name, from bottom to top."""
        return self._blob_views

    @property
    def params(self) -> OrderedDict[str, list[Blob]]:
        """The learnable blobs by the name of their layer: weights first, then the bias."""
        return OrderedDict(
            (view.name, layer.blobs)
            for view, layer in zip(self._views, self._layers, strict=True)
            if layer.blobs
        )

    @property
    def layers(self) -> list[Layer]:
        """The layers in the order in which they run."""
        return list(self._layers)

    @property
    def layer_dict(self) -> OrderedDict[str, Layer]:
        """The layers by name."""
        return OrderedDict(zip(self._layer_names, self._layers, strict=True))

    @property
    def inputs(self) -> list[str]:
        """The names of the blobs that the user sets."""
        return list(self._runner.layout.inputs)

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer reads, in alphabetical order as in Caffe."""
        return list(self._runner.layout.outputs)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """The names of each layer's tops."""
        return OrderedDict((view.name, list(view.tops)) for view in self._views)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """The names of each layer's bottoms."""
        return OrderedDict((view.name, list(view.bottoms)) for view in self._views)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The weight of each blob in the objective."""
        layout, graph = self._runner.layout, self._runner.plan.graph
        return OrderedDict(
            (name, graph.blobs[keys[-1]].loss_weight) for name, keys in layout.blobs.items()
        )

    @property
    def _views(self) -> tuple[LayerView, ...]:
        return self._runner.layout.layers

    @property
    def _layer_names(self) -> list[str]:
        return [view.name for view in self._views]

    @property
    def _blob_names(self) -> list[str]:
        return list(self._blob_views)

    @property
    def _blobs(self) -> list[Blob]:
        return list(self._blob_views.values())

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self.blob_loss_weights.values())

    @property
    def _inputs(self) -> list[int]:
        return self._indices(self.inputs)

    @property
    def _outputs(self) -> list[int]:
        return self._indices(self.outputs)

    def _top_ids(self, layer: int) -> list[int]:
        return self._indices(self._views[layer].tops)

    def _bottom_ids(self, layer: int) -> list[int]:
        return self._indices(self._views[layer].bottoms)

    def _indices(self, names: Iterable[str]) -> list[int]:
        number = {name: i for i, name in enumerate(self._blob_views)}
        return [number[name] for name in names]

    # -- running -----------------------------------------------------------------------------------

    @told_as(RuntimeMistake)
    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: Values,
    ) -> Outputs:
        """Run the layers from `start` to `end`, both included; all by default.

        Keyword arguments set the inputs, all of them, and must have the shapes of the blobs.
        Returns the outputs (with `end`, the tops of that layer) and the blobs asked for, by name:
        the blobs' own arrays, which the next pass overwrites.
        """
        first = 0 if start is None else self._layer_index(start)
        last = len(self._views) - 1 if end is None else self._layer_index(end)
        wanted = self._wanted(self.outputs if end is None else self._views[last].tops, blobs)
        if kwargs:
            self._set_all(kwargs, "data")
        self._forward(first, last)
        return {name: self.blobs[name].data for name in wanted}

    @told_as(RuntimeMistake)
    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: Values,
    ) -> Outputs:
        """Run backward from layer `start` down to layer `end`, both included; all by default.

        Keyword arguments set the gradients of the outputs. Returns the gradients of the inputs
        (with `end`, of the bottoms of that layer) and those asked for. Gradients of params add up
        until `clear_param_diffs`. Raises NetcError where a gradient would have to pass a layer that
        has none.
        """
        first = len(self._views) - 1 if start is None else self._layer_index(start)
        last = 0 if end is None else self._layer_index(end)
        wanted = self._wanted(self.inputs if end is None else self._views[last].bottoms, diffs)
        if kwargs:
            self._set_all(kwargs, "diff")
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def _forward(self, first: int, last: int) -> float:
        """Run the layers of these indices; return what they add to the objective."""
        if first > last:
            return 0.0
        runner = self._runner
        begin, end = self._views[first].first, self._views[last].last
        runner.forward(begin, end)
        return float(
            sum(
                blob.loss_weight * runner.data(blob.key).sum()
                for blob in runner.plan.graph.loss_blobs
                if begin <= blob.node <= end
            )
        )

    def _backward(self, first: int, last: int) -> None:
        """Run backward from the layer of index `first` down to that of index `last`."""
        if first >= last:
            self._runner.backward(self._views[first].last, self._views[last].first)

    @told_as(RuntimeMistake)
    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Values) -> Outputs:
        """Run forward over any number of items, batch by batch.

        Keyword arguments are the inputs, with as many items as there are. Returns copies of the
        outputs and of the blobs asked for, for all items.
        """
        return self._forward_all(blobs, kwargs)

    def _forward_all(self, blobs: Sequence[str] | None, inputs: Mapping[str, Values]) -> Outputs:
        given = self._items(inputs)
        found: dict[str, list[FloatArray]] = {}
        for batch in self._batch(given):
            self._set_all(batch, "data")
            _collect(found, self.forward(blobs=blobs))
        return _joined(found, _count(given))

    @told_as(RuntimeMistake)
    def forward_backward_all(
        self,
        blobs: Sequence[str] | None = None,
        diffs: Sequence[str] | None = None,
        **kwargs: Values,
    ) -> tuple[Outputs, Outputs]:
        """Run forward and backward over any number of items, batch by batch.

        Keyword arguments are the inputs and, where wanted, the gradients of the outputs. Returns
        copies of the outputs (and `blobs`) and of the gradients of the inputs (and `diffs`).
        """
        inputs, outputs = set(self.inputs), set(self.outputs)
        data = self._items({name: v for name, v in kwargs.items() if name in inputs})
        tops = {name: np.asarray(v) for name, v in kwargs.items() if name in outputs - inputs}
        if unknown := kwargs.keys() - data.keys() - tops.keys():
            raise fail(
                f"the net has no input or output '{min(unknown)}'",
                expected=", ".join((*self.inputs, *self.outputs)),
                got=", ".join(kwargs),
            )
        found: dict[str, list[FloatArray]] = {}
        gradients: dict[str, list[FloatArray]] = {}
        top_batches = self._batch(tops) if tops else iter(())
        for batch, top_batch in itertools.zip_longest(self._batch(data), top_batches):
            if batch:
                self._set_all(batch, "data")
            _collect(found, self.forward(blobs=blobs))
            if top_batch:
                self._set_all(top_batch, "diff")
            _collect(gradients, self.backward(diffs=diffs))
        return _joined(found, _count(data)), _joined(gradients, _count(data))

    def _batch(self, items: Mapping[str, FloatArray]) -> Iterator[dict[str, FloatArray]]:
        """Yield batches of the net's size; the last one is filled up with zeros."""
        size = next(iter(self.blobs.values())).shape[0]
        for start in range(0, _count(items), size):
            yield {name: _filled_up(v[start : start + size], size) for name, v in items.items()}

    def _items(self, given: Mapping[str, Values]) -> dict[str, FloatArray]:
        items = {name: np.asarray(values) for name, values in given.items()}
        sizes = {name: len(values) if values.ndim else 0 for name, values in items.items()}
        if not items or len({*sizes.values()}) != 1 or 0 in sizes.values():
            raise fail(
                "the inputs do not have the same number of items",
                expected=f"each of {', '.join(self.inputs)} with one or more items",
                got=", ".join(f"{name}: {size}" for name, size in sizes.items()) or "no inputs",
            )
        return items

    def _set_all(self, given: Mapping[str, Values], what: str) -> None:
        """Set the data of all inputs, or the diffs of all outputs."""
        data = what == "data"
        names = self.inputs if data else self.outputs
        if set(given) != set(names):
            raise fail(
                "Input blob arguments do not match net inputs."
                if data
                else "Top diff arguments do not match net outputs.",
                expected=", ".join(names) or "no arguments: the net has no inputs",
                got=", ".join(given),
            )
        arrays = {name: np.asarray(values) for name, values in given.items()}
        for name, array in arrays.items():
            shape = self.blobs[name].shape
            if array.shape[:1] != shape[:1]:
                raise fail(
                    f"{'Input' if data else 'Diff'} is not batch sized",
                    expected=f"'{name}' of shape {shape}",
                    got=f"shape {array.shape}",
                    hint=f"net.blobs['{name}'].reshape(...) changes the batch size" if data else "",
                )
        for name, array in arrays.items():
            target = self.blobs[name].data if data else self.blobs[name].diff
            try:
                target[...] = array
            except ValueError:
                raise fail(
                    f"the values for blob '{name}' have another shape",
                    expected=f"shape {target.shape}",
                    got=f"shape {array.shape}",
                ) from None

    def _wanted(self, own: Iterable[str], more: Sequence[str] | None) -> list[str]:
        names = list(dict.fromkeys((*own, *(more or ()))))
        for name in names:
            if name not in self.blobs:
                raise fail(
                    f"the net has no blob '{name}'",
                    expected="a name in net.blobs",
                    got=name,
                    hint=nearest(name, self.blobs),
                )
        return names

    def _layer_index(self, name: str) -> int:
        names = self._layer_names
        if name not in names:
            raise fail(
                f"the net has no layer '{name}'",
                expected="a name in net.layer_dict",
                got=name,
                hint=nearest(name, names),
            )
        return names.index(name)

    @told_as(RuntimeMistake)
    def set_input_arrays(self, data: FloatArray, labels: FloatArray) -> None:
        """Let the first layer, a MemoryData, give these images and labels, batch after batch.

        Images (n, C, H, W) and labels (n,) or (n, 1, 1, 1) are float32 in C order, n a multiple of
        the batch size; they are not copied. After the last batch comes the first again.
        """
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels.reshape(-1, 1, 1, 1))
        first = self._runner.plan.graph.nodes[0].layer
        self._runner.input_arrays = InputArrays(first, data, labels)

    def before_forward(self, call: Callable[[int], object]) -> None:
        """Have `call` called before each layer of every forward pass, with the layer's index."""
        self._runner.forward_watchers.before.append(call)

    def after_forward(self, call: Callable[[int], object]) -> None:
        """Have `call` called after each layer of every forward pass, with the layer's index."""
        self._runner.forward_watchers.after.append(call)

    def before_backward(self, call: Callable[[int], object]) -> None:
        """Have `call` called before each layer of every backward pass, with the layer's index."""
        self._runner.backward_watchers.before.append(call)

    def after_backward(self, call: Callable[[int], object]) -> None:
        """Have `call` called after each layer of every backward pass, with the layer's index."""
        self._runner.backward_watchers.after.append(call)

    # -- shapes and params -------------------------------------------------------------------------

    @told_as(RuntimeMistake)
    def reshape(self) -> None:
        """Make all blobs follow the shapes that inputs have been given, as `forward` does too.

        Params stay, and so does the state of recurrent layers whose shapes stay. Raises NetcError
        where a layer cannot work with the shapes.
        """
        self._runner.reshape()

    def clear_param_diffs(self) -> None:
        """Set the gradients of all params to zero."""
        self._runner.clear_param_diffs()

    @told_as(RuntimeMistake)
    def copy_from(self, path: Path) -> None:
        """Copy weights from a file (.caffemodel or HDF5, told by its content) by layer name.

        Layers that the file does not have keep their values. Raises NetcError for a file that
        cannot be read, and for shapes that clash; then nothing is copied.
        """
        load_weights(self._runner, [os.fspath(path)], tell=logger.info)

    def load_hdf5(self, path: Path) -> None:
        """Copy weights from an HDF5 file, as `copy_from` does."""
        self.copy_from(path)

    @told_as(RuntimeMistake)
    def save(self, path: Path) -> None:
        """Write the weights as a .caffemodel; as HDF5 where the name ends in `.h5`."""
        write_weights(os.fspath(path), weights_of(self._runner, self._runner.messages))

    @told_as(RuntimeMistake)
    def save_hdf5(self, path: Path) -> None:
        """Write the weights as HDF5, whatever the name."""
        with atomic_write(os.fspath(path)) as file:
            hdf5.write_net(file, weights_of(self._runner, self._runner.messages))

    @told_as(RuntimeMistake)
    def share_with(self, other: Net) -> None:
        """Let the params be those of another net, for layers that both have by name.

        From here on a change in one net is a change in both. Raises NetcError where shapes clash;
        then nothing is shared.
        """
        runner, theirs = self._runner, other._runner
        by_place = {
            (node.name, i): (theirs.params[use.param], use.shape)
            for node in reversed(theirs.plan.graph.nodes)
            for i, use in enumerate(node.params)
        }
        found: dict[int, Array] = {}
        for node in runner.plan.graph.nodes:
            for i, use in enumerate(node.params):
                if (node.name, i) not in by_place:
                    continue
                array, shape = by_place[node.name, i]
                own = runner.params[use.param].shape
                if shape != use.shape or array.size != runner.params[use.param].size:
                    raise fail(
                        f"cannot share param {i}: the nets have different shapes for it",
                        span=node.span,
                        layer=node.label,
                        expected=f"shape {use.shape}",
                        got=f"shape {shape} in the other net",
                    )
                found.setdefault(use.param, array.reshape(own))
        runner.use(runner.plan, params=found)
        runner.show_params()


def _count(items: Mapping[str, FloatArray]) -> int:
    return len(next(iter(items.values()), ()))


def _filled_up(items: FloatArray, size: int) -> FloatArray:
    missing = size - len(items)
    if not missing:
        return items
    return np.concatenate([items, np.zeros((missing, *items.shape[1:]), items.dtype)])


def _collect(found: dict[str, list[FloatArray]], outputs: Outputs) -> None:
    for name, array in outputs.items():
        found.setdefault(name, []).append(np.atleast_1d(array).copy())


def _joined(found: Mapping[str, list[FloatArray]], count: int) -> Outputs:
    """Join batches; what goes item by item loses the zeros that the last batch was filled with."""
    return {name: np.concatenate(arrays)[:count] for name, arrays in found.items()}
