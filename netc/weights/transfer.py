"""How weights of one net become those of another: layers renamed, rows of a blob taken.

    Rename(old, new)        a layer of the file goes to another name; patterns on both sides
    PartialCopy(layer, rows)    of a layer whose number of outputs has changed, take some

Both say what the user wants; without them a difference is an error, or leaves a layer freshly
filled.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netc.errors import Problem, Problems, Span, fail
from netc.patterns import substituted, unmatched, wildcards
from netc.weights.types import SavedLayer, Weights

_ROWS = re.compile(r"(?P<first>[0-9]+)(?:-(?P<last>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class Rename:
    """A layer of the file, by name or pattern, and what it is called in the net.

    `conv*` -> `base/conv*`: the n-th `*` on the right is the text of the n-th wildcard on the left.
    `span` is the place that says so, None for the command line.
    """

    old: str
    new: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class PartialCopy:
    """Layers of the net, by name or pattern, that take rows of a blob with another number of them.

    `rows[i]` is the row of the file that becomes row i of the net; without any, the first rows that
    both have. Rows go along the first axis: the outputs of Convolution and InnerProduct.
    """

    layer: str
    rows: tuple[int, ...] = ()
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """All that is to be done to weights on their way into a net."""

    renames: tuple[Rename, ...] = ()
    partial: tuple[PartialCopy, ...] = ()


AS_SAVED = Transfer()
"""Nothing: by layer name, all shapes equal."""


def read_renames(path: str | Path) -> tuple[Rename, ...]:
    """Read a file of renames, one `old new` per line; `#` begins a comment.

    A name with spaces in it stands in quotes. Raises one NetcError with all bad lines, or for a
    file that cannot be read or says nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise fail(
            "the file of renames cannot be read",
            span=Span(str(path)),
            expected="one `old new` per line, both names of layers",
            got=got or str(error),
        ) from None
    found, problems = [], Problems()
    for number, line in enumerate(text.split("\n"), start=1):
        span = Span(str(path), number, 1)
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            words = [str(error)]
        if len(words) == 2:
            found.append(Rename(words[0], words[1], span))
        elif words:
            problems.add(
                Problem(
                    "this line is no rename",
                    span,
                    expected="the name of a layer in the weights, and its name in the net",
                    got=line.strip(),
                    hint="a name with spaces in it stands in quotes" if len(words) > 2 else "",
                )
            )
    problems.raise_any()
    if not found:
        raise fail(
            "the file of renames says nothing",
            span=Span(str(path)),
            expected="one `old new` per line",
        )
    return tuple(found)


def rows_in(text: str) -> tuple[int, ...] | None:
    """Return the rows that a text such as `0-4,7` lists, in its order; None if it is no such."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _ROWS.fullmatch(part)
        if not match:
            return None
        first = int(match["first"])
        last = first if match["last"] is None else int(match["last"])
        if last < first:
            return None
        found += range(first, last + 1)
    return tuple(found)


def said_rows(rows: Sequence[int]) -> str:
    """Return the shortest text that `rows_in` reads as these rows."""
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][1] + 1:
            parts[-1][1] = row
        else:
            parts.append([row, row])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def renamed(
    files: Sequence[Weights], renames: Sequence[Rename], net: Iterable[str]
) -> list[tuple[Weights, dict[str, str]]]:
    """Return the files with their layers under the names that they have in the net.

    And for each file the old names by new one. `net` are the names of the net's layers with params.
    A layer that several renames match goes to each of the names. Raises one NetcError with all
    renames that lead nowhere: no layer of the files has the old name, none of the net the new one,
    or two layers would be one.
    """
    wanted = list(dict.fromkeys(net))
    problems = Problems()
    for rename in renames:
        for problem in _check(rename, files, wanted):
            problems.add(problem)
    found = []
    for file in files:
        layers: list[SavedLayer] = []
        origin: dict[str, str] = {}
        for layer in file.layers:
            names = [
                (name, rename)
                for rename in renames
                if (name := substituted(rename.old, layer.name, rename.new)) is not None
            ]
            for name, rename in names:
                other = origin.setdefault(name, layer.name)
                if other != layer.name and layer.blobs:
                    problems.add(_joined(rename, name, other, layer.name))
            new = list(dict.fromkeys(name for name, _ in names)) or [layer.name]
            layers += [replace(layer, name=name) for name in new]
        kept = {layer.name for layer in file.layers if layer.blobs} - set(origin.values())
        for name in sorted(kept & origin.keys()):
            rename = next(r for r in renames if substituted(r.old, origin[name], r.new) is not None)
            problems.add(_joined(rename, name, origin[name], name))
        found.append((replace(file, layers=tuple(layers)), origin))
    problems.raise_any()
    return found


def _check(rename: Rename, files: Sequence[Weights], wanted: Sequence[str]) -> Iterable[Problem]:
    if rename.new.count("*") > wildcards(rename.old):
        yield Problem(
            f"the rename of '{rename.old}' leaves a '*' open",
            rename.span,
            expected="at most as many '*' on the right as wildcards on the left",
            got=f"'{rename.old}' -> '{rename.new}'",
        )
        return
    saved = [layer.name for file in files for layer in file.layers if layer.blobs]
    new = [substituted(rename.old, name, rename.new) for name in saved]
    names = [name for name in new if name is not None]
    if not names:
        yield unmatched(rename.old, saved, "of the weights", rename.span)
    elif not any(name in wanted for name in names):
        found = unmatched(names[0], wanted, "with params of the net", rename.span)
        yield replace(
            found,
            expected="a layer of the net that takes the weights",
            got=f"'{rename.old}' -> '{rename.new}'",
        )


def _joined(rename: Rename, name: str, first: str, second: str) -> Problem:
    return Problem(
        f"two layers of the weights would be '{name}'",
        rename.span,
        expected="a name of its own for each",
        got=f"'{first}' and '{second}'",
        hint=f"rename '{second}' too, to a name that the net lacks, to leave it out",
    )
