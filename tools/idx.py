"""Reads IDX files, the format of MNIST: magic 0 0 type ndim, sizes as big-endian 32 bits, bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, fail

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes, gzipped or not, whatever its name says.

    Raises NetcError for a file that is missing, of another format, cut off, or longer than it says.
    """
    span = Span(str(path))
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise fail("cannot read the IDX file", span=span, got=error) from error

    if len(data) < 4 or data[0] or data[1] or data[2] != _UNSIGNED_BYTE or not data[3]:
        raise fail(
            "this is not an IDX file of unsigned bytes",
            span=span,
            expected="a file that begins with the bytes 00 00 08 and the number of axes",
            got=data[:4].hex(" ") or "an empty file",
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise fail("the IDX file ends within its header", span=span, got=f"{len(data)} bytes")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise fail(
            "the IDX file is not as long as its header says",
            span=span,
            expected=f"{' x '.join(map(str, shape))} = {math.prod(shape)} bytes of data",
            got=f"{len(data) - start} bytes",
            hint="it may have been cut off while it was copied: fetch it again",
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_images_and_labels(
    images: Path, labels: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images as (N, C, H, W) and labels as (N,), checked against each other."""
    x, y = read_idx(images), read_idx(labels)
    if x.ndim not in (3, 4):
        raise fail(
            "these are not images",
            span=Span(str(images)),
            expected="3 axes (N, H, W), or 4 with channels",
            got=f"{x.ndim} axes, sizes {x.shape}",
            hint="are images and labels given in the wrong order?" if x.ndim == 1 else "",
        )
    if y.ndim != 1:
        raise fail(
            "these are not labels", span=Span(str(labels)), expected="1 axis", got=f"{y.ndim} axes"
        )
    if len(x) != len(y):
        raise fail(
            "there are not as many labels as images",
            span=Span(str(labels)),
            expected=f"{len(x)} labels, for the images in {images}",
            got=len(y),
        )
    return x.reshape(len(x), -1, *x.shape[-2:]), y
