"""Windows of images with their classes, as R-CNN trains on. The reading is in `netc.data`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.data import ImageReader
from netc.layers.registry import layer
from netc.layers.types import Arity, BlobType, Refusal, Signature, exactly


class CropMode(enum.Enum):
    """Whether a window is warped as it is, or made a square around it first."""

    WARP = "warp"
    SQUARE = "square"


@layer("WindowData", "window_data_param")
@dataclass(frozen=True)
class WindowData(ImageReader):
    """Windows of images, drawn at random or in order, each warped to `crop_size` x `crop_size`.

    A batch holds background windows first and then foreground ones, `fg_fraction` of the batch,
    rounded down. `source` lists for each image its path and windows with class, overlap and
    corners: one of an overlap of at least `fg_threshold` is foreground, one below `bg_threshold` is
    background and of class 0. A window grows so that `context_pad` pixels of the crop are around
    it, with `crop_mode` "square" to a square first; what lies outside the image is 0. `mirror` of
    `transform_param` mirrors half of them. From each pixel a mean is subtracted (of a mean image:
    its middle), and the difference is multiplied with `scale`. `root_folder` is put before each
    path as it is. `cache_images` has no effect.

    With `shuffle: false` the windows of the file come in its order, of both kinds and those
    between, which keep their class; `fg_fraction` does not count then. In its fork that is the
    default, here it has to be said.

    Shapes: tops (N, 3, crop_size, crop_size), and the classes (N,).
    Source: Girshick et al., CVPR 2014; the numbers are those of BVLC Caffe 1.0.
    """

    # Its message does not have this one.
    rand_skip: int = field(default=0, init=False)
    scale: float = 1.0
    fg_threshold: float = 0.5
    bg_threshold: float = 0.5
    fg_fraction: float = 0.25
    context_pad: int = 0
    crop_mode: str = "warp"
    cache_images: bool = False
    root_folder: str = ""
    shuffle: bool | None = None

    message: ClassVar[str] = "window_data_param"

    @property
    def foreground(self) -> int:
        """The number of foreground windows in a batch."""
        return int(self.batch_size * self.fg_fraction)

    def check(self) -> None:
        super().check()
        size = self.transform_param.crop_size
        if not size:
            raise Refusal(
                "crop_size, to which windows are warped, is missing",
                expected="transform_param { crop_size: 227 }",
                got="no crop_size",
                setting="crop_size",
            )
        if 2 * self.context_pad >= size:
            raise Refusal(
                "context_pad leaves nothing of the crop to the window",
                expected=f"context_pad < {size / 2:g}, half of crop_size",
                got=f"context_pad {self.context_pad}, crop_size {size}",
                setting="context_pad",
            )
        if self.crop_mode not in {mode.value for mode in CropMode}:
            raise Refusal(
                "unknown crop_mode",
                expected='"warp" or "square"',
                got=f'"{self.crop_mode}"',
                setting="crop_mode",
            )
        if not 0 <= self.fg_fraction <= 1:
            raise Refusal(
                "fg_fraction is not a share of the batch",
                expected="0 <= fg_fraction <= 1",
                got=f"{self.fg_fraction:g}",
                setting="fg_fraction",
            )
        self._check_scale()

    @property
    def factor(self) -> float:
        """What the difference of pixel and mean is multiplied with."""
        return self.scale

    def _check_scale(self) -> None:
        # Caffe reads over it in silence.
        if self.transform_param.scale != 1:
            raise Refusal(
                "WindowData does not look at the scale of transform_param",
                expected="window_data_param { scale }",
                got=f"transform_param {{ scale: {self.transform_param.scale:g} }}",
                setting="scale",
            )

    @property
    def ordered(self) -> bool:
        """Whether windows come in the order of the file."""
        return self.shuffle is False

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        size = self.transform_param.crop_size
        self.transform_param.infer(BlobType((bottoms[0].shape[0], size, size)))
        items = (bottoms[0].shape[0], size, size), *self.beside_images(*bottoms[1:]), ()
        blobs = tuple(BlobType((self.batch_size, *item)) for item in items)
        return Signature(blobs[: len(self.top)])

    def beside_images(self, *bottoms: BlobType) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of what a window has between its image and its class: nothing."""
        return ()


@layer("MCWindowData", "mcwindow_data_param")
@dataclass(frozen=True)
class MCWindowData(WindowData):
    """Windows of images and of grey masks that belong to them.

    All is as in WindowData, but for `shuffle`, which is false if absent, and for what each image of
    the file has between its path and its channels: the number of its masks, and their paths. The
    second top takes the window of each mask, resized bilinearly to `mask_crop_size`, as 0 to 1.

    Shapes: tops (N, 3, crop_size, crop_size), masks (N, M, mask_crop_size, mask_crop_size), and the
    classes (N,).
    Source: the fork of Zhao et al., "Saliency detection by multi-context deep learning", CVPR 2015.
    With `context_pad` or `crop_mode: "square"` it writes masks beside their places: both are
    refused.
    """

    # Its message does not have these, or they are moved to transform_param when they are read.
    scale: float = field(default=1.0, init=False)
    cache_images: bool = field(default=False, init=False)
    root_folder: str = field(default="", init=False)
    shuffle: bool = False
    mask_crop_size: int = 0

    tops: ClassVar[Arity] = exactly(3)
    message: ClassVar[str] = "mcwindow_data_param"

    def check(self) -> None:
        super().check()
        if self.mask_crop_size <= 0:
            raise Refusal(
                "mask_crop_size is missing",
                expected="mask_crop_size > 0",
                got=self.mask_crop_size,
                setting="mask_crop_size",
            )
        if self.context_pad or self.crop_mode != CropMode.WARP.value:
            raise Refusal(
                "masks have no context",
                expected='context_pad: 0 and crop_mode: "warp"',
                got=f'context_pad: {self.context_pad}, crop_mode: "{self.crop_mode}"',
                setting="context_pad" if self.context_pad else "crop_mode",
            )

    @property
    def factor(self) -> float:
        return self.transform_param.scale

    def _check_scale(self) -> None:
        """Do nothing: that of transform_param counts."""

    def beside_images(self, *bottoms: BlobType) -> tuple[tuple[int, ...], ...]:
        (masks,) = bottoms
        return ((masks.shape[0], self.mask_crop_size, self.mask_crop_size),)
