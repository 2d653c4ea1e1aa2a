"""The CPMData layer's source: people, from an LMDB as genLMDB.py writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from netc.data.datums import Records, not_lmdb
from netc.data.images import opencv
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.window_lines import c_round
from netc.data.workers import workers
from netc.errors import fail
from netc.layers.data import Database
from netc.layers.pose import CHANNELS, CPMData
from netc.layers.types import BlobType, Phase
from netc.schema import netc_pb2

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

# How visible a joint is: 0 hidden, 1 seen, 2 outside the image, 3 unknown to the data set.
_OUTSIDE, _UNKNOWN = 2, 3

# What is shown beyond the edges: of images, and of masks, where nobody is missing.
_GREY, _NOBODY = 128, 255

# Far more than any image has.
_MOST_PIXELS = 1 << 27

# A map ends where it would be below 1 %.
_LEAST = 4.6052

# Limbs are found on a grid of that many pixels, and as wide as that many of its places.
_LIMB_STRIDE, _LIMB_WIDTH = np.float32(8), 1


@dataclass(frozen=True, slots=True)
class Body:
    """A body: each joint is the middle of two of a record's; which are left and right; limbs.

    All are places in the order of its joints, but for `first` and `second`, which are the record's.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    right: tuple[int, ...]
    left: tuple[int, ...]
    limbs: tuple[tuple[int, int], ...]
    knows_unknown: bool


_RIGHT, _LEFT = (2, 3, 4, 8, 9, 10), (5, 6, 7, 11, 12, 13)
_COCO = Body(
    (0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3),
    (0, 6, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3),
    (*_RIGHT, 14, 16),
    (*_LEFT, 15, 17),
    (
        (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 2), (2, 3), (3, 4), (2, 16),
        (1, 5), (5, 6), (6, 7), (5, 17), (1, 0), (0, 14), (0, 15), (14, 16), (15, 17),
    ),
    True,
)  # fmt: skip
_MPI = Body(
    (9, 8, 12, 11, 10, 13, 14, 15, 2, 1, 0, 3, 4, 5, 7),
    (9, 8, 12, 11, 10, 13, 14, 15, 2, 1, 0, 3, 4, 5, 6),
    _RIGHT,
    _LEFT,
    (
        (0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 14), (14, 8), (8, 9),
        (9, 10), (14, 11), (11, 12), (12, 13),
    ),
    False,
)  # fmt: skip
BODIES = {56: _COCO, 43: _MPI}


@dataclass(slots=True)
class People:
    """The people of an image: the place and the size of the one in its middle, and all joints.

    `joints` (people, joints, 2) are in pixels, `seen` (people, joints) says how visible they are.
    The first person is the one in the middle.
    """

    place: Floats
    scale: float
    joints: Floats
    seen: NDArray[np.int64]

    def moved(self, move: Callable[[Any], Any]) -> None:
        """Move all of them; `move` takes and returns points (..., 2)."""
        self.place = np.asarray(move(self.place), np.float32)
        self.joints = np.asarray(move(self.joints), np.float32)


def read_people(channel: Pixels, n_joints: int) -> People | None:
    """Return the people that the bytes of a channel (H, W) tell; None for other bytes.

    Each row begins with numbers of 32 bits: 1 size of the image, 2 counts in bytes, 3 place, 4
    scale, 5 to 7 the joints (x, y, visibility), then for each other person a place; a row of
    scales; and three rows of joints for each. Places are counted from 1.
    """
    if len(channel) < 8 or channel.shape[1] < max(4 * n_joints, 15):
        return None
    others = int(channel[2, 1])
    if len(channel) < 8 + others + bool(others) + 3 * others:
        return None

    def floats(row: int, count: int) -> Floats:
        return np.frombuffer(channel[row, : 4 * count].tobytes(), "<f4")

    height, width = floats(1, 2)
    first = 9 + others
    rows = [5, *(first + 3 * i for i in range(others))]
    joints = np.stack(
        [np.stack([floats(row, n_joints), floats(row + 1, n_joints)], axis=1) for row in rows]
    )
    marks = np.stack([floats(row + 2, n_joints) for row in rows])
    place, (scale,) = floats(3, 2), floats(4, 1)
    if not (np.isfinite(joints).all() and np.isfinite(place).all() and 0 < scale < math.inf):
        return None
    joints = joints - 1
    seen = (marks != 0).astype(np.int64)
    inside = (joints >= 0).all(axis=2) & (joints[..., 0] < width) & (joints[..., 1] < height)
    seen[~inside] = _OUTSIDE
    # Only the person in the middle may come from a data set that does not know a joint.
    seen[0, marks[0] == _UNKNOWN] = _UNKNOWN
    return People(place - 1, float(scale), joints, seen)


def as_body(people: People, body: Body) -> None:
    """Turn the joints of a record into those of a body."""
    first, second = list(body.first), list(body.second)
    people.joints = (people.joints[:, first] + people.joints[:, second]) * np.float32(0.5)
    one, other = people.seen[:, first], people.seen[:, second]
    seen = ((one != 0) & (other != 0)).astype(np.int64)
    if body.knows_unknown:
        seen[(one == _UNKNOWN) | (other == _UNKNOWN)] = _UNKNOWN
    seen[(one == _OUTSIDE) | (other == _OUTSIDE)] = _OUTSIDE
    people.seen = seen


class PoseSource:
    """The people of an LMDB, in key order."""

    def __init__(self, layer: CPMData, opening: Opening) -> None:
        """Open the database; DataAbsent when it is missing or a LevelDB."""
        path = locate_setting(layer.source, opening, "source", "database")
        if layer.backend is not Database.LMDB:
            raise not_lmdb(path)
        self._layer = layer
        self._opening = opening
        self._records = Records(path)

    @staticmethod
    def assume(layer: CPMData, opening: Opening) -> Item | None:
        """Return what the settings tell, which is everything."""
        return Item(layer.types(), "images of the size of the crop are assumed")

    @property
    def size(self) -> int:
        """The number of records."""
        return len(self._records)

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of an image and its labels."""
        self._record(self._records.read(0, 1)[0], 0)
        return self._layer.types()

    def close(self) -> None:
        """Let go of the database."""
        self._records.close()

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        if self._opening.phase is not Phase.TRAIN:
            raise fail(
                "CPMData gives data in phase TRAIN only",
                expected="phase TRAIN",
                got="phase TEST, in which the fork reads a mask that it has not made",
                hint='write include { phase: TRAIN } in the layer, or test with a "Data" layer',
            )
        batch = arrays_for(tuple((count, *kind.shape) for kind in self._layer.types()), reuse)
        records = [bytes(record) for record in self._records.read(position, count)]

        def place(i: int) -> None:
            planes, people = self._record(records[i], position + i)
            as_body(people, BODIES[self._layer.num_parts])
            image, mask = self._augmented(planes, people, position + i)
            batch[0][i, 3:] = 0
            batch[0][i, :3] = (image.transpose(2, 0, 1).astype(np.float32) - _GREY) / 256
            write_labels(self._layer, mask, people, batch[1][i])

        workers().run(place, count)
        return batch

    def _record(self, record: Any, position: int) -> tuple[Pixels, People]:
        """Return the channels (6, H, W) of a record, and its people."""
        expected = f"a Datum of {CHANNELS} channels, as genLMDB.py writes it"
        try:
            datum = netc_pb2.Datum.FromString(bytes(record))
        except DecodeError as error:
            raise self._wrong(expected, "no Datum", position) from error
        shape = (datum.channels, datum.height, datum.width)
        if datum.encoded or shape[0] != CHANNELS or len(datum.data) != math.prod(shape):
            kind = "encoded" if datum.encoded else f"{len(datum.data)} bytes"
            raise self._wrong(expected, f"a Datum of shape {BlobType(shape)}, {kind}", position)
        planes: Pixels = np.frombuffer(datum.data, np.uint8).reshape(shape)
        people = read_people(planes[3], self._layer.np_in_lmdb)
        if people is None:
            raise self._wrong("people in channel 3", "other bytes", position)
        return planes, people

    def _wrong(self, expected: str, got: str, position: int) -> Exception:
        key = self._records.key(position)
        return fail(
            "a record of the database holds no people",
            expected=expected,
            got=f"{got}; key '{key}' of '{self._records.path}'",
        )

    # -- what chance does

    def _augmented(self, planes: Pixels, people: People, position: int) -> tuple[Pixels, Pixels]:
        """Return the part of an image (H, W, 3) that is taken, and its mask; people move along."""
        layer = self._layer
        image, mask = np.ascontiguousarray(planes[:3].transpose(1, 2, 0)), planes[4]
        image = self._coloured(image)
        factor = 1.0
        if self._share("scaled", position) <= layer.scale_prob:
            width = layer.scale_max - layer.scale_min
            factor = layer.scale_min + width * self._share("scale", position)
        scale = float(np.float32(layer.target_dist / people.scale * factor))
        self._check_size(image.shape[:2], scale, position)
        image, mask = _resized(image, scale), _resized(mask, scale)
        people.moved(lambda points: points * np.float32(scale))

        angle = (2 * self._share("angle", position) - 1) * layer.max_rotate_degree
        image, mask, turn = _turned(image, mask, angle)
        people.moved(lambda points: points @ turn[:, :2].T + turn[:, 2])

        miss = (self._share(f"miss {axis}", position) for axis in "xy")
        offset = [int((2 * share - 1) * layer.center_perterb_max) for share in miss]
        size = np.array([layer.crop_size_x, layer.crop_size_y])
        # Rounded to the nearest pixel, halves to even.
        corner = np.rint(people.place + offset).astype(int) - size // 2
        image, mask = (_cut(one, corner, size, fill) for one, fill in ((image, 128), (mask, 255)))
        people.moved(lambda points: points - corner)

        if self._share("flip", position) <= layer.flip_prob:
            image, mask = image[:, ::-1], mask[:, ::-1]
            last = np.array([layer.crop_size_x - 1, 0])
            people.moved(lambda points: last - points * [1, -1])
            _exchange(people, BODIES[layer.num_parts])
        return image, np.ascontiguousarray(mask)

    def _check_size(self, size: tuple[int, ...], scale: float, position: int) -> None:
        scaled = [side * scale for side in size]
        if min(scaled) < 1 or math.prod(scaled) > _MOST_PIXELS:
            raise self._wrong(
                f"an image whose person can get the size {self._layer.target_dist:g} (target_dist)",
                f"one of height {size[0]} and width {size[1]}, times {scale:g}",
                position,
            )

    def _share(self, purpose: str, position: int) -> float:
        """Return a number in 0..1."""
        return float(self._opening.draws.below(1 << 53, purpose, position)[0]) / (1 << 53)

    def _coloured(self, image: Pixels) -> Pixels:
        layer, cv2 = self._layer, opencv()
        if layer.do_clahe:
            lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
            tiles = int(layer.clahe_tile_size)
            clahe = cv2.createCLAHE(int(layer.clahe_clip_limit), (tiles, tiles))
            lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
            image = cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
        if layer.gray == 1:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        return image


def _resized(image: Pixels, scale: float) -> Pixels:
    cv2 = opencv()
    found = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.asarray(found, np.uint8)


def _turned(
    image: Pixels, mask: Pixels, angle: float
) -> tuple[Pixels, Pixels, NDArray[np.float64]]:
    """Return both turned around their middle, in a box that holds all of them; and the map."""
    cv2 = opencv()
    height, width = image.shape[:2]
    middle = (width / 2, height / 2)
    turn = cv2.getRotationMatrix2D(middle, angle, 1.0)
    corners = cv2.boxPoints((middle, (width, height), angle))
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    box = (high - low).astype(int) + 1
    turn[:, 2] += box / 2 - middle
    size = (int(box[0]), int(box[1]))
    settings = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_CONSTANT}
    image = cv2.warpAffine(image, turn, size, borderValue=(_GREY,) * 3, **settings)
    mask = cv2.warpAffine(np.ascontiguousarray(mask), turn, size, borderValue=_NOBODY, **settings)
    return image, mask, turn


def _cut(image: Pixels, corner: NDArray[np.int64], size: NDArray[np.int64], outside: int) -> Pixels:
    """Return the part of an image with its left and top corner there, filled up."""
    width, height = (int(n) for n in size)
    part = np.full((height, width, *image.shape[2:]), outside, np.uint8)
    x, y = (int(n) for n in corner)
    seen = image[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    top, left = max(-y, 0), max(-x, 0)
    if seen.size:
        part[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    return part


def _exchange(people: People, body: Body) -> None:
    """Exchange left and right."""
    order = list(range(people.joints.shape[1]))
    for right, left in zip(body.right, body.left, strict=True):
        order[right], order[left] = left, right
    people.joints, people.seen = people.joints[:, order], people.seen[:, order]


# -- labels


def write_labels(layer: CPMData, mask: Pixels, people: People, out: Floats) -> None:
    """Write the weights and maps of an image to `out` (2 (num_parts + 1), rows, columns)."""
    body, parts = BODIES[layer.num_parts], layer.num_parts
    rows, columns = out.shape[1:]
    weight = _resized(mask, 1 / layer.stride)[:rows, :columns].astype(np.float32) / 255
    out[: parts + 1] = weight
    out[np.flatnonzero(people.seen[0] == _UNKNOWN)] = 0
    out[parts + 1 :] = 0
    limbs = out[parts + 1 : parts + 1 + 2 * len(body.limbs)]
    for k, (start, end) in enumerate(body.limbs):
        for joints, seen in zip(people.joints, people.seen, strict=True):
            if seen[start] <= 1 and seen[end] <= 1:
                add_limb(limbs[2 * k : 2 * k + 2], joints[start], joints[end])
    maps = out[parts + 1 + len(limbs) : -1]
    for k, one in enumerate(maps):
        for joints, seen in zip(people.joints, people.seen, strict=True):
            if seen[k] <= 1:
                add_joint(one, joints[k], layer.stride, layer.sigma)
    out[-1] = np.maximum(1 - maps.max(axis=0), 0)


def add_joint(out: Floats, joint: Floats, stride: int, sigma: float) -> None:
    """Add the map of a joint to that of the others, up to 1."""
    rows, columns = (np.arange(n) * stride + (stride / 2 - 0.5) for n in out.shape)
    square = (columns - joint[0]) ** 2 + (rows[:, None] - joint[1]) ** 2
    exponent = square / 2 / sigma / sigma
    near = exponent <= _LEAST
    out[near] = np.minimum(out[near] + np.exp(-exponent[near]), 1)


def add_limb(out: Floats, start: Floats, end: Floats) -> None:
    """Write the direction of a limb to `out` (2, rows, columns), where its line is near."""
    start, end = start / _LIMB_STRIDE, end / _LIMB_STRIDE
    length = np.hypot(*(end - start))
    if not length:
        return
    direction = (end - start) / length
    ranges = []
    for axis, size in enumerate((out.shape[2], out.shape[1])):
        low, high = min(start[axis], end[axis]), max(start[axis], end[axis])
        first, last = c_round(low - _LIMB_WIDTH), c_round(high + _LIMB_WIDTH)
        ranges.append(np.arange(max(first, 0), max(min(last, size), 0)))
    columns, rows = ranges
    away = (columns - start[0]) * direction[1] - (rows[:, None] - start[1]) * direction[0]
    y, x = np.nonzero(np.abs(away) <= _LIMB_WIDTH)
    out[:, rows[y], columns[x]] = direction[:, None]
