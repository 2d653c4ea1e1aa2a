"""What the schema says of the settings of a layer: which there are, and what holds without them."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor

from netc.schema import netc_pb2
from netc.schema.descriptors import descriptor_of
from netc.schema.printing import shortest


def setting_defaults(message: str = "") -> dict[str, str | None]:
    """Return the fields of a layer, or of one of its messages ("pooling_param"), and what they are.

    A field's default is as a text would write it, "needed" where there must be a value, "empty" for
    a repeated one, and None where there is no default: of messages, and of fields without one.
    """
    descriptor = descriptor_of(netc_pb2.LayerParameter)
    if message:
        inner = descriptor.fields_by_name[message].message_type
        assert inner is not None
        descriptor = inner
    return {field.name: _default(field) for field in descriptor.fields}


def _default(field: FieldDescriptor) -> str | None:
    if field.is_repeated:
        return "empty"
    if field.is_required:
        return "needed"
    if not field.has_default_value:
        return None
    value = field.default_value
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return f"{shortest(value):g}"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
