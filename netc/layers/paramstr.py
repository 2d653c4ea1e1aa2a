"""The `param_str` of Python layers, read as data.

Its authors wrote what their layer's code makes of it: YAML, or a Python dict, in the few forms that
both have in common.

    {'feat_stride': 16, 'scales': [8, 16, 32]}
    'feat_stride': 16
    'scales': !!python/tuple [8, 16, 32]
    'feat_stride': 4,8,16

DetectNet's have numbers alone, whose place says what they are: `1248, 352, 16`. Nothing is
evaluated.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from netc.errors import nearest
from netc.layers.types import Refusal

#: What the text says: a number, a word, a list, or a mapping of these.
Data = Any

_TOKENS = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*|!!python/\w+)
      | (?P<line>\n)
      | (?P<string>[ub]?'(?:[^'\\\n]|\\.|'')*'|[ub]?"(?:[^"\\\n]|\\.)*")
      | (?P<mark>[\[\](){},]|:(?=\s|$|[\[({'"]))
      | (?P<plain>(?:[^\s,:\[\](){}'"\#]|:(?=\S))(?:[^\n,:\[\](){}\#]|:(?=[^\s'"]))*)
      | (?P<wrong>.)""",
    re.VERBOSE,
)
_ESCAPES = re.compile(r"\\(.)|''")
_WORDS: dict[str, object] = {
    "true": True,
    "false": False,
    "none": None,
    "null": None,
    "~": None,
}
_PAIRS = {"[": "]", "(": ")", "{": "}"}


def parse(text: str) -> dict[str, Data]:
    """Return the settings of a `param_str`; raise `Refusal` for what is no mapping."""
    return _Parser(text).settings()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split(text))
        self._at = 0

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        for match in _TOKENS.finditer(text):
            assert match.lastgroup is not None
            if match.lastgroup != "space":
                yield match.lastgroup, match.group()
        yield "end", "the end"

    def settings(self) -> dict[str, Data]:
        self._lines()
        if self._tokens[self._at][0] == "end":
            return {}
        found = self._value() if self._is("{") else self._pairs("")
        self._lines()
        if self._tokens[self._at][0] != "end":
            raise self._wrong("the end")
        assert isinstance(found, dict)
        return found

    def _is(self, mark: str) -> bool:
        return self._tokens[self._at] == ("mark", mark)

    def _lines(self) -> None:
        while self._tokens[self._at][0] == "line":
            self._at += 1

    def _take(self, mark: str) -> None:
        if not self._is(mark):
            raise self._wrong(f"'{mark}'")
        self._at += 1

    def _pairs(self, closing: str) -> dict[str, Data]:
        """Read `key: value` pairs, up to a bracket or, one per line, to the end."""
        found: dict[str, Data] = {}
        self._lines()
        while not (self._is(closing) if closing else self._tokens[self._at][0] == "end"):
            key = str(self._scalar("a name"))
            self._take(":")
            if key in found:
                raise Refusal(
                    f"param_str gives '{key}' twice", got=self._text.strip(), setting="param_str"
                )
            found[key] = self._value()
            if not closing and self._more_values():
                found[key] = [found[key], *self._rest_of_list()]
            if self._is(","):
                self._at += 1
            elif not closing and self._tokens[self._at][0] not in ("line", "end"):
                raise self._wrong("one setting per line")
            elif closing and not self._at_end(closing):
                raise self._wrong(f"',' or '{closing}'")
            self._lines()
        return found

    def _more_values(self) -> bool:
        """Say whether values follow that are no names of further pairs: `'strides': 4,8,16`."""
        after = self._tokens[self._at + 1 : self._at + 3]
        return self._is(",") and after[0][0] == "plain" and after[1] != ("mark", ":")

    def _rest_of_list(self) -> Iterator[Data]:
        while self._more_values():
            self._at += 1
            yield self._scalar("a value")

    def _at_end(self, closing: str) -> bool:
        self._lines()
        return self._is(closing)

    def _value(self) -> Data:
        kind, text = self._tokens[self._at]
        if kind != "mark" or text not in _PAIRS:
            return self._scalar("a value")
        self._at += 1
        closing = _PAIRS[text]
        if text == "{":
            pairs = self._pairs(closing)
            self._take(closing)
            return pairs
        items = []
        self._lines()
        while not self._is(closing):
            items.append(self._value())
            if self._is(","):
                self._at += 1
            elif not self._at_end(closing):
                raise self._wrong(f"',' or '{closing}'")
            self._lines()
        self._take(closing)
        return items

    def _scalar(self, what: str) -> Data:
        kind, text = self._tokens[self._at]
        if kind not in ("string", "plain"):
            raise self._wrong(what)
        self._at += 1
        if kind == "string":
            body = text[2:-1] if text[0] in "ub" else text[1:-1]
            return _ESCAPES.sub(lambda m: m.group(1) or "'", body)
        text = text.strip()
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
        return text

    def _wrong(self, expected: str) -> Refusal:
        kind, text = self._tokens[self._at]
        return Refusal(
            "param_str is no mapping of names to values",
            expected=expected,
            got="the end of a line" if kind == "line" else text,
            hint="write it like \"{'feat_stride': 16, 'scales': [8, 16, 32]}\"",
            setting="param_str",
        )


class Settings:
    """The settings of one `param_str`, to be asked for one by one; `finish` refuses the rest."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: list[str] = []

    @functools.cached_property
    def _left(self) -> dict[str, Data]:
        return parse(self._text)

    def name(self, *names: str) -> None:
        """Give names to numbers that have none; the last ones may be absent."""
        values = [part.strip() for part in self._text.split(",")]
        if len(values) > len(names) or not all(map(_is_number, values)):
            raise Refusal(
                "param_str is no row of numbers",
                expected=f"{len(names)} of them: {', '.join(names)}",
                got=self._text.strip() or "an empty param_str",
                setting="param_str",
            )
        self._left = dict(zip(names, values, strict=False))

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number; without a default it must be there."""
        return int(self._checked(name, default, _is_integer, "a whole number"))

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number."""
        return float(self._checked(name, default, _is_number, "a number"))

    def numbers(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Return a list of numbers; one number is a list too."""
        found = self._checked(name, default, _are_numbers, "a list of numbers")
        return tuple(map(float, found if isinstance(found, list | tuple) else [found]))

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers; one number is a list too."""
        found = self._checked(name, None, _are_integers, "a whole number, or a list of them")
        return tuple(map(int, found if isinstance(found, list) else [found]))

    def words(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return a list of words."""
        return tuple(self._checked(name, default, _are_words, "a list of words"))

    def word(self, name: str, default: str | None = None) -> str:
        """Return a word."""
        return str(self._checked(name, default, _is_word, "a word"))

    def ignore(self, *names: str) -> None:
        """Allow settings that are of no use here: where the data lies, seeds."""
        for name in names:
            self._known.append(name)
            self._left.pop(name, None)

    def finish(self) -> None:
        """Refuse settings that nobody asked for."""
        for name in self._left:
            raise Refusal(
                f"param_str sets '{name}', which the layer does not read",
                expected=f"one of: {', '.join(self._known)}",
                got=name,
                hint=nearest(name, self._known) or "remove it, or check the layer's class",
                setting="param_str",
            )

    def _checked(self, name: str, default: Data, fits: Any, expected: str) -> Data:
        self._known.append(name)
        if name not in self._left:
            if default is None:
                raise Refusal(
                    f"param_str lacks '{name}'",
                    expected=f"'{name}': {expected}",
                    got=", ".join(self._left) or "an empty param_str",
                    hint=nearest(name, self._left),
                    setting="param_str",
                )
            return default
        value = self._left.pop(name)
        if not fits(value):
            raise Refusal(
                f"param_str: '{name}' is not {expected}",
                expected=expected,
                got=repr(value),
                setting="param_str",
            )
        return value


def _is_number(value: Data) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Data) -> bool:
    return _is_number(value) and float(value).is_integer()


def _is_word(value: Data) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Data) -> bool:
    return all(map(_is_number, value)) if isinstance(value, list) else _is_number(value)


def _are_integers(value: Data) -> bool:
    return all(map(_is_integer, value)) if isinstance(value, list) else _is_integer(value)


def _are_words(value: Data) -> bool:
    return isinstance(value, list) and all(map(_is_word, value))
