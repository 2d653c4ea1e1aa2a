"""Caffe's binary files, read and written, with protobuf itself as the judge."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import netc_pb2
from netc.weights import binaryproto
from netc.weights.binaryproto import net_chunks, read_net, read_single_blob
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen
from tests.weights.samples import (
    CAFFE_FILES,
    bytes_field,
    joined,
    number_field,
    packed,
    same_values,
    same_weights,
    unpacked,
    weights,
)

BLOB = binaryproto.BLOB


def read(raw: bytes, *, diffs: bool = False) -> Weights:
    return read_net(io.BytesIO(raw), "x.caffemodel", diffs=diffs)


def read_blob(raw: bytes) -> SavedBlob:
    return read_single_blob(io.BytesIO(raw), "mean.binaryproto")


def shape(*dims: int) -> bytes:
    return bytes_field(BLOB["shape"], b"".join(number_field(1, dim) for dim in dims))


def net_of(*blobs: bytes, name: str = "ip") -> bytes:
    layer = bytes_field(1, name.encode()) + b"".join(bytes_field(7, blob) for blob in blobs)
    return bytes_field(100, layer)


def test_the_numbers_are_those_of_the_schema() -> None:
    for message, numbers in (
        (netc_pb2.NetParameter, binaryproto.NET),
        (netc_pb2.LayerParameter, binaryproto.LAYER),
        (netc_pb2.V1LayerParameter, binaryproto.V1_LAYER),
        (netc_pb2.V0LayerParameter, binaryproto.V0_LAYER),
        (netc_pb2.BlobProto, binaryproto.BLOB),
        (netc_pb2.BlobShape, binaryproto.BLOB_SHAPE),
    ):
        fields = message.DESCRIPTOR.fields_by_name
        assert {name: fields[name].number for name in numbers} == numbers
    fields = netc_pb2.BlobProto.DESCRIPTOR.fields_by_name
    raw = {"raw_data_type", "raw_diff_type", "raw_data", "raw_diff"}
    assert set(binaryproto.BLOB) == set(fields) - raw
    assert {fields[name].number for name in raw} == {*binaryproto._RAW, *binaryproto._RAW_TYPE}


# -- against protobuf ------------------------------------------------------------------------------


def expected_of(message: netc_pb2.BlobProto) -> np.ndarray[Any, Any] | None:
    """Return what Caffe's Blob::FromProto makes of a message; None where it refuses."""
    if any(message.HasField(axis) for axis in ("num", "channels", "height", "width")):
        dims = [message.num, message.channels, message.height, message.width]
    else:
        dims = list(message.shape.dim)
    values = list(message.double_data) or list(message.data)
    if any(not 0 <= size < 2**31 for size in dims) or math.prod(dims) != len(values):
        return None
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(np.float32).reshape(dims)


@given(weights())
def test_protobuf_reads_what_is_written(saved: Weights) -> None:
    message = netc_pb2.NetParameter.FromString(
        joined(net_chunks(saved.name, saved.layers, diffs=True))
    )
    assert message.name == saved.name
    assert len(message.layer) == len(saved.layers)
    for layer, entry in zip(message.layer, saved.layers, strict=True):
        assert (layer.name, layer.type) == (entry.name, entry.type)
        assert (tuple(layer.bottom), tuple(layer.top)) == (entry.bottoms, entry.tops)
        assert len(layer.blobs) == len(entry.blobs)
        for stored, blob in zip(layer.blobs, entry.blobs, strict=True):
            assert blob
            values = expected_of(stored)
            assert values is not None
            assert same_values(np.nan_to_num(values), np.nan_to_num(blob.data))
            assert stored.HasField("num") == blob.legacy
            assert len(stored.diff) == (0 if blob.diff is None else blob.diff.size)
        settings = netc_pb2.LayerParameter.FromString(entry.settings)
        for name in ("name", "type", "bottom", "top", "blobs"):
            layer.ClearField(name)
        assert layer.SerializeToString() == settings.SerializeToString()


@given(weights())
def test_round_trip(saved: Weights) -> None:
    raw = joined(net_chunks(saved.name, saved.layers, diffs=True))
    assert same_weights(read(raw, diffs=True), saved)
    # Written again it is the same file.
    again = read(raw, diffs=True)
    assert joined(net_chunks(again.name, again.layers, diffs=True)) == raw


@given(weights())
def test_diffs_are_left_out_unless_wanted(saved: Weights) -> None:
    raw = joined(net_chunks(saved.name, saved.layers, diffs=True))
    assert all(blob and blob.diff is None for layer in read(raw).layers for blob in layer.blobs)
    without = Weights(read(raw).layers, saved.name)
    assert joined(net_chunks(saved.name, saved.layers)) == joined(
        net_chunks(without.name, without.layers)
    )


fragments = st.one_of(
    st.lists(st.integers(0, 3), max_size=4).map(lambda dims: shape(*dims)),
    st.lists(st.floats(width=32, allow_nan=False), max_size=4).flatmap(
        lambda v: st.sampled_from([packed(5, v), unpacked(5, v), packed(6, v)])
    ),
    st.lists(st.floats(allow_nan=False), max_size=4).flatmap(
        lambda v: st.sampled_from([packed(8, v, "f8"), unpacked(8, v, "f8"), packed(9, v, "f8")])
    ),
    st.tuples(st.integers(1, 4), st.integers(-1, 3)).map(lambda f: number_field(*f)),
    st.sampled_from([number_field(8, 3), bytes_field(1, b"abc"), bytes_field(99, b"zz")]),
)


@given(st.lists(fragments, max_size=6).map(b"".join))
def test_any_blob_means_what_caffe_takes_it_for(raw: bytes) -> None:
    expected = expected_of(netc_pb2.BlobProto.FromString(raw))
    if expected is None:
        with pytest.raises(NetcError, match=r"shape and data disagree|impossible shape"):
            read(net_of(raw))
    else:
        ((_, (values,)),) = read(net_of(raw))
        assert values is not None
        assert np.array_equal(values, expected)
        assert values.shape == expected.shape


VALID = (CAFFE_FILES / "model_iter_4.caffemodel").read_bytes()


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=3))
def test_damaged_files_are_read_as_protobuf_reads_them(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(VALID)
    for at, byte in changes:
        raw[at] = byte
    try:
        found = read(bytes(raw))
    except NetcError:
        found = None
    try:
        message = netc_pb2.NetParameter.FromString(bytes(raw))
    except DecodeError:
        # It also looks into the settings of layers, which are not looked at here.
        return
    blobs = [expected_of(blob) for layer in message.layer for blob in layer.blobs]
    if not message.layer or message.layers or any(blob is None for blob in blobs):
        assert found is None
        return
    assert found
    read_blobs = [blob.data for layer in found.layers for blob in layer.blobs if blob]
    assert len(read_blobs) == len(blobs)
    for a, b in zip(read_blobs, blobs, strict=True):
        assert b is not None
        assert a.shape == b.shape
        assert np.array_equal(a, b, equal_nan=True)


# -- old and foreign forms -------------------------------------------------------------------------


def test_three_generations() -> None:
    blob = shape(2) + packed(5, [1, 2])
    v2 = net_of(blob, name="conv1")
    v1 = bytes_field(2, bytes_field(4, b"conv1") + number_field(5, 4) + bytes_field(6, blob))
    v0_inner = bytes_field(1, b"conv1") + bytes_field(2, b"conv") + bytes_field(50, blob)
    v0 = bytes_field(2, bytes_field(1, v0_inner) + bytes_field(3, b"top"))
    for raw in (v2, v1, v0):
        ((name, (values,)),) = read(bytes_field(1, b"old") + raw)
        assert name == "conv1"
        assert same_values(values, [1, 2])
        netc_pb2.NetParameter.FromString(raw)  # the bytes are what they are said to be
    (layer,) = read(v0).layers
    assert (layer.type, layer.tops) == ("conv", ("top",))
    (layer,) = read_net(io.BytesIO(v1), "x", current_type={4: "Convolution"}.__getitem__).layers
    assert layer.type == "Convolution"


def test_two_generations_at_once() -> None:
    blob = shape(1) + packed(5, [1])
    raw = net_of(blob) + bytes_field(2, bytes_field(4, b"ip") + bytes_field(6, blob))
    with pytest.raises(NetcError, match="both `layer` and `layers`"):
        read(raw)


def test_legacy_axes_win_over_a_shape() -> None:
    raw = shape(6) + b"".join(number_field(n, size) for n, size in ((1, 1), (2, 1), (3, 2), (4, 3)))
    blob = read_blob(raw + packed(5, range(6)))
    assert blob.legacy
    assert blob.shape == (1, 1, 2, 3)


@pytest.mark.parametrize(
    ("sizes", "shape", "legacy"),
    [
        ((2, 1, 1, 1, 3), (2, 1, 1, 1, 3), False),
        ((1, 1, 1, 2, 3), (1, 1, 2, 3), True),
        ((1, 1, 1, 1, 6), (1, 1, 1, 6), True),
    ],
)
def test_blobs_of_five_axes(sizes: tuple[int, ...], shape: tuple[int, ...], legacy: bool) -> None:
    """C3D's first version: the length is the third field, and all that follows comes one later."""
    raw = b"".join(number_field(n, size) for n, size in enumerate(sizes, start=1))
    raw += packed(6, range(6)) + packed(7, range(6, 12))
    blob = read_net(io.BytesIO(net_of(raw)), "x", diffs=True).layers[0].blobs[0]
    assert blob is not None and blob.diff is not None
    assert (blob.shape, blob.legacy) == (shape, legacy)
    assert same_values(blob.data.ravel(), range(6))
    assert same_values(blob.diff.ravel(), range(6, 12))
    assert blob.fits((6,)) == (shape[-1] == 6)


def test_doubles_win_over_floats_and_may_overflow() -> None:
    blob = read_blob(shape(2) + packed(5, [7, 7]) + packed(8, [1 / 3, 1e300], "f8"))
    assert same_values(blob.data, [np.float32(1 / 3), np.inf])


def test_nan_is_a_value() -> None:
    assert np.isnan(read_blob(shape(1) + packed(5, [np.nan])).data).all()


@pytest.mark.parametrize(("code", "kind"), [(0, "f8"), (1, "f4"), (2, "f2")])
def test_raw_data_of_nvidias_caffe(code: int, kind: str) -> None:
    raw = np.array([0.5, -2], f"<{kind}").tobytes()
    blob = read_blob(shape(2) + number_field(10, code) + bytes_field(12, raw))
    assert same_values(blob.data, [0.5, -2])


def test_raw_data_of_an_unknown_type() -> None:
    with pytest.raises(NetcError, match="a type that is not read"):
        read(net_of(shape(2) + number_field(10, 3) + bytes_field(12, bytes(8))))
    with pytest.raises(NetcError, match="does not divide"):
        read(net_of(shape(2) + number_field(10, 1) + bytes_field(12, bytes(7))))


def test_names_that_are_not_utf8_stay_apart() -> None:
    blob = shape(1) + packed(5, [1])
    raw = b"".join(
        bytes_field(100, bytes_field(1, name) + bytes_field(7, blob)) for name in (b"\xff", b"\xfe")
    )
    assert [name for name, _ in read(raw)] == ["\\xff", "\\xfe"]


# -- what is wrong ---------------------------------------------------------------------------------


def test_every_bad_blob_is_named() -> None:
    raw = net_of(shape(2) + packed(5, [1, 2]), shape(3) + packed(5, [1, 2]), name="conv1")
    raw += net_of(shape(2, 2), name="conv2")
    with pytest.raises(NetcError) as error:
        read(raw)
    text = str(error.value)
    assert "layer 'conv1': blob 1: shape and data disagree" in text
    assert "3 values for shape (3,)" in text
    assert "2 values" in text
    assert "layer 'conv2': blob 0: shape and data disagree" in text
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((2**31,), "impossible shape"),
        ((-1,), "impossible shape"),
        ((0, 2**31 - 1, 2**31 - 1, 2**31 - 1), "impossible shape"),
        ((1,) * 33, "too many axes"),
    ],
)
def test_impossible_shapes(dims: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        read(net_of(shape(*dims) + (b"" if 0 in dims else packed(5, [1]))))


def test_a_diff_of_another_size() -> None:
    raw = net_of(shape(2) + packed(5, [1, 2]) + packed(6, [1]))
    assert len(read(raw).layers) == 1  # nobody asked for it
    with pytest.raises(NetcError, match="shape and diff disagree"):
        read(raw, diffs=True)


def test_the_place_of_a_cut() -> None:
    with pytest.raises(NetcError) as error:
        read(VALID[:-100])
    text = str(error.value)
    assert "cut off" in text
    assert "at least " in text
    assert "inside blob 0 of layer 'ip'" in text


def test_no_layers() -> None:
    with pytest.raises(NetcError, match="there is no layer in it"):
        read(bytes_field(1, b"net"))


def test_too_large_for_protobuf() -> None:
    huge = memoryview(np.broadcast_to(np.uint8(0), (2**31,)))  # no memory behind it
    with pytest.raises(NetcError, match="snapshot_format: HDF5"):
        binaryproto.check_size([huge], "x.caffemodel")


def test_settings_stay_in_the_order_of_their_numbers() -> None:
    message = netc_pb2.LayerParameter(name="ip", loss_weight=[1], phase=netc_pb2.TEST)
    message.inner_product_param.num_output = 2
    entry = SavedLayer.of(message, [SavedBlob(frozen(np.ones(1)))])
    raw = joined(net_chunks("", [entry]))
    parsed = netc_pb2.NetParameter.FromString(raw)
    assert parsed.SerializeToString() == raw
