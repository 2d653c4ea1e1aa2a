"""The HDF5Data layer's source: rows of the HDF5 files that a list names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data.source import Batch, Item, Opening, arrays_for, locate, locate_setting
from netc.errors import NetcError, Problems, Span, fail, nearest
from netc.layers.data import HDF5Data
from netc.layers.types import BlobType


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of the list and the place that names it."""

    path: Path
    span: Span


@dataclass(frozen=True, slots=True)
class _Turn:
    """One file's turn: its rows, in this order, are the items from the position `first` on."""

    file: int
    first: int
    order: NDArray[np.int64]

    @property
    def end(self) -> int:
        return self.first + len(self.order)


class RowSource:
    """The rows of several files, one file after the other. One file at a time is held in memory.

    Files may hold rows of different shapes where no batch reaches from one into the other.
    """

    def __init__(self, layer: HDF5Data, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing, NetcError when files that it names are."""
        self._tops = layer.top
        self._shuffle = layer.shuffle
        self._batch_size = layer.batch_size
        self._draws = opening.draws
        self._files = read_list(
            locate_setting(layer.source, opening, "source", "list of HDF5 files")
        )
        self._loaded: tuple[int, Batch] | None = None
        self._turn: _Turn | None = None

    @staticmethod
    def assume(layer: HDF5Data, opening: Opening) -> Item | None:
        """Return None: no setting tells the shapes of the data sets."""
        return None

    @property
    def size(self) -> int:
        """The number of rows in all files."""
        return int(self._rows.sum())

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of one row of each top, from the first file."""
        return self._look(self._files[0])[1]

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        types = self._looks[self._turn_at(position).file][1]
        batch = arrays_for(tuple((count, *row.shape) for row in types), reuse)
        done = 0
        while done < count:
            turn = self._turn_at(position + done)
            begin = position + done - turn.first
            rows = turn.order[begin : begin + count - done]
            for out, values in zip(batch, self._load_file(turn.file), strict=True):
                # Any mode but "raise" writes into `out` directly.
                np.take(values, rows, axis=0, out=out[done : done + len(rows)], mode="clip")
            done += len(rows)
        return batch

    def close(self) -> None:
        """Let go of the file in memory."""
        self._loaded = None

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """The number of rows of each file."""
        return np.array([n_rows for n_rows, _ in self._looks])

    @cached_property
    def _looks(self) -> list[tuple[int, tuple[BlobType, ...]]]:
        """The rows and types of each file. All are looked at: a wrong one is told at once."""
        problems, found = Problems(), []
        for listed in self._files:
            try:
                found.append(self._look(listed))
            except NetcError as error:
                problems.add(error.at(listed.span))
        problems.raise_any()
        first = found[0][1]
        other = next((i for i, (_, types) in enumerate(found) if types != first), None)
        if other is None:
            return found
        for listed, (n_rows, _) in zip(self._files, found, strict=True):
            if n_rows % self._batch_size:
                shown = self._show(found[other][1])
                problems.add(
                    fail(
                        "files hold rows of different shapes, and a batch would reach from this "
                        "file into the next",
                        span=listed.span,
                        expected=f"a multiple of batch_size {self._batch_size}, as "
                        f"'{self._files[0].path.name}' holds {self._show(first)} and "
                        f"'{self._files[other].path.name}' {shown}",
                        got=f"{n_rows} rows",
                        hint="batch_size: 1 is good for all numbers of rows",
                    )
                )
        problems.raise_any()
        return found

    def _show(self, types: tuple[BlobType, ...]) -> str:
        return ", ".join(f"{top} {row}" for top, row in zip(self._tops, types, strict=True))

    def _turn_at(self, position: int) -> _Turn:
        """Return the turn that a position belongs to."""
        if self._turn is not None and self._turn.first <= position < self._turn.end:
            return self._turn
        epoch, row = divmod(position, self.size)
        n_files = len(self._files)
        files = np.arange(n_files)
        if self._shuffle:
            files = self._draws.order(n_files, "files", epoch)
        ends = np.cumsum(self._rows[files])
        place = int(np.searchsorted(ends, row, side="right"))
        file = int(files[place])
        n_rows = int(self._rows[file])
        order = np.arange(n_rows)
        if self._shuffle:
            order = self._draws.order(n_rows, "rows", epoch * n_files + place)
        first = epoch * self.size + int(ends[place]) - n_rows
        self._turn = _Turn(file, first, order)
        return self._turn

    def _load_file(self, file: int) -> Batch:
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = None  # first let go of the one, then take the other
            listed = self._files[file]
            with _opened(listed) as h5:
                values = tuple(h5[top].astype(np.float32)[...] for top in self._tops)
            self._loaded = (file, values)
        return self._loaded[1]

    def _look(self, listed: ListedFile) -> tuple[int, tuple[BlobType, ...]]:
        """Return the number of rows of a file and the shape of one row of each top."""
        with _opened(listed) as h5:
            sets = [_data_set(h5, top, listed) for top in self._tops]
        n_rows = {shape[0] for shape in sets}
        if len(n_rows) > 1:
            raise fail(
                "the data sets of a file differ in the number of rows",
                span=listed.span,
                expected=f"{sets[0][0]} rows, as data set '{self._tops[0]}'",
                got=", ".join(
                    f"'{top}' {shape[0]}" for top, shape in zip(self._tops, sets, strict=True)
                ),
            )
        if n_rows == {0}:
            raise fail("the data sets of a file have no rows", span=listed.span, got=listed.path)
        return sets[0][0], tuple(BlobType(shape[1:]) for shape in sets)


def read_list(file: Path) -> list[ListedFile]:
    """Read a list of HDF5 files: paths between white space, as Caffe reads them.

    Raises one NetcError with all files that are missing, or for an empty list.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    found, problems = [], Problems()
    for number, line in enumerate(lines, start=1):
        column = 0
        for word in line.split():
            column = line.index(word, column)
            span = Span(str(file), number, column + 1)
            column += len(word)
            try:
                found.append(ListedFile(locate(word, span, "HDF5 file"), span))
            except NetcError as error:
                problems.add(error)
    problems.raise_any()
    if not found:
        raise fail("the list is empty", span=Span(str(file)), expected="one HDF5 file or more")
    return found


@contextlib.contextmanager
def _opened(listed: ListedFile) -> Iterator[Any]:
    """Open an HDF5 file for reading."""
    import h5py

    try:
        with h5py.File(listed.path, "r") as h5:
            yield h5
    except OSError as error:
        raise fail(
            "this is not an HDF5 file, or it is damaged",
            span=listed.span,
            got=f"'{listed.path}': {error}",
        ) from error


def _data_set(h5: Any, top: str, listed: ListedFile) -> tuple[int, ...]:
    """Return the shape of the data set that a top names."""
    import h5py

    data_set = h5.get(top)
    if not isinstance(data_set, h5py.Dataset):
        names: list[str] = []
        h5.visititems(lambda name, o: names.append(name) if isinstance(o, h5py.Dataset) else None)
        raise fail(
            f"an HDF5 file has no data set '{top}'",
            span=listed.span,
            expected="a data set of each top's name",
            got=f"'{listed.path}' with " + (", ".join(names) or "none"),
            hint=nearest(top, names),
        )
    # Caffe converts integers and floats; booleans are an HDF5 enumeration and no numbers.
    if data_set.dtype.kind not in "iuf":
        kind = "text" if h5py.check_string_dtype(data_set.dtype) else data_set.dtype
        raise fail(
            f"data set '{top}' does not hold numbers",
            span=listed.span,
            expected="integers or floats",
            got=f"{kind} in '{listed.path}'",
        )
    if not data_set.shape:
        raise fail(
            f"data set '{top}' has no axis of rows",
            span=listed.span,
            expected="one axis or more",
            got=f"a single value in '{listed.path}'",
        )
    return tuple(data_set.shape)
