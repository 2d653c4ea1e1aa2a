"""What both text formats are read into: names, values and where each of them stands.

    Tree
      Block               a message: entries in order of the file
        Entry             name: value, name { ... } or name: [a, b]
          Scalar | Block  the value(s)

A tree knows no schema. Whether `5` is a number or a name is decided by the field it is bound to;
the kinds below only keep what the notation itself says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from netc.errors import Problem, Span


class Format(Enum):
    """The notations a tree is read from and printed in."""

    PROTOTXT = "prototxt"
    YAML = "YAML"
    JSON = "JSON"


class Kind(Enum):
    """How a scalar is written; the value is what messages call it."""

    STRING = "a string"  # in quotes
    NUMBER = "a number"
    WORD = "a word"  # an identifier; `-inf` and `-nan` too
    PLAIN = "a plain value"  # YAML without quotes: a string, number or word


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value. `text` is as written but for a string's quotes and escapes, which are resolved.

    `data` is the value of a STRING in bytes, because escapes can spell any byte; `text` shows bytes
    that are not UTF-8 as surrogates.
    """

    kind: Kind
    text: str
    span: Span

    @property
    def data(self) -> bytes:
        """Return the bytes of the value."""
        return self.text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Entry:
    """A field with its value, or its values where they are written as one list."""

    name: str
    span: Span
    values: tuple[Scalar | Block, ...]
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A message. `damaged` says that a part of it could not be read: fields may be missing."""

    entries: tuple[Entry, ...]
    span: Span
    damaged: bool = False

    def first(self, name: str) -> Scalar | Block | None:
        """Return the first value of the field `name`, or None."""
        for entry in self.entries:
            if entry.name == name and entry.values:
                return entry.values[0]
        return None


@dataclass(frozen=True, slots=True)
class Tree:
    """A text as it was read, with the mistakes that were found in it.

    `reliable` is False where those mistakes leave the nesting in doubt: looking for further ones in
    `root` would then only find consequences.
    """

    root: Block
    file: str
    format: Format
    problems: tuple[Problem, ...] = ()
    reliable: bool = True
