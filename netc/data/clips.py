"""Clips of videos that a list names: of frames in files, or of video files."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.image_list import ImageList, ListedSource
from netc.data.images import opencv, planes, resize
from netc.data.source import Batch, Item, Opening, locate, locate_setting
from netc.data.transform import Image, Transformer, Windows
from netc.data.video import Frames
from netc.errors import NetcError, Problems, Span, fail
from netc.layers.clips import (
    ClipReader,
    SnippetTransform,
    VideoClipData,
    VideoSampleData,
    VideoSnippetData,
)
from netc.layers.types import BlobType, Phase

Pixels = NDArray[np.uint8]

_NUMBER = re.compile(rb"[0-9]{1,9}")
_LABELS = re.compile(rb"[0-9]{1,9}(?:,[0-9]{1,9})*")
_LABEL = re.compile(rb"[+-]?[0-9]{1,9}")

# Of a list that is something else, the first few lines tell enough.
_MOST_BAD_LINES = 10


@dataclass(frozen=True, slots=True)
class ClipList(ImageList):
    """The content of a list file: `numbers` are of a frame, or of the frames of a video.

    `labels` has the first of the labels of a line, `several` has all.
    """

    numbers: NDArray[np.int64]
    several: tuple[tuple[int, ...], ...]


def read_clips(file: Path, *, numbered: bool = True, several: bool = False) -> ClipList:
    """Read a list of words between white space: a path, a number if `numbered`, a label per line.

    With `several` there are labels with commas between. Raises one NetcError with the bad lines
    (the first few of many), or for an empty list.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    wanted = "a path, " + "a number, " * numbered + ("labels 3,5,8" if several else "a label")
    label = _LABELS if several else _LABEL
    paths, numbers, labels, lines = [], [], [], []
    problems, n_bad = Problems(), 0
    for line_number, line in enumerate(content.split(b"\n"), start=1):
        words = line.split()
        if not words:
            continue
        numbers_good = all(map(_NUMBER.fullmatch, words[1:-1]))
        if len(words) == 2 + numbered and numbers_good and label.fullmatch(words[-1]):
            paths.append(os.fsdecode(words[0]))
            numbers.append(int(words[1]) if numbered else 0)
            labels.append(tuple(map(int, words[-1].split(b","))))
            lines.append(line_number)
            continue
        n_bad += 1
        if n_bad <= _MOST_BAD_LINES:
            problems.add(
                fail(
                    "this line of the list names no clip",
                    span=Span(str(file), line_number, 1),
                    expected=wanted,
                    got=line.strip().decode("utf-8", "replace"),
                )
            )
    problems.raise_any()
    if not paths:
        raise fail("the list is empty", span=Span(str(file)), expected=f"{wanted} per line")
    firsts = np.array([found[0] for found in labels])
    return ClipList(file, paths, firsts, np.array(lines), np.array(numbers), tuple(labels))


class ClipSource(ListedSource):
    """Clips (C, L, H, W) that a list names. For all that is done to them, frames are channels."""

    _settings: ClipReader
    _list: ClipList

    def __init__(self, layer: ClipReader, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing."""
        file = locate_setting(layer.source, opening, "source", "list of clips")
        self._settings = layer
        listed = self._read_clips(file, layer)
        super().__init__(layer, opening, listed, shuffle=layer.shuffle, root=layer.root_folder)
        self._check_first(self._located)

    def _read_clips(self, file: Path, layer: ClipReader) -> ClipList:
        return read_clips(file)

    def _opened_transformer(self) -> Transformer:
        """Return what changes clips: each channel's mean value is that of all its frames."""
        layer = self._settings
        param = layer.transform_param
        if len(param.mean_value) == layer.channels:
            values = np.repeat(param.mean_value, layer.new_length)
            param = replace(param, mean_value=tuple(values.tolist()))
        return Transformer(param, self._opening, clips=True)

    @staticmethod
    def assume(layer: ClipReader, opening: Opening) -> Item | None:
        """Return what the settings tell about clips that are absent."""
        size, why = (layer.new_height, layer.new_width), "new_height, new_width"
        if not any(size):
            size, why = (layer.transform_param.crop_size,) * 2, "crop_size"
        if not all(size):
            return None
        clip = _clip_type(layer, size)
        return Item((clip,), f"clips of shape {clip} are assumed, from new_length and {why}")

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first clip, before the transformation."""
        (image,) = super().item()
        return (_clip_type(self._settings, image.shape[1:]),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        indices = [self._index(position + i) for i in range(count)]
        folded = tuple(self._folded(array) for array in reuse)
        data, *labels = self._transform_each(
            lambda i: self._clip(position + i, indices[i]), position, count, folded
        )
        batch = (self._unfolded(data),)
        if not labels:
            return batch
        return (*batch, self._labels(indices, labels[0]))

    def _labels(self, indices: list[int], out: NDArray[np.float32]) -> NDArray[np.float32]:
        out[:] = self._list.labels[indices]
        return out

    def _folded(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """View a top as the images that it was made of."""
        if array.ndim != 5:
            return array
        return array.reshape(len(array), -1, *array.shape[3:])

    def _unfolded(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        return data.reshape(len(data), self._settings.channels, -1, *data.shape[2:])

    def _image(self, position: int) -> Pixels:
        return self._clip(position, self._index(position))

    def _clip(self, position: int, index: int) -> Pixels:
        """Return a clip of line `index` of the list as (C L, H, W)."""
        frames = [self._sized(frame) for frame in self._frames(position, index)]
        return np.stack(frames, axis=1).reshape(-1, *frames[0].shape[1:])

    @abstractmethod
    def _frames(self, position: int, index: int) -> Iterable[Pixels]:
        """Return the frames (C, H, W) of a clip, as they are stored."""

    def _sized(self, frame: Pixels) -> Pixels:
        layer = self._settings
        return resize(frame, layer.new_height, layer.new_width) if layer.new_height else frame

    def _located(self, index: int) -> Path:
        """Return the video that line `index` of the list names: a file, or a folder of frames."""
        span = self._list.span(index)
        named_in = self._opening.span if self._root else span
        try:
            return locate(self._root + self._list.paths[index], named_in, "video")
        except NetcError as error:
            raise error.at(span) from error

    @contextmanager
    def _opened(self, index: int) -> Iterator[Frames]:
        """Open the video file of line `index` of the list."""
        try:
            with closing(Frames(self._located(index))) as frames:
                yield frames
        except NetcError as error:
            raise error.at(self._list.span(index)) from error

    def _read_video(self, index: int, numbers: range) -> list[Pixels]:
        """Return some frames, numbered from 0, of the video file in line `index` of the list."""
        with self._opened(index) as frames:
            if numbers[-1] >= len(frames) or numbers.start < 0:
                raise fail(
                    "the video does not have the frames of the clip",
                    span=self._list.span(index),
                    expected=f"frames {numbers.start} to {numbers[-1]}, numbered from 0",
                    got=f"{len(frames)} frames in '{frames.path}'",
                )
            return [frames.read(number) for number in numbers]

    _resize_hint = "set new_height and new_width in video_data_param, or use batch_size: 1"


def _clip_type(layer: ClipReader, size: tuple[int, ...]) -> BlobType:
    return BlobType((layer.channels, layer.new_length, *size))


class NumberedClipSource(ClipSource):
    """Clips that begin at the frame that a line tells: video-caffe's."""

    _settings: VideoClipData

    def _frames(self, position: int, index: int) -> Iterable[Pixels]:
        layer = self._settings
        path, first = self._list.paths[index], int(self._list.numbers[index])
        if self._located(index).is_dir():
            for number in range(first, first + layer.new_length):
                yield self._decoded(f"{path}/image_{number:04d}.jpg", index, layer.is_color)
            return
        for frame in self._read_video(index, range(first - 1, first - 1 + layer.new_length)):
            yield frame if layer.is_color else _gray(frame)


def _gray(frame: Pixels) -> Pixels:
    cv2 = opencv()
    found: Pixels = planes(cv2.cvtColor(frame.transpose(1, 2, 0), cv2.COLOR_BGR2GRAY))
    return found


class SampledClipSource(ClipSource):
    """Clips of each n-th frame, from one that a line tells or that is drawn: C3D's."""

    _settings: VideoSampleData

    def _read_clips(self, file: Path, layer: ClipReader) -> ClipList:
        assert isinstance(layer, VideoSampleData)
        found = read_clips(file, numbered=layer.numbered, several=layer.use_multiple_label)
        if layer.use_multiple_label:
            problems = Problems()
            for index, labels in enumerate(found.several):
                if max(labels) >= layer.num_of_labels:
                    problems.add(
                        fail(
                            "a label is not below num_of_labels",
                            span=found.span(index),
                            expected=f"labels < {layer.num_of_labels}",
                            got=max(labels),
                        )
                    )
            problems.raise_any()
        return found

    def _labels(self, indices: list[int], out: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._settings.use_multiple_label:
            return super()._labels(indices, out)
        marks = np.zeros((len(indices), self._settings.num_of_labels), np.float32)
        for row, index in zip(marks, indices, strict=True):
            row[list(self._list.several[index])] = 1
        return marks

    def _frames(self, position: int, index: int) -> Iterable[Pixels]:
        layer = self._settings
        rate, draws = layer.sampling_rate, self._opening.draws
        if layer.use_sampling_rate_jitter:
            rate = int(draws.below(layer.max_sampling_rate, "sampling rate", position)[0]) + 1
        first = int(self._list.numbers[index])
        if layer.use_temporal_jitter:
            first = self._drawn(position, index, layer.new_length * rate)
        numbers = range(first, first + layer.new_length * rate, rate)
        if not layer.use_image:
            return self._read_video(index, numbers)
        path = self._list.paths[index]
        return [self._decoded(f"{path}/{number:06d}.jpg", index, True) for number in numbers]

    def _drawn(self, position: int, index: int, length: int) -> int:
        """Return where a clip of that many frames begins."""
        images = self._settings.use_image
        if images and self._opening.phase is Phase.TEST:
            return 0
        count = int(self._list.numbers[index]) if images else self._count(index)
        if count < length:
            raise fail(
                "the video has too few frames for a clip",
                span=self._list.span(index),
                expected=f"{length} frames: new_length times the sampling rate",
                got=f"{count} frames",
            )
        start = int(self._opening.draws.below(count - length + 1, "first frame", position)[0])
        return start + images

    def _count(self, index: int) -> int:
        """Return how many frames the video file in line `index` of the list has."""
        with self._opened(index) as frames:
            return len(frames)


@dataclass(frozen=True, slots=True)
class SnippetWindows(Windows):
    """Which part of each image is taken; `sides` are the heights and widths before a resizing."""

    sides: list[tuple[int, int]]


class SnippetTransformer(Transformer):
    """Changes images as temporal segment networks do: windows of several sizes, at fixed places."""

    def __init__(self, param: SnippetTransform, opening: Opening) -> None:
        super().__init__(param, opening)
        self._snippet = param

    def windows(self, position: int, count: int, height: int, width: int) -> Windows:
        """Return the windows of the items from `position` on, for images of one size."""
        plain = super().windows(position, count, height, width)
        sides = [(plain.height, plain.width)] * count
        tops, lefts = plain.tops, plain.lefts
        if self._random_crop:
            items = range(position, position + count)
            sides = [self._sides(item, height, width) for item in items]
            places = [
                self._place(item, height - h, width - w)
                for item, (h, w) in zip(items, sides, strict=True)
            ]
            tops, lefts = [top for top, _ in places], [left for _, left in places]
        return SnippetWindows(plain.height, plain.width, tops, lefts, plain.mirrored, False, sides)

    def _draw(self, limit: int, purpose: str, item: int) -> int:
        return int(self._draws.below(limit, purpose, item)[0])

    def _sides(self, item: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the window of an item."""
        param = self._snippet
        if not param.multi_scale:
            return param.crop_size, param.crop_size
        ratios = param.scale_ratios or (1.0, 0.875, 0.75, 0.66)
        # In float32, as the fork.
        lengths = [int(np.float32(min(height, width)) * np.float32(ratio)) for ratio in ratios]
        lengths = [param.crop_size if abs(n - param.crop_size) < 3 else n for n in lengths]
        pairs = [
            (high, wide)
            for i, high in enumerate(lengths)
            for k, wide in enumerate(lengths)
            if abs(i - k) <= param.max_distort
        ]
        return pairs[self._draw(len(pairs), "scale", item)]

    def _place(self, item: int, room_h: int, room_w: int) -> tuple[int, int]:
        """Return the upper left corner of the window of an item, given the room beside it."""
        if not self._snippet.fix_crop:
            return (
                self._draw(room_h + 1, "crop top", item),
                self._draw(room_w + 1, "crop left", item),
            )
        grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
        if self._snippet.more_fix_crop:
            grid += [(0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
        down, across = grid[self._draw(len(grid), "fixed crop", item)]
        return down * (room_h // 4), across * (room_w // 4)

    def one(self, image: Image, windows: Windows, i: int, out: NDArray[np.float32]) -> None:
        """Transform the image (C, H, W) that is number `i` of its batch into its place in `out`."""
        assert isinstance(windows, SnippetWindows)
        (high, wide), top, left = windows.sides[i], windows.tops[i], windows.lefts[i]
        seen = image[:, top : top + high, left : left + wide]
        size = windows.height, windows.width
        if (high, wide) != size:
            seen = np.stack([opencv().resize(plane, size[::-1]) for plane in np.asarray(seen)])
        values = seen.astype(np.float32)
        if windows.mirrored[i] and self._snippet.is_flow:
            values[::2] = 255 - values[::2]
        if self._mean_image is not None:
            # Windows of several sizes have the mean of one place.
            row, column = (0, 0) if self._snippet.multi_scale else (top, left)
            values -= self._mean_image[:, row : row + size[0], column : column + size[1]]
        elif self._mean_values is not None:
            values -= np.tile(self._mean_values, (len(values) // len(self._mean_values), 1, 1))
        values *= self._scale
        out[i] = values[..., ::-1] if windows.mirrored[i] else values


class SnippetSource(ClipSource):
    """Images of the frames of several parts of a video: those of temporal segment networks."""

    _settings: VideoSnippetData

    def _opened_transformer(self) -> Transformer:
        return SnippetTransformer(self._settings.transform_param, self._opening)

    @staticmethod
    def assume(layer: ClipReader, opening: Opening) -> Item | None:
        """Return what the settings tell about images that are absent."""
        item = ClipSource.assume(layer, opening)
        if item is None:
            return None
        assert isinstance(layer, VideoSnippetData)
        channels, length, *size = item.types[0].shape
        image = BlobType((layer.num_segments * channels * length, *size))
        return Item((image,), f"images of shape {image} are assumed, from video_data_param")

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first image, before the transformation."""
        return ListedSource.item(self)

    def _unfolded(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        return data

    def _clip(self, position: int, index: int) -> Pixels:
        """Return the images of all frames as (S L C, H, W)."""
        return np.concatenate([self._sized(frame) for frame in self._frames(position, index)])

    def _frames(self, position: int, index: int) -> Iterable[Pixels]:
        layer = self._settings
        path, duration = self._list.paths[index], int(self._list.numbers[index])
        color = not layer.grayscale
        for start in self._starts(position, duration // layer.num_segments):
            for number in range(start + 1, start + 1 + layer.new_length):
                if layer.channels != 2:
                    yield self._decoded(f"{path}/{layer.file_name(number)}", index, color)
                    continue
                for direction in "xy":
                    yield self._decoded(
                        f"{path}/{layer.file_name(number, direction)}", index, False
                    )

    def _starts(self, position: int, length: int) -> list[int]:
        """Return the number before the first frame that is taken of each part of that length."""
        layer = self._settings
        room, n = length - layer.new_length + 1, layer.num_segments
        if room < 1:
            return [0] * n
        if self._opening.phase is Phase.TEST:
            return [room // 2 + part * length for part in range(n)]
        items = position * n + np.arange(n)
        drawn = self._opening.draws.below(room, "first frame", items)
        return [int(start) + part * length for part, start in enumerate(drawn)]
