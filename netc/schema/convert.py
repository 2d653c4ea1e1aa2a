"""From messages to a frozen dataclass: typed, defaults filled in, nothing dropped in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from netc.errors import NetcError, Problem, Span, fail, nearest
from netc.schema import netc_pb2
from netc.schema.annotations import Wanted, wanted_fields
from netc.schema.custom import CUSTOM, CustomSettings
from netc.schema.descriptors import descriptor_of, enum_of, field_of, is_message, set_fields
from netc.schema.printing import shortest

T = TypeVar("T")
Path = tuple[str, ...]
Place = Callable[..., Span | None]

SHARED = frozenset(
    ["name", "type", "bottom", "top", "phase", "transform_param", "loss_param", "propagate_down"]
)
"""The fields of a layer that a type from outside can read besides its custom settings."""


def bind_fields(
    cls: type[T],
    messages: Sequence[Message],
    outer: Message | None = None,
    *,
    custom: Sequence[netc_pb2.CustomSetting] | None = None,
    span: Place = lambda *path: None,
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

    With `custom`, the settings of a type from outside, all fields but those that `messages` and
    `SHARED` have are filled from there, see `netc.schema.custom`.

    A path leads from `outer` if given, else from each of `messages`: ("pooling_param", "pad_h").
    Raises NetcError for a value that `cls` does not know (another fork's enum value) and for custom
    settings that do not suit, with the places that `span` gives for a path; TypeError for a
    dataclass whose fields the schema does not have.
    """
    names = [_name_in(outer, message) if outer is not None else "" for message in messages]
    holders = [*zip(names, messages, strict=True)]
    read: dict[str, set[str]] = {name: set() for name in names}
    unread: list[Path] = []
    values: dict[str, Any] = {}
    read_outer: set[str] = set(names)
    problems: list[Problem] = []
    settings = CustomSettings(custom, span) if custom is not None else None
    for wanted in wanted_fields(cast(type, cls)):
        having = [h for h in holders if wanted.name in h[1].DESCRIPTOR.fields_by_name]
        if having:
            setting = [h for h in having if _is_set(h[1], wanted.name)]
            name, holder = (setting or having)[0]
            read[name].add(wanted.name)
            prefix: Path = (name,) if name else ()
        elif settings and wanted.name not in SHARED:
            values |= settings.fill(cast(type, cls), wanted)
            continue
        elif outer is not None and wanted.name in outer.DESCRIPTOR.fields_by_name:
            holder, prefix = outer, ()
            read_outer.add(wanted.name)
        else:
            raise TypeError(
                f"{cls.__name__}.{wanted.name} has no field of that name in "
                f"{', '.join(m.DESCRIPTOR.name for m in messages) or 'the messages'}"
            )
        try:
            values[wanted.attribute], left = _take(holder, wanted, partial(span, *prefix))
        except NetcError as error:
            problems += error.problems
            continue
        unread += [prefix + path for path in left]
    if settings:
        read_outer.add(CUSTOM)
        settings.unread(getattr(cls, "type", "") or cls.__name__)
        problems += settings.problems
    if problems:
        raise NetcError(*problems)
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


def _take(message: Message, wanted: Wanted, span: Place) -> tuple[Any, list[Path]]:
    """Return the value for a dataclass field and the paths below it that were set but not read."""
    field = field_of(message, wanted.name)
    _check_type(message, field, wanted)
    given = getattr(message, wanted.name)
    is_set = _is_set(message, wanted.name)
    if wanted.optional and not is_set:
        return None, []
    items = given if field.is_repeated else [given] * (is_set or not wanted.many)
    values: list[Any] = []
    unread: list[Path] = []
    value: Any
    for index, item in enumerate(items):
        if is_message(field):
            place = partial(span, wanted.name, index)
            value, left = bind_fields(wanted.type, [item], span=place)
            unread += [(wanted.name, *path) for path in left]
        elif field.enum_type is not None:
            value = _member(field, item, wanted.type, is_set, span(wanted.name, index))
        else:
            value = shortest(item) if field.type == FieldDescriptor.TYPE_FLOAT else item
        values.append(value)
    return (tuple(values) if wanted.many else values[0]), unread


def _member(
    field: FieldDescriptor, number: int, wanted: type, is_set: bool, place: Span | None
) -> Enum:
    name = enum_of(field).values_by_number[number].name
    assert issubclass(wanted, Enum)
    if name in wanted.__members__:
        return wanted[name]
    if not is_set:
        raise TypeError(f"{wanted.__name__} has no member {name}, the default of '{field.name}'")
    # One of the forks has it, for a type of its own.
    known = list(wanted.__members__)
    raise fail(
        f"{field.name}: {name} is not for this layer type",
        span=place,
        expected=f"one of: {', '.join(known)}",
        got=name,
        hint=nearest(name, known),
    )


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


def _check_type(message: Message, field: FieldDescriptor, wanted: Wanted) -> None:
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
