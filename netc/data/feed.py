"""Feeds: what fills the tops of a data layer, one batch after the other, read ahead by a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data.annotated import AnnotatedSource
from netc.data.blob import BlobSource
from netc.data.boxes import BoxSource
from netc.data.clips import NumberedClipSource, SampledClipSource, SnippetSource
from netc.data.code import CodeSource
from netc.data.datums import DatumSource
from netc.data.frcnn import FrcnnSource
from netc.data.heatmap import HeatmapSource
from netc.data.image_list import ImageListSource
from netc.data.lanes import LaneSource
from netc.data.objects import DetectionSource, EvalSource, ImageGtSource
from netc.data.pair_list import LabelmapSource, PairSource, WindowPairSource
from netc.data.pose import PoseSource
from netc.data.rows import RowSource
from netc.data.sizes import SizeSource
from netc.data.source import Batch, DataAbsent, Item, Opening, Source
from netc.data.sparse import SparseSource
from netc.data.strides import SegSource
from netc.data.video import VideoSource
from netc.data.voxels import VoxelSource
from netc.data.windows import MaskedWindowSource, WindowSource
from netc.data.workers import workers
from netc.errors import NetcError, Span, fail
from netc.layers.annotated import AnnotatedData, LaneData
from netc.layers.blobfile import BlobFile
from netc.layers.clips import (
    VideoClipData,
    VideoSampleData,
    VideoSegmentationData,
    VideoSnippetData,
    VideoWithVoxelTruthData,
)
from netc.layers.data import Data, HDF5Data, ImageData, Reader, SparseData
from netc.layers.evaluation import SizeFile
from netc.layers.fielddata import DetectionData, EvalData, ImageGtData
from netc.layers.frcnn import FrcnnRoiData
from netc.layers.grid import BoxData
from netc.layers.heatmap import DataHeatmap
from netc.layers.pose import CPMData
from netc.layers.python import PythonData
from netc.layers.segdata import (
    DenseImageData,
    ImageLabelmapData,
    ImageSegData,
    SegData,
    WindowSegData,
)
from netc.layers.types import BlobType, Layer, Phase, Refusal
from netc.layers.video import VideoData
from netc.layers.windowdata import MCWindowData, WindowData

#: Batches read ahead by the types whose text does not say how many; the schema's default for Data.
PREFETCH = 4

# Each type's reader. They agree in the methods of `Source` and in the way they are made.
_SOURCES: dict[type[Layer], Any] = {
    Data: DatumSource,
    AnnotatedData: AnnotatedSource,
    BoxData: BoxSource,
    LaneData: LaneSource,
    ImageData: ImageListSource,
    HDF5Data: RowSource,
    SparseData: SparseSource,
    DenseImageData: PairSource,
    ImageSegData: PairSource,
    SegData: SegSource,
    WindowSegData: WindowPairSource,
    ImageLabelmapData: LabelmapSource,
    WindowData: WindowSource,
    MCWindowData: MaskedWindowSource,
    DataHeatmap: HeatmapSource,
    CPMData: PoseSource,
    VideoData: VideoSource,
    FrcnnRoiData: FrcnnSource,
    ImageGtData: ImageGtSource,
    DetectionData: DetectionSource,
    EvalData: EvalSource,
    VideoClipData: NumberedClipSource,
    VideoSampleData: SampledClipSource,
    VideoSnippetData: SnippetSource,
    VideoSegmentationData: VoxelSource,
    VideoWithVoxelTruthData: VoxelSource,
    BlobFile: BlobSource,
    SizeFile: SizeSource,
    PythonData: CodeSource,
}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a feed stands: all that has to be stored to go on from there, bit for bit.

    `position` counts items from the start of the first pass, `size` is the number of items in a
    pass.
    """

    position: int
    size: int


def probe(layer: Layer, span: Span | None = None, *, assume: bool = False) -> Item:
    """Look at the first item of a layer's data and return the types of its blobs.

    `span` is the layer's place in its text: relative paths start from that file's folder. With
    `assume` absent data is no error where the settings tell the shape; the item says what was
    assumed. Raises `Refusal`, which names the setting to blame, for settings that are impossible or
    do not suit the data and for data that is absent (`DataAbsent`); NetcError for data that is
    broken or of another kind.
    """
    source_type = _source_type(layer)
    opening = Opening(span)
    try:
        source: Source = source_type(layer, opening)
    except DataAbsent as absent:
        item: Item | None = source_type.assume(layer, opening) if assume else None
        if item is None:
            raise
        return Item(item.types, f"{absent.what}: {item.assumed}")
    try:
        return Item(source.item())
    finally:
        source.close()


def open_feed(
    layer: Layer,
    name: str,
    shapes: Sequence[tuple[int, ...]],
    *,
    phase: Phase,
    seed: int,
    span: Span | None = None,
) -> Feed:
    """Open the data of a layer whose tops have these shapes; the first axis is the batch.

    `seed` and `name` determine everything random. `span` is the layer's place in its text. Raises
    NetcError where `probe` raises something, and for what only a look at all of the data shows.
    """
    label = f"'{name}' ({layer.type})"
    opening = Opening(span, name, phase, seed)
    try:
        source: Source = _source_type(layer)(layer, opening)
        try:
            start, size = source.start, source.size
        except BaseException:
            source.close()
            raise
    except Refusal as refusal:
        raise fail(
            refusal.what,
            span=span,
            layer=label,
            expected=refusal.expected,
            got=refusal.got,
            hint=refusal.hint,
        ) from refusal
    except NetcError as error:
        raise error.at(span, label) from error
    depth = layer.prefetch if isinstance(layer, Data | SparseData) else PREFETCH
    return Feed(source, shapes[0][0], Cursor(start, size), depth, span, label)


def _source_type(layer: Layer) -> Any:
    if type(layer) not in _SOURCES:
        raise fail(
            f"there is no reader for layer type {layer.type}",
            expected="one of " + ", ".join(known.type for known in _SOURCES),
            got=layer.type,
        )
    assert isinstance(layer, Reader)
    layer.check()
    return _SOURCES[type(layer)]


class Feed:
    """Fills the tops of one data layer, batch after batch. Use it from one thread, and close it.

    A thread reads ahead, at most `depth` batches; it begins with the first call of `fill` or
    `next_shapes`, so that a feed which nobody uses costs nothing. What goes wrong there is raised
    here.
    """

    def __init__(
        self,
        source: Source,
        count: int,
        cursor: Cursor,
        depth: int,
        span: Span | None = None,
        label: str = "",
    ) -> None:
        self._count = count
        self._cursor = cursor
        self._span, self._label = span, label
        self._reader = _Reader(source, self._count, depth)
        self._head: Batch | None = None
        # Also when the feed is forgotten rather than closed, and before the interpreter goes down.
        self._shut = weakref.finalize(self, self._reader.close)

    def next_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the next batch, for nets that adapt to images of varying size."""
        return tuple(array.shape for array in self._next())

    def fill(self, outs: Sequence[NDArray[Any]]) -> None:
        """Write the next batch into arrays of the tops' shapes.

        Raises NetcError for data that is broken, or of another size than the arrays; the feed then
        stays where it is.
        """
        batch = self._next()
        for out, array in zip(outs, batch, strict=True):
            if out.shape != array.shape:
                raise fail(
                    "the data changes its shape",
                    span=self._span,
                    layer=self._label,
                    expected=f"{BlobType(tuple(out.shape))}, which the net was built for",
                    got=f"{BlobType(array.shape)} for items {self._cursor.position} to "
                    f"{self._cursor.position + self._count - 1}",
                    hint="bring all images to one size, or crop them with transform_param "
                    "{ crop_size }",
                )
        for out, array in zip(outs, batch, strict=True):
            np.copyto(out, array)
        self._cursor = Cursor(self._cursor.position + self._count, self._cursor.size)
        self._head = None
        self._reader.give_back(batch)

    def state(self) -> Cursor:
        """Return where the next `fill` begins, whatever has been read ahead."""
        return self._cursor

    def check(self, cursor: Cursor) -> None:
        """Raise NetcError for a cursor in data of another size."""
        if cursor.size != self._cursor.size:
            raise fail(
                "the data is not that of the snapshot",
                span=self._span,
                layer=self._label,
                expected=f"{cursor.size} items",
                got=f"{self._cursor.size} items",
                hint="to train on other data, start from the snapshot's weights instead",
            )

    def restore(self, cursor: Cursor) -> None:
        """Go on from a cursor that `state` gave; NetcError when the data has changed its size."""
        self.check(cursor)
        self._reader.halt()
        self._head = None
        self._cursor = cursor

    def close(self) -> None:
        """Stop reading and let go of the data. May be called twice."""
        self._head = None
        self._shut()

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next(self) -> Batch:
        """Return the next batch without taking it."""
        if not self._shut.alive:
            raise RuntimeError(f"the feed of layer {self._label} is closed")
        if self._head is None:
            try:
                self._head = self._reader.take(self._cursor.position)
            except NetcError as error:
                raise error.at(self._span, self._label) from error
        return self._head


class _Reader:
    """The thread that reads ahead. It knows nothing of the feed, which can so be forgotten."""

    def __init__(self, source: Source, count: int, depth: int) -> None:
        self._source = source
        self._count = count
        self._depth = depth
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def take(self, position: int) -> Batch:
        """Wait for the next batch. The first one, also after `halt`, begins at `position`.

        What went wrong in the thread is raised here, and again on every later call.
        """
        if self._thread is None:
            self._begin(position)
        if self._failure is None:
            found = self._wait()
            if not isinstance(found, BaseException):
                return found
            self._failure = found
        raise self._failure

    def _wait(self) -> Batch | BaseException:
        with contextlib.suppress(queue.Empty):
            return self._filled.get_nowait()
        with workers().waited_for():
            return self._filled.get()

    def give_back(self, batch: Batch) -> None:
        """Allow one more batch, in these arrays."""
        self._permits.put(batch)

    def halt(self) -> None:
        """End the thread, after the batch that it is at, and drop what it has read."""
        if self._thread is not None:
            self._stopping.set()
            self._permits.put(None)
            with workers().waited_for():
                self._thread.join()
            self._thread = self._failure = None

    def close(self) -> None:
        """End the thread and close the source."""
        self.halt()
        self._source.close()

    def _begin(self, position: int) -> None:
        self._filled: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        # One permit for each batch that may be there at a time, with the arrays to use again.
        self._permits: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        for _ in range(self._depth):
            self._permits.put(())
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(position,), name="netc-feed", daemon=True
        )
        self._thread.start()

    def _run(self, position: int) -> None:
        try:
            while (reuse := self._permits.get()) is not None and not self._stopping.is_set():
                self._filled.put(self._source.load(position, self._count, reuse))
                position += self._count
        except BaseException as error:
            self._filled.put(error)
