"""Layers that read data: their settings and shapes. The reading itself is done in `netc.data`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.transform import ImageTransform, ResizeMode, TransformParam
from netc.layers.types import (
    Arity,
    BlobType,
    Layer,
    Refusal,
    Signature,
    at_least,
    between,
    exactly,
)


class Database(enum.Enum):
    """The kinds of database that the text can name, with the schema's values. LMDB can be read."""

    LEVELDB = 0
    LMDB = 1


@dataclass(frozen=True)
class Reader(Layer):
    """Base of the types whose tops come from files: the checks of `source` and `batch_size`."""

    source: str = ""
    batch_size: int = 0
    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = exactly(0)
    reads_data: ClassVar[bool] = True

    #: The parameter message, for hints.
    message: ClassVar[str] = ""

    def check(self) -> None:
        """Raise `Refusal` for settings that no data could satisfy. Looks at no file."""
        if not self.source:
            raise Refusal(
                "the layer names no source",
                expected=f'{self.message} {{ source: "PATH" }}',
                got="no source",
                setting="source",
            )
        if self.batch_size <= 0:
            raise Refusal(
                "batch_size is missing",
                expected="batch_size > 0",
                got=self.batch_size,
                hint=f"add {self.message} {{ batch_size: 64 }}",
                setting="batch_size",
            )


@dataclass(frozen=True)
class ImageReader(Reader):
    """Base of the types that feed images and, with a second top, their labels.

    Shapes: item (C, H, W) as stored or resized -> tops (N, C, H, W), cropped, and labels (N,).
    """

    rand_skip: int = 0
    transform_param: TransformParam = field(default_factory=TransformParam)

    tops: ClassVar[Arity] = between(1, 2)
    #: What an item has besides the image, where that is not one number.
    beside: ClassVar[tuple[BlobType, ...]] = ()

    def check(self) -> None:
        super().check()
        self.transform_param.check()

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        out = self.transform_param.infer(bottoms[0])
        blobs = (BlobType((self.batch_size, *out.shape)), BlobType((self.batch_size,)))
        return Signature(blobs[: len(self.top)])


def check_prefetch(prefetch: int) -> None:
    """Refuse a number of batches read ahead with which none could be read at all."""
    if prefetch <= 0:
        raise Refusal(
            "no batch may be read ahead",
            expected="prefetch > 0",
            got=prefetch,
            setting="prefetch",
        )


@layer("Data", "data_param")
@dataclass(frozen=True)
class Data(ImageReader):
    """Images and labels from a database of `Datum` messages, in the order of its keys.

    `shuffle`, of NVCaffe and IntelCaffe, draws a new order for every pass (in NVCaffe only with
    `cache`, and in phase TRAIN).
    `rand_skip` starts the first pass after a random number of items below it, as the schema says
    (BVLC Caffe 1.0 itself no longer looks at it). `prefetch` is how many batches are read ahead.
    `force_encoded_color` is the older form of the transformation's `force_color`.

    With the fields of forks in `transform_param`, images are changed at random as those of
    AnnotatedData are; here each image draws its own `resize_param` where there are several.

    Shapes: item (C, H, W) as stored -> tops (N, C, H', W'), cropped and resized as
    `transform_param` says, and labels (N,).
    Source: BVLC Caffe.
    """

    transform_param: ImageTransform = field(default_factory=ImageTransform)
    backend: Database = Database.LEVELDB
    force_encoded_color: bool = False
    prefetch: int = 4
    shuffle: bool = False

    message: ClassVar[str] = "data_param"

    #: All images of a batch get the same one of several `resize_param`.
    shares_resizing: ClassVar[bool] = False

    def check(self) -> None:
        super().check()
        check_prefetch(self.prefetch)
        self._check_sizes()
        if self.force_encoded_color and self.transform_param.force_gray:
            raise Refusal(
                "force_encoded_color and force_gray exclude each other",
                expected="one of them",
                got="both",
                setting="force_encoded_color",
            )

    def _check_sizes(self) -> None:
        """Refuse a resizing that leaves the images of a batch in several sizes."""
        param, shared = self.transform_param, self.shares_resizing
        if self.batch_size == 1 or (all(param.window) and not shared):
            return
        if param.stretches and not any(param.window):
            raise Refusal(
                "images of random sizes make no batch",
                expected="a crop_size, or batch_size: 1",
                got=f"batch_size {self.batch_size}, and no crop_size",
                setting="batch_size",
            )
        if any(resize.resize_mode is ResizeMode.FIT_SMALL_SIZE for resize in param.resize_param):
            raise Refusal(
                "FIT_SMALL_SIZE makes images of different sizes, which no batch can hold",
                expected="batch_size: 1, or another resize_mode"
                + ("" if shared else ", or a crop_size"),
                got=f"batch_size {self.batch_size}",
                setting="batch_size",
            )
        sizes = dict.fromkeys((resize.height, resize.width) for resize in param.resize_param)
        if len(sizes) > 1 and not shared:
            raise Refusal(
                "each image draws its own resize_param, and a batch has one size",
                expected="the same height and width in all of them, a crop_size, or batch_size: 1",
                got=", ".join(f"{height} x {width}" for height, width in sizes),
                setting="resize_param",
            )

    @property
    def decodes_color(self) -> bool | None:
        """Whether encoded images become colour (True), grey (False) or stay as they are (None)."""
        if self.transform_param.force_color or self.force_encoded_color:
            return True
        return False if self.transform_param.force_gray else None


def check_size(stem: str, height: int, width: int) -> None:
    """Refuse a size of which only one side is given; `stem` begins the settings' names: "new"."""
    if (height > 0) != (width > 0):
        given, missing = f"{stem}_height", f"{stem}_width"
        if not height:
            given, missing = missing, given
        raise Refusal(
            f"{given} is set without {missing}",
            expected="both, or neither",
            got=f"{stem}_height {height}, {stem}_width {width}",
            setting=given,
        )


@dataclass(frozen=True, slots=True)
class ListTransform(TransformParam):
    """The `transform_param` of ImageData: `flow`, of LRCN, has no effect on images from files."""

    flow: bool = False


@layer("ImageData", "image_data_param")
@dataclass(frozen=True)
class ImageData(ImageReader):
    """Images from the files that a list names, one `path label` per line.

    The label is what follows the last space of the line. `root_folder` is put before each path as
    it is, so it ends with a slash. Each image is decoded to 3 channels in the order B, G, R (to 1
    without `is_color`) and, when both are given, resized to `new_height` and `new_width`
    bilinearly; with `new_dim` so that its shorter side has that length, `bicubic` or bilinearly.
    Otherwise an image that is lower than `min_height` or narrower than `min_width` gets that side,
    the one that lacks more, and keeps its proportions.
    `shuffle` draws a new order for every pass over the list. Caffe insists on the label top; here
    it may be left out.

    Shapes: image (C, H, W), resized -> tops (N, C, H', W'), cropped, and labels (N,).
    Source: BVLC Caffe; `new_dim` and `bicubic` the fork of channel pruning, `min_height` and
    `min_width` that of LRCN.
    """

    batch_size: int = 1
    shuffle: bool = False
    new_height: int = 0
    new_width: int = 0
    new_dim: int = 0
    bicubic: bool = False
    min_height: int = 0
    min_width: int = 0
    is_color: bool = True
    root_folder: str = ""
    transform_param: ListTransform = field(default_factory=ListTransform)

    message: ClassVar[str] = "image_data_param"

    def check(self) -> None:
        super().check()
        check_size("new", self.new_height, self.new_width)
        check_size("min", self.min_height, self.min_width)
        if self.new_dim and self.new_height:
            raise Refusal(
                "an image is given two sizes",
                expected="new_dim, or new_height and new_width",
                got=f"new_dim {self.new_dim}, new_height {self.new_height}",
                setting="new_dim",
            )
        if self.bicubic and not self.new_dim:
            raise Refusal(
                "bicubic is set without new_dim",
                expected="the length of the shorter side that images are brought to",
                got="bicubic: true",
                setting="bicubic",
            )
        # Caffe ignores both here. In agreement with is_color they do no harm.
        for name, wanted in (("force_color", True), ("force_gray", False)):
            if getattr(self.transform_param, name) and self.is_color != wanted:
                raise Refusal(
                    f"{name} contradicts is_color",
                    expected=f"is_color: {str(wanted).lower()}",
                    got=f"is_color: {str(self.is_color).lower()}",
                    hint=f"image_data_param {{ is_color }} decides here: remove {name}, "
                    "or change is_color",
                    setting=name,
                )


@layer("HDF5Data", "hdf5_data_param")
@dataclass(frozen=True)
class HDF5Data(Reader):
    """Rows of the HDF5 files that a list names: each top is the data set of its own name.

    Shapes: one row (...) per top -> top (N, ...). Values are converted to float32 and not
    transformed. `shuffle` draws a new order of the files for every pass, and of the rows of a file
    whenever it is its turn; a file's rows stay together.

    Source: BVLC Caffe.
    """

    shuffle: bool = False
    transform_param: TransformParam | None = None

    tops: ClassVar[Arity] = at_least(1)
    message: ClassVar[str] = "hdf5_data_param"

    def check(self) -> None:
        super().check()
        if self.transform_param is not None:
            raise Refusal(
                "HDF5Data does not transform data",
                expected="no transform_param",
                got="transform_param",
                hint="store the transformed values, or scale with a Power or Scale layer",
                setting="transform_param",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        return Signature(tuple(BlobType((self.batch_size, *row.shape)) for row in bottoms))


@layer("SparseData", "data_param")
@dataclass(frozen=True)
class SparseData(Reader):
    """Rows of which most values are 0, from a database of `SparseDatum` messages, in key order.

    A record has the values that are not 0, where they are, a label, and the size of its row, which
    is the same in all. A place that comes twice has the sum of its values. Rows are stored in full:
    a batch takes 4 bytes for each of N * size values.

    Shapes: tops (N, size), labels (N,).
    Source: jolibrain's Caffe, of DeepDetect, which keeps rows compressed.
    """

    backend: Database = Database.LEVELDB
    prefetch: int = 4

    tops: ClassVar[Arity] = between(1, 2)
    message: ClassVar[str] = "data_param"

    def check(self) -> None:
        super().check()
        check_prefetch(self.prefetch)

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        blobs = (BlobType((self.batch_size, *bottoms[0].shape)), BlobType((self.batch_size,)))
        return Signature(blobs[: len(self.top)])
