"""Caffe's binary files: weights (`.caffemodel`), solver states and single blobs (mean files).

Reads the three generations of nets that Caffe reads: `layer`, `layers` of 2014 and the nested
`layers { layer }` before; writes what BVLC Caffe 1.0 writes, byte for byte where it was given the
same messages. The numbers of the fields stand here once more, because arrays are lifted out of the
file on the way (see `wire`); a test compares them with the schema.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from netc.errors import NetcError, Problem, Span, fail
from netc.weights import wire
from netc.weights.sniff import guess_message
from netc.weights.types import FloatArray, SavedBlob, SavedLayer, Weights, describe_shape, frozen
from netc.weights.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    AnyArray,
    AnyDtype,
    Chunk,
    WireError,
    WireReader,
)

NET = {"name": 1, "layers": 2, "layer": 100}
LAYER = {"name": 1, "type": 2, "bottom": 3, "top": 4, "blobs": 7}
V1_LAYER = {"layer": 1, "bottom": 2, "top": 3, "name": 4, "type": 5, "blobs": 6}
V0_LAYER = {"name": 1, "type": 2, "blobs": 50}
BLOB = {
    "num": 1,
    "channels": 2,
    "height": 3,
    "width": 4,
    "data": 5,
    "diff": 6,
    "shape": 7,
    "double_data": 8,
    "double_diff": 9,
}
BLOB_SHAPE = {"dim": 1}
# NVIDIA's Caffe keeps weights as bytes of a stated type, often float16.
_RAW_TYPE = {10: "data", 11: "diff"}
_RAW = {12: "data", 13: "diff"}
_RAW_DTYPES: dict[int, AnyDtype] = {0: np.dtype("<f8"), 1: np.dtype("<f4"), 2: np.dtype("<f2")}

_LEGACY = {BLOB[axis]: index for index, axis in enumerate(("num", "channels", "height", "width"))}
_ARRAYS: dict[int, tuple[str, AnyDtype, int]] = {
    BLOB["data"]: ("data", np.dtype("<f4"), FIXED32),
    BLOB["diff"]: ("diff", np.dtype("<f4"), FIXED32),
    BLOB["double_data"]: ("double_data", np.dtype("<f8"), FIXED64),
    BLOB["double_diff"]: ("double_diff", np.dtype("<f8"), FIXED64),
}
# C3D's first version put the length of a video before height and width: behind four sizes there is
# a fifth, and the arrays come one number later.
_C3D_ARRAYS = {number + 1: _ARRAYS[number] for number in (BLOB["data"], BLOB["diff"])}

MOST_AXES = 32
"""Caffe's limit on the axes of a blob."""

MOST_BYTES = (1 << 31) - 1
"""The largest file that protobuf, and so Caffe, reads."""


class BadBlob(Exception):
    """A blob that contradicts itself; the caller makes it a NetcError that names the layer."""

    def __init__(self, what: str, expected: str = "", got: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.got = got


# -- reading ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Place:
    """Where the reader is, for messages.

    `what` is what the file should be ("caffemodel"), `inside` reads like "blob 1 of layer 'conv1'".
    """

    path: str
    what: str
    inside: str = ""


@contextmanager
def explained(place: Place, file: BinaryIO) -> Iterator[None]:
    """Turn a WireError into a NetcError that says where the file breaks off and what it may be."""
    span = Span(place.path)
    try:
        yield
    except wire.Truncated as error:
        at = f", inside {place.inside}" if place.inside else ""
        raise fail(
            f"not a {place.what}, or one that is cut off",
            span=span,
            expected=f"at least {error.missing:,} more bytes",
            got=f"the end of the file at byte {error.position:,}{at}",
            hint="copy or download the file again",
        ) from error
    except WireError as error:
        guess = guess_message(file)
        if guess and place.what not in guess:
            raise fail(f"not a {place.what}", span=span, got=guess) from error
        at = f" in {place.inside}" if place.inside else ""
        raise fail(
            f"not a {place.what}, or a damaged one",
            span=span,
            expected="a protobuf message",
            got=f"{error.what} (byte {error.position:,}{at})",
        ) from error


@dataclass(slots=True)
class _BlobParts:
    """The fields of a BlobProto as they come by."""

    dims: list[int] | None = None
    legacy: dict[int, int] = field(default_factory=dict)  # axis: size
    arrays: dict[str, list[AnyArray]] = field(default_factory=dict)
    raw: dict[str, AnyArray] = field(default_factory=dict)
    raw_type: dict[str, int] = field(default_factory=dict)

    def values(self, name: str) -> AnyArray | None:
        """Return the array "data" or "diff", None if there is none. Doubles win, as in Caffe."""
        for stored in (f"double_{name}", name):
            runs = [run for run in self.arrays.get(stored, ()) if run.size]
            if runs:
                return runs[0] if len(runs) == 1 else np.concatenate(runs)
        if name not in self.raw:
            return None
        code = self.raw_type.get(name, 0)
        if code not in _RAW_DTYPES:
            raise BadBlob(
                f"raw_{name} has a type that is not read",
                expected="0 (float64), 1 (float32) or 2 (float16)",
                got=str(code),
            )
        dtype = _RAW_DTYPES[code]
        raw = self.raw[name]
        if raw.size % dtype.itemsize:
            raise BadBlob(f"raw_{name} does not divide into values of {dtype.itemsize} bytes")
        return raw.view(dtype)


def read_blob_message(reader: WireReader, end: int, *, diffs: bool) -> SavedBlob:
    """Read a BlobProto. Raises WireError, and BadBlob where shape and data contradict."""
    parts, arrays = _BlobParts(), _ARRAYS
    for number, wire_type in reader.fields(end):
        if number in arrays and wire_type in (LENGTH, arrays[number][2]):
            name, dtype, _ = arrays[number]
            if name.endswith("diff") and not diffs:
                reader.skip(wire_type, end)
                continue
            run = (
                reader.packed(dtype, end)
                if wire_type == LENGTH
                else reader.unpacked(number, dtype, end)
            )
            parts.arrays.setdefault(name, []).append(run)
        elif number in _LEGACY and wire_type == VARINT:
            parts.legacy[_LEGACY[number]] = reader.integer(end, bits=32)
        elif number == BLOB["data"] and wire_type == VARINT and len(parts.legacy) >= len(_LEGACY):
            arrays = _C3D_ARRAYS
            parts.legacy[len(_LEGACY)] = reader.integer(end, bits=32)
        elif number == BLOB["shape"] and wire_type == LENGTH:
            parts.dims = [*(parts.dims or ()), *_read_dims(reader, reader.message(end))]
        elif number in _RAW and wire_type == LENGTH:
            parts.raw[_RAW[number]] = reader.packed(np.dtype(np.uint8), end).view(np.uint8)
        elif number in _RAW_TYPE and wire_type == VARINT:
            parts.raw_type[_RAW_TYPE[number]] = reader.integer(end, bits=32)
        else:
            reader.skip(wire_type, end)
    return _assemble(parts)


def _read_dims(reader: WireReader, end: int) -> list[int]:
    dims = []
    for number, wire_type in reader.fields(end):
        if number == BLOB_SHAPE["dim"] and wire_type in (VARINT, LENGTH):
            dims += reader.integers(wire_type, end)
        else:
            reader.skip(wire_type, end)
    return dims


def _assemble(parts: _BlobParts) -> SavedBlob:
    # Caffe asks for the old fields first, and takes a blob without any shape as a single number.
    dims, legacy = tuple(parts.dims or ()), bool(parts.legacy)
    if legacy:
        dims = tuple(parts.legacy.get(axis, 0) for axis in range(max(4, len(parts.legacy))))
    if legacy and len(dims) > 4:
        # Of five axes those of a matrix or a vector, which the kernels of videos do not have.
        legacy = dims[:3] == (1, 1, 1)
        dims = dims[1:] if legacy else dims
    if len(dims) > MOST_AXES:
        raise BadBlob("has too many axes", f"at most {MOST_AXES}", str(len(dims)))
    if any(not 0 <= size < 1 << 31 for size in dims):
        raise BadBlob("has an impossible shape", got=describe_shape(dims))
    data, diff = parts.values("data"), parts.values("diff")
    return SavedBlob(
        _shaped("data", np.empty(0, np.float32) if data is None else data, dims),
        legacy=legacy,
        diff=None if diff is None else _shaped("diff", diff, dims),
    )


def _shaped(name: str, values: AnyArray, dims: tuple[int, ...]) -> FloatArray:
    count = math.prod(dims)
    if values.size != count:
        raise BadBlob(
            f"shape and {name} disagree",
            expected=f"{count:,} values for shape {describe_shape(dims)}",
            got=f"{values.size:,} values",
        )
    try:
        return frozen(values).reshape(dims)
    except ValueError:  # a zero among sizes whose product no array can have
        raise BadBlob("has an impossible shape", got=describe_shape(dims)) from None


@dataclass(slots=True)
class _LayerParts:
    """The fields of a layer as they come by, of whichever generation."""

    name: str = ""
    type: str = ""
    bottoms: list[str] = field(default_factory=list)
    tops: list[str] = field(default_factory=list)
    blobs: list[SavedBlob] = field(default_factory=list)
    bad: list[tuple[int, BadBlob]] = field(default_factory=list)
    settings: list[bytes] = field(default_factory=list)

    def read_blob(self, reader: WireReader, end: int, place: Place, *, diffs: bool) -> None:
        index = len(self.blobs) + len(self.bad)
        outside, place.inside = place.inside, f"blob {index} of layer '{self.name}'"
        stop = reader.message(end)
        try:
            self.blobs.append(read_blob_message(reader, stop, diffs=diffs))
        except BadBlob as bad:
            self.bad.append((index, bad))
        place.inside = outside

    def read_name(self, reader: WireReader, end: int, place: Place) -> None:
        self.name = _text(reader.string(end))
        place.inside = f"layer '{self.name}'"

    def finished(self) -> SavedLayer:
        return SavedLayer(
            self.name,
            tuple(self.blobs),
            self.type,
            tuple(self.bottoms),
            tuple(self.tops),
            b"".join(self.settings),
        )

    def problems(self, path: str) -> Iterator[Problem]:
        label = f"'{self.name}'" + (f" ({self.type})" if self.type else "")
        for index, bad in self.bad:
            yield Problem(f"blob {index}: {bad.what}", Span(path), label, bad.expected, bad.got)


def read_net(
    file: BinaryIO,
    path: str,
    *,
    diffs: bool = False,
    current_type: Callable[[int | str], str] = str,
) -> Weights:
    """Read a NetParameter. `current_type` gives today's name of an old layer type.

    Raises NetcError when it is none, is cut off, or holds blobs that contradict themselves (all of
    those together).
    """
    reader = WireReader(file)
    place = Place(path, "caffemodel")
    name = ""
    layers: dict[str, list[_LayerParts]] = {"layer": [], "layers": []}
    with explained(place, file):
        for number, wire_type in reader.fields(reader.size):
            place.inside = ""
            if wire_type == LENGTH and number == NET["layer"]:
                layers["layer"].append(_read_layer(reader, place, diffs=diffs))
            elif wire_type == LENGTH and number == NET["layers"]:
                layers["layers"].append(_read_v1(reader, place, current_type, diffs=diffs))
            elif wire_type == LENGTH and number == NET["name"]:
                name = _text(reader.string(reader.size))
            else:
                reader.skip(wire_type, reader.size)
    if layers["layer"] and layers["layers"]:
        # Caffe logs an error and goes on without the former.
        raise fail(
            "the weights have both `layer` and `layers`",
            span=Span(path),
            expected="either of them",
            got=f"{len(layers['layer'])} layer, {len(layers['layers'])} layers",
        )
    chosen = layers["layers"] or layers["layer"]
    if not chosen:
        guess = guess_message(file)
        raise fail(
            "not a caffemodel: there is no layer in it",
            span=Span(path),
            expected="a NetParameter message with layers",
            got=guess,
        )
    problems = [problem for parts in chosen for problem in parts.problems(path)]
    if problems:
        raise NetcError(*problems)
    return Weights(tuple(parts.finished() for parts in chosen), name, path, "binaryproto")


def _read_layer(reader: WireReader, place: Place, *, diffs: bool) -> _LayerParts:
    parts = _LayerParts()
    end = reader.message(reader.size)
    for number, wire_type in reader.fields(end):
        if wire_type != LENGTH:
            parts.settings.append(reader.copy(number, wire_type, end))
        elif number == LAYER["blobs"]:
            parts.read_blob(reader, end, place, diffs=diffs)
        elif number == LAYER["name"]:
            parts.read_name(reader, end, place)
        elif number == LAYER["type"]:
            parts.type = _text(reader.string(end))
        elif number == LAYER["bottom"]:
            parts.bottoms.append(_text(reader.string(end)))
        elif number == LAYER["top"]:
            parts.tops.append(_text(reader.string(end)))
        else:
            parts.settings.append(reader.copy(number, wire_type, end))
    return parts


def _read_v1(
    reader: WireReader, place: Place, current_type: Callable[[int | str], str], *, diffs: bool
) -> _LayerParts:
    parts = _LayerParts()
    nested: _LayerParts | None = None
    end = reader.message(reader.size)
    for number, wire_type in reader.fields(end):
        if number == V1_LAYER["type"] and wire_type == VARINT:
            parts.type = current_type(reader.integer(end, bits=32))
        elif wire_type != LENGTH:
            reader.skip(wire_type, end)
        elif number == V1_LAYER["blobs"]:
            parts.read_blob(reader, end, place, diffs=diffs)
        elif number == V1_LAYER["name"]:
            parts.read_name(reader, end, place)
        elif number == V1_LAYER["bottom"]:
            parts.bottoms.append(_text(reader.string(end)))
        elif number == V1_LAYER["top"]:
            parts.tops.append(_text(reader.string(end)))
        elif number == V1_LAYER["layer"]:
            nested = nested or _LayerParts()
            _read_v0(reader, reader.message(end), nested, place, diffs=diffs)
        else:
            reader.skip(wire_type, end)
    if nested:
        # The oldest nets have everything but the wiring in the inner message.
        nested.bottoms, nested.tops = parts.bottoms, parts.tops
        nested.type = current_type(nested.type)
        return nested
    return parts


def _read_v0(
    reader: WireReader, end: int, parts: _LayerParts, place: Place, *, diffs: bool
) -> None:
    for number, wire_type in reader.fields(end):
        if wire_type != LENGTH:
            reader.skip(wire_type, end)
        elif number == V0_LAYER["blobs"]:
            parts.read_blob(reader, end, place, diffs=diffs)
        elif number == V0_LAYER["name"]:
            parts.read_name(reader, end, place)
        elif number == V0_LAYER["type"]:
            parts.type = _text(reader.string(end))
        else:
            reader.skip(wire_type, end)


def read_single_blob(file: BinaryIO, path: str) -> SavedBlob:
    """Read a file of one BlobProto. Raises NetcError when it is none."""
    reader = WireReader(file)
    with explained(Place(path, "blob file"), file):
        try:
            blob = read_blob_message(reader, reader.size, diffs=False)
            if not blob.data.size:
                # Of other messages, and of a file cut early, an empty blob may be all that is seen.
                raise BadBlob("there are no values in it")
        except BadBlob as bad:
            guess = guess_message(file)
            if guess and "blob file" not in guess:
                raise fail("not a blob file", span=Span(path), got=guess) from None
            raise fail(
                f"not a blob file, or a damaged one: {bad.what}",
                span=Span(path),
                expected=bad.expected,
                got=bad.got,
            ) from None
    return blob


def _text(raw: bytes) -> str:
    # C++ checks no encoding; bytes that are not UTF-8 are shown, so that names still differ.
    return raw.decode("utf-8", "backslashreplace")


# -- writing ---------------------------------------------------------------------------------------


def blob_chunks(blob: SavedBlob, *, diffs: bool = False) -> list[Chunk]:
    """Return a BlobProto as chunks. A legacy blob keeps its four axes, others have a `shape`."""
    chunks: list[Chunk] = []
    if blob.legacy:
        for number, axis in _LEGACY.items():
            chunks.append(wire.varint_field(number, blob.shape[axis]))
    if data := wire.array_chunks(blob.data):
        chunks += wire.field(BLOB["data"], data)
    if diffs and blob.diff is not None and (diff := wire.array_chunks(blob.diff)):
        chunks += wire.field(BLOB["diff"], diff)
    if not blob.legacy:
        dims = b"".join(map(wire.encode_varint, blob.shape))
        packed = wire.field(BLOB_SHAPE["dim"], [dims]) if dims else []
        chunks += wire.field(BLOB["shape"], packed)
    return chunks


def net_chunks(name: str, layers: Iterable[SavedLayer], *, diffs: bool = False) -> list[Chunk]:
    """Return a NetParameter as chunks, fields in the order of their numbers as Caffe has them.

    Every blob must be there (none is None). With `diffs` the gradients go in where there are any.
    """
    chunks = _string(NET["name"], name)
    for layer in layers:
        content = _string(LAYER["name"], layer.name) + _string(LAYER["type"], layer.type)
        for key, names in (("bottom", layer.bottoms), ("top", layer.tops)):
            for blob_name in names:
                content += wire.field(LAYER[key], [blob_name.encode()])
        before, after = _split_settings(layer.settings)
        content.append(before)
        for blob in layer.blobs:
            assert blob, f"layer '{layer.name}' lacks a blob"
            content += wire.field(LAYER["blobs"], blob_chunks(blob, diffs=diffs))
        content.append(after)
        chunks += wire.field(NET["layer"], content)
    return chunks


def check_size(chunks: Sequence[Chunk], path: str) -> int:
    """Return the number of bytes; raise NetcError when no protobuf reader would take the file."""
    total = wire.n_bytes(chunks)
    if total > MOST_BYTES:
        raise fail(
            "too large for a binary protobuf file, which Caffe could not read",
            span=Span(path),
            expected=f"at most {MOST_BYTES:,} bytes",
            got=f"{total:,} bytes",
            hint="write HDF5: snapshot_format: HDF5, or a name that ends in .h5",
        )
    return total


def _string(number: int, text: str) -> list[Chunk]:
    return wire.field(number, [text.encode()]) if text else []


def _split_settings(settings: bytes) -> tuple[bytes, bytes]:
    """Cut a layer's other fields into those that come before the blobs and those after."""
    reader = WireReader(io.BytesIO(settings))
    start = 0
    for number, wire_type in reader.fields(reader.size):
        if number > LAYER["blobs"]:
            return settings[:start], settings[start:]
        reader.skip(wire_type, reader.size)
        start = reader.position
    return settings, b""
