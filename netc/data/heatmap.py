"""The DataHeatmap layer's source: images of people, whose joints become heat maps."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.images import opencv
from netc.data.randomness import Draws
from netc.data.source import Batch, Item, Opening, arrays_for, locate, locate_setting
from netc.data.window_lines import load_image
from netc.data.workers import workers
from netc.errors import NetcError, Problem, Problems, Span, fail
from netc.layers.heatmap import DataHeatmap
from netc.layers.types import BlobType

Joints = NDArray[np.float32]

# The deviation of the maps, and how much higher than a normal density they are.
_SIGMA, _HEIGHT = 1.5, 4.0

# What is brighter than that in an image of a segmentation is made black.
_SEGMENT = 40

# Of a list that is something else, the first few lines tell enough.
_MOST_BAD_LINES = 10


@dataclass(frozen=True, slots=True)
class Person:
    """A line of the list: the image, its joints (n, 2), its class, and the line's number."""

    path: str
    joints: Joints
    group: int
    line: int


def read_people(file: Path, chosen: tuple[int, ...]) -> list[Person]:
    """Read a list, with the chosen coordinates of the joints, or all of them.

    Raises one NetcError with the bad lines (the first few of many), or for an empty list.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    people: list[Person] = []
    problems, n_bad = Problems(), 0
    for number, line in enumerate(lines, start=1):
        if not (words := line.split()):
            continue
        person = _person(words, chosen, number)
        if person is not None and (not people or len(people[0].joints) == len(person.joints)):
            people.append(person)
            continue
        n_bad += 1
        if n_bad <= _MOST_BAD_LINES:
            problems.add(_bad_line(file, number, line, people, chosen))
    problems.raise_any()
    if not people:
        raise fail(
            "the list is empty",
            span=Span(str(file)),
            expected="one `image x1,y1,... a,b,c,d,e class` per line",
        )
    return people


def _bad_line(
    file: Path, number: int, line: bytes, people: list[Person], chosen: tuple[int, ...]
) -> Problem:
    joints = "an even number of coordinates"
    if chosen:
        joints = f"{chosen[-1] + 1} coordinates or more"
    elif people:
        joints = f"{2 * len(people[0].joints)} coordinates, as in line {people[0].line}"
    return Problem(
        "this line of the list tells no joints",
        Span(str(file), number, 1),
        expected=f"an image, {joints} between commas, numbers between commas, and a class",
        got=line.strip().decode("utf-8", "replace"),
    )


def _person(words: list[bytes], chosen: tuple[int, ...], line: int) -> Person | None:
    """Return what the words of a line tell, None for a line that tells something else."""
    try:
        path, places, _, group = words
        values = np.array([float(word) for word in places.split(b",") if word], np.float32)
        number = int(group)
    except ValueError:
        return None
    if chosen:
        if len(values) <= chosen[-1]:
            return None
        values = values[list(chosen)]
    if len(values) % 2 or not len(values) or number < 0 or not np.isfinite(values).all():
        return None
    return Person(os.fsdecode(path), values.reshape(-1, 2), number, line)


class HeatmapSource:
    """Images that a list names in its order, or one of each class in turn."""

    def __init__(self, layer: DataHeatmap, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing."""
        self._layer = layer
        self._opening = opening
        self._file = locate_setting(layer.source, opening, "source", "list of images and joints")
        people = read_people(self._file, layer.chosen())
        if layer.segmentation:
            people = [person for person in people if self._has_segments(person)]
            if not people:
                raise fail(
                    "no image of the list has a segmentation",
                    span=Span(str(self._file)),
                    expected=f"files below '{layer.root_img_dir}segs/'",
                )
        self._people = people
        self._groups = self._grouped() if layer.sample_per_cluster else ()
        self._check_pairs()

    def _grouped(self) -> tuple[list[int], ...]:
        """Return the places in the list of the images of each class."""
        groups: dict[int, list[int]] = {}
        for i, person in enumerate(self._people):
            groups.setdefault(person.group, []).append(i)
        missing = next((k for k in range(len(groups)) if k not in groups), None)
        if missing is not None:
            raise fail(
                "a class has no images",
                span=Span(str(self._file)),
                expected=f"images of every class from 0 to {max(groups)}, as "
                "sample_per_cluster takes one of each in turn",
                got=f"none of class {missing}",
            )
        return tuple(groups[k] for k in range(len(groups)))

    def _check_pairs(self) -> None:
        layer, joints = self._layer, len(self._people[0].joints)
        flips = layer.random_crop and layer.flip_joint_labels
        if flips and (joints - layer.dont_flip_first) % 2:
            raise fail(
                "the joints are no pairs of left and right",
                span=Span(str(self._file)),
                expected=f"an {'odd' if layer.dont_flip_first else 'even'} number of joints for "
                f"flip_joint_labels, dont_flip_first: {str(layer.dont_flip_first).lower()}",
                got=f"{joints} joints",
            )

    @staticmethod
    def assume(layer: DataHeatmap, opening: Opening) -> Item | None:
        """Return what the settings tell; how many joints there are, labelinds alone."""
        if not (chosen := layer.chosen()):
            return None
        types = _types(layer, len(chosen) // 2)
        return Item(types, f"images with {len(chosen) // 2} joints are assumed, from labelinds")

    @property
    def size(self) -> int:
        """The number of images in one pass."""
        return len(self._people)

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of an image and its maps."""
        return _types(self._layer, len(self._people[0].joints))

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        batch = arrays_for(tuple((count, *kind.shape) for kind in self.item()), reuse)

        def place(i: int) -> None:
            person = self._people[self._index(position + i)]
            image, joints = self._sample(person, position + i)
            batch[0][i] = image.transpose(2, 0, 1)
            batch[1][i] = heat_maps(joints, batch[1].shape[2])

        workers().run(place, count)
        return batch

    def _index(self, position: int) -> int:
        """Return the place in the list of the image at a position."""
        if not self._groups:
            return position % self.size
        turn, group = divmod(position, len(self._groups))
        members = self._groups[group]
        first = int(self._opening.draws.below(len(members), "cluster", group)[0])
        return members[(first + turn) % len(members)]

    def _sample(self, person: Person, position: int) -> tuple[NDArray[np.float32], Joints]:
        """Return an image (outsize, outsize, 3), and its joints in pixels of its maps."""
        layer, cv2 = self._layer, opencv()
        image = self._image(person)
        joints = person.joints * np.float32(layer.multfact)
        missing = layer.cropsize - image.shape[1]
        if missing > 0:
            image = np.pad(image, ((0, 0), (0, missing), (0, 0)))
        if image.shape[0] < layer.cropsize:
            raise fail(
                "an image is lower than the part that is cut out",
                span=self._span(person),
                expected=f"a height of {layer.cropsize} (cropsize) or more",
                got=f"'{layer.root_img_dir}{person.path}' of height {image.shape[0]}",
            )
        if layer.random_crop:
            image, joints = self._moved(image, joints, self._opening.draws, position)
        else:
            top, left = ((side - layer.cropsize) // 2 for side in image.shape[:2])
            image, joints = _cut(image, joints, top, left, layer.cropsize)
        image = cv2.resize(image, (layer.outsize, layer.outsize))
        # From the part to the image that is given, and on to the maps: one after the other, as the
        # numbers are rounded.
        joints = joints * np.float32(layer.outsize / layer.cropsize)
        joints = joints * np.float32(layer.label_height / layer.outsize)
        return image * np.float32(layer.scale), joints

    def _moved(
        self, image: NDArray[np.float32], joints: Joints, draws: Draws, position: int
    ) -> tuple[NDArray[np.float32], Joints]:
        """Mirror, cut out and turn an image and its joints at random."""
        layer, cv2, size = self._layer, opencv(), self._layer.cropsize
        height, width = image.shape[:2]
        if draws.below(2, "mirror", position)[0]:
            image = image[:, ::-1]
            joints = np.array([width, 0], np.float32) - joints * np.array([1, -1], np.float32)
            if layer.flip_joint_labels:
                pairs = joints[int(layer.dont_flip_first) :].reshape(-1, 2, 2)[:, ::-1]
                joints = np.concatenate([joints[: int(layer.dont_flip_first)], *pairs])
        left = int(draws.below(width - size + 1, "crop left", position)[0])
        top = int(draws.below(height - size + 1, "crop top", position)[0])
        image, joints = _cut(image, joints, top, left, size)
        share = draws.below(1 << 53, "angle", position)[0] / float(1 << 53)
        angle = layer.angle_max * (2 * share - 1)
        turn = cv2.getRotationMatrix2D((size // 2, size // 2), angle, 1.0)
        image = cv2.warpAffine(np.ascontiguousarray(image), turn, (size, size))
        return image, (joints @ turn[:, :2].T + turn[:, 2]).astype(np.float32)

    # -- files

    def _image(self, person: Person) -> NDArray[np.float32]:
        """Return an image (H, W, 3), channels R, G, B."""
        pixels = self._decoded(person, "", True)
        if self._layer.segmentation:
            segments = self._decoded(person, "segs/", False)
            if segments.shape[:2] != pixels.shape[:2]:
                raise fail(
                    "an image and its segmentation differ in size",
                    span=self._span(person),
                    expected=f"height {pixels.shape[0]}, width {pixels.shape[1]}",
                    got=f"height {segments.shape[0]}, width {segments.shape[1]}",
                )
            pixels = np.where(segments > _SEGMENT, 0, pixels)
        return pixels[..., ::-1].astype(np.float32)

    def _decoded(self, person: Person, folder: str, color: bool) -> NDArray[np.uint8]:
        """Return an image (H, W, C) as stored."""
        root, span = self._layer.root_img_dir, self._span(person)
        image = load_image(root + folder, person.path, self._opening.span, span, color=color)
        return image.transpose(1, 2, 0)

    def _has_segments(self, person: Person) -> bool:
        folder = self._layer.root_img_dir + "segs/"
        try:
            locate(folder + person.path, self._opening.span, "image")
        except NetcError:
            return False
        return True

    def _span(self, person: Person) -> Span:
        return Span(str(self._file), person.line, 1)


def _types(layer: DataHeatmap, joints: int) -> tuple[BlobType, BlobType]:
    image = BlobType((3, layer.outsize, layer.outsize))
    return image, BlobType((joints, layer.label_height, layer.label_width))


def _cut(
    image: NDArray[np.float32], joints: Joints, top: int, left: int, size: int
) -> tuple[NDArray[np.float32], Joints]:
    """Return a square of an image, and the joints as seen from its corner."""
    part = image[top : top + size, left : left + size]
    return part, joints - np.array([left, top], np.float32)


def heat_maps(joints: Joints, size: int) -> NDArray[np.float32]:
    """Return a map (size, size) for each joint (x, y): a normal density around it, times 4."""
    places = np.arange(size, dtype=np.float32)
    x, y = (np.exp(-0.5 * ((places - joints[:, axis, None]) / _SIGMA) ** 2) for axis in range(2))
    height = _HEIGHT / (_SIGMA * math.sqrt(2 * math.pi))
    return np.asarray(height * y[:, :, None] * x[:, None, :], np.float32)
