"""The random changes of SSD's images, which move the boxes of their objects with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data import augment
from netc.data.source import Batch, Opening, arrays_for
from netc.data.transform import Transformer, Windows
from netc.data.workers import workers
from netc.errors import fail
from netc.layers.annotated import OBJECT, BatchSampler
from netc.layers.transform import EFFECTS, ImageTransform, ResizeMode, ResizeParam
from netc.layers.types import BlobType, Phase, Refusal

# Rows as AnnotatedData has them: image, class, instance, corners in fractions, difficult.
Objects = NDArray[np.float64]


class Augmenter:
    """What a layer does to its images and their objects. Depends on an item's position alone.

    `transformer` is that of the same settings; `name` tells what to call an item in a message.
    `jitter` is the fraction of each side that may be cut off where there are no samplers. Where
    there are several `resize_param`, the number `resizing` of the calls draws one: `resizing_of`
    gives it for an item, or for a group of items that are to have one size.
    """

    def __init__(
        self,
        param: ImageTransform,
        samplers: Sequence[BatchSampler],
        opening: Opening,
        transformer: Transformer,
        name: Callable[[int], str],
        jitter: float = 0.0,
    ) -> None:
        self._param = param
        self._samplers = samplers
        self._random = opening.draws
        self._training = opening.phase is Phase.TRAIN
        self._transformer = transformer
        self._name = name
        self._jitter = jitter

    def resizing_of(self, index: int) -> float:
        """Return the number that draws the size of an item, or of a group of items."""
        return float(self._numbers("resizing", index, 1)[0])

    def _numbers(self, purpose: str, position: int, count: int) -> NDArray[np.float64]:
        """Return numbers in 0..1 for an item."""
        items = position * count + np.arange(count)
        return self._random.share(purpose, items)

    def changed(
        self, stored: NDArray[Any], objects: Objects, position: int, resizing: float = 0.0
    ) -> tuple[NDArray[Any], Objects]:
        """Return an image (C, H, W) as (H, W, C) with its objects, ready for its window."""
        try:
            self._param.infer(BlobType(stored.shape), resizing)
        except Refusal as refusal:
            raise fail(
                refusal.what,
                expected=refusal.expected,
                got=f"{refusal.got}; {self._name(position)}",
                hint=refusal.hint,
            ) from refusal
        image = np.ascontiguousarray(stored.transpose(1, 2, 0))
        param, resize = self._param, self._param.resize(resizing)
        if (param.distort_param or param.noise_param) and image.dtype != np.uint8:
            raise fail(
                "distort_param and noise_param change bytes, not other numbers",
                expected="images of bytes",
                got=f"{image.dtype} values, {self._name(position)}",
            )
        if param.stretches:
            part = param.random_aspect_ratio_param
            n_attempts = max(part.max_attempt, 1) if part else 1
            numbers = self._numbers("stretch", position, augment.PART_NUMBERS * n_attempts)
            number = float(self._numbers("stretch interpolation", position, 1)[0])
            numbers = numbers.reshape(n_attempts, augment.PART_NUMBERS)
            image = augment.stretch(image, param, numbers, number)
        if param.distort_param:
            numbers = self._numbers("distort", position, augment.DISTORT_NUMBERS)
            image = augment.distort(image, param.distort_param, numbers)
        image, objects = self._expanded(image, objects, position)
        image, objects = self._sampled(image, objects, position, resize)
        if resize:
            height, width = image.shape[:2]
            boxes = augment.resized_boxes(objects[:, 3:7], resize, height, width)
            objects[:, 3:7] = boxes
            number = float(self._numbers("interpolation", position, 1)[0])
            turn = float(self._numbers("angle", position, 1)[0])
            image = augment.resize(image, resize, number, turn)
        noise = param.noise(float(self._numbers("noise", position, 1)[0]))
        if noise:
            image = augment.add_noise(
                image,
                noise.drawn(self._numbers("effects", position, len(EFFECTS)).tolist()),
                lambda n: (
                    self._numbers("noise column", position, n),
                    self._numbers("noise row", position, n),
                ),
            )
        return image, objects

    def _expanded(
        self, image: NDArray[Any], objects: Objects, position: int
    ) -> tuple[NDArray[Any], Objects]:
        param = self._param.expand_param
        if not param:
            return image, objects
        numbers = self._numbers("expand", position, 4)
        if numbers[0] > param.prob:
            return image, objects
        found = augment.expand(image, param.max_expand_ratio, self._param.mean_value, numbers[1:])
        if found is None:
            return image, objects
        canvas, part = found
        return canvas, self._projected(objects, part)

    def _sampled(
        self, image: NDArray[Any], objects: Objects, position: int, resize: ResizeParam | None
    ) -> tuple[NDArray[Any], Objects]:
        part = self._part(objects, position, resize)
        if part is None:
            return image, objects
        return augment.crop(image, part), self._projected(objects, part)

    def part(
        self, objects: Objects, position: int, resizing: float = 0.0
    ) -> NDArray[np.float64] | None:
        """Return the part (4,) that takes the place of an image, None for all of it.

        For an image that is not expanded before, with its stored objects.
        """
        return self._part(objects, position, self._param.resize(resizing))

    def _part(
        self, objects: Objects, position: int, resize: ResizeParam | None
    ) -> NDArray[np.float64] | None:
        """Return one of the patches that the samplers find, None if they find none."""
        if self._jitter and not self._samplers:
            fitted = resize is not None and resize.resize_mode is ResizeMode.FIT_LARGE_SIZE_AND_PAD
            numbers = self._numbers("jitter", position, augment.JITTER_NUMBERS).tolist()
            return augment.jittered(self._jitter, fitted, numbers)
        found = [
            augment.patches(
                sampler,
                objects[:, 3:7],
                self._numbers(f"sampler {index}", position, 4 * sampler.max_trials).reshape(-1, 4),
            )
            for index, sampler in enumerate(self._samplers)
            if sampler.use_original_image
        ]
        patches = np.concatenate(found) if found else np.empty((0, 4))
        if not len(patches):
            return None
        chosen: NDArray[np.float64] = patches[
            int(self._random.below(len(patches), "patch", position)[0])
        ]
        return chosen

    def _projected(self, objects: Objects, part: NDArray[np.float64]) -> Objects:
        """Return the objects that belong to a part of the image, as fractions of it."""
        boxes, remains = augment.project(objects[:, 3:7], part, self._param.emit_constraint)
        objects = objects[remains]
        objects[:, 3:7] = boxes[remains]
        return objects

    def mirrored(self, position: int) -> bool:
        """Say whether an item is mirrored."""
        return self._param.mirror and bool(self._random.below(2, "mirror", position)[0])

    def windowed(
        self,
        image: NDArray[Any],
        objects: Objects,
        position: int,
        out: NDArray[np.float32],
        resizing: float = 0.0,
    ) -> Objects:
        """Transform the window of an image into `out` (1, C, H, W); return its objects."""
        height, width = image.shape[:2]
        rows, columns = out.shape[2:]
        if (
            image.shape[2] != out.shape[1]
            or min(height - rows, width - columns) < 0
            or (not any(self._param.window) and (height, width) != (rows, columns))
        ):
            raise fail(
                "the images of a batch differ in size",
                expected=f"{BlobType((out.shape[1], rows, columns))}, as the others",
                got=f"{BlobType((image.shape[2], height, width))}: {self._name(position)}",
                hint="add resize_param { height: 300 width: 300 } to transform_param, "
                "or use batch_size: 1",
            )
        top, left = (height - rows) // 2, (width - columns) // 2
        if any(self._param.window) and self._training:
            top = int(self._random.below(height - rows + 1, "crop top", position)[0])
            left = int(self._random.below(width - columns + 1, "crop left", position)[0])
        mirrored = self.mirrored(position)
        windows = Windows(rows, columns, [top], [left], [mirrored], False)
        self._transformer.one(image.transpose(2, 0, 1), windows, 0, out)
        part = np.array([left, top, left + columns, top + rows], np.float64)
        objects = self._projected(objects, part / np.array([width, height, width, height]))
        boxes = objects[:, 3:7]
        if mirrored:
            boxes = augment.mirrored_boxes(boxes)
        if resize := self._param.resize(resizing):
            boxes = augment.rescaled_boxes(boxes, resize, (rows, columns))
        objects[:, 3:7] = boxes
        return objects

    def batch(
        self,
        stored: Callable[[int], NDArray[Any]],
        position: int,
        count: int,
        n_tops: int,
        reuse: Batch,
    ) -> Batch:
        """Return a batch of images without objects; the labels of a second top are left open.

        `stored(i)` is the image (C, H, W) that is number i of those from `position` on.
        """
        none = np.empty((0, OBJECT))

        def changed(i: int) -> NDArray[Any]:
            resizing = self.resizing_of(position + i)
            return self.changed(stored(i), none, position + i, resizing)[0]

        first = changed(0)
        height, width, channels = first.shape
        window = self._param.window
        shape = (count, channels, window[0] or height, window[1] or width)
        batch = arrays_for((shape, (count,))[:n_tops], reuse)

        def place(i: int) -> None:
            self.windowed(changed(i) if i else first, none, position + i, batch[0][i : i + 1])

        workers().run(place, count)
        return batch
