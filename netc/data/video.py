"""The VideoData layer's source: frames of a video file, decoded by OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data.augmenting import Augmenter
from netc.data.images import ImageSource, opencv, planes
from netc.data.source import Batch, DataAbsent, Item, Opening, locate_setting
from netc.errors import NetcError, Span, fail
from netc.layers.types import BlobType, Refusal
from netc.layers.video import VideoData, VideoType


class VideoSource(ImageSource):
    """The frames of a video in their order, over and over."""

    def __init__(self, layer: VideoData, opening: Opening) -> None:
        """Open the video; DataAbsent for one that is missing, or a camera."""
        if layer.video_type is VideoType.WEBCAM:
            raise DataAbsent(
                "netc reads no camera",
                expected="images or a video in files",
                got=f"device {layer.device_id}",
                hint="record it, with video_type: VIDEO and video_file, or set the blob through "
                "pycaffe",
                setting="device_id",
            )
        path = locate_setting(layer.video_file, opening, "video_file", "video")
        self._frames = Frames(path)
        self._step = layer.skip_frames + 1
        size = len(self._frames) // self._step
        if not size:
            self._frames.close()
            raise Refusal(
                "skip_frames leaves no frame of the video",
                expected=f"skip_frames < {len(self._frames)}, the number of frames",
                got=f"skip_frames {layer.skip_frames}",
                setting="skip_frames",
            )
        self._param = layer.transform_param
        try:
            super().__init__(layer, opening, size)
        except BaseException:
            self._frames.close()
            raise
        self._augmenter = Augmenter(self._param, (), opening, self._transformer, self._name)

    @staticmethod
    def assume(layer: VideoData, opening: Opening) -> Item | None:
        """Return frames of the size that the transformation gives them."""
        frame = layer.frame()
        if frame is None:
            return None
        return Item((frame,), f"frames of shape {frame} are assumed, from transform_param")

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the frames, before their changes."""
        frame = BlobType(self._image(0).shape)
        self._param.infer(frame)
        self._transformer.infer(self._param.resized(frame))
        return (frame,)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position. Labels, which frames do not have, are 0."""
        # Frames come one after the other; what is done to them can be done side by side.
        frames = [self._image(position + i) for i in range(count)]
        batch = self._augmenter.batch(
            frames.__getitem__, position, count, len(self._layer.top), reuse
        )
        for labels in batch[1:]:
            labels[...] = 0
        return batch

    def close(self) -> None:
        """Let go of the file and the threads."""
        self._frames.close()

    def _index(self, position: int) -> int:
        """Return the number of the frame at a position: the fork skips first, then takes one."""
        return (position % self.size + 1) * self._step - 1

    def _image(self, position: int) -> NDArray[np.uint8]:
        return self._frames.read(self._index(position))

    def _name(self, position: int) -> str:
        return f"frame {self._index(position)} of '{self._frames.path}'"

    def _span(self, position: int) -> Span | None:
        return None


class Frames:
    """The frames of a video file, by their number, from 0 on.

    A video is read from its beginning, because OpenCV finds frames in the middle only roughly:
    going back means starting anew.
    """

    def __init__(self, path: Path) -> None:
        """Open the video at `path`; NetcError for a file that is none."""
        self.path = path
        self._capture = self._opened()
        self._next = 0
        self._count = int(self._capture.get(opencv().CAP_PROP_FRAME_COUNT))
        if self._count <= 0:
            self.close()
            raise self._unreadable("no frames")

    def _opened(self) -> Any:
        capture = opencv().VideoCapture(str(self.path))
        if not capture.isOpened():
            raise self._unreadable(f"{self.path.stat().st_size} bytes")
        return capture

    def _unreadable(self, got: str) -> NetcError:
        return fail(
            "this is no video that OpenCV reads",
            expected="AVI, MP4 or another container, with a codec that OpenCV has",
            got=f"'{self.path}', {got}",
        )

    def __len__(self) -> int:
        """The number of frames, as the container tells it."""
        return self._count

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a frame (3, H, W), channels B, G, R."""
        if index < self._next:
            self._capture.release()
            self._capture, self._next = self._opened(), 0
        while self._next < index and self._capture.grab():
            self._next += 1
        pixels: Any = self._capture.read()[1] if self._next == index else None
        if pixels is None:
            raise fail(
                "the video ends before its last frame",
                expected=f"{self._count} frames, as its container says",
                got=f"{self._next} frames in '{self.path}'",
                hint="write it anew with a tool that counts, such as ffmpeg",
            )
        self._next += 1
        frame: NDArray[np.uint8] = planes(pixels)
        return frame

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._capture.release()
