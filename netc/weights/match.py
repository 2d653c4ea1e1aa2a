"""Which saved blob goes to which param of a net: Caffe's rules, told before anything is copied.

    match(weights, layers)      the assignment; NetcError with every clash
    preview(weights, layers)    the same without raising, for a table that shows the clashes too

By layer name. The number of blobs must agree, and every shape (see `SavedBlob.fits`). With several
files each is copied over the one before. Layers of the net that no file has stay freshly filled,
layers of a file that the net lacks are unused: both are normal in fine-tuning, and both are listed.
Source: Net::CopyTrainedLayersFrom of BVLC Caffe 1.0, except where layers of one name are several
(see `_Targets`), and except for two ways to take weights of another shape: between a fully
connected layer and a convolution that compute the same sums they are reshaped, and where the caller
asks for it (`PartialCopy`) some rows are taken. Both are said in the preview.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from netc.errors import NetcError, Problem, Span, nearest
from netc.patterns import matches, unmatched
from netc.schema import netc_pb2
from netc.weights.transfer import AS_SAVED, PartialCopy, Transfer, renamed, said_rows
from netc.weights.types import FloatArray, SavedBlob, SavedLayer, Weights, describe_shape

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerParams:
    """What matching needs of a layer of a net.

    `shared[i]` says that another layer owns param i; absent means that none is shared. `dense` says
    that param 0 holds (outputs, inputs of each), however the inputs are spread over axes.
    """

    name: str
    shapes: tuple[Shape, ...]
    span: Span | None = None
    type: str = ""
    shared: tuple[bool, ...] = ()
    dense: bool = False

    @property
    def label(self) -> str:
        """`'conv1' (Convolution)`, for messages."""
        return f"'{self.name}'" + (f" ({self.type})" if self.type else "")

    def is_shared(self, index: int) -> bool:
        """Say whether another layer owns param `index`."""
        return index < len(self.shared) and self.shared[index]


class Fate(enum.Enum):
    """What becomes of a layer with params; the value is the word in the preview."""

    COPIED = "copied"
    PARTLY = "partly"
    FRESH = "fresh"
    CLASH = "CLASH"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the preview: a layer of the net, or one of a file that the net lacks.

    `layer` is its index among the net's layers (None for UNUSED), `files` the files it is in, the
    last of which counts.
    """

    fate: Fate
    name: str
    shapes: tuple[Shape | None, ...]
    layer: int | None = None
    files: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The assignment of saved blobs to the params of a net.

    `values` maps (index of the layer, index of its param) to the array to copy, in the order of
    copying: where layers share a param, a later one wins. An array has the param's shape, or the
    first rows of it where the others are to stay as they are. `clashes` are what `check` raises; as
    long as there are any, `values` is empty.
    """

    rows: tuple[Row, ...]
    values: Mapping[tuple[int, int], FloatArray]
    clashes: tuple[Problem, ...]

    def of(self, fate: Fate) -> tuple[Row, ...]:
        """Return the rows of one fate."""
        return tuple(row for row in self.rows if row.fate is fate)

    def check(self, *, complete: bool = False) -> None:
        """Raise a NetcError with every clash; with `complete` also with every layer not copied.

        A resumed run wants all of its params back: `complete` is for that.
        """
        problems = list(self.clashes)
        if complete:
            problems += [
                Problem(
                    "the weights do not have this layer",
                    layer=f"'{row.name}'",
                    expected=", ".join(map(describe_shape, row.shapes)),
                    hint="give the weights that were saved from this very net",
                )
                for row in self.of(Fate.FRESH)
            ]
        if problems:
            raise NetcError(*problems)

    def summary(self) -> str:
        """Return `7 layers copied, 1 freshly filled, 1 unused`."""
        counts = {fate: len(self.of(fate)) for fate in Fate}
        n_copied = counts[Fate.COPIED]
        parts = [f"{n_copied} layer{'' if n_copied == 1 else 's'} copied"]
        if counts[Fate.PARTLY]:
            parts.append(f"{counts[Fate.PARTLY]} partly")
        if counts[Fate.CLASH]:
            parts.append(f"{counts[Fate.CLASH]} with a clash")
        parts.append(f"{counts[Fate.FRESH]} freshly filled")
        parts.append(f"{counts[Fate.UNUSED]} in the weights but unused")
        return ", ".join(parts)

    def preview_lines(self) -> list[str]:
        """Return the table that tells the user what fine-tuning starts from.

        One line for each layer with params: what becomes of it, its name, its shapes in the net (of
        an unused layer: in the file), where it comes from. Then the summary.
        """
        cells = [
            (
                row.fate.value,
                row.name,
                " ".join(map(describe_shape, row.shapes)),
                _origin(row),
            )
            for row in self.rows
        ]
        widths = [max((len(cell[column]) for cell in cells), default=0) for column in range(3)]
        lines = [
            "  ".join([*(cell[column].ljust(widths[column]) for column in range(3)), cell[3]])
            for cell in cells
        ]
        return [*(line.rstrip() for line in lines), self.summary()]


def match(
    weights: Weights | Sequence[Weights],
    layers: Sequence[LayerParams],
    *,
    complete: bool = False,
    transfer: Transfer = AS_SAVED,
) -> Match:
    """Assign saved blobs to the params of a net.

    `weights` are one file or several, of which a later one wins; `layers` are the net's layers in
    order, those without params included. `transfer` says what is renamed on the way, and what may
    be copied in part. Raises NetcError with every clash, when no layer of a file is in the net,
    for what `transfer` says in vain, and with `complete` for every layer that no file has.
    """
    found = preview(weights, layers, transfer)
    found.check(complete=complete)
    return found


def preview(
    weights: Weights | Sequence[Weights],
    layers: Sequence[LayerParams],
    transfer: Transfer = AS_SAVED,
) -> Match:
    """Do what `match` does, with clashes in the result in place of an error."""
    files = [weights] if isinstance(weights, Weights) else list(weights)
    names = [layer.name for layer in layers if layer.shapes]
    matching = _Matching(layers, transfer.partial)
    matching.clashes += [
        unmatched(partial.layer, names, "with params of the net", partial.span)
        for partial in transfer.partial
        if not any(matches(partial.layer, name) for name in names)
    ]
    for file, old_names in renamed(files, transfer.renames, names):
        matching.add(file, old_names)
    return matching.finished()


@dataclass(slots=True)
class _Matching:
    layers: Sequence[LayerParams]
    partial: Sequence[PartialCopy]
    values: dict[tuple[int, int], FloatArray] = field(default_factory=dict)
    files: dict[int, list[str]] = field(default_factory=dict)
    clashes: list[Problem] = field(default_factory=list)
    remarks: dict[int, str] = field(default_factory=dict)
    clashing: set[int] = field(default_factory=set)
    unused: list[Row] = field(default_factory=list)

    def add(self, file: Weights, old_names: Mapping[str, str]) -> None:
        """Assign the layers of a file, of which some had other names."""
        targets = _Targets(self.layers, file)
        unused: list[SavedLayer] = []
        n_used = 0
        for source in file.layers:
            index = targets.next(source.name)
            if index is not None:
                n_used += bool(source.blobs)
                self._copy(file, source, index, old_names.get(source.name, source.name))
            elif source.blobs:
                unused.append(source)
        for source in unused:
            self.unused.append(
                Row(Fate.UNUSED, source.name, source.shapes, files=(Path(file.file).name,))
            )
        wanting = [layer.name for layer in self.layers if layer.shapes]
        if unused and wanting and not n_used:
            self.clashes.append(_strangers(file, unused, wanting))

    def _copy(self, file: Weights, source: SavedLayer, index: int, old_name: str) -> None:
        layer = self.layers[index]
        if not layer.shapes and not source.blobs:
            return
        self.files.setdefault(index, []).append(Path(file.file).name)
        asked = [p for p in self.partial if matches(p.layer, layer.name)]
        fitting = _Fitting(file, source, layer, asked[-1] if asked else None)
        if fitting.problem:
            self.clashes.append(fitting.problem)
            self.clashing.add(index)
            self.remarks[index] = f"{fitting.problem.got}: {fitting.problem.hint}".replace(
                "\n", " "
            )
            return
        said = ([f"layer '{old_name}'"] if old_name != layer.name else []) + fitting.remarks
        self.remarks[index] = "; ".join(said)
        for position, values in fitting.values.items():
            # Taken out first, so that the order of the values is that of copying.
            below = self.values.pop((index, position), None)
            if below is not None and len(values) < len(below):
                values = np.concatenate([values, below[len(values) :]])
            self.values[index, position] = values

    def finished(self) -> Match:
        rows = []
        for index, layer in enumerate(self.layers):
            if not layer.shapes and index not in self.remarks:
                continue
            fate = Fate.COPIED if index in self.files else Fate.FRESH
            if index in self.clashing:
                fate = Fate.CLASH
            elif fate is Fate.FRESH and all(map(layer.is_shared, range(len(layer.shapes)))):
                # It has nothing of its own to fill: the owner's line says what becomes of it.
                continue
            elif any(
                len(self.values[index, position]) < shape[0]
                for position, shape in enumerate(layer.shapes)
                if shape and (index, position) in self.values
            ):
                fate = Fate.PARTLY
            rows.append(
                Row(
                    fate,
                    layer.name,
                    layer.shapes,
                    index,
                    tuple(self.files.get(index, ())),
                    self.remarks.get(index, "") or self._twin(fate, layer),
                )
            )
        values = {} if self.clashes else self.values
        return Match((*rows, *self.unused), MappingProxyType(values), tuple(self.clashes))

    def _twin(self, fate: Fate, layer: LayerParams) -> str:
        """Point at an unused layer that a fresh one may have been meant to be."""
        if fate is not Fate.FRESH:
            return ""
        alike = [row.name for row in self.unused if row.shapes == layer.shapes]
        guess = nearest(layer.name, alike).removeprefix("did you mean ").removesuffix("?")
        return f"not {guess} of the same shapes, which is unused" if guess else ""


class _Targets:
    """Finds the layer of a net that a saved layer belongs to.

    Caffe takes the first of that name. Where several have the name, in the net as often as in the
    file, they belong together in order: else a net with two such layers could be saved, but not
    loaded again.
    """

    def __init__(self, layers: Sequence[LayerParams], file: Weights) -> None:
        self._indices: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            self._indices.setdefault(layer.name, []).append(index)
        self._n_saved: dict[str, int] = {}
        for saved in file.layers:
            self._n_saved[saved.name] = self._n_saved.get(saved.name, 0) + 1
        self._n_taken: dict[str, int] = {}

    def next(self, name: str) -> int | None:
        """Return the index of the layer for the next saved one of that name, if there is one."""
        indices = self._indices.get(name)
        if not indices:
            return None
        if len(indices) != self._n_saved[name]:
            return indices[0]
        taken = self._n_taken.get(name, 0)
        self._n_taken[name] = taken + 1
        return indices[taken]


def _blob(source: SavedLayer, index: int) -> SavedBlob | None:
    return source.blobs[index] if index < len(source.blobs) else None


class _Fitting:
    """The blobs of a saved layer as values for a layer of the net, or the problem why not.

    `remarks` say what had to be done to them.
    """

    def __init__(
        self, file: Weights, source: SavedLayer, layer: LayerParams, partial: PartialCopy | None
    ) -> None:
        self.file = file
        self.source = source
        self.layer = layer
        self.partial = partial
        self.values: dict[int, FloatArray] = {}
        self.remarks: list[str] = []
        self.problem = self._wrong_number() or self._wrong_shapes() or self._take_rows()

    def _wrong_number(self) -> Problem | None:
        source, layer = self.source, self.layer
        # HDF5 files leave out what another layer owns, wherever it stands among the blobs.
        has_all = all(
            _blob(source, index) or (self.file.format == "HDF5" and layer.is_shared(index))
            for index in range(len(layer.shapes))
        )
        if len(source.blobs) <= len(layer.shapes) and has_all:
            return None
        return Problem(
            f"the weights have another number of params for layer '{layer.name}'",
            layer.span,
            layer.label,
            expected=_counted(layer.shapes),
            got=f"{_counted(source.shapes)} {self._origin}",
            hint=_bias_hint(source, layer) or self._rename_hint,
        )

    def _wrong_shapes(self) -> Problem | None:
        """Collect the blobs, with all axes but the first as in the net."""
        wrong = []
        for index, shape in enumerate(self.layer.shapes):
            blob = _blob(self.source, index)
            if blob is None:
                continue
            values = self._shaped(index, blob, shape)
            if values is not None and (self.partial or values.shape == shape):
                self.values[index] = values
            else:
                wrong.append((index, shape, blob, values is not None))
        if not wrong:
            return None
        hint = self._rename_hint
        if all(only_rows for *_, only_rows in wrong):
            hint += f"\nor copy the rows that both have: -partial_copy {self.layer.name}"
        return Problem(
            f"the weights have another shape for param {' and '.join(str(i) for i, *_ in wrong)}"
            f" of layer '{self.layer.name}'",
            self.layer.span,
            self.layer.label,
            expected=f"shape {', '.join(describe_shape(s) for _, s, *_ in wrong)} as in the net",
            got=f"shape {', '.join(describe_shape(b.shape) for *_, b, _ in wrong)} {self._origin}",
            hint=hint,
        )

    def _shaped(self, index: int, blob: SavedBlob, shape: Shape) -> FloatArray | None:
        """Return the values of a blob with the axes of `shape` behind the first, if that can be."""
        if blob.fits(shape):
            return blob.shaped(shape)
        values = blob.data
        if not shape or not values.ndim:
            return None
        if blob.legacy and len(shape) < 4 and set(values.shape[: -len(shape)]) <= {1}:
            values = values.reshape(values.shape[-len(shape) :])
        if values.shape[1:] == shape[1:]:
            return values
        matrix = values
        if blob.legacy and values.shape[:2] == (1, 1):
            matrix = values[0, 0]
        flat = matrix.ndim == 2 or len(shape) == 2
        same = matrix[:1].size == math.prod(shape[1:])
        if not (index == 0 and self.layer.dense and flat and same and _is_dense(self.source)):
            return None
        self.remarks.append(
            f"param 0 reshaped from {describe_shape(blob.shape)}"
            if len(matrix) == shape[0]
            else f"rows of param 0 reshaped from {describe_shape(matrix.shape[1:])}"
        )
        return matrix.reshape(len(matrix), *shape[1:])

    def _take_rows(self) -> Problem | None:
        """Leave of the values those rows that the caller asked for."""
        if not self.partial:
            return None
        rows, n_saved, n_taken = self.partial.rows, 0, 0
        for index, values in self.values.items():
            n_saved, n_wanted = len(values), self.layer.shapes[index][0]
            if rows and (len(rows) > n_wanted or max(rows) >= n_saved):
                return Problem(
                    f"these rows cannot be copied to layer '{self.layer.name}'",
                    self.partial.span or self.layer.span,
                    self.layer.label,
                    expected=f"at most {n_wanted} rows, of 0 to {n_saved - 1}",
                    got=f"{len(rows)} rows: {said_rows(rows)} {self._origin}",
                )
            n_taken = len(rows) or min(n_saved, n_wanted)
            if rows or n_saved != n_wanted:
                self.values[index] = values[list(rows)] if rows else values[:n_taken]
        n_outputs = self.layer.shapes[0][0] if self.values else 0
        if rows or n_saved != n_outputs:
            remark = f"rows {said_rows(rows or range(n_taken))} of {n_saved}"
            if n_taken < n_outputs:
                remark += f", rows {said_rows(range(n_taken, n_outputs))} freshly filled"
            self.remarks.append(remark)
        return None

    @property
    def _rename_hint(self) -> str:
        return f'rename the layer to learn it afresh, e.g. name: "{self.layer.name}_new"'

    @property
    def _origin(self) -> str:
        return f"in {self.file.file or 'the weights'}"


def _is_dense(source: SavedLayer) -> bool:
    """Say whether no setting of the saved layer gives its matrix another meaning."""
    said = netc_pb2.LayerParameter.FromString(source.settings)
    return not said.inner_product_param.transpose and said.convolution_param.group <= 1


def _counted(shapes: Sequence[Shape | None]) -> str:
    if not shapes:
        return "no params"
    return f"{len(shapes)}: {' '.join(map(describe_shape, shapes))}"


def _bias_hint(source: SavedLayer, layer: LayerParams) -> str:
    """Name the setting that is behind the commonest clash: one side has a bias."""
    pairs = zip(source.blobs, layer.shapes, strict=False)
    if not all(blob and blob.fits(shape) for blob, shape in pairs):
        return ""
    if (len(source.blobs), len(layer.shapes)) == (2, 1):
        return f"the weights have a bias: set bias_term: true, or rename layer '{layer.name}'"
    if (len(source.blobs), len(layer.shapes)) == (1, 2):
        return f"the weights have no bias: set bias_term: false, or rename layer '{layer.name}'"
    return ""


def _strangers(file: Weights, unused: Sequence[SavedLayer], wanting: Sequence[str]) -> Problem:
    """Return the problem of weights of which the net has no layer at all."""
    names = [layer.name for layer in unused]
    return Problem(
        "these weights are of another net: it has none of their layers",
        Span(file.file) if file.file else None,
        expected=f"layers such as {_some(wanting)}",
        got=_some(names),
        hint="layers are matched by name; give weights saved from a net with these names, "
        "or rename them: -rename 'OLD=NEW'",
    )


def _some(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _origin(row: Row) -> str:
    if row.fate is Fate.UNUSED:
        return f"in {row.files[-1]}, no layer of the net has this name"
    if row.fate is Fate.CLASH:
        return row.remark
    if row.fate is Fate.FRESH:
        return "filled by its filler" + (f" ({row.remark})" if row.remark else "")
    over = f", over {', '.join(row.files[:-1])}" if len(row.files) > 1 else ""
    return f"from {row.files[-1]}{over}" + (f": {row.remark}" if row.remark else "")
