"""Weights, messages and comparisons that several of these tests use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from netc.schema import netc_pb2
from netc.weights import wire
from netc.weights.types import FloatArray, SavedBlob, SavedLayer, Weights, frozen
from netc.weights.wire import FIXED32, FIXED64, LENGTH, VARINT, encode_varint

CAFFE_FILES = Path(__file__).parents[1] / "conformance" / "files"
"""Files that BVLC Caffe 1.0 wrote."""

REFERENCE = np.load(CAFFE_FILES / "model_iter_4_reference.npz")
"""What is in them."""


def reference_params() -> dict[tuple[str, int], FloatArray]:
    """Return (layer, index) -> values of the net in the files."""
    keys = [key.split(":") for key in REFERENCE if key.startswith("param:")]
    return {(layer, int(i)): REFERENCE[f"param:{layer}:{i}"] for _, layer, i in keys}


def params_of(weights: Weights) -> dict[tuple[str, int], FloatArray]:
    """Return (layer, index) -> values."""
    return {
        (layer.name, index): blob.data
        for layer in weights.layers
        for index, blob in enumerate(layer.blobs)
        if blob
    }


def same_values(a: object, b: object) -> bool:
    """Say whether two arrays have the same shape and the same bits."""
    x, y = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return x.shape == y.shape and x.tobytes() == y.tobytes()


def same_weights(a: Weights, b: Weights) -> bool:
    """Say whether two weights are equal, except for where they come from."""
    return a.name == b.name and list(map(_comparable, a.layers)) == list(map(_comparable, b.layers))


def _comparable(layer: SavedLayer) -> tuple[object, ...]:
    blobs = [
        blob
        and (
            blob.shape,
            blob.data.tobytes(),
            blob.legacy,
            None if blob.diff is None else blob.diff.tobytes(),
        )
        for blob in layer.blobs
    ]
    return (layer.name, blobs, layer.type, layer.bottoms, layer.tops, layer.settings)


# -- bytes that protobuf's own writer never makes --------------------------------------------------


def tag(number: int, wire_type: int) -> bytes:
    return encode_varint(number << 3 | wire_type)


def number_field(number: int, value: int) -> bytes:
    return tag(number, VARINT) + encode_varint(value)


def bytes_field(number: int, content: bytes) -> bytes:
    return tag(number, LENGTH) + encode_varint(len(content)) + content


def packed(number: int, values: Sequence[float], code: str = "f4") -> bytes:
    return bytes_field(number, np.array(values, f"<{code}").tobytes())


def unpacked(number: int, values: Sequence[float], code: str = "f4") -> bytes:
    mark = tag(number, FIXED32 if code == "f4" else FIXED64)
    return b"".join(mark + value.tobytes() for value in np.array(values, f"<{code}"))


def joined(chunks: Sequence[wire.Chunk]) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunks)


# -- drawing ---------------------------------------------------------------------------------------

floats = st.floats(width=32)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, shape: st.SearchStrategy[tuple[int, ...]] = shapes) -> FloatArray:
    """Draw a float32 array, NaN and infinities included."""
    dims = draw(shape)
    count = math.prod(dims)
    values = draw(st.lists(floats, min_size=count, max_size=count))
    return np.array(values, np.float32).reshape(dims)


@st.composite
def saved_blobs(draw: st.DrawFn, *, legacy: bool = True, diff: bool = True) -> SavedBlob:
    old = legacy and draw(st.booleans())
    values = draw(arrays(st.tuples(*[st.integers(0, 3)] * 4)) if old else arrays())
    # A diff without values leaves no trace in a file.
    has_diff = diff and values.size > 0 and draw(st.booleans())
    other = draw(arrays(st.just(values.shape))) if has_diff else None
    return SavedBlob(frozen(values), old, None if other is None else frozen(other))


@st.composite
def saved_layers(draw: st.DrawFn, *, legacy: bool = True, diff: bool = True) -> SavedLayer:
    message = netc_pb2.LayerParameter(
        name=draw(names),
        type=draw(names),
        bottom=draw(st.lists(names, max_size=2)),
        top=draw(st.lists(names, max_size=2)),
        loss_weight=draw(st.lists(floats, max_size=2)),
    )
    if draw(st.booleans()):
        message.phase = netc_pb2.TEST
        message.convolution_param.num_output = draw(st.integers(0, 9))
        message.param.add(lr_mult=draw(floats))
    blobs = draw(st.lists(saved_blobs(legacy=legacy, diff=diff), max_size=3))
    return SavedLayer.of(message, blobs)


def weights(*, legacy: bool = True, diff: bool = True) -> st.SearchStrategy[Weights]:
    layers = st.lists(saved_layers(legacy=legacy, diff=diff), min_size=1, max_size=4)
    return st.builds(Weights, layers.map(tuple), names)
