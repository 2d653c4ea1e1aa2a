"""Random messages of the schema, for properties of what reads and writes them."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_NAMES = st.text("abcXYZ019_/.:#{}\"'\\ \n", max_size=8)


@st.composite
def messages(draw: st.DrawFn, message_class: type[Message], *, as_yaml: bool = False) -> Message:
    """Draw a message with few fields, each with any value its type can have but NaN.

    NaN is not equal to itself. `as_yaml` leaves out bytes, which YAML cannot hold.
    """
    message = message_class()
    _fill(draw, message, as_yaml, depth=0)
    return message


def _fill(draw: st.DrawFn, message: Message, as_yaml: bool, depth: int) -> None:
    for field in draw(_some_fields(message.DESCRIPTOR, depth)):
        if as_yaml and field.type == FieldDescriptor.TYPE_BYTES:
            continue
        for _ in range(draw(st.integers(1, 3)) if field.is_repeated else 1):
            _set(draw, message, field, as_yaml, depth)
    for field in message.DESCRIPTOR.fields:
        if field.is_required and not message.HasField(field.name):
            _set(draw, message, field, as_yaml, depth)


@cache
def _some_fields(descriptor: Any, depth: int) -> st.SearchStrategy[list[FieldDescriptor]]:
    fields = [f for f in descriptor.fields if f.message_type is None or depth < 3]
    if not fields:
        return st.just([])
    return st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda f: f.number)


def _set(
    draw: st.DrawFn, message: Message, field: FieldDescriptor, as_yaml: bool, depth: int
) -> None:
    if field.message_type is not None:
        target = getattr(message, field.name)
        if field.is_repeated:
            target = target.add()
        else:
            target.SetInParent()
        _fill(draw, target, as_yaml, depth + 1)
        return
    value = draw(_value(field))
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in _RANGES:
        least, most = _RANGES[field.type]
        return st.one_of(st.integers(max(least, -9), 99), st.integers(least, most))
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return {
        FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
        FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_STRING: st.one_of(_NAMES, _TEXT),
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    }[field.type]
