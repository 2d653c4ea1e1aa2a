"""DetectNet's ground truth, a grid made from boxes: settings and shapes. It is not run."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.transform import TransformParam
from netc.layers.types import (
    Arity,
    Array,
    BlobType,
    ForwardCall,
    Layer,
    Refusal,
    Signature,
    exactly,
)

#: Maps of the grid besides those of the classes: foreground, two corners, width, height, objects.
MAPS = 8


class GridboxType(enum.Enum):
    """Which part of a box its cells cover."""

    GRIDBOX_MAX = 0
    GRIDBOX_MIN = 1


class CoverageType(enum.Enum):
    """The form of what a box covers."""

    RECTANGULAR = 0


@dataclass(frozen=True, slots=True)
class ClassMapping:
    """Class `src` of the data is map `dst` of the grid."""

    src: int = 0
    dst: int = 0


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """A `detectnet_groundtruth_param` message: the grid, and what of it a box covers.

    The image has `image_size_x` x `image_size_y` pixels, a cell `stride` x `stride` of them.
    """

    stride: int = 4
    scale_cvg: float = 0.5
    gridbox_type: GridboxType = GridboxType.GRIDBOX_MAX
    max_cvg_len: int = 50
    min_cvg_len: int = 50
    coverage_type: CoverageType = CoverageType.RECTANGULAR
    image_size_x: int = 1248
    image_size_y: int = 384
    obj_norm: bool = False
    crop_bboxes: bool = True
    object_class: tuple[ClassMapping, ...] = ()

    @property
    def classes(self) -> int:
        """The number of maps of classes; one, for class 1, where the text names none."""
        return max((mapping.dst for mapping in self.object_class), default=0) + 1


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A `detectnet_augmentation_param` message: chances and ranges of random changes."""

    crop_prob: float = 1.0
    shift_x: int = 0
    shift_y: int = 0
    scale_prob: float = 0.33
    scale_min: float = 0.7
    scale_max: float = 1.0
    flip_prob: float = 0.33
    rotation_prob: float = 0.33
    max_rotate_degree: float = 1.0
    hue_rotation_prob: float = 0.33
    hue_rotation: float = 15.0
    desaturation_prob: float = 0.33
    desaturation_max: float = 0.5


@layer("DetectNetTransformation")
@dataclass(frozen=True)
class DetectNetTransformation(Layer):
    """DetectNet's augmentation of images, and its grid of ground truth from their boxes.

    Shapes: images (N, 3, H, W), boxes (N, ...) -> images (N, 3, image_size_y, image_size_x), and
    (N, 8 + classes, image_size_y / stride, image_size_x / stride): foreground, the corners of the
    box relative to the cell, 1 / width, 1 / height, 1 / the object's cells, and a map of coverage
    for each class.

    The layer can be looked at, but not run: its random changes of geometry and colour are those of
    one version of NVIDIA's code, for the data of DIGITS.

    ONNX: none, it makes data for training.

    Source: NVCaffe's fork, for "DetectNet" (Barker, Sarathy and July, 2016).
    """

    detectnet_groundtruth_param: GroundTruth = field(default_factory=GroundTruth)
    detectnet_augmentation_param: Augmentation = field(default_factory=Augmentation)
    transform_param: TransformParam = field(default_factory=TransformParam)

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        images, boxes = bottoms
        truth = self.detectnet_groundtruth_param
        if images.axes != 4 or images.shape[1] != 3:
            raise Refusal(
                "the images are not in colour",
                expected="shape (N, 3, H, W)",
                got=f"bottom of shape {images}",
                setting="bottom",
            )
        if boxes.shape[:1] != images.shape[:1]:
            raise Refusal(
                "the numbers of images and of lists of boxes differ",
                expected=f"{images.shape[0]} lists of boxes",
                got=f"bottom 1 of shape {boxes}",
                setting="bottom",
            )
        for name in ("stride", "image_size_x", "image_size_y"):
            if getattr(truth, name) < 1:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=getattr(truth, name),
                    setting="detectnet_groundtruth_param",
                )
        self.transform_param.check()
        n = images.shape[0]
        grid = (size // truth.stride for size in (truth.image_size_y, truth.image_size_x))
        return Signature(
            (
                BlobType((n, 3, truth.image_size_y, truth.image_size_x)),
                BlobType((n, MAPS + truth.classes, *grid)),
            )
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        raise Refusal(
            "netc does not run DetectNet's transformation",
            expected="images and grids that are made beforehand",
            got="DetectNetTransformation",
            hint="store them, and read them with HDF5Data; for inference leave the layer out",
        )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms
