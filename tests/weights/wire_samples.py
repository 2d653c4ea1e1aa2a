"""Bytes in the protobuf wire format that protobuf's own writer never makes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from netc.weights.wire import FIXED32, FIXED64, LENGTH, VARINT, encode_varint


def tag(number: int, wire_type: int) -> bytes:
    return encode_varint(number << 3 | wire_type)


def number_field(number: int, value: int) -> bytes:
    return tag(number, VARINT) + encode_varint(value)


def bytes_field(number: int, content: bytes) -> bytes:
    return tag(number, LENGTH) + encode_varint(len(content)) + content


def packed(number: int, values: Sequence[float], code: str = "f") -> bytes:
    return bytes_field(number, struct.pack(f"<{len(values)}{code}", *values))


def unpacked(number: int, values: Sequence[float], code: str = "f") -> bytes:
    wire_type = FIXED32 if code == "f" else FIXED64
    return b"".join(tag(number, wire_type) + struct.pack(f"<{code}", value) for value in values)


def same_values(a: object, b: object) -> bool:
    """Say whether two arrays have the same shape and the same bits."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a.shape == b.shape and a.tobytes() == b.tobytes()
