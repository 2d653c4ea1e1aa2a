"""What `net.blobs`, `net.params` and `net.layers` are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index as as_index

from netc.errors import fail
from netc.graph.types import ParamUse
from netc.pycaffe.runner import FloatArray, Runner


class Blob:
    """A named array of a net, with its gradient.

    `data` and `diff` are float32 arrays that are the net's own memory: writing into them
    (`blob.data[...] = x`) is how the net gets values, and after a pass they hold the results. They
    stay the blob's until it changes its shape.
    """

    @property
    def data(self) -> FloatArray:
        """The values."""
        raise NotImplementedError

    @property
    def diff(self) -> FloatArray:
        """The gradients; zeros where none arrives."""
        raise NotImplementedError

    def reshape(self, *dims: int) -> None:
        """Change the shape. Values are then zero, and arrays taken before are no longer the blob's.

        An input keeps its shape, and the net follows with `net.reshape()` or its next pass. Blobs
        that a layer computes get back the shape that the layer gives them.
        """
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        shape: tuple[int, ...] = self.data.shape
        return shape

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """The size of axis 0, 1 where there is none. For blobs of at most four axes, as below."""
        return self._legacy_size(0, "num")

    @property
    def channels(self) -> int:
        """The size of axis 1."""
        return self._legacy_size(1, "channels")

    @property
    def height(self) -> int:
        """The size of axis 2."""
        return self._legacy_size(2, "height")

    @property
    def width(self) -> int:
        """The size of axis 3."""
        return self._legacy_size(3, "width")

    def _legacy_size(self, axis: int, name: str) -> int:
        shape = self.shape
        if len(shape) > 4:
            raise fail(
                f"{name} is for blobs of at most four axes",
                got=f"shape {shape}",
                hint=f"use shape[{axis}]",
            )
        return shape[axis] if axis < len(shape) else 1

    def __len__(self) -> int:
        return self.num

    def __repr__(self) -> str:
        return f"<Blob of shape {self.shape}>"


class NetBlob(Blob):
    """A blob between layers."""

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name

    @property
    def data(self) -> FloatArray:  # noqa: D102 - as the base says
        # A view: who sets the shape of the array must not set that of the net's.
        return self._runner.visible_data(self._name).view()

    @property
    def diff(self) -> FloatArray:  # noqa: D102
        return self._runner.visible_diff(self._name).view()

    def reshape(self, *dims: int) -> None:  # noqa: D102
        self._runner.resize(self._name, checked_shape(dims))


class ParamBlob(Blob):
    """A learnable blob of a layer. Layers that share a param have one each, on the same memory."""

    def __init__(self, runner: Runner, use: ParamUse, label: str) -> None:
        self._runner = runner
        self._use = use
        self._label = label

    @property
    def data(self) -> FloatArray:  # noqa: D102
        array: FloatArray = self._runner.params[self._use.param].reshape(self._use.shape)
        return array

    @property
    def diff(self) -> FloatArray:  # noqa: D102
        return self._runner.visible_param_diff(self._use.param).reshape(self._use.shape)

    def reshape(self, *dims: int) -> None:
        """Refuse another shape: that of a param follows from its layer's settings."""
        if checked_shape(dims) != self._use.shape:
            raise fail(
                f"{self._label} cannot change its shape",
                expected=f"{self._use.shape}, which the settings of the layer give",
                got=f"{dims}",
                hint="change the layer in the net's text, and copy the values with "
                "net.params[...][i].data",
            )


def checked_shape(dims: Sequence[int]) -> tuple[int, ...]:
    """Return a shape as it was given to reshape; NetcError unless it is one of whole numbers."""
    try:
        shape = tuple(as_index(dim) for dim in dims)
    except TypeError:
        shape = (-1,)
    if any(dim < 0 for dim in shape):
        raise fail(
            "this is not a shape",
            expected="whole numbers, each an argument of its own: reshape(1, 3, 224, 224)",
            got=", ".join(map(repr, dims)),
        )
    return shape


class Layer:
    """One layer of a net: its type's name and its learnable blobs.

    Also what the classes of Python layers are derived from. They override `setup`, which is called
    once, `reshape`, which gives the tops their shapes before each pass, `forward` and `backward`.
    """

    type: str
    blobs: list[Blob]

    def __init__(self, param: object = None) -> None:
        """Take the layer's settings, which are in `param_str` and `phase` before `setup`."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read the settings and add params; does nothing unless overridden."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes; does nothing unless overridden."""


class NetLayer(Layer):
    """A layer of a type that needs no Python code."""

    def __init__(self, type: str, blobs: list[Blob]) -> None:
        super().__init__()
        self.type = type
        self.blobs = blobs
