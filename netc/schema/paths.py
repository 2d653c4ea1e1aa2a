"""Paths in text files: found from the file that names them, or from the working directory."""

from __future__ import annotations

import os
from pathlib import Path

from netc.errors import Span, fail, nearest


def resolve(path: str, named_in: Span | str | None) -> Path:
    """Return where a path in a text file leads.

    A relative path is tried from the folder of the file that names it, then from the working
    directory, which is where Caffe looks. `named_in` is that file, or the place in it that messages
    should show.

    Raises NetcError that lists the places where nothing was found.
    """
    span = Span(named_in) if isinstance(named_in, str) else named_in
    if not path:
        raise fail("the path is empty", span=span, expected="the path of a file")
    tried = candidates(path, span)
    for place in tried:
        if _exists(place):
            return _tidy(place)
    raise fail(
        f"'{path}' does not exist",
        span=span,
        expected="a file or folder at\n" + "\n".join(str(place) for place in tried),
        hint=_near(tried),
    )


def candidates(path: str, named_in: Span | str | None) -> list[Path]:
    """Return the places that a path may mean, in the order in which they are tried."""
    given = Path(path).expanduser()
    if given.is_absolute():
        return [given]
    file = named_in.file if isinstance(named_in, Span) else named_in or ""
    folder = Path(file).parent if file else Path()
    return list(dict.fromkeys([folder / given, given]))


def _tidy(path: Path) -> Path:
    """Return `zoo/net.prototxt` for `solvers/../zoo/net.prototxt`, unless a link is in the way."""
    short = Path(os.path.normpath(path))
    return short if _exists(short) and short.samefile(path) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _near(tried: list[Path]) -> str:
    """Return a hint at the nearest name beside the first place of which the folder exists."""
    for place in tried:
        try:
            names = [p.name for p in place.parent.iterdir()]
        except OSError:
            continue
        if hint := nearest(place.name, names):
            near = hint.removeprefix("did you mean '").removesuffix("'?")
            return f"did you mean '{place.parent / near}'?"
    for place in tried:
        for parent in place.parents:
            if not _exists(parent):
                continue
            missing = place.relative_to(parent).parts[0]
            return f"there is no '{missing}' in {parent.absolute()}" if len(place.parts) > 1 else ""
    return ""
