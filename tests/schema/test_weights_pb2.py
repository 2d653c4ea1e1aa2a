"""The weights variant of the schema reads and writes the same bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import netc_pb2, weights_pb2

finite32 = st.floats(width=32, allow_nan=False)


def tag(number: int, wire_type: int) -> bytes:
    return bytes([number << 3 | wire_type])


@given(st.lists(finite32), st.lists(st.floats(allow_nan=False)), st.lists(st.integers(0, 9)))
def test_same_bytes_both_ways(values: list[float], doubles: list[float], dim: list[int]) -> None:
    plain = netc_pb2.BlobProto(data=values, double_diff=doubles, num=3)
    plain.shape.dim[:] = dim
    raw = plain.SerializeToString()
    blob = weights_pb2.BlobProto.FromString(raw)
    assert list(struct.unpack(f"<{len(values)}f", weights_pb2.array_bytes(blob, "data"))) == values
    assert weights_pb2.array_bytes(blob, "double_diff") == struct.pack(
        f"<{len(doubles)}d", *doubles
    )
    assert weights_pb2.array_bytes(blob, "diff") == b""
    assert (blob.num, list(blob.shape.dim)) == (3, dim)
    assert netc_pb2.BlobProto.FromString(blob.SerializeToString()) == plain


def test_written_arrays_are_ordinary_floats() -> None:
    net = weights_pb2.NetParameter()
    net.layer.add(name="conv1").blobs.add().data[:] = [struct.pack("<3f", 1, 2, 3)]
    read = netc_pb2.NetParameter.FromString(net.SerializeToString())
    assert list(read.layer[0].blobs[0].data) == [1, 2, 3]


def test_unpacked_array_is_read() -> None:
    raw = b"".join(tag(5, 5) + struct.pack("<f", value) for value in (1.5, -2.0))
    raw += b"".join(tag(8, 1) + struct.pack("<d", value) for value in (0.1, 0.2))
    blob = weights_pb2.BlobProto.FromString(raw)
    assert weights_pb2.array_bytes(blob, "data") == struct.pack("<2f", 1.5, -2.0)
    assert weights_pb2.array_bytes(blob, "double_data") == struct.pack("<2d", 0.1, 0.2)


def test_chunks_of_a_packed_array_are_joined() -> None:
    raw = tag(5, 2) + b"\x04" + struct.pack("<f", 1) + tag(5, 2) + b"\x04" + struct.pack("<f", 2)
    blob = weights_pb2.BlobProto.FromString(raw)
    assert weights_pb2.array_bytes(blob, "data") == struct.pack("<2f", 1, 2)


def test_two_encodings_of_one_array_are_refused() -> None:
    raw = tag(5, 2) + b"\x04" + struct.pack("<f", 1) + tag(5, 5) + struct.pack("<f", 2)
    with pytest.raises(NetcError, match="partly packed"):
        weights_pb2.array_bytes(weights_pb2.BlobProto.FromString(raw), "data")
