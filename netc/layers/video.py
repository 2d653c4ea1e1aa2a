"""Frames of a video or a camera: settings and shapes. The reading itself is done in `netc.data`."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import ClassVar, TypeVar

from netc.layers.clips import (
    ClipReader,
    Modality,
    SnippetTransform,
    VideoClipData,
    VideoSampleData,
    VideoSnippetData,
)
from netc.layers.data import ImageReader
from netc.layers.registry import layer
from netc.layers.transform import ImageTransform, TransformParam
from netc.layers.types import BlobType, CodeHost, Layer, Refusal

Transform = TypeVar("Transform", bound=TransformParam)


class VideoType(enum.Enum):
    """Where frames come from."""

    WEBCAM = 0
    VIDEO = 1


@dataclass(frozen=True, slots=True)
class AnyVideoTransform(ImageTransform):
    """A `transform_param` with the fields of SSD and of temporal segment networks."""

    fix_crop: bool = False
    more_fix_crop: bool = False
    multi_scale: bool = False
    scale_ratios: tuple[float, ...] = ()
    max_distort: int = 1
    is_flow: bool = False

    def narrowed(self, kind: type[Transform], meant: str) -> Transform:
        """Return this as one of the fields that `kind` has; refuse others that are set."""
        known = [f.name for f in fields(kind)]
        nothing = type(self)()
        for name in (f.name for f in fields(self)):
            if name not in known and getattr(self, name) != getattr(nothing, name):
                raise Refusal(
                    f"{name} is set, which {meant} does not know",
                    expected="fields of transform_param: " + ", ".join(known),
                    got=name,
                    setting=name,
                )
        return kind(**{name: getattr(self, name) for name in known})


# Which fields of a list of clips tell whose VideoData is meant: the type that reads it.
_TOLD: dict[type[ClipReader], tuple[str, ...]] = {
    VideoSampleData: (
        *("use_image", "use_temporal_jitter", "sampling_rate", "max_sampling_rate"),
        *("use_sampling_rate_jitter", "use_multiple_label", "num_of_labels"),
    ),
    VideoSnippetData: ("num_segments", "modality", "name_pattern", "grayscale"),
    VideoClipData: ("is_color",),
}
_COMMON = ("new_length", "new_height", "new_width", "root_folder", "shuffle")


@layer("VideoData", "data_param", "video_data_param")
@dataclass(frozen=True)
class VideoData(ImageReader):
    """Frames of `video_file`, of which `skip_frames` are left out before each that is taken.

    Shapes: frame (3, H, W) as stored, channels B, G, R -> top (N, 3, H', W'), changed as
    `transform_param` says, as in AnnotatedData; a second top (N,) holds labels, which frames do not
    have: 0. After the last frame the video begins anew (the fork ends the process).

    With a `source` the layer is one that reads clips which a list names: VideoSampleData, of C3D,
    where one of that type's own settings is given (`use_image`, `sampling_rate`, ...),
    VideoSnippetData, of temporal segment networks, likewise (`modality`, `num_segments`, ...), and
    otherwise VideoClipData, of video-caffe.

    A camera (`video_type: WEBCAM`, `device_id`) can be looked at, but not run: it gives other
    images on every run, which no run could be resumed with.

    Source: SSD's fork (Liu et al., ECCV 2016).
    """

    video_type: VideoType = VideoType.WEBCAM
    device_id: int = 0
    video_file: str = ""
    skip_frames: int = 0
    transform_param: AnyVideoTransform = field(default_factory=AnyVideoTransform)
    shuffle: bool | None = None
    new_height: int | None = None
    new_width: int | None = None
    new_length: int | None = None
    root_folder: str | None = None
    is_color: bool | None = None
    use_image: bool | None = None
    use_temporal_jitter: bool | None = None
    sampling_rate: int | None = None
    max_sampling_rate: int | None = None
    use_sampling_rate_jitter: bool | None = None
    use_multiple_label: bool | None = None
    num_of_labels: int | None = None
    num_segments: int | None = None
    modality: Modality | None = None
    name_pattern: str | None = None
    grayscale: bool | None = None

    message: ClassVar[str] = "data_param"

    def resolve(self, host: CodeHost | None) -> Layer:
        told = {kind: self._given(names) for kind, names in _TOLD.items()}
        kinds = [kind for kind, names in told.items() if names]
        if not self.source:
            for name in (*self._given(_COMMON), *(told[kind][0] for kind in kinds)):
                raise Refusal(
                    f"{name} is for clips that a list names",
                    expected='video_data_param { source: "PATH" }',
                    got=f"{name}, and no source",
                    setting=name,
                )
            self.transform_param.narrowed(ImageTransform, "SSD's VideoData")
            return self
        kind = kinds[0] if kinds else VideoClipData
        wrong = [told[other][0] for other in kinds[1:]]
        wrong += [name for name in ("video_file", "skip_frames") if getattr(self, name)]
        if wrong:
            raise Refusal(
                "settings of several forks' VideoData",
                expected=f"with '{told[kind][0]}', settings of {kind.type}"
                if kinds
                else f"with a source, settings of {kind.type}",
                got=wrong[0],
                setting=wrong[0],
            )
        param: type[TransformParam] = TransformParam
        if kind is VideoSnippetData:
            param = SnippetTransform
        given = {name: getattr(self, name) for name in (*self._given(_COMMON), *told[kind])}
        return kind(
            source=self.source,
            # Only one of the forks has no default.
            batch_size=self.batch_size or int(kind is not VideoSnippetData),
            top=self.top,
            rand_skip=self.rand_skip,
            transform_param=self.transform_param.narrowed(param, kind.type),
            **given,
        )

    def _given(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def check(self) -> None:
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
