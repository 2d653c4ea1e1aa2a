"""Weights files of every kind: read by content, written by name."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

from netc.errors import NetcError, Span, fail
from netc.schema import netc_pb2, read_net, upgrade_net
from netc.weights import binaryproto, hdf5
from netc.weights.atomic import Staged
from netc.weights.files import is_hdf5_name, not_a, opened
from netc.weights.sniff import Kind
from netc.weights.types import Weights
from netc.weights.wire import Chunk


def read_weights(
    path: str | Path, *, diffs: bool = False, tried: Sequence[str | Path] = ()
) -> Weights:
    """Read a weights file: binary (any generation), HDF5 or text, told from its content.

    Arrays are float32; `diffs` reads the gradients of a `snapshot_diff` file too. `tried` are the
    places where the file was looked for, for the message. Raises NetcError when the file is
    missing, cut off, or something else, and names every blob whose shape and data disagree.
    """
    with opened(path, "caffemodel", tried=tried) as (kind, file):
        if kind is Kind.HDF5:
            return hdf5.read_net(str(path), diffs=diffs)
        if kind is Kind.TEXT:
            return _read_text(file, str(path), diffs=diffs)
        return binaryproto.read_net(file, str(path), current_type=_current_type, diffs=diffs)


def _read_text(file: BinaryIO, path: str, *, diffs: bool) -> Weights:
    """Read weights that somebody printed as text: a net whose layers have `blobs`."""
    if b"blobs" not in file.read():
        raise not_a(
            "caffemodel", path, "text without any `blobs`, such as a net (which goes to -model)"
        )
    binary = read_net(path).message.SerializeToString()
    return replace(binaryproto.read_net(io.BytesIO(binary), path, diffs=diffs), format="text")


@cache
def _current_type(old: int | str) -> str:
    """Return today's name of a layer type of 2014 (a number) or 2013 (a word), "" if unknown."""
    net = netc_pb2.NetParameter()
    try:
        if isinstance(old, str):
            net.layers.add().layer.type = old
        else:
            net.layers.add().type = old  # type: ignore[assignment] # an enum's number
        upgraded, _ = upgrade_net(net, for_weights=True)
    except (ValueError, NetcError):
        return ""
    return upgraded.layer[0].type if upgraded.layer else ""


def split_list(paths: str) -> list[str]:
    """Return the files of a list "a.caffemodel,b.caffemodel" as -weights takes it.

    A comma that belongs to the name of a file that is there does not separate.
    """
    if os.path.isfile(paths):  # False also for a name that is too long
        return [paths]
    found = [part.strip() for part in paths.split(",")]
    if not all(found):
        raise fail(
            "the list of weights files has an empty place",
            expected="file,file,...",
            got=paths or "nothing",
        )
    return found


def write_weights(path: str | Path, weights: Weights, *, diffs: bool = False) -> None:
    """Write weights atomically, as HDF5 where the name ends in `.h5`, otherwise as Caffe's binary.

    With `diffs` the gradients go in where there are any. Raises NetcError when the file cannot be
    written; an earlier one is then untouched.
    """
    with staged_weights(path, weights, diffs=diffs) as staged:
        staged.commit()


def staged_weights(path: str | Path, weights: Weights, *, diffs: bool = False) -> Staged:
    """Return a weights file under way, complete and without its name yet."""
    if is_hdf5_name(path):
        staged = Staged(path)
        with staged.undone_on_error():
            hdf5.write_net(staged.file, weights, diffs=diffs)
        return staged
    missing = [
        f"'{layer.name}' blob {index}"
        for layer in weights.layers
        for index, blob in enumerate(layer.blobs)
        if blob is None
    ]
    if missing:
        raise fail(
            "weights with shared params left out can only be written to HDF5",
            span=Span(str(path)),
            got=", ".join(missing),
            hint="load them into the net that shares them and save from there",
        )
    return staged_chunks(path, binaryproto.net_chunks(weights.name, weights.layers, diffs=diffs))


def staged_chunks(path: str | Path, chunks: Iterable[Chunk]) -> Staged:
    """Return a protobuf file under way, complete and without its name yet."""
    chunks = list(chunks)
    staged = Staged(path, size=binaryproto.check_size(chunks, str(path)))
    with staged.undone_on_error():
        for chunk in chunks:
            staged.file.write(chunk)
    return staged
