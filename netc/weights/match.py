"""Which saved blob goes to which param of a net: Caffe's rules, told before anything is copied.

    match(weights, layers)      the assignment; NetcError with every clash
    preview(weights, layers)    the same without raising, for a table that shows the clashes too

By layer name. The number of blobs must agree, and every shape (see `SavedBlob.fits`). With several
files each is copied over the one before. Layers of the net that no file has stay freshly filled,
layers of a file that the net lacks are unused: both are normal in fine-tuning, and both are listed.
Source: Net::CopyTrainedLayersFrom of BVLC Caffe 1.0, except where layers of one name are several
(see `_Targets`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from netc.errors import NetcError, Problem, Span, nearest
from netc.weights.types import FloatArray, SavedBlob, SavedLayer, Weights, describe_shape

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerParams:
    """What matching needs of a layer of a net.

    `shared[i]` says that another layer owns param i; absent means that none is shared.
    """

    name: str
    shapes: tuple[Shape, ...]
    span: Span | None = None
    type: str = ""
    shared: tuple[bool, ...] = ()

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

    `values` maps (index of the layer, index of its param) to the array to copy, of the param's
    shape, in the order of copying: where layers share a param, a later one wins. `clashes` are what
    `check` raises; as long as there are any, `values` is empty.
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
) -> Match:
    """Assign saved blobs to the params of a net.

    `weights` are one file or several, of which a later one wins; `layers` are the net's layers in
    order, those without params included. Raises NetcError with every clash, when no layer of a file
    is in the net, and with `complete` for every layer that no file has.
    """
    found = preview(weights, layers)
    found.check(complete=complete)
    return found


def preview(weights: Weights | Sequence[Weights], layers: Sequence[LayerParams]) -> Match:
    """Do what `match` does, with clashes in the result in place of an error."""
    files = [weights] if isinstance(weights, Weights) else list(weights)
    matching = _Matching(layers)
    for file in files:
        matching.add(file)
    return matching.finished()


@dataclass(slots=True)
class _Matching:
    layers: Sequence[LayerParams]
    values: dict[tuple[int, int], FloatArray] = field(default_factory=dict)
    files: dict[int, list[str]] = field(default_factory=dict)
    clashes: list[Problem] = field(default_factory=list)
    remarks: dict[int, str] = field(default_factory=dict)
    unused: list[Row] = field(default_factory=list)

    def add(self, file: Weights) -> None:
        targets = _Targets(self.layers, file)
        unused: list[SavedLayer] = []
        n_used = 0
        for source in file.layers:
            index = targets.next(source.name)
            if index is not None:
                n_used += bool(source.blobs)
                self._copy(file, source, index)
            elif source.blobs:
                unused.append(source)
        for source in unused:
            self.unused.append(
                Row(Fate.UNUSED, source.name, source.shapes, files=(Path(file.file).name,))
            )
        wanting = [layer.name for layer in self.layers if layer.shapes]
        if unused and wanting and not n_used:
            self.clashes.append(_strangers(file, unused, wanting))

    def _copy(self, file: Weights, source: SavedLayer, index: int) -> None:
        layer = self.layers[index]
        if not layer.shapes and not source.blobs:
            return
        self.files.setdefault(index, []).append(Path(file.file).name)
        clash = _clash(file, source, layer)
        if clash:
            self.clashes.append(clash)
            self.remarks[index] = f"{clash.got}: {clash.hint}"
            return
        for position, shape in enumerate(layer.shapes):
            blob = _blob(source, position)
            if blob:
                # Taken out first, so that the order of the values is that of copying.
                self.values.pop((index, position), None)
                self.values[index, position] = blob.shaped(shape)

    def finished(self) -> Match:
        rows = []
        for index, layer in enumerate(self.layers):
            if not layer.shapes and index not in self.remarks:
                continue
            fate = Fate.COPIED if index in self.files else Fate.FRESH
            if index in self.remarks:
                fate = Fate.CLASH
            elif fate is Fate.FRESH and all(map(layer.is_shared, range(len(layer.shapes)))):
                # It has nothing of its own to fill: the owner's line says what becomes of it.
                continue
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


def _clash(file: Weights, source: SavedLayer, layer: LayerParams) -> Problem | None:
    """Return why a saved layer cannot be copied to a layer of its name, None if it can."""
    # HDF5 files leave out what another layer owns, wherever it stands among the blobs.
    has_all = all(
        _blob(source, index) or (file.format == "HDF5" and layer.is_shared(index))
        for index in range(len(layer.shapes))
    )
    rename = f'rename the layer to learn it afresh, e.g. name: "{layer.name}_new"'
    origin = f"in {file.file or 'the weights'}"
    if len(source.blobs) > len(layer.shapes) or not has_all:
        return Problem(
            f"the weights have another number of params for layer '{layer.name}'",
            layer.span,
            layer.label,
            expected=_counted(layer.shapes),
            got=f"{_counted(source.shapes)} {origin}",
            hint=_bias_hint(source, layer) or rename,
        )
    wrong = [
        (index, shape, blob)
        for index, shape in enumerate(layer.shapes)
        if (blob := _blob(source, index)) and not blob.fits(shape)
    ]
    if not wrong:
        return None
    return Problem(
        f"the weights have another shape for param {' and '.join(str(i) for i, _, _ in wrong)}"
        f" of layer '{layer.name}'",
        layer.span,
        layer.label,
        expected=f"shape {', '.join(describe_shape(shape) for _, shape, _ in wrong)} as in the net",
        got=f"shape {', '.join(describe_shape(blob.shape) for _, _, blob in wrong)} {origin}",
        hint=rename,
    )


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
        hint="layers are matched by name; give weights saved from a net with these names",
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
    return f"from {row.files[-1]}{over}"
