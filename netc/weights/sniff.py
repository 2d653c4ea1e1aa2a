"""What a file is that was given as weights, told from its first bytes.

Used for messages: a user who gave a web page, a pointer of git-lfs or the net's text in place of
the weights should read that, and not that byte 17 has a bad tag.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import BinaryIO

from netc.weights.wire import FIXED32, LENGTH, VARINT, WireError, WireReader

HEAD = 4096
"""How many bytes `recognise` wants to see."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Kind(enum.Enum):
    """Families of files, by how netc reads them."""

    EMPTY = "an empty file"
    HDF5 = "an HDF5 file"
    TEXT = "text"
    MAYBE_PROTOBUF = "binary data"
    FOREIGN = "a file of another kind"


_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch, Keras and NumPy's npz are such)"),
    (0, b"\x93NUMPY", "a NumPy .npy file"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"BZh", "a bzip2 archive: unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive: unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (0, b"Rar!", "a rar archive: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GGUF", "a GGUF file of ggml"),
    (16, b"\xde\xc0\xef\xbe", "an LMDB database"),
    (4, b"TFL3", "a TensorFlow Lite model"),
)

_PICKLE = re.compile(rb"\x80[\x02-\x05][cK}\x95(]]?")
_BLANK = frozenset(b"\t\n\x0c\r")


def recognise(head: bytes) -> tuple[Kind, str]:
    """Return the kind of a file and the words for it, from its first `HEAD` bytes."""
    if not head:
        return Kind.EMPTY, "an empty file"
    if any(head[at:].startswith(HDF5_SIGNATURE) for at in (0, 512, 1024, 2048)):
        return Kind.HDF5, "an HDF5 file"
    for at, signature, words in _SIGNATURES:
        if head[at:].startswith(signature):
            return Kind.FOREIGN, words
    if _PICKLE.match(head):
        return Kind.FOREIGN, "a Python pickle (netc never opens these: they can run code)"
    if not head.strip(b"\0"):
        return Kind.FOREIGN, "a file of zero bytes only, as an interrupted copy leaves it"
    if _is_text(head):
        return _recognise_text(head)
    return Kind.MAYBE_PROTOBUF, "binary data"


def read_head(path: str | Path) -> bytes:
    """Return the first bytes of a file, as `recognise` wants them. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(HEAD)


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in _BLANK for byte in head) or b"\x7f" in head:
        return False
    for cut in range(4):  # the last character may be cut
        try:
            head[: len(head) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return True
    return False


def _recognise_text(head: bytes) -> tuple[Kind, str]:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:100].lower()
    if start.startswith(b"version https://git-lfs"):
        return Kind.FOREIGN, "a pointer of git-lfs, not the file itself: run `git lfs pull`"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Kind.FOREIGN, "an HTML page: the download failed or needs another address"
    if start.startswith((b"<?xml", b"<!--")):
        return Kind.FOREIGN, "an XML or HTML page: the download failed or needs another address"
    if start.startswith((b"{", b"[")):
        return Kind.FOREIGN, "JSON text"
    return Kind.TEXT, "text"


# Which top-level fields (number, wire type) messages show, the telling ones first. ONNX and
# TensorFlow are here because their files are protobuf too and are often called "the model".
_MESSAGES: tuple[tuple[str, frozenset[tuple[int, int]]], ...] = (
    ("a caffemodel (weights)", frozenset({(100, LENGTH)})),
    ("an ONNX model", frozenset({(1, VARINT), (7, LENGTH), (8, LENGTH)})),
    ("a solver state (for -snapshot)", frozenset({(1, VARINT), (3, LENGTH)})),
    ("a solver state (for -snapshot)", frozenset({(1, VARINT), (2, LENGTH), (4, VARINT)})),
    ("a blob file (such as a mean image)", frozenset({(1, VARINT), (4, VARINT), (5, LENGTH)})),
    ("a blob file (such as a mean image)", frozenset({(7, LENGTH), (5, LENGTH)})),
    ("a blob file (such as a mean image)", frozenset({(1, VARINT), (4, VARINT), (5, FIXED32)})),
    ("a caffemodel (weights)", frozenset({(1, LENGTH), (2, LENGTH)})),
)


def guess_message(file: BinaryIO) -> str:
    """Return what a protobuf file seems to hold, "" if nothing known."""
    seen: set[tuple[int, int]] = set()
    reader = WireReader(file)
    try:
        for number, wire_type in reader.fields(reader.size):
            seen.add((number, wire_type))
            reader.skip(wire_type, reader.size)
    except WireError:
        return ""
    for words, telling in _MESSAGES:
        if telling <= seen:
            return words
    return ""
