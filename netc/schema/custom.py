"""The settings of layer types from outside: `custom_param { key: "slope" value: "0.3" }`.

The schema has no fields for them, so the dataclass of the type takes its place: the annotation of a
field says what its value may look like, the default what holds without one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from netc.errors import Problem, Span, nearest
from netc.schema import netc_pb2
from netc.schema.annotations import Wanted, wanted_fields
from netc.schema.bind import Wrong, convert_scalar
from netc.text import Kind, Scalar

CUSTOM = "custom_param"
"""The field of `LayerParameter` that holds the settings."""

_SCALARS: dict[type, int] = {
    int: FieldDescriptor.TYPE_INT64,
    float: FieldDescriptor.TYPE_DOUBLE,
    bool: FieldDescriptor.TYPE_BOOL,
    str: FieldDescriptor.TYPE_STRING,
}


@dataclass(frozen=True, slots=True)
class _Given:
    """One setting as the text has it."""

    value: str
    key: Span
    place: Span


@dataclass(frozen=True, slots=True)
class _Setting:
    """What `convert_scalar` asks of a field."""

    name: str
    type: int
    full_name: str = ""
    enum_type: None = None


class CustomSettings:
    """The custom settings of one layer, for the fields of a dataclass to be filled from.

    `span` gives the place of a path in the layer, ("custom_param", 1, "value"). Mistakes gather in
    `problems`; a value in error is left out. What is asked for once is read: `unread` complains
    about the rest.
    """

    def __init__(
        self, settings: Sequence[netc_pb2.CustomSetting], span: Callable[..., Span | None]
    ) -> None:
        self.problems: list[Problem] = []
        self._given: dict[str, list[_Given]] = {}
        self._known: list[str] = []
        for index, setting in enumerate(settings):
            places = (span(CUSTOM, index, name) or Span("<message>") for name in ("key", "value"))
            self._given.setdefault(setting.key, []).append(_Given(setting.value, *places))
        self._place = span(CUSTOM) or span()

    def fill(self, cls: type, wanted: Wanted, prefix: str = "") -> dict[str, Any]:
        """Return {attribute: value} for one field of `cls`; {} leaves the field its default.

        A field that is a dataclass takes settings with a dot: "filler.std" fills `filler.std`.
        """
        key = prefix + wanted.name
        if dataclasses.is_dataclass(wanted.type):
            return self._fill_inner(cls, wanted, key)
        if wanted.type not in _SCALARS and not issubclass(wanted.type, Enum):
            raise TypeError(f"{cls.__name__}.{wanted.attribute} has a type that no setting has")
        self._known.append(key)
        given = self._given.pop(key, [])
        if wanted.many:
            if not given and not wanted.needed:
                return {}
            found = [self._value(key, wanted.type, item) for item in given]
            return {wanted.attribute: tuple(value for value in found if value is not None)}
        if len(given) > 1:
            self._add(
                f"the setting '{key}' is given twice",
                given[1].key,
                expected="it once in this layer",
                got=f"a first one in line {given[0].key.line}",
            )
        if not given:
            return self._absent(wanted, key)
        value = self._value(key, wanted.type, given[0])
        return {} if value is None else {wanted.attribute: value}

    def unread(self, name: str) -> None:
        """Complain about the settings that no field asked for; `name` is the layer type's."""
        for key, (first, *_) in self._given.items():
            known = ", ".join(self._known)
            self._add(
                f"unknown setting '{key}' of layer type {name}",
                first.key,
                expected=f"one of: {known}" if known else "no settings",
                hint=nearest(key, self._known),
            )

    def _fill_inner(self, cls: type, wanted: Wanted, key: str) -> dict[str, Any]:
        if wanted.many:
            raise TypeError(f"{cls.__name__}.{wanted.attribute}: a setting is no list of messages")
        inner = wanted_fields(wanted.type)
        set_ = any(given.startswith(f"{key}.") for given in self._given)
        if not set_ and not wanted.needed:
            self._known += [f"{key}.{field.name}" for field in inner]
            return {}
        values: dict[str, Any] = {}
        before = len(self.problems)
        for field in inner:
            values |= self.fill(wanted.type, field, f"{key}.")
        return {wanted.attribute: wanted.type(**values)} if len(self.problems) == before else {}

    def _absent(self, wanted: Wanted, key: str) -> dict[str, Any]:
        if wanted.optional and wanted.needed:
            return {wanted.attribute: None}
        if wanted.needed:
            self._add(
                f"the setting '{key}' is missing",
                self._place,
                expected=f'{CUSTOM} {{ key: "{key}" value: "{_example(wanted.type)}" }}',
            )
        return {}

    def _value(self, key: str, type_: type, given: _Given) -> Any:
        if issubclass(type_, Enum):
            if given.value in type_.__members__:
                return type_[given.value]
            names = list(type_.__members__)
            self._add(
                f"the setting '{key}' has no value {given.value}",
                given.place,
                expected=f"one of: {', '.join(names)}",
                got=given.value,
                hint=nearest(given.value, names),
            )
            return None
        try:
            return convert_scalar(
                Scalar(Kind.PLAIN, given.value, given.place), _Setting(key, _SCALARS[type_])
            )
        except Wrong as wrong:
            what = wrong.what.replace("the field '", "the setting '")
            self._add(what, given.place, wrong.expected, f'"{given.value}"', wrong.hint)
            return None

    def _add(
        self, what: str, span: Span | None, expected: str = "", got: str = "", hint: str = ""
    ) -> None:
        self.problems.append(Problem(what, span, "", expected, got, hint))


def _example(type_: type) -> str:
    if issubclass(type_, Enum):
        return next(iter(type_.__members__))
    return {int: "1", float: "0.5", bool: "true"}.get(type_, "...")
