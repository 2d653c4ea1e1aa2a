"""From a file to a tree: encodings, formats, and files that are something else altogether."""

from __future__ import annotations

import errno
from pathlib import Path

from netc.errors import NetcError, Span, fail, in_order, nearest
from netc.text.prototxt import parse_prototxt
from netc.text.tree import Format, Tree
from netc.text.yaml_reader import parse_yaml

_SUFFIXES = {".yaml": Format.YAML, ".yml": Format.YAML, ".json": Format.JSON}
_NOT_TEXT = {
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF document",
}


def parse(file: str | Path, text: str | None = None, *, format: Format | None = None) -> Tree:
    """Return the tree of a prototxt, YAML or JSON file.

    `text`, where given, is what `file` holds: then nothing is read and the name serves for messages
    only. Without `format` the suffix decides: .yaml, .yml, .json, and prototxt for any other.

    Raises NetcError with all mistakes of the text at once.
    """
    tree = parse_with_problems(file, text, format=format)
    if tree.problems:
        raise NetcError(*in_order(tree.problems))
    return tree


def parse_with_problems(
    file: str | Path, text: str | None = None, *, format: Format | None = None
) -> Tree:
    """Return the tree like `parse`, but leave mistakes in `Tree.problems`, for others to be added.

    Raises NetcError where there is no text at all: a missing or binary file.
    """
    name = str(file)
    text = read_text(name) if text is None else _normal(text)
    _refuse_other_files(text, name)
    form = format or _SUFFIXES.get(Path(name).suffix.lower(), Format.PROTOTXT)
    if form is Format.PROTOTXT:
        return parse_prototxt(text, name)
    return parse_yaml(text, name, form)


def read_bytes(file: str | Path) -> bytes:
    """Return the content of a file. Raises NetcError that says why where it cannot be read."""
    path = Path(file)
    span = Span(str(file))
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        there = path.parent
        if not there.is_dir():
            raise fail("no such file", span=span, hint=f"there is no folder {there}") from error
        hint = nearest(path.name, (p.name for p in there.iterdir()))
        raise fail("no such file", span=span, hint=hint) from error
    except IsADirectoryError as error:
        raise fail("this is a folder, not a file", span=span) from error
    except PermissionError as error:
        raise fail("no permission to read this file", span=span) from error
    except OSError as error:
        why = "the name is too long" if error.errno == errno.ENAMETOOLONG else str(error.strerror)
        raise fail(f"cannot read this file: {why}", span=span) from error
    except ValueError as error:  # a NUL in the name
        raise fail("no such file", span=span) from error


def read_text(file: str | Path) -> str:
    """Return the text of a file, its line ends as in Unix. Raises NetcError for what is not text.

    Bytes that are not UTF-8 stay as surrogates: in comments they do no harm, and elsewhere
    the message names their place.
    """
    return decode(read_bytes(file), str(file))


def decode(data: bytes, file: str) -> str:
    """Return `data` as text like `read_text`; `file` is what messages name."""
    span = Span(file)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise fail(
            "this text is in UTF-16", span=span, expected="UTF-8", hint="save it again as UTF-8"
        )
    for start, kind in _NOT_TEXT.items():
        if data.startswith(start):
            raise fail(f"this is {kind}, not text", span=span)
    if is_binary(data):
        raise fail(
            "this is a binary file, not text",
            span=span,
            expected="prototxt or YAML",
            hint="a caffemodel is given as -weights; the net is a text file beside it",
        )
    return _normal(data.decode("utf-8", "surrogateescape"))


def is_binary(data: bytes) -> bool:
    """Tell whether `data` cannot be a text file: it has control characters that no text has."""
    controls = bytes({*range(32)} - {9, 10, 11, 12, 13, 27})
    return bool(set(data[:65536]) & set(controls))


def _normal(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _refuse_other_files(text: str, file: str) -> None:
    span = Span(file)
    start = text.lstrip()[:200].lower()
    if start.startswith(("<!doctype html", "<html")):
        raise fail(
            "this is a web page, not prototxt", span=span, hint="download the raw file instead"
        )
    if start.startswith("version https://git-lfs"):
        raise fail(
            "this is a placeholder of Git LFS, not the file itself",
            span=span,
            hint="run `git lfs pull` where it comes from",
        )
