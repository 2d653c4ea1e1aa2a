"""The layer that reads people for part affinity fields. The reading is done in `netc.data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.data import Database, Reader
from netc.layers.registry import layer
from netc.layers.types import Arity, BlobType, Refusal, Signature, exactly

#: The numbers of channels that the two known bodies have, and how many joints their records hold.
BODIES = {56: 17, 43: 16}

#: Pixels of an image, what is known of it, and two masks: the channels of a record.
CHANNELS = 6


@layer("CPMData", "data_param", "cpm_transform_param")
@dataclass(frozen=True)
class CPMData(Reader):
    """People in images, as maps of their joints and fields along their limbs.

    Each record of the database is an uncoded `Datum` of 6 channels, as genLMDB.py of the source
    writes it: an image (B, G, R), a channel of bytes with the joints of a person in its middle and
    of the others, a mask of where people without joints are (0), and one more.

    In this order: `do_clahe` evens out the contrast, `gray` 1 takes the colours away. The image is
    resized so that the person gets the size `target_dist`, times a factor in `scale_min` to
    `scale_max` with probability `scale_prob`; turned by an angle within +-`max_rotate_degree`
    degrees; a part of `crop_size_y` by `crop_size_x` is cut out, whose middle misses the person by
    up to `center_perterb_max` pixels, and mirrored with probability `flip_prob`. Beyond the edges
    pixels are 128. The top is (v - 128) / 256, and 0 in the last 3 channels.

    `num_parts` says which body: 56 is COCO's (`np_in_lmdb` 17), 43 MPI's (16). Labels have
    2 (num_parts + 1) channels. The first half are weights: the mask, and 0 for parts that the
    person's data set does not know (in the fork: what was there before). The second half are, of
    all persons, a unit vector (2 channels) along each limb, where a pixel is at most 1 away from
    its line; for each joint, exp(-d^2 / (2 `sigma`^2)) added up, down to 0.01 and up to 1; and 1
    minus the largest of these. A limb's line is found with a stride of 8, whatever `stride` is.

    It gives data in phase TRAIN only: in phase TEST the fork reads a mask that is not there.

    Shapes: tops (N, 6, crop_size_y, crop_size_x), and (N, 2 (num_parts + 1), rows, columns), these
    sizes divided by `stride`, rounded down.
    Source: Cao et al., "Realtime multi-person 2D pose estimation using part affinity fields", CVPR
    2017, and their Caffe. `aug_way: "table"`, with angles from files beside it, and hands
    (`transform_body_joint: false`) are refused.
    """

    backend: Database = Database.LEVELDB
    prefetch: int = 4
    stride: int = 4
    flip_prob: float = 0.5
    max_rotate_degree: float = 5.0
    crop_size_x: int = 368
    crop_size_y: int = 368
    scale_prob: float = 0.5
    scale_min: float = 0.9
    scale_max: float = 1.1
    target_dist: float = 1.0
    center_perterb_max: float = 10.0
    sigma: float = 7.0
    clahe_tile_size: float = 8.0
    clahe_clip_limit: float = 4.0
    do_clahe: bool = False
    num_parts: int = 14
    aug_way: str = "rand"
    gray: int = 0
    np_in_lmdb: int = 16
    transform_body_joint: bool = True

    tops: ClassVar[Arity] = exactly(2)
    message: ClassVar[str] = "data_param"

    def check(self) -> None:
        super().check()
        for name in ("stride", "prefetch", "clahe_tile_size", "clahe_clip_limit", "sigma"):
            if getattr(self, name) <= 0:
                self._refuse(name, f"{name} > 0")
        for name in ("crop_size_x", "crop_size_y"):
            if getattr(self, name) < self.stride:
                self._refuse(name, f"{name} >= {self.stride}, the stride")
        if self.num_parts not in BODIES:
            self._refuse("num_parts", "56 for the joints of COCO, 43 for those of MPI")
        if self.np_in_lmdb < BODIES[self.num_parts]:
            self._refuse("np_in_lmdb", f"np_in_lmdb >= {BODIES[self.num_parts]}")
        if self.aug_way != "rand":
            self._refuse("aug_way", '"rand"')
        if not self.transform_body_joint:
            self._refuse("transform_body_joint", "true: the joints are those of a body")
        if not 0 < self.scale_min <= self.scale_max:
            self._refuse("scale_min", "0 < scale_min <= scale_max")

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        raise Refusal(
            f"{name} is out of range",
            expected=expected,
            got=f"{name} {str(value).lower() if isinstance(value, bool) else value}",
            setting=name,
        )

    def types(self) -> tuple[BlobType, BlobType]:
        """Return the types of an image and of its labels."""
        rows, columns = self.crop_size_y // self.stride, self.crop_size_x // self.stride
        image = BlobType((CHANNELS, self.crop_size_y, self.crop_size_x))
        return image, BlobType((2 * (self.num_parts + 1), rows, columns))

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        return Signature(tuple(BlobType((self.batch_size, *kind.shape)) for kind in self.types()))
