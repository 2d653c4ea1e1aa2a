"""From a tree to a message, for both notations and every message, by its descriptor.

    bind(tree, NetParameter)  -> Bound: the message, and the place of each of its values

What a value may look like is decided by the type of its field. A tree's mistakes are told all at
once.
"""

from __future__ import annotations

import re
import struct
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from netc.errors import NetcError, Problem, Span, in_order, nearest
from netc.schema.descriptors import descriptor_of, is_message
from netc.schema.places import Places
from netc.schema.upgrade import V1_TYPE_NAMES
from netc.text import Block, Entry, Format, Kind, Scalar, Tree

M = TypeVar("M", bound=Message)

_INTEGER_RANGES = {
    FieldDescriptor.TYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: ("uint64", 0, 2**64 - 1),
}
_INTEGER = re.compile(
    r"-?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<octal>[0-7]*)|(?P<decimal>[1-9][0-9]*))"
)
_REAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?")
_LEADING_ZERO = re.compile(r"-?0[0-9]+(?:[^0-9xX].*)?")
_REAL_WORDS = re.compile(r"(?P<sign>-?)\.?(?P<word>inf|infinity|nan)", re.IGNORECASE)
_TRUE = ("true", "True", "t")
_FALSE = ("false", "False", "f")
_OTHER_BOOLS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_OTHER_BOOLS |= {"true": "true", "false": "false"}
_V1_TYPE = "netc.V1LayerParameter.type"
# Of these forks take a list, which changes no result: one GPU for each process of several.
_LISTED_BY_FORKS = frozenset(["netc.SolverParameter.device_id"])
_MOST_LISTED = 16
_MOST_SHOWN = 60
_FIELD_TYPES = {
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "a string",
    FieldDescriptor.TYPE_BYTES: "a string",
}


@dataclass(frozen=True, slots=True)
class Bound(Generic[M]):
    """A message and where its values stand in the text."""

    message: M
    places: Places

    def span(self, *path: str | int) -> Span:
        """Return the place of the value at `path`, as in `Places.find`.

        A message's place is its field's name, another value's the value itself.
        """
        return self.places.find(*path).span


def bind(tree: Tree, message_class: type[M]) -> Bound[M]:
    """Return the message that a tree spells.

    Raises NetcError with every mistake: unknown fields, values of a wrong type or out of range,
    fields given twice, unknown enum values, required fields that are missing, and those of the tree
    itself.
    """
    bound, problems = bind_with_problems(tree, message_class)
    if problems:
        raise NetcError(*in_order(problems))
    return bound


def bind_with_problems(tree: Tree, message_class: type[M]) -> tuple[Bound[M], list[Problem]]:
    """Return what could be bound of a tree, and all problems of the tree and of binding it."""
    message = message_class()
    binder = _Binder(tree.format)
    binder.problems += tree.problems
    places = Places(tree.root.span)
    if tree.reliable:
        binder.block(tree.root, message, places, ())
    return Bound(message, places), binder.problems


class Field(Protocol):
    """What converting a value asks of a field: a FieldDescriptor knows it."""

    @property
    def name(self) -> str: ...  # noqa: D102  # as in FieldDescriptor
    @property
    def full_name(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> int: ...  # noqa: D102
    @property
    def enum_type(self) -> EnumDescriptor | None: ...  # noqa: D102


class Wrong(Exception):
    """A value that does not suit its field."""

    def __init__(self, what: str, expected: str, hint: str = "") -> None:
        self.what = what
        self.expected = expected
        self.hint = hint


class _Binder:
    def __init__(self, format: Format) -> None:
        self.format = format
        self.problems: list[Problem] = []
        self.layer = ""

    def block(
        self, block: Block, message: Message, places: Places, around: tuple[Descriptor, ...]
    ) -> None:
        """Set the fields of `message`, which lies in messages of the types `around`."""
        outer_layer = self.layer
        descriptor = descriptor_of(message)
        self.layer = _layer_label(block, descriptor) or outer_layer
        fields = descriptor.fields_by_name
        first: dict[str, Entry] = {}
        for entry in block.entries:
            field = fields.get(entry.name)
            if field is None:
                self._unknown(entry, descriptor, around, block)
            elif field.is_repeated:
                for value in entry.values:
                    self._value(field, value, entry, message, places, around)
            elif entry.listed and entry.values and field.full_name in _LISTED_BY_FORKS:
                # The first stays.
                for value in reversed(entry.values):
                    self._value(field, value, entry, message, places, around)
                places.fields[entry.name] = places.fields.get(entry.name, [])[-1:]
            elif entry.listed:
                self._add(
                    f"the field '{entry.name}' takes one value, not a list",
                    entry.span,
                    expected=f"{entry.name}: {_example(field)}",
                    got=f"a list of {len(entry.values)}",
                )
            elif entry.name in first:
                self._add(
                    f"the field '{entry.name}' is given twice",
                    entry.span,
                    expected="it once in this message",
                    got=f"a first one in line {first[entry.name].span.line}",
                )
            else:
                first[entry.name] = entry
                self._value(field, entry.values[0], entry, message, places, around)
        given = {entry.name for entry in block.entries}
        for field in descriptor.fields:
            if field.is_required and field.name not in given and not block.damaged:
                self._add(
                    f"{descriptor.name} lacks the field '{field.name}'",
                    block.span,
                    expected=f"{field.name}: {_example(field)}",
                )
        self.layer = outer_layer

    def _value(
        self,
        field: FieldDescriptor,
        value: Scalar | Block,
        entry: Entry,
        message: Message,
        places: Places,
        around: tuple[Descriptor, ...],
    ) -> None:
        target: Any = getattr(message, field.name)
        if is_message(field):
            if isinstance(value, Scalar):
                what = f"the field '{entry.name}' is a message, not {value.kind.value}"
                colon = "" if self.format is Format.PROTOTXT else ":"
                self._add(what, value.span, f"{entry.name}{colon} {{ ... }}", _shown(value))
                return
            if field.is_repeated:
                target = target.add()
            else:
                target.SetInParent()
            inside = Places(value.span)
            places.add(field.name, inside)
            self.block(value, target, inside, (*around, descriptor_of(message)))
            return
        if isinstance(value, Block):
            what = f"the field '{entry.name}' takes a value, not a message"
            self._add(what, entry.span, f"{entry.name}: {_example(field)}", "{ ... }")
            return
        try:
            converted = convert_scalar(value, field)
        except Wrong as wrong:
            self._add(wrong.what, value.span, wrong.expected, _shown(value), wrong.hint)
            return
        if field.is_repeated:
            target.append(converted)
        else:
            setattr(message, field.name, converted)
        places.add(field.name, Places(value.span))

    def _unknown(
        self,
        entry: Entry,
        descriptor: Descriptor,
        around: tuple[Descriptor, ...],
        block: Block,
    ) -> None:
        fields = descriptor.fields_by_name
        homes = [
            f.name
            for f in descriptor.fields
            if f.message_type and entry.name in f.message_type.fields_by_name
        ]
        if len(homes) > 1:
            # Many settings are in the messages of many layer types: that of this type is meant.
            type_ = block.first("type")
            wanted = type_.text.lower().replace("_", "") if isinstance(type_, Scalar) else ""
            homes = [
                h for h in homes if h.removesuffix("_param").replace("_", "") == wanted
            ] or homes
        if len(homes) == 1:
            hint = f"'{entry.name}' belongs in {homes[0]} {{ }}"
        elif around and entry.name in around[-1].fields_by_name:
            hint = f"'{entry.name}' is a field of the {around[-1].name} around this message"
        else:
            hint = nearest(entry.name, fields)
        listed = len(fields) <= _MOST_LISTED
        self._add(
            f"unknown field '{entry.name}' in {descriptor.name}",
            entry.span,
            expected=_one_of(fields) if listed else "",
            hint=hint,
        )

    def _add(
        self, what: str, span: Span, expected: str = "", got: str = "", hint: str = ""
    ) -> None:
        self.problems.append(Problem(what, span, self.layer, expected, got, hint))


def _layer_label(block: Block, descriptor: Descriptor) -> str:
    """Return "'conv1' (Convolution)" for the block of a layer, "" for others."""
    if descriptor.name not in ("LayerParameter", "V1LayerParameter"):
        return ""
    inner = block.first("layer")
    holder = inner if isinstance(inner, Block) else block
    name, type_ = holder.first("name"), holder.first("type")
    label = f"'{name.text}'" if isinstance(name, Scalar) else ""
    return f"{label} ({type_.text})".strip() if isinstance(type_, Scalar) else label


def _one_of(names: Iterable[str]) -> str:
    return "\n".join(textwrap.wrap(f"one of: {', '.join(names)}", 88, break_on_hyphens=False))


def _shown(value: Scalar) -> str:
    text = value.text if len(value.text) <= _MOST_SHOWN else value.text[:_MOST_SHOWN] + "..."
    return f'"{text}"' if value.kind is Kind.STRING else text


def _example(field: FieldDescriptor) -> str:
    if is_message(field):
        return "{ ... }"
    if field.enum_type is not None:
        return str(field.enum_type.values[0].name)
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return '"..."'
    return {FieldDescriptor.TYPE_BOOL: "true"}.get(field.type, "N")


# Values


def convert_scalar(value: Scalar, field: Field) -> object:
    """Return the Python value that `value` spells for `field`, or raise `Wrong`."""
    if field.type in _INTEGER_RANGES:
        return _integer(value, field)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return _real(value, field)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _bool(value, field)
    if field.enum_type is not None:
        return _enum(value, field)
    assert field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    if value.kind not in (Kind.STRING, Kind.PLAIN):
        meant = value.text
        if field.full_name == "netc.LayerParameter.type":
            meant = V1_TYPE_NAMES.get(meant, meant)
        raise Wrong(
            f"the field '{field.name}' takes a string", "a string in quotes", f'write "{meant}"'
        )
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.data
    try:
        return value.data.decode()
    except UnicodeDecodeError:
        raise Wrong(f"the string of '{field.name}' is not UTF-8", "text in UTF-8") from None


def _quoted(value: Scalar, field: Field, expected: str) -> None:
    if value.kind is Kind.STRING:
        raise Wrong(
            f"the field '{field.name}' takes {expected.split(':')[0]}, not a string",
            expected,
            "leave the quotes away" if value.text else "",
        )


def _integer(value: Scalar, field: Field) -> int:
    kind, least, most = _INTEGER_RANGES[field.type]
    _quoted(value, field, "a whole number")
    number = parse_integer(value.text)
    if number is None:
        hint = ""
        if _REAL.fullmatch(value.text):
            real = float(value.text.rstrip("fF"))
            if re.fullmatch(r"-?0[0-9]+", value.text):
                hint = "a number that begins with 0 is octal"
            elif real.is_integer():
                hint = f"write {int(real)}"
        raise Wrong(f"the field '{field.name}' takes a whole number", "a whole number", hint)
    if not least <= number <= most:
        raise Wrong(f"the value of '{field.name}' is out of range", f"{least} to {most} ({kind})")
    return number


def parse_integer(text: str) -> int | None:
    """Return the value of a decimal, hex (0x) or octal (0...) number; None for anything else."""
    match = _INTEGER.fullmatch(text)
    if not match:
        return None
    if match["hex"]:
        size = int(match["hex"], 16)
    elif match["decimal"]:
        size = int(match["decimal"])
    else:
        size = int(match["octal"] or "0", 8)
    return -size if text.startswith("-") else size


def _real(value: Scalar, field: Field) -> float:
    _quoted(value, field, "a number")
    text = value.text
    if word := _REAL_WORDS.fullmatch(text):
        return float(word["sign"] + word["word"])
    octal = _LEADING_ZERO.fullmatch(text)
    if octal or not _REAL.fullmatch(text):
        hint = ""
        if octal:
            meant = re.sub("0+(?=[0-9])", "", text, count=1)
            hint = f"write {meant}: a number that begins with 0 is octal"
        elif (integer := parse_integer(text)) is not None:
            hint = f"write {integer}"
        elif re.fullmatch(r"-?[0-9]+,[0-9]+", text):
            hint = f"write {text.replace(',', '.')}"
        raise Wrong(f"the field '{field.name}' takes a number", "a decimal number", hint)
    number = float(text.rstrip("fF"))
    if field.type == FieldDescriptor.TYPE_FLOAT:
        try:
            struct.pack("<f", number)
        except OverflowError:
            number = float("inf")
    if number in (float("inf"), float("-inf")):
        kind = "float32" if field.type == FieldDescriptor.TYPE_FLOAT else "float64"
        raise Wrong(
            f"the value of '{field.name}' is out of range", f"a number that fits {kind}, or inf"
        )
    return number


def _bool(value: Scalar, field: Field) -> bool:
    expected = "true or false"
    _quoted(value, field, expected)
    if value.text in _TRUE:
        return True
    if value.text in _FALSE:
        return False
    number = parse_integer(value.text)
    if number in (0, 1):
        return bool(number)
    meant = _OTHER_BOOLS.get(value.text.lower())
    raise Wrong(
        f"the field '{field.name}' takes true or false", expected, f"write {meant}" if meant else ""
    )


def _enum(value: Scalar, field: Field) -> int:
    enum = field.enum_type
    assert enum is not None
    names = [v.name for v in sorted(enum.values, key=lambda v: v.number)]
    expected = _one_of(names)
    if value.kind is Kind.STRING:
        if field.full_name == _V1_TYPE and value.text in V1_TYPE_NAMES.values():
            hint = f'write layer {{ type: "{value.text}" }} instead of layers {{ }}'
        elif value.text in enum.values_by_name:
            hint = f"write {value.text}"
        else:
            hint = _near_value(value.text, names, field)
        raise Wrong(f"the field '{field.name}' takes a name without quotes", expected, hint)
    number = parse_integer(value.text)
    if number is not None and number in enum.values_by_number:
        return number
    if number is None and value.text in enum.values_by_name:
        return int(enum.values_by_name[value.text].number)
    raise Wrong(
        f"'{value.text}' is not a value of '{field.name}'",
        expected,
        _near_value(value.text, names, field),
    )


def _near_value(text: str, names: list[str], field: Field) -> str:
    """Return a hint at the nearest name. INNER_PRODUCT in `layers` is InnerProduct in `layer`."""
    folded = {name.replace("_", ""): name for name in names}
    if same := folded.get(text.upper().replace("_", "")):
        hint = f"did you mean '{same}'?"
    else:
        hint = nearest(text, names)
    if field.full_name == _V1_TYPE:
        return hint or "layer { } instead of layers { } knows all types, by a name in quotes"
    return hint
