"""What protobuf says about a message, under the types that its stubs are vague about."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """Return the descriptor of a message or of its class."""
    return cast(Descriptor, message.DESCRIPTOR)


def field_of(message: Message, name: str) -> FieldDescriptor:
    """Return the descriptor of a field that the message is known to have."""
    return descriptor_of(message).fields_by_name[name]


def set_fields(message: Message) -> list[tuple[FieldDescriptor, Any]]:
    """Return the fields that are set in a message with their values, by number."""
    return cast(list[tuple[FieldDescriptor, Any]], message.ListFields())


def is_message(field: FieldDescriptor) -> bool:
    """Tell whether the values of a field are messages."""
    return bool(field.type == FieldDescriptor.TYPE_MESSAGE)


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """Return the enum of a field that has one."""
    assert field.enum_type is not None
    return field.enum_type
