"""What the HDF5Output layer writes: rows of an HDF5 file that HDF5Data can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, fail
from netc.layers.hdf5output import HDF5Output
from netc.layers.types import Layer

DATA_SETS = ("data", "label")


class Sink(Protocol):
    """What takes the bottoms of a layer that writes data."""

    def write(self, arrays: tuple[NDArray[Any], ...]) -> None:
        """Write them, after each pass."""
        ...


def open_sink(layer: Layer, name: str, span: Span | None = None) -> Sink:
    """Return what writes for a layer of this name; `span` is its place in its text."""
    sink: Sink = _SINKS[type(layer)](layer, span, f"'{name}' ({layer.type})")
    return sink


class RowWriter:
    """Adds the rows of each pass to one file, which the first pass begins anew.

    The file is open only while it is written, so that it is whole after every pass.
    """

    def __init__(self, layer: HDF5Output, span: Span | None = None, label: str = "") -> None:
        self._path = Path(layer.file_name)
        self._span, self._label = span, label
        self._begun = False

    def write(self, arrays: tuple[NDArray[Any], ...]) -> None:
        """Write arrays of at most 4 axes; NetcError where the file cannot be written."""
        import h5py

        try:
            with h5py.File(self._path, "a" if self._begun else "w") as file:
                for name, array in zip(DATA_SETS, arrays, strict=True):
                    rows = array.reshape(array.shape + (1,) * (4 - array.ndim))
                    self._add(file, name, rows.astype(np.float32))
        except OSError as error:
            raise fail(
                "the HDF5 file cannot be written",
                span=self._span,
                layer=self._label,
                expected="a path in a folder that exists",
                got=f"'{self._path}': {error}",
            ) from error
        self._begun = True

    def _add(self, file: Any, name: str, rows: NDArray[np.float32]) -> None:
        if name not in file:
            file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]))
            return
        data_set = file[name]
        if data_set.shape[1:] != rows.shape[1:]:
            raise fail(
                "the rows of this pass have another shape than those before",
                span=self._span,
                layer=self._label,
                expected=f"{data_set.shape[1:]}, as in '{self._path}'",
                got=f"{rows.shape[1:]}",
            )
        data_set.resize(len(data_set) + len(rows), axis=0)
        data_set[-len(rows) :] = rows


# Each type's writer. They agree in the methods of `Sink` and in the way they are made.
_SINKS: dict[type[Layer], Any] = {HDF5Output: RowWriter}
