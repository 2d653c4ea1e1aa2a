"""The one exception that a user's mistake becomes, and how it is written.

    NetcError            one or more `Problem`s, reported together
      Problem            what is wrong: place, expectation, actual value, way out
        Span             where: file, line, column

Everything else that escapes from netc is a bug in netc and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a text file. `line` and `column` count from 1; 0 means the file as a whole.

    `source` is the text that was read, where the reader has it: a message then shows the line that
    was meant, also for text that never was a file or has changed since.
    """

    file: str
    line: int = 0
    column: int = 0
    source: str | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, in the words that the user will read.

    `what` names the mistake in one line, without a final full stop; `expected`, `got` and `hint`
    are each one line or a few. `layer` is "'conv2' (Convolution)" where a layer is to blame.
    """

    what: str
    span: Span | None = None
    layer: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""

    def headline(self) -> str:
        """`place: layer 'name' (Type): what`, as the first line of the message."""
        parts = [str(self.span)] if self.span else []
        if self.layer:
            parts.append(f"layer {self.layer}")
        return ": ".join([*parts, self.what])

    def render(self, *, source: bool = True) -> str:
        """Return the whole message: headline, source line with a caret, expected, got, hint."""
        lines = [self.headline()]
        if (
            source
            and self.span
            and self.span.line
            and (text := _source_line(self.span)) is not None
        ):
            shown, caret = _excerpt(text, self.span.column)
            lines += [f"    | {shown}", f"    | {' ' * caret}^"]
        for label, value in (("expected", self.expected), ("got", self.got), ("hint", self.hint)):
            if value:
                first, *rest = value.splitlines()
                lines.append(f"  {label:<9} {first}")
                lines += [f"  {'':<9} {line}" for line in rest]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the fields for `-format json`; absent ones are left out."""
        fields: dict[str, object] = {"message": self.what}
        if self.span:
            fields |= {"file": self.span.file, "line": self.span.line, "column": self.span.column}
        for name in ("layer", "expected", "got", "hint"):
            if value := getattr(self, name):
                fields[name] = value
        return fields


class NetcError(Exception):
    """A user's mistake, or several found by one stage. `str()` gives the whole text to print."""

    def __init__(self, *problems: Problem) -> None:
        assert problems, "an error without a problem tells nobody anything"
        self.problems = problems
        super().__init__(*problems)

    def __str__(self) -> str:
        return "\n".join(problem.render() for problem in self.problems)

    def at(self, span: Span | None, layer: str = "") -> NetcError:
        """Return the same error with the place filled in where a problem lacks one."""
        return NetcError(
            *(replace(p, span=p.span or span, layer=p.layer or layer) for p in self.problems)
        )


def fail(
    what: str,
    *,
    span: Span | None = None,
    layer: str = "",
    expected: object = "",
    got: object = "",
    hint: str = "",
) -> NetcError:
    """Build a `NetcError` of one problem: `raise fail("no such file", got=path)`."""
    return NetcError(Problem(what, span, layer, str(expected), str(got), hint))


class Problems:
    """Collects independent mistakes so that one run tells them all."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, error: NetcError | Problem) -> None:
        """Remember an error; the stage goes on to look for more."""
        self._found += error.problems if isinstance(error, NetcError) else (error,)

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_any(self) -> None:
        """Raise everything collected, in order of place, or do nothing."""
        if self._found:
            raise NetcError(*in_order(self._found))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems by place, each once; those without a place come last."""
    return sorted(dict.fromkeys(problems), key=lambda p: (p.span is None, p.span or Span("")))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest known name, or "" when none is close."""
    by_folded = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return f"did you mean '{by_folded[match[0]]}'?" if match else ""


def _source_line(span: Span) -> str | None:
    text = span.source
    if text is None:
        try:
            text = Path(span.file).read_text(encoding="utf-8-sig", errors="replace")
        except (OSError, ValueError):  # a name such as "<text>" or one with a NUL in it
            return None
    lines = text.split("\n")  # not splitlines: form feeds and the like end no line here
    return lines[span.line - 1] if span.line <= len(lines) else None


def _excerpt(line: str, column: int, width: int = 100) -> tuple[str, int]:
    """Return what to show of a line, cut around the caret if long, and how far in the caret is."""
    before = line[: max(column - 1, 0)].expandtabs(4)
    shown = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line.expandtabs(4)
    )
    shown = shown.rstrip()
    start = max(0, len(before) - width * 2 // 3) if len(shown) > width else 0
    cut = shown[start : start + width]
    left = "... " if start else ""
    right = " ..." if start + width < len(shown) else ""
    return f"{left}{cut}{right}", len(left) + len(before) - start
