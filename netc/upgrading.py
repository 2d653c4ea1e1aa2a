"""Old nets, solvers and weights, written anew in today's form."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

from netc import text as texts
from netc.errors import Span, fail
from netc.schema import (
    print_prototxt,
    print_yaml,
    read_net,
    read_net_binary,
    read_solver,
)
from netc.schema.kinds import is_solver
from netc.weights import atomic_write, check_writable, read_weights, write_weights
from netc.weights.files import is_hdf5_name

_YAML = (".yaml", ".yml")
_PROTOTXT = (".prototxt", ".txt")
_BINARY = (".caffemodel", ".binaryproto", ".h5", ".hdf5")


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What was done: the kind of file, what was rewritten, and what the user should know."""

    kind: str
    changes: tuple[str, ...]
    remarks: tuple[str, ...]


def upgrade(old: Path, new: Path, *, force: bool = False) -> Upgraded:
    """Read a net, a solver (text) or weights (binary or HDF5), told by content, and write it anew.

    A text is written as YAML where `new` ends in .yaml or .yml, else as prototxt; weights as HDF5
    where it ends in .h5, else as a caffemodel. Raises NetcError where `old` cannot be read or is
    something else, and where `new` exists and `force` is not set.
    """
    if os.path.exists(new) and not force and not new.is_char_device():
        raise fail("the file exists already", span=Span(str(new)), hint="-force replaces it")
    check_writable(new)
    data = texts.read_bytes(old)
    if texts.is_binary(data):
        return _weights(old, new)
    return _text(old, new, texts.decode(data, str(old)))


def _weights(old: Path, new: Path) -> Upgraded:
    weights = read_weights(old)  # which says what the file is, where it is no file of weights
    if new.suffix.lower() in (*_YAML, *_PROTOTXT):
        raise fail(
            "weights are not written as text",
            span=Span(str(new)),
            expected=f"a name such as {new.with_suffix('.caffemodel').name}",
        )
    if weights.format == "HDF5" or is_hdf5_name(new):
        write_weights(new, weights)
        remark = "names and numbers only: weights in HDF5 have no settings of layers"
        return Upgraded("weights", (), (remark,))
    # The message itself, for what it holds besides numbers.
    source = read_net_binary(old)
    raw = source.message.SerializeToString()
    with atomic_write(new, size=len(raw)) as file:
        file.write(raw)
    return Upgraded("weights", source.upgraded, ())


def _text(old: Path, new: Path, text: str) -> Upgraded:
    if new.suffix.lower() in (*_BINARY, ".json"):
        raise fail(
            f"a text is not written as {new.suffix}",
            span=Span(str(new)),
            expected="a name that ends in .prototxt or .yaml",
        )
    kind = "solver" if is_solver(old, text) else "net"
    source = read_solver(old, text) if kind == "solver" else read_net(old, text)
    print_text: Callable[[Message], str]
    print_text = print_yaml if new.suffix.lower() in _YAML else print_prototxt
    printed = print_text(source.message)
    again = read_solver(new, printed) if kind == "solver" else read_net(new, printed)
    assert _bytes(again.message) == _bytes(source.message), "the printed text means something else"
    with atomic_write(new, size=len(printed)) as file:
        file.write(printed.encode("utf-8", "surrogateescape"))
    return Upgraded(kind, source.upgraded, tuple(_remarks(old, new, text)))


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _remarks(old: Path, new: Path, text: str) -> list[str]:
    found = []
    if "#" in text:
        found.append(f"comments are not carried over: they are in {old} only")
    if old.parent.resolve() != new.parent.resolve():
        found.append(
            f"relative paths in it now start from {new.parent or '.'}, then from the working "
            "directory"
        )
    return found
