"""Clips of videos that a list names: settings and shapes. The reading is done in `netc.data`.

Forks of Caffe gave several readers one name, VideoData; `netc.layers.video` tells which is meant.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.data import ImageReader, check_size
from netc.layers.registry import layer
from netc.layers.transform import TransformParam
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    Refusal,
    Signature,
    exactly,
)


@dataclass(frozen=True)
class ClipReader(ImageReader):
    """Base of the types that give a part of a video as one item.

    Shapes: clip (C, L, H, W), resized -> tops (N, C, L, H', W'), cropped, and labels (N,).
    """

    batch_size: int = 1
    shuffle: bool = False
    new_height: int = 0
    new_width: int = 0
    new_length: int = 1
    root_folder: str = ""

    message: ClassVar[str] = "video_data_param"

    @property
    def channels(self) -> int:
        """The number of channels of a frame."""
        return 3

    def check(self) -> None:
        super().check()
        check_size("new", self.new_height, self.new_width)
        if self.new_length < 1:
            raise Refusal(
                "new_length is missing",
                expected="new_length > 0, the frames of a clip",
                got=f"new_length {self.new_length}",
                setting="new_length",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        channels, length, *size = bottoms[0].shape
        out = self.transform_param.infer(BlobType((channels, *size)))
        data = BlobType((self.batch_size, channels, length, *out.shape[1:]))
        return Signature((data, BlobType(self.labels_shape))[: len(self.top)])

    @property
    def labels_shape(self) -> tuple[int, ...]:
        """The shape of the labels of a batch."""
        return (self.batch_size,)


@layer("VideoClipData", "video_data_param")
@dataclass(frozen=True)
class VideoClipData(ClipReader):
    """The VideoData of video-caffe: `new_length` frames from one that a list names.

    A line is `path frame label`, with the frames numbered from 1. The path, with `root_folder`
    before it, is a folder of files `image_0001.jpg`, or a video. Frames are decoded to channels B,
    G, R (to 1 without `is_color`) and, when both are given, resized to `new_height` and
    `new_width`. The clip is cropped, mirrored and scaled as one; the mean is a value for each
    channel or a file of a clip. `shuffle` draws a new order for every pass over the list.

    Shapes: clip (C, L, H, W), resized -> tops (N, C, L, H', W'), cropped, and labels (N,).

    Source: video-caffe; where it hits the last frame but misses one, it repeats that, and netc
    refuses.
    """

    is_color: bool = True

    @property
    def channels(self) -> int:
        return 3 if self.is_color else 1


@layer("VideoSampleData", "video_data_param")
@dataclass(frozen=True)
class VideoSampleData(ClipReader):
    """The VideoData of C3D: `new_length` frames of a video, each `sampling_rate`-th.

    With `use_image` a line of the list is `folder frame label`, and the frames are files
    `000001.jpg`, from that number on; otherwise it is `video frame label`, with frames numbered
    from 0. With `use_temporal_jitter` the first frame is drawn: the number in a line is then that
    of frames in the folder (in phase TEST the clip begins at file 0), and lines of videos have
    none. `use_sampling_rate_jitter` draws a rate from 1 to `max_sampling_rate` for each clip.

    A label is a number; with `use_multiple_label` it is a list, `3,5,8`, and the second top has 1
    at these of its `num_of_labels` places. Resizing, changes and order are those of VideoClipData.

    Shapes: clip (3, L, H, W), resized -> tops (N, 3, L, H', W'), cropped, and labels (N,), or (N,
    num_of_labels). Source: C3D; where it goes on with the next line in phase TRAIN because a clip
    cannot be read, netc says which.
    """

    use_image: bool = False
    use_temporal_jitter: bool = False
    sampling_rate: int = 1
    max_sampling_rate: int = 1
    use_sampling_rate_jitter: bool = False
    use_multiple_label: bool = False
    num_of_labels: int = 1

    @property
    def numbered(self) -> bool:
        """Whether lines of the list have a number between path and label."""
        return self.use_image or not self.use_temporal_jitter

    @property
    def labels_shape(self) -> tuple[int, ...]:
        shape = super().labels_shape
        return (*shape, self.num_of_labels) if self.use_multiple_label else shape

    def check(self) -> None:
        super().check()
        for name in ("sampling_rate", "max_sampling_rate", "num_of_labels"):
            if getattr(self, name) < 1:
                raise Refusal(
                    f"{name} is too small",
                    expected=f"{name} >= 1",
                    got=f"{name} {getattr(self, name)}",
                    setting=name,
                )


class Modality(enum.Enum):
    """What the files of a video show: its frames, or how they move."""

    RGB = 0
    FLOW = 1


@dataclass(frozen=True, slots=True)
class SnippetTransform(TransformParam):
    """The `transform_param` of temporal segment networks.

    In phase TRAIN, with `multi_scale`, a window has sides of the shorter side of the images times
    one of `scale_ratios` each (1, 0.875, 0.75 and 0.66 if none are given), not more than
    `max_distort` apart in that list; a side that misses `crop_size` by less than 3 is `crop_size`.
    The window is then resized to `crop_size`. With `fix_crop` it lies in one of the corners or in
    the centre, with `more_fix_crop` at one of 13 places on a grid, otherwise anywhere.

    Channels beyond the mean values have these anew, in turn. With `is_flow` every other channel,
    from the first on, is 255 - x where the window is mirrored.
    """

    fix_crop: bool = False
    more_fix_crop: bool = False
    multi_scale: bool = False
    scale_ratios: tuple[float, ...] = ()
    max_distort: int = 1
    is_flow: bool = False

    def check(self) -> None:
        """Raise `Refusal` for settings that exclude each other."""
        # With `slots` the class is made anew, and super() without arguments means the old one.
        TransformParam.check(self)
        for name in ("fix_crop", "multi_scale"):
            if getattr(self, name) and not self.crop_size:
                raise Refusal(
                    f"{name} is set without crop_size",
                    expected="crop_size > 0",
                    got="no crop_size",
                    setting=name,
                )
        if any(not 0 < ratio <= 1 for ratio in self.scale_ratios):
            raise Refusal(
                "a window is larger than the images",
                expected="scale_ratios from 0 to 1",
                got=", ".join(f"{ratio:g}" for ratio in self.scale_ratios),
                setting="scale_ratios",
            )
        if self.max_distort < 0:
            raise Refusal(
                "no ratios of sides are left",
                expected="max_distort >= 0",
                got=f"max_distort {self.max_distort}",
                setting="max_distort",
            )

    def infer(self, image: BlobType) -> BlobType:
        """Return the shape of a transformed image (C, H, W); refuse one that does not suit."""
        n = len(self.mean_value)
        if n and image.shape[0] % n:
            raise Refusal(
                "the number of mean values does not divide that of the channels",
                expected=f"1 mean_value, or a divisor of {image.shape[0]}",
                got=f"{n} mean_value, images of shape {image}",
                setting="mean_value",
            )
        plain = TransformParam(crop_size=self.crop_size)
        return plain.infer(image)


@layer("VideoSnippetData", "video_data_param")
@dataclass(frozen=True)
class VideoSnippetData(ClipReader):
    """The VideoData of temporal segment networks: a snippet from each part of a video.

    A line of the list is `folder frames label`. The frames are cut into `num_segments` parts of
    equal length; `new_length` files of each part follow each other as channels, from a number that
    is drawn in phase TRAIN, and from the middle in phase TEST (from the first file where a part is
    shorter than that). Files are numbered from 1 by `name_pattern`, `image_%04d.jpg` unless given.
    With modality FLOW there are two of one channel, x and y, for each frame: `flow_%c_%04d.jpg`.
    `grayscale` makes 1 channel of B, G, R.

    Shapes: images (S L C, H, W), resized -> tops (N, S L C, H', W'), cropped, and labels (N,).
    Source: Wang et al., ECCV 2016; the action_recog branch of yjxiong's fork.
    """

    num_segments: int = 1
    modality: Modality = Modality.FLOW
    name_pattern: str = ""
    grayscale: bool = False
    transform_param: SnippetTransform = field(default_factory=SnippetTransform)

    @property
    def channels(self) -> int:
        if self.modality is Modality.FLOW:
            return 2
        return 1 if self.grayscale else 3

    @property
    def pattern(self) -> str:
        """How the files are called, in C's way."""
        default = "flow_%c_%04d.jpg" if self.modality is Modality.FLOW else "image_%04d.jpg"
        return self.name_pattern or default

    def check(self) -> None:
        super().check()
        if self.num_segments < 1:
            raise Refusal(
                "num_segments is too small",
                expected="num_segments >= 1",
                got=f"num_segments {self.num_segments}",
                setting="num_segments",
            )
        try:
            self.file_name(1)
        except (TypeError, ValueError):
            raise Refusal(
                "name_pattern does not name the files",
                expected="a place for x or y (%c) and one for the number (%05d)"
                if self.modality is Modality.FLOW
                else "a place for the number: img_%05d.jpg",
                got=f"'{self.name_pattern}', modality {self.modality.name}",
                setting="name_pattern",
            ) from None

    def file_name(self, number: int, direction: str = "x") -> str:
        """Return what the file of a frame is called."""
        words = (direction, number) if self.modality is Modality.FLOW else (number,)
        return self.pattern % words

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        out = self.transform_param.infer(bottoms[0])
        blobs = (BlobType((self.batch_size, *out.shape)), BlobType(self.labels_shape))
        return Signature(blobs[: len(self.top)])


@dataclass(frozen=True)
class VoxelReader(ImageReader):
    """Base of the types that give videos with something for each of their voxels."""

    batch_size: int = 1
    shuffle: bool = False

    tops: ClassVar[Arity] = exactly(2)
    message: ClassVar[str] = "image_data_param"

    @property
    def truth_channels(self) -> int:
        """How many of the last channels of a file are the truth."""
        return 1

    @property
    def has_bytes(self) -> bool:
        """Whether files hold bytes; otherwise float32."""
        return True

    def truth(self, xp: ArrayNamespace, window: Array, mirrored: bool) -> Array:
        """Return what becomes of a window (T, L, H, W) of the truth, already mirrored."""
        return window

    def check(self) -> None:
        super().check()
        param = self.transform_param
        if param.mirror and not param.crop_size:
            raise Refusal(
                "mirror is set without crop_size",
                expected="crop_size > 0, or no mirror",
                got="no crop_size",
                setting="mirror",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        clip, truth = bottoms
        channels, length, *size = clip.shape
        out = self.transform_param.infer(BlobType((channels, *size)))
        return Signature(
            tuple(
                BlobType((self.batch_size, n, length, *out.shape[1:]))
                for n in (channels, truth.shape[0])
            )
        )


@layer("VideoSegmentationData", "image_data_param")
@dataclass(frozen=True)
class VideoSegmentationData(VoxelReader):
    """Videos with a class for each voxel, from the files that a list names, one after the other.

    A file has five sizes (1, C + 1, L, H, W), of 32 bits each, and then that many bytes, of which
    the last channel is the classes. Both are cropped and mirrored alike; mean and scale are for
    the video alone.

    Shapes: file (1, C + 1, L, H, W) -> tops (N, C, L, H', W') and (N, 1, L, H', W').
    Source: C3D (VIDEO_SEGMENTATION_DATA); Tran et al., CVPR workshop 2016.
    """


@layer("VideoWithVoxelTruthData", "image_data_param")
@dataclass(frozen=True)
class VideoWithVoxelTruthData(VoxelReader):
    """Videos with `num_truth_channels` numbers for each voxel, such as optical flow.

    As VideoSegmentationData, but files hold float32, unless `use_byte_input`. With a `crop_size`
    the truth is multiplied by `truth_scale`; or, with `clip_min` and `clip_max`, brought from there
    to 0..1, and bounded so. With `is_flow` the first channel of the truth changes its sign where
    the window is mirrored.

    Shapes: file (1, C + T, L, H, W) -> tops (N, C, L, H', W') and (N, T, L, H', W').
    Source: C3D (VIDEO_WITH_VOXEL_TRUTH_DATA); Tran et al., CVPR workshop 2016.
    """

    num_truth_channels: int = 1
    use_byte_input: bool = False
    is_flow: bool = False
    truth_scale: float = 1.0
    clip_min: float | None = None
    clip_max: float | None = None

    @property
    def truth_channels(self) -> int:
        return self.num_truth_channels

    @property
    def has_bytes(self) -> bool:
        return self.use_byte_input

    def check(self) -> None:
        super().check()
        if self.num_truth_channels < 1:
            raise Refusal(
                "num_truth_channels is too small",
                expected="num_truth_channels >= 1",
                got=f"num_truth_channels {self.num_truth_channels}",
                setting="num_truth_channels",
            )
        low, high = self.clip_min, self.clip_max
        neither = low is None and high is None
        if not neither and (low is None or high is None or not low < high):
            raise Refusal(
                "clip_min and clip_max are no range",
                expected="clip_min < clip_max, or neither",
                got=f"clip_min {self.clip_min}, clip_max {self.clip_max}",
                setting="clip_max" if self.clip_min is None else "clip_min",
            )

    def truth(self, xp: ArrayNamespace, window: Array, mirrored: bool) -> Array:
        if not self.transform_param.crop_size:
            return window
        if mirrored and self.is_flow:
            window = window.copy()
            window[0] *= -1
        if self.clip_min is None or self.clip_max is None:
            return window * xp.float32(self.truth_scale)
        return xp.clip((window - self.clip_min) / (self.clip_max - self.clip_min), 0, 1)
