"""What the annotations of a dataclass say about the settings that fill it."""

from __future__ import annotations

import builtins
import dataclasses
import keyword
import types
import typing
from functools import cache
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A dataclass field, its annotation taken apart.

    `name` is the setting's, `attribute` the dataclass's: a setting called like a word of Python's,
    such as `lambda` or `type`, may fill `lambda_` or `type_`. `needed` where the dataclass gives no
    default.
    """

    name: str
    attribute: str
    type: type
    optional: bool
    many: bool
    needed: bool


@cache
def wanted_fields(cls: type) -> tuple[Wanted, ...]:
    """Return what the fields of a dataclass want; TypeError for annotations no setting can fill.

    Known are X, `X | None` and `tuple[X, ...]`.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    hints = typing.get_type_hints(cls)
    return tuple(_take_apart(cls, f, hints[f.name]) for f in dataclasses.fields(cls) if f.init)


def _take_apart(cls: type, field: dataclasses.Field[Any], hint: Any) -> Wanted:
    optional = many = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = len(choices) < len(typing.get_args(hint))
        if len(choices) != 1:
            raise TypeError(f"{cls.__name__}.{field.name}: a schema field has one type, not {hint}")
        hint = choices[0]
    if typing.get_origin(hint) is tuple:
        hint, *rest = typing.get_args(hint)
        if rest != [...]:
            raise TypeError(f"{cls.__name__}.{field.name}: annotate repeated fields tuple[X, ...]")
        many = True
    if not isinstance(hint, type):
        raise TypeError(f"{cls.__name__}.{field.name}: no schema field has the type {hint}")
    word = field.name.removesuffix("_")
    name = word if keyword.iskeyword(word) or hasattr(builtins, word) else field.name
    needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return Wanted(name, field.name, hint, optional, many, needed)
