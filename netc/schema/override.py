"""Settings of a solver from the command line, in the place of those in its file.

    base_lr=0.001   stepvalue=100,200   train_state.level=1   type=Adam

A value is converted by the declared type of its field, with the same errors as in a file.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from netc.errors import NetcError, Problem, Problems, Span, in_order
from netc.schema import netc_pb2
from netc.schema.bind import bind_with_problems
from netc.schema.descriptors import descriptor_of, is_message
from netc.schema.places import Places
from netc.schema.printing import shortest
from netc.schema.source import Source
from netc.schema.upgrade import upgrade_solver
from netc.text import Block, Entry, Format, Kind, Scalar, Tree

_FILE = "command line"
_WORD = re.compile(r"(?P<path>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)


def is_override(word: str) -> bool:
    """Tell whether a word of the command line has the form KEY=VALUE."""
    return _WORD.fullmatch(word) is not None


def override(
    source: Source[netc_pb2.SolverParameter], words: Sequence[str]
) -> tuple[Source[netc_pb2.SolverParameter], tuple[str, ...]]:
    """Return a solver with the settings that KEY=VALUE words give, and a line about each of them.

    A dot leads into a message; the values of a repeated field are separated by commas, and replace
    all those of the file. Raises one NetcError with every word that is wrong, or at odds with
    another one.
    """
    tree = Tree(_block(words), _FILE, Format.PROTOTXT)
    new, problems = bind_with_problems(tree, netc_pb2.SolverParameter)
    if problems:
        raise NetcError(*in_order(problems))
    message = netc_pb2.SolverParameter()
    message.CopyFrom(source.message)
    places = copy.deepcopy(source.places)
    lines: list[str] = []
    _merge(tree.root, new.message, new.places, message, places, lines, "")
    # `solver_type` is a name of the past on the command line too.
    message, upgrades = upgrade_solver(message, places)
    upgraded = (*source.upgraded, *upgrades)
    changed = dataclasses.replace(source, message=message, places=places, upgraded=upgraded)
    return changed, tuple(lines)


@dataclass(slots=True)
class _Group:
    """The words whose paths begin alike: the value that one of them gives, or what lies deeper."""

    span: Span
    word: str = ""
    value: str | None = None
    inside: dict[str, _Group] = field(default_factory=dict)


def _block(words: Sequence[str]) -> Block:
    root, solver = _Group(Span(_FILE)), descriptor_of(netc_pb2.SolverParameter)
    problems = Problems()
    for word in words:
        match = _WORD.fullmatch(word)
        if not match:
            span = Span(_FILE, 1, 1, word)
            problems.add(Problem("this is no setting", span, expected="KEY=VALUE", got=word))
            continue
        here, column = root, 1
        around: Any = solver
        for name in match["path"].split("."):
            place = Span(_FILE, 1, column, word)
            known = around.fields_by_name.get(name) if around else None
            around = known.message_type if known else None
            if known and around and known.is_repeated:
                problems.add(
                    Problem(
                        f"'{name}' is a list of messages, which the command line cannot set",
                        place,
                        expected="a setting with a value",
                        got=word,
                        hint=f"change {name} in the file",
                    )
                )
            here = here.inside.setdefault(name, _Group(place))
            column += len(name) + 1
        if here.value is not None and here.value != match["value"]:
            problems.add(
                Problem(
                    f"two values for '{match['path']}'",
                    Span(_FILE, 1, 1, word),
                    expected="one",
                    got=f"{here.word} and {word}",
                )
            )
        here.word, here.value = word, match["value"]
    problems.raise_any()
    return _entries(root, solver)


def _entries(group: _Group, descriptor: Any) -> Block:
    found = []
    for name, inside in group.inside.items():
        known = descriptor.fields_by_name.get(name) if descriptor else None
        values: list[Scalar | Block] = []
        listed = known is not None and known.is_repeated and not is_message(known)
        if inside.value is not None:
            column = inside.span.column + len(name) + 1
            texts = inside.value.split(",") if listed else [inside.value]
            for text in texts if inside.value or not listed else []:
                place = dataclasses.replace(inside.span, column=column)
                values.append(_scalar(text.strip() if listed else text, place))
                column += len(text) + 1
        if inside.inside:
            values.append(_entries(inside, known.message_type if known else None))
        found.append(Entry(name, inside.span, tuple(values), listed))
    return Block(tuple(found), group.span)


def _scalar(text: str, span: Span) -> Scalar:
    """Return a value as written, or in quotes where the shell has left some."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return Scalar(Kind.STRING, text[1:-1], span)
    return Scalar(Kind.PLAIN, text, span)


def _merge(
    block: Block,
    new: Message,
    new_places: Places,
    into: Message,
    places: Places,
    lines: list[str],
    path: str,
) -> None:
    """Put the fields that a block spells into a message, and describe each change."""
    for entry in block.entries:
        known = descriptor_of(into).fields_by_name[entry.name]
        if is_message(known):
            for value, place in zip(entry.values, new_places.fields[entry.name], strict=True):
                assert isinstance(value, Block)
                getattr(into, entry.name).SetInParent()
                _merge(
                    value,
                    getattr(new, entry.name),
                    place,
                    getattr(into, entry.name),
                    places.child(entry.name),
                    lines,
                    f"{path}{entry.name}.",
                )
            continue
        before = _shown(into, known)
        into.ClearField(entry.name)
        if known.is_repeated:
            getattr(into, entry.name).extend(getattr(new, entry.name))
        else:
            setattr(into, entry.name, getattr(new, entry.name))
        places.fields[entry.name] = new_places.fields.get(entry.name, [])
        lines.append(f"{path}{entry.name} = {_shown(into, known)} (before: {before})")


def _shown(message: Message, known: FieldDescriptor) -> str:
    value = getattr(message, known.name)
    if known.is_repeated:
        return ",".join(_one(each, known) for each in value) or "none"
    return _one(value, known) + ("" if message.HasField(known.name) else ", the default")


def _one(value: Any, known: FieldDescriptor) -> str:
    if known.enum_type is not None:
        return str(known.enum_type.values_by_number[value].name)
    if known.type == FieldDescriptor.TYPE_BOOL:
        return str(value).lower()
    if known.type == FieldDescriptor.TYPE_FLOAT:
        return f"{shortest(value):g}"
    return f'"{value}"' if isinstance(value, str) else str(value)
