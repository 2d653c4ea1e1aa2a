"""From a message to text: the way back of `bind`."""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from netc import text
from netc.errors import Span
from netc.schema.descriptors import set_fields
from netc.text import Block, Entry, Kind, Scalar

_NOWHERE = Span("<message>")


def print_prototxt(message: Message) -> str:
    """Return `message` as prototxt; reading it gives an equal message. Fields come by number."""
    return text.print_prototxt(to_block(message))


def print_yaml(message: Message) -> str:
    """Return `message` as YAML; reading it gives an equal message.

    Raises NetcError where a field holds bytes that are not text.
    """
    return text.print_yaml(to_block(message))


def to_block(message: Message) -> Block:
    """Return the tree of the fields that are set in `message`."""
    entries = []
    for field, value in set_fields(message):
        values = value if field.is_repeated else [value]
        entries += [Entry(field.name, _NOWHERE, (_value(field, v),)) for v in values]
    return Block(tuple(entries), _NOWHERE)


def _value(field: FieldDescriptor, value: Any) -> Scalar | Block:
    if field.message_type is not None:
        return to_block(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return Scalar(Kind.WORD, known.name if known else str(value), _NOWHERE)
    if field.type == FieldDescriptor.TYPE_STRING:
        return Scalar(Kind.STRING, value, _NOWHERE)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return Scalar(Kind.STRING, value.decode("utf-8", "surrogateescape"), _NOWHERE)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return Scalar(Kind.WORD, str(value).lower(), _NOWHERE)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return Scalar(Kind.NUMBER, _real_text(shortest(value)), _NOWHERE)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return Scalar(Kind.NUMBER, _real_text(value), _NOWHERE)
    return Scalar(Kind.NUMBER, str(value), _NOWHERE)


def _real_text(value: float) -> str:
    shown = repr(value)
    return shown.removesuffix(".0")


def shortest(value: float) -> float:
    """Return the float64 of fewest digits that is `value` in float32.

    The schema's floats are float32, in which 0.1 is 0.10000000149: this gives the 0.1 back that
    was written. Cast to float32 again, nothing has changed.
    """
    # Zeros too stay out of the cache, in which 0.0 and -0.0 would be one.
    return _shortest(value) if value and math.isfinite(value) else value


@lru_cache(maxsize=4096)
def _shortest(value: float) -> float:
    single = struct.pack("<f", value)
    for digits in range(6, 10):  # 6 always survive a way to float32 and back, 9 always suffice
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack("<f", short) == single:
                return short
        except OverflowError:  # the largest floats, rounded up
            continue
    return value
