"""The wire format, against protobuf's own reader and by hand."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.schema import netc_pb2
from netc.weights import wire
from netc.weights.wire import FIXED32, FIXED64, LENGTH, START_GROUP, VARINT, Truncated, WireError
from tests.weights.samples import bytes_field, number_field, packed, tag, unpacked

F4 = np.dtype("<f4")


def reader(raw: bytes) -> wire.WireReader:
    return wire.WireReader(io.BytesIO(raw))


@given(st.integers(-(2**63), 2**64 - 1))
def test_varint_round_trip(value: int) -> None:
    raw = wire.encode_varint(value)
    assert reader(raw).varint(len(raw)) == value % 2**64
    assert reader(raw).integer(len(raw)) == (value + 2**63) % 2**64 - 2**63


@given(st.integers(-(2**31), 2**31 - 1))
def test_int32_as_protobuf_writes_it(value: int) -> None:
    raw = netc_pb2.BlobProto(num=value).SerializeToString()
    r = reader(raw)
    assert list(r.fields(1)) == [(1, VARINT)]
    assert r.integer(len(raw), bits=32) == value


def test_varint_longer_than_64_bits() -> None:
    with pytest.raises(WireError, match="longer than 64 bits"):
        reader(b"\xff" * 11).varint(11)


@given(st.lists(st.lists(st.floats(width=32), max_size=200), max_size=6), st.data())
def test_runs_of_floats_packed_or_not(runs: list[list[float]], data: st.DataObject) -> None:
    packings = [data.draw(st.booleans()) for _ in runs]
    raw = b"".join(
        packed(5, run) if pack else unpacked(5, run)
        for run, pack in zip(runs, packings, strict=True)
    )
    r = reader(raw)
    found = [
        r.packed(F4, len(raw)) if wire_type == LENGTH else r.unpacked(number, F4, len(raw))
        for number, wire_type in r.fields(len(raw))
    ]
    expected = [value for run in runs for value in run]
    flat = np.concatenate([np.empty(0, F4), *found])
    assert flat.tobytes() == struct.pack(f"<{len(expected)}f", *expected)
    # protobuf's own reader agrees that this is what the bytes say.
    again = np.array(netc_pb2.BlobProto.FromString(raw).data, F4)
    assert np.array_equal(flat, again, equal_nan=True)


def test_a_long_unpacked_run_is_read_in_blocks() -> None:
    values = np.arange(100_000, dtype=F4)
    stored = np.empty(len(values), [("tag", "u1"), ("value", F4)])
    stored["tag"], stored["value"] = tag(5, FIXED32)[0], values
    raw = stored.tobytes() + number_field(1, 7)
    r = reader(raw)
    assert next(r.fields(len(raw))) == (5, FIXED32)
    assert np.array_equal(r.unpacked(5, F4, len(raw)), values)
    assert next(r.fields(len(raw))) == (1, VARINT)


def test_arrays_are_aligned_and_own_their_memory() -> None:
    raw = bytes_field(1, b"x") + packed(5, [1, 2, 3])  # at an odd place in the file
    r = reader(raw)
    r.skip(LENGTH, len(raw)) if next(r.fields(len(raw))) else None
    next(r.fields(len(raw)))
    values = r.packed(F4, len(raw))
    assert values.flags.aligned
    assert values.flags.owndata


@pytest.mark.parametrize(
    "field",
    [
        number_field(9, 2**60),
        tag(9, FIXED64) + b"12345678",
        tag(9, FIXED32) + b"1234",
        bytes_field(9, b"123"),
        tag(9, START_GROUP) + number_field(1, 5) + tag(9, wire.END_GROUP),
        tag(9, START_GROUP)
        + tag(3, START_GROUP)
        + bytes_field(1, b"x")
        + tag(3, wire.END_GROUP)
        + tag(9, wire.END_GROUP),
    ],
    ids=["varint", "fixed64", "fixed32", "bytes", "group", "nested groups"],
)
def test_unknown_fields_are_passed_over_and_copied(field: bytes) -> None:
    raw = field + number_field(1, 7)
    r = reader(raw)
    number, wire_type = next(r.fields(len(raw)))
    r.skip(wire_type, len(raw))
    assert (next(r.fields(len(raw))), r.varint(len(raw))) == ((1, VARINT), 7)
    r = reader(raw)
    number, wire_type = next(r.fields(len(raw)))
    assert r.copy(number, wire_type, len(raw)) == field
    assert r.position == len(field)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (tag(0, VARINT), "impossible tag"),
        (tag(1, 6), "impossible tag"),
        (tag(1, 7), "impossible tag"),
        (tag(1, wire.END_GROUP), "impossible tag"),
        (tag(1 << 29, VARINT) + b"\0", "impossible tag"),
        (tag(1, START_GROUP) + tag(0, VARINT), "impossible tag"),
        (tag(1, START_GROUP) * 200, "nested too deeply"),
        (tag(1, START_GROUP) + tag(1, 7), "impossible tag"),
    ],
)
def test_impossible_bytes(raw: bytes, message: str) -> None:
    r = reader(raw)
    with pytest.raises(WireError, match=message):
        for _, wire_type in r.fields(len(raw)):
            r.skip(wire_type, len(raw))


def test_a_length_beyond_the_end_of_the_file_allocates_nothing() -> None:
    raw = tag(5, LENGTH) + wire.encode_varint(1 << 60) + b"1234"
    r = reader(raw)
    next(r.fields(len(raw)))
    with pytest.raises(Truncated) as error:
        r.packed(F4, len(raw))
    assert error.value.missing == (1 << 60) - 4


def test_a_value_may_not_leave_its_message() -> None:
    inner = tag(5, LENGTH) + wire.encode_varint(8) + b"1234"
    raw = bytes_field(7, inner) + b"56789"
    r = reader(raw)
    next(r.fields(len(raw)))
    end = r.message(len(raw))
    next(r.fields(end))
    with pytest.raises(WireError, match="longer than the message"):
        r.packed(F4, end)


def test_numbers_that_are_cut_in_two() -> None:
    raw = bytes_field(5, b"12345")
    r = reader(raw)
    next(r.fields(len(raw)))
    with pytest.raises(WireError, match="5 bytes of numbers do not divide into 4"):
        r.packed(F4, len(raw))


def test_written_arrays_are_not_copied() -> None:
    values = np.arange(4, dtype=np.float32)
    (chunk,) = wire.array_chunks(values)
    assert isinstance(chunk, memoryview)
    assert np.shares_memory(np.frombuffer(chunk, np.uint8), values)
    assert wire.n_bytes([b"ab", chunk]) == 18
    assert wire.array_chunks(np.empty((0, 3), np.float32)) == []
