"""Frames of a video or a camera: settings and shapes. The reading itself is done in `netc.data`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.data import ImageReader
from netc.layers.registry import layer
from netc.layers.transform import ImageTransform
from netc.layers.types import BlobType, Refusal


class VideoType(enum.Enum):
    """Where frames come from."""

    WEBCAM = 0
    VIDEO = 1


@layer("VideoData", "video_data_param", "data_param")
@dataclass(frozen=True)
class VideoData(ImageReader):
    """Frames of `video_file`, of which `skip_frames` are left out before each that is taken.

    Shapes: frame (3, H, W) as stored, channels B, G, R -> top (N, 3, H', W'), changed as
    `transform_param` says, as in AnnotatedData; a second top (N,) holds labels, which frames do not
    have: 0. After the last frame the video begins anew (the fork ends the process).

    A camera (`video_type: WEBCAM`, `device_id`) can be looked at, but not run: it gives other
    images on every run, which no run could be resumed with.

    Source: SSD's fork (Liu et al., ECCV 2016).
    """

    video_type: VideoType = VideoType.WEBCAM
    device_id: int = 0
    video_file: str = ""
    skip_frames: int = 0
    transform_param: ImageTransform = field(default_factory=ImageTransform)

    message: ClassVar[str] = "data_param"

    def check(self) -> None:
        if self.source:
            raise Refusal(
                "VideoData has no source",
                expected="video_data_param { video_file }, or a camera",
                got=f"source '{self.source}'",
                setting="source",
            )
        if self.batch_size <= 0:
            raise Refusal(
                "batch_size is missing",
                expected="batch_size > 0",
                got=self.batch_size,
                hint="add data_param { batch_size: 1 }",
                setting="batch_size",
            )
        if self.video_type is VideoType.VIDEO and not self.video_file:
            raise Refusal(
                "the layer names no video",
                expected='video_data_param { video_file: "PATH" }',
                got="video_type: VIDEO",
                setting="video_type",
            )
        self.transform_param.check()

    def frame(self) -> BlobType | None:
        """Return the type of a frame that is brought to one size; None where none is given."""
        resize = self.transform_param.resize(0)
        size = (resize.height, resize.width) if resize else self.transform_param.window
        return BlobType((3, *size)) if all(size) else None
