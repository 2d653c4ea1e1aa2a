"""Opening a file that was given as weights: what is it, and if it cannot be read, why not."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from netc.errors import NetcError, Span, fail
from netc.weights.sniff import HEAD, Kind, recognise

_SIZE_OF_BUFFER = 1 << 16


def is_hdf5_name(path: str | Path) -> bool:
    """Say whether a file to be written is to be HDF5: its name then ends in `.h5`."""
    return str(path).lower().endswith((".h5", ".hdf5"))


@contextmanager
def opened(
    path: str | Path, what: str, *, tried: Sequence[str | Path] = ()
) -> Iterator[tuple[Kind, BinaryIO]]:
    """Open a file and tell its kind: HDF5, TEXT or MAYBE_PROTOBUF.

    `what` is what it should be ("caffemodel"), `tried` the places where it was looked for. Raises
    NetcError when it cannot be opened, is empty, or is recognised as a file of another kind.
    """
    try:
        file: BinaryIO = open(path, "rb", buffering=_SIZE_OF_BUFFER)  # noqa: SIM115 - closed below
    except OSError as error:
        raise _cannot_open(error, Path(path), what, tried) from error
    with file:
        try:
            if not file.seekable():  # a pipe
                file = io.BytesIO(file.read())
            kind, words = recognise(file.read(HEAD))
            file.seek(0)
        except OSError as error:
            raise _cannot_open(error, Path(path), what, tried) from error
        if kind in (Kind.EMPTY, Kind.FOREIGN):
            raise not_a(what, path, words)
        yield kind, file


def not_a(what: str, path: str | Path, words: str) -> NetcError:
    """Return the error for a file that is recognised as something else."""
    return fail(f"not a {what}", span=Span(str(path)), got=words)


def _cannot_open(error: OSError, path: Path, what: str, tried: Sequence[str | Path]) -> NetcError:
    span = Span(str(path))
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        places = "\n".join(os.path.abspath(place) for place in tried or (path,))
        return fail(
            f"there is no such file ({what})",
            span=span,
            expected=places,
            hint=_similar(path),
        )
    if isinstance(error, IsADirectoryError):
        return fail(f"a directory, not a {what}", span=span, hint=_similar(path / path.name))
    return fail(f"the {what} cannot be read", span=span, got=error.strerror or str(error))


def _similar(path: Path) -> str:
    """Return "did you mean ...?" with the names in the directory that are closest."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.7)
    if not close:
        return ""
    return "did you mean " + " or ".join(f"'{path.parent / name}'" for name in close) + "?"
