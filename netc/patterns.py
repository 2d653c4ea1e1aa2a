"""Patterns for layer names: `conv1*`, `*,!fc8*`; one that matches nothing is a mistake, told so.

`*` stands for any text, `?` for one character, `[ab]` for one of several, as in a shell; upper and
lower case differ, and `/` is a character like others. A name that is written out matches itself,
whatever characters it has.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

from netc.errors import Problem, Span

_WILD = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")


def matches(pattern: str, name: str) -> bool:
    """Say whether a pattern stands for a name."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def selected(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that the patterns choose: one that begins with `!` takes names out again.

    Of the patterns that match a name the last one decides.
    """
    found = []
    for name in names:
        chosen = False
        for pattern in patterns:
            out = pattern.startswith("!") and pattern != name
            if matches(pattern[1:] if out else pattern, name):
                chosen = not out
        if chosen:
            found.append(name)
    return found


def substituted(pattern: str, name: str, replacement: str) -> str | None:
    """Return what a name becomes under `pattern` -> `replacement`; None where it does not match.

    The n-th `*` of the replacement is the text that the n-th wildcard of the pattern stands for.
    """
    if name == pattern:
        parts: Sequence[str] = _WILD.findall(pattern)
    else:
        expression, end = "", 0
        for wild in _WILD.finditer(pattern):
            expression += f"{re.escape(pattern[end : wild.start()])}({_body(wild[0])})"
            end = wild.end()
        found = re.fullmatch(expression + re.escape(pattern[end:]), name, re.DOTALL)
        if not found:
            return None
        parts = found.groups()
    kept, *rest = replacement.split("*")
    return kept + "".join(part + text for part, text in zip(parts, rest, strict=False))


def _body(wild: str) -> str:
    """Return a wildcard as a regular expression, without what translate puts around it."""
    around = fnmatch.translate(wild)
    return around[around.index(":") + 1 : around.rindex(")")]


def wildcards(pattern: str) -> int:
    """Return how many wildcards a pattern has."""
    return len(_WILD.findall(pattern))


def unmatched(pattern: str, names: Iterable[str], what: str, span: Span | None = None) -> Problem:
    """Return the problem of a pattern that matches none of the names; `what` says whose they are.

    The hint has the names that come closest.
    """
    known = list(dict.fromkeys(names))
    stem = pattern.removeprefix("!")
    bare = _WILD.sub("", stem)
    close = difflib.get_close_matches(bare.lower(), [name.lower() for name in known], 3, 0.5)
    near = [name for name in known if name.lower() in close]
    if not near:
        # A stem is far from long names, even where these begin with nearly the same text.
        near = [n for n in known if bare and n.lower().startswith(bare.lower()[:3])][:3]
    if near:
        hint = "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    else:
        shown = ", ".join(f"'{name}'" for name in known[:6])
        hint = f"there are {shown}" + (f" and {len(known) - 6} more" if len(known) > 6 else "")
    return Problem(
        f"no layer {what} has a name that matches '{stem}'",
        span,
        expected="the name of a layer, or a pattern such as 'conv1*'",
        got=f"'{pattern}'",
        hint=hint if known else "",
    )
