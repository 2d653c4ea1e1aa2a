"""Files of one blob, such as Caffe's mean images (`mean.binaryproto`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from netc.weights import binaryproto
from netc.weights.caffemodel import staged_chunks
from netc.weights.files import not_a, opened
from netc.weights.sniff import Kind
from netc.weights.types import FloatArray, SavedBlob, frozen


def read_blob(path: str | Path) -> FloatArray:
    """Read a blob file; an image mean has shape (1, C, H, W).

    Raises NetcError when the file is missing, cut off or something else.
    """
    with opened(path, "blob file") as (kind, file):
        if kind is not Kind.MAYBE_PROTOBUF:
            raise not_a("blob file", path, kind.value)
        return binaryproto.read_single_blob(file, str(path)).data


def write_blob(path: str | Path, values: npt.NDArray[Any], *, legacy: bool = False) -> None:
    """Write a blob file atomically. `legacy` writes the four old axes, which every tool reads.

    Raises NetcError when it cannot be written; ValueError for `legacy` and not four axes.
    """
    if legacy and values.ndim != 4:
        raise ValueError(f"a legacy blob has four axes, not {values.ndim}")
    blob = SavedBlob(frozen(values), legacy=legacy)
    with staged_chunks(path, binaryproto.blob_chunks(blob)) as staged:
        staged.commit()
