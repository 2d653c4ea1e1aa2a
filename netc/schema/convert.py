"""From messages to a frozen dataclass: typed, defaults filled in, nothing dropped in silence."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from netc.schema.descriptors import descriptor_of, enum_of, field_of, is_message, set_fields
from netc.schema.printing import shortest

T = TypeVar("T")
Path = tuple[str, ...]


def bind_fields(
    cls: type[T], messages: Sequence[Message], outer: Message | None = None
) -> tuple[T, list[Path]]:
    """Return an instance of the dataclass `cls` and the paths of the fields set but not read.

    Each dataclass field is filled from the schema field of its name in one of `messages`, or in
    `outer`, the message that these lie in. If several have it, the first that sets it counts. By
    the annotation:

    - an Enum takes the schema's enum by the name of the value;
    - `tuple[X, ...]` takes a repeated field, or one that is not as its zero or one values;
    - a dataclass takes a message, its own fields by the same rules;
    - `X | None` is None where the field is not set; else it has the schema's default.

    Floats become the shortest float64 that is the same float32: 0.1, not 0.10000000149.

    A path leads from `outer` if given, else from each of `messages`: ("pooling_param", "pad_h").
    Raises TypeError for a dataclass whose fields the schema does not have.
    """
    names = [_name_in(outer, message) if outer is not None else "" for message in messages]
    holders = [*zip(names, messages, strict=True)]
    read: dict[str, set[str]] = {name: set() for name in names}
    unread: list[Path] = []
    values: dict[str, Any] = {}
    read_outer: set[str] = set(names)
    for wanted in _wanted(cast(type, cls)):
        having = [h for h in holders if wanted.name in h[1].DESCRIPTOR.fields_by_name]
        if having:
            setting = [h for h in having if _is_set(h[1], wanted.name)]
            name, holder = (setting or having)[0]
            read[name].add(wanted.name)
            prefix: Path = (name,) if name else ()
        elif outer is not None and wanted.name in outer.DESCRIPTOR.fields_by_name:
            holder, prefix = outer, ()
            read_outer.add(wanted.name)
        else:
            raise TypeError(
                f"{cls.__name__}.{wanted.name} has no field of that name in "
                f"{', '.join(m.DESCRIPTOR.name for m in messages) or 'the messages'}"
            )
        values[wanted.name], left = _take(holder, wanted)
        unread += [prefix + path for path in left]
    for name, message in holders:
        prefix = (name,) if name else ()
        unread += [(*prefix, f.name) for f, _ in set_fields(message) if f.name not in read[name]]
    if outer is not None:
        unread += [(f.name,) for f, _ in set_fields(outer) if f.name not in read_outer]
    return cls(**values), unread


def _name_in(outer: Message, message: Message) -> str:
    """Return the name of the field of `outer` that `message` is."""
    candidates = [
        f.name
        for f in descriptor_of(outer).fields
        if f.message_type is not None
        and not f.is_repeated
        and f.message_type.full_name == descriptor_of(message).full_name
    ]
    for name in candidates:
        if getattr(outer, name) is message:
            return name
    if len(candidates) != 1:
        raise TypeError(f"{message.DESCRIPTOR.name} is no field of {outer.DESCRIPTOR.name}")
    return candidates[0]


def _is_set(message: Message, name: str) -> bool:
    if field_of(message, name).is_repeated:
        return len(getattr(message, name)) > 0
    return message.HasField(name)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """A dataclass field, its annotation taken apart."""

    name: str
    type: type
    optional: bool
    many: bool


@cache
def _wanted(cls: type) -> tuple[_Wanted, ...]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    hints = typing.get_type_hints(cls)
    return tuple(_take_apart(cls, f.name, hints[f.name]) for f in dataclasses.fields(cls) if f.init)


def _take_apart(cls: type, name: str, hint: Any) -> _Wanted:
    optional = many = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = len(choices) < len(typing.get_args(hint))
        if len(choices) != 1:
            raise TypeError(f"{cls.__name__}.{name}: a schema field has one type, not {hint}")
        hint = choices[0]
    if typing.get_origin(hint) is tuple:
        hint, *rest = typing.get_args(hint)
        if rest != [...]:
            raise TypeError(f"{cls.__name__}.{name}: annotate repeated fields tuple[X, ...]")
        many = True
    if not isinstance(hint, type):
        raise TypeError(f"{cls.__name__}.{name}: no schema field has the type {hint}")
    return _Wanted(name, hint, optional, many)


def _take(message: Message, wanted: _Wanted) -> tuple[Any, list[Path]]:
    """Return the value for a dataclass field and the paths below it that were set but not read."""
    field = field_of(message, wanted.name)
    _check_type(message, field, wanted)
    given = getattr(message, wanted.name)
    is_set = _is_set(message, wanted.name)
    if wanted.optional and not is_set:
        return None, []
    if not wanted.many:
        value, left = _convert(field, given, wanted.type)
        return value, [(wanted.name, *path) for path in left]
    values: list[Any] = []
    unread: list[Path] = []
    for item in given if field.is_repeated else [given] * is_set:
        value, left = _convert(field, item, wanted.type)
        values.append(value)
        unread += [(wanted.name, *path) for path in left]
    return tuple(values), unread


def _convert(field: FieldDescriptor, value: Any, wanted: type) -> tuple[Any, list[Path]]:
    if is_message(field):
        return bind_fields(wanted, [value])
    if field.enum_type is not None:
        return _member(field, value, wanted), []
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return shortest(value), []
    return value, []


def _member(field: FieldDescriptor, number: int, wanted: type) -> Enum:
    name = enum_of(field).values_by_number[number].name
    assert issubclass(wanted, Enum)
    if name not in wanted.__members__:
        raise TypeError(f"{wanted.__name__} has no member {name}, which '{field.name}' can be")
    return wanted[name]


_PYTHON_TYPES: dict[int, tuple[type, ...]] = {
    FieldDescriptor.CPPTYPE_INT32: (int,),
    FieldDescriptor.CPPTYPE_INT64: (int,),
    FieldDescriptor.CPPTYPE_UINT32: (int,),
    FieldDescriptor.CPPTYPE_UINT64: (int,),
    FieldDescriptor.CPPTYPE_FLOAT: (float,),
    FieldDescriptor.CPPTYPE_DOUBLE: (float,),
    FieldDescriptor.CPPTYPE_BOOL: (bool,),
    FieldDescriptor.CPPTYPE_STRING: (str, bytes),
}


def _check_type(message: Message, field: FieldDescriptor, wanted: _Wanted) -> None:
    """Raise TypeError where the annotation is not one for this field: that is no user's mistake."""
    if field.is_repeated and not wanted.many:
        raise TypeError(f"{field.full_name} is repeated: annotate it tuple[X, ...]")
    if is_message(field):
        fits = dataclasses.is_dataclass(wanted.type)
    elif field.enum_type is not None:
        fits = issubclass(wanted.type, Enum)
    else:
        fits = wanted.type in _PYTHON_TYPES[field.cpp_type]
    if not fits:
        raise TypeError(f"{field.full_name} cannot fill a field of type {wanted.type.__name__}")
