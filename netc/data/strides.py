"""Images with a class for each pixel, cut to multiples of a net's stride: SegData's source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netc.data.image_list import ListedSource
from netc.data.images import resize
from netc.data.pair_list import nearest, read_pairs
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.transform import Transformer
from netc.errors import fail
from netc.layers.segdata import LabelType, SegData
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType

Pixels = NDArray[np.uint8]

# The largest images of PASCAL VOC, which the nets of this type are for.
_LARGEST = (500, 500)

# How often a part is drawn that one label has nearly all of.
_TRIES = 10
_MOST_OF_ONE = 0.8


@dataclass(frozen=True, slots=True)
class _Part:
    """What chance does to a pair: the size that it gets, and which part is taken, how."""

    height: int
    width: int
    rows: slice
    columns: slice
    mirrored: bool

    def of(self, pixels: Pixels) -> Pixels:
        """Return the part of an image or of labels (C, H, W) of the new size."""
        part = pixels[:, self.rows, self.columns]
        return part[..., ::-1] if self.mirrored else part


class SegSource(ListedSource):
    """The pairs that a list names, one at a time, in their order or shuffled."""

    def __init__(self, layer: SegData, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing."""
        file = locate_setting(layer.source, opening, "source", "list of images and labels")
        pairs = read_pairs(file, LabelType.PIXEL)
        self._settings = layer
        self._seconds = pairs.seconds
        super().__init__(layer, opening, pairs, shuffle=layer.shuffle, root=layer.root_dir)

    def _opened_transformer(self) -> Transformer:
        param = self._settings.transform_param
        return Transformer(
            TransformParam(scale=param.scale, mean_value=param.mean_value), self._opening
        )

    @staticmethod
    def assume(layer: SegData, opening: Opening) -> Item | None:
        """Return the type of images that are absent: as large as those of PASCAL VOC."""
        image = BlobType((3, *_LARGEST))
        return Item((image,), f"images of shape {image} are assumed, as in PASCAL VOC")

    def _image(self, position: int) -> Pixels:
        index = self._index(position)
        return self._decoded(self._list.paths[index], index, True)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the pair at a position; there is one in a batch."""
        index = self._index(position)
        image = self._decoded(self._list.paths[index], index, True)
        labels = self._decoded(self._seconds[index], index, False)
        if labels.shape[1:] != image.shape[1:]:
            raise fail(
                "the labels have another size than their image",
                span=self._list.span(index),
                expected=f"height {image.shape[1]}, width {image.shape[2]}",
                got=f"height {labels.shape[1]}, width {labels.shape[2]}",
            )
        self._infer(BlobType(image.shape), position)
        part, seen = self._drawn(position, image.shape[1], image.shape[2], labels)
        pixels = part.of(resize(image, part.height, part.width))[np.newaxis]
        batch = arrays_for((pixels.shape, (1, *seen.shape)), reuse)
        windows = self._transformer.windows(position, 1, *pixels.shape[2:])
        self._transformer.batch(pixels, windows, batch[0])
        batch[1][0] = seen
        return batch

    def _drawn(
        self, position: int, height: int, width: int, labels: Pixels
    ) -> tuple[_Part, Pixels]:
        """Return the part of a pair that is taken, and its labels."""
        for attempt in range(1 + _TRIES * self._settings.balance):
            part = self._part(position, attempt, height, width)
            seen = part.of(nearest(labels, part.height, part.width))
            if np.bincount(seen.ravel()).max() <= _MOST_OF_ONE * seen.size:
                break
        return part, seen

    def _part(self, position: int, attempt: int, height: int, width: int) -> _Part:
        param, draws = self._settings.transform_param, self._opening.draws

        def draw(limit: int, purpose: str) -> int:
            return int(draws.below(limit, f"{purpose} {attempt}", position)[0])

        least, most = (np.float32(ratio) for ratio in param.scale_ratios or (1.0, 1.0))
        # In float32 where the fork computes so.
        steps = draw(int(float(most - least) * 1000) + 1, "scale")
        factor = np.float32(steps / 1000 + float(least))
        height, width = (int(float(np.float32(n) * factor) + 0.5) for n in (height, width))
        h, w = param.part(height, width)
        if min(h, w) < 1:
            raise fail(
                "an image is smaller than the stride",
                span=self._span(position),
                expected=f"height and width >= {param.stride}, after resizing",
                got=f"height {height}, width {width}; {self._name(position)}",
            )
        top, left = draw(height - h + 1, "crop top"), draw(width - w + 1, "crop left")
        mirrored = param.mirror and draw(2, "mirror") == 1
        return _Part(height, width, slice(top, top + h), slice(left, left + w), mirrored)
