"""Videos with something for each of their voxels, in files of their own kind."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.image_list import ImageList, ListedSource
from netc.data.source import Batch, Item, Opening, arrays_for, locate, locate_setting
from netc.data.transform import Transformer
from netc.data.workers import workers
from netc.errors import NetcError, Span, fail
from netc.layers.clips import VoxelReader
from netc.layers.types import BlobType

Voxels = NDArray[np.uint8] | NDArray[np.float32]

# As many as the nets that these types are from have.
_FRAMES = 16
_HEAD = 5 * 4


def read_words(file: Path) -> ImageList:
    """Read a list of paths between white space; NetcError for one that is empty."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    found = [
        (os.fsdecode(word), number)
        for number, line in enumerate(content.split(b"\n"), start=1)
        for word in line.split()
    ]
    if not found:
        raise fail("the list is empty", span=Span(str(file)), expected="one path per line")
    lines = np.array([number for _, number in found])
    return ImageList(file, [path for path, _ in found], np.zeros_like(lines), lines)


class VoxelSource(ListedSource):
    """The files that a list names: a video and its truth each."""

    _settings: VoxelReader

    def __init__(self, layer: VoxelReader, opening: Opening) -> None:
        """Read the list; DataAbsent when it, or its first file, is missing."""
        file = locate_setting(layer.source, opening, "source", "list of videos")
        self._settings = layer
        super().__init__(layer, opening, read_words(file), shuffle=layer.shuffle)
        self._check_first(self._located)

    def _opened_transformer(self) -> Transformer:
        return Transformer(self._settings.transform_param, self._opening, clips=True)

    @staticmethod
    def assume(layer: VoxelReader, opening: Opening) -> Item | None:
        """Return what the settings tell about videos that are absent."""
        size = layer.transform_param.crop_size
        if not size:
            return None
        clip = BlobType((3, _FRAMES, size, size))
        truth = BlobType((layer.truth_channels, *clip.shape[1:]))
        return Item((clip, truth), f"videos of shape {clip} are assumed, from crop_size")

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of the first video and its truth, before the transformation."""
        voxels = self._voxels(self._index(0))
        n = len(voxels) - self._settings.truth_channels
        self._transformer.infer(BlobType(_folded(voxels[:n]).shape))
        return BlobType(voxels[:n].shape), BlobType(voxels[n:].shape)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        indices = [self._index(position + i) for i in range(count)]
        first = self._voxels(indices[0])
        channels, length, *size = first.shape
        n = channels - self._settings.truth_channels
        windows = self._transformer.windows(position, count, *size)
        shape = (length, windows.height, windows.width)
        data, truth = arrays_for(((count, n, *shape), (count, channels - n, *shape)), reuse)
        flat = data.reshape(count, n * length, *shape[1:])

        def place(i: int) -> None:
            voxels = self._voxels(indices[i]) if i else first
            if voxels.shape != first.shape:
                raise fail(
                    "the videos of a batch differ in shape",
                    span=self._list.span(indices[i]),
                    expected=f"{BlobType(first.shape)}, as the first of them",
                    got=BlobType(voxels.shape),
                )
            self._transformer.one(_folded(voxels[:n]), windows, i, flat)
            top, left, turned = windows.tops[i], windows.lefts[i], windows.mirrored[i]
            seen = voxels[n:, :, top : top + shape[1], left : left + shape[2]].astype(np.float32)
            truth[i] = self._settings.truth(np, seen[..., ::-1] if turned else seen, turned)

        workers().run(place, count)
        return data, truth

    def _image(self, position: int) -> Voxels:
        return _folded(self._voxels(self._index(position)))

    def _located(self, index: int) -> Path:
        return locate(self._list.paths[index], self._list.span(index), "video")

    def _voxels(self, index: int) -> Voxels:
        """Return the content (C + T, L, H, W) of the file in line `index` of the list."""
        span = self._list.span(index)
        try:
            path = self._located(index)
        except NetcError as error:
            raise error.at(span) from error
        try:
            content = path.read_bytes()
        except OSError as error:
            raise fail(
                "the video cannot be read", span=span, got=f"'{path}': {error.strerror}"
            ) from error
        kind = np.dtype(np.uint8) if self._settings.has_bytes else np.dtype("<f4")
        shape = np.frombuffer(content[:_HEAD], "<i4").tolist() if len(content) >= _HEAD else []
        wanted = _HEAD + math.prod(shape) * kind.itemsize
        channels = self._settings.truth_channels + 1
        if len(shape) < 5 or min(shape) < 1 or shape[0] != 1 or len(content) != wanted:
            raise fail(
                "this is no video with its truth",
                span=span,
                expected=f"sizes (1, channels, length, height, width) and that many {kind.name}",
                got=f"'{path}', {len(content)} bytes, sizes {BlobType(tuple(shape))}",
            )
        if shape[1] < channels:
            raise fail(
                "the file has too few channels for a video and its truth",
                span=span,
                expected=f"{channels} channels or more",
                got=f"sizes {BlobType(tuple(shape))} in '{path}'",
            )
        voxels: Voxels = np.frombuffer(content, kind, offset=_HEAD).reshape(shape[1:])
        return voxels


def _folded(voxels: Voxels) -> Voxels:
    """View (C, L, H, W) as an image with the frames as channels."""
    return voxels.reshape(-1, *voxels.shape[2:])
