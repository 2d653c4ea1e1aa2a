"""Heat maps of joints: the layer that reads images with joints, and the loss of the maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.data import Reader
from netc.layers.losses import SCALAR, Loss
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)


@layer("DataHeatmap", "heatmap_data_param")
@dataclass(frozen=True)
class DataHeatmap(Reader):
    """Images with joints of a person, from the files that a list names.

    A line of `source` is `image x1,y1,x2,y2,... a,b,c,d,e class`: coordinates of the joints, in
    units of `multfact` pixels; five numbers that matter to mean images only; the class of the
    image. `labelinds` ("1,2,5,6") picks some of the coordinates, counted from 1. Images are taken
    in order, or with `sample_per_cluster` one of each class in turn, each class from a random image
    on. `root_img_dir` is put before each path as it is.

    An image is decoded in the order R, G, B, and filled up with 0 on the right to a width of
    `cropsize`. With `random_crop`, in every phase: half of the images are mirrored, a random square
    of `cropsize` is cut out and turned by an angle within +-`angle_max` degrees around its middle.
    When an image is mirrored, `flip_joint_labels` exchanges the two joints of each pair; with
    `dont_flip_first` the first joint belongs to none. Without `random_crop` the square is in the
    middle. It is resized bilinearly to `outsize`, and multiplied with `scale`. With `segmentation`
    what is brighter than 40 in the image of the same name in the folder `segs` is made black
    first; images without such a file are left out of the list.

    The map of a joint has 4 g(i - y) g(j - x) sqrt(2 pi) s at row i and column j, with the normal
    density g of deviation s = 1.5: 4 / (s sqrt(2 pi)) where the joint is.

    Shapes: tops (N, 3, outsize, outsize), and (N, joints, label_height, label_width), with N =
    `batchsize`. `meanfile` is refused: netc does not read mean images of several videos.
    `num_channels` and `crop_meanfile` have no effect.

    Source: the fork of Pfister et al., "Flowing convnets", ICCV 2015. Its maps are as high as wide:
    others come out of order.
    """

    # The message has other names for it.
    batch_size: int = field(default=0, init=False)
    batchsize: int = 0
    segmentation: bool = False
    multfact: int = 1
    root_img_dir: str = ""
    random_crop: bool = False
    sample_per_cluster: bool = False
    labelinds: str = ""
    meanfile: str = ""
    cropsize: int = 0
    outsize: int = 0
    scale: float = 1.0
    label_width: int = 1
    label_height: int = 1
    dont_flip_first: bool = True
    angle_max: float = 0.0
    flip_joint_labels: bool = True

    tops: ClassVar[Arity] = exactly(2)
    message: ClassVar[str] = "heatmap_data_param"

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", self.batchsize)

    def check(self) -> None:
        for name in ("batchsize", "cropsize", "outsize", "multfact", "label_height"):
            if getattr(self, name) <= 0:
                raise Refusal(
                    f"{name} is missing",
                    expected=f"{name} > 0",
                    got=getattr(self, name),
                    setting=name,
                )
        super().check()
        if self.label_width != self.label_height:
            raise Refusal(
                "the maps are not as high as wide",
                expected=f"label_width {self.label_height}, like label_height",
                got=f"label_width {self.label_width}",
                setting="label_width",
            )
        if self.meanfile:
            raise Refusal(
                "netc does not subtract mean images of several videos",
                expected="no meanfile",
                got=f"meanfile '{self.meanfile}'",
                hint="subtract one value per channel with a Scale or Bias layer",
                setting="meanfile",
            )
        self.chosen()

    def chosen(self) -> tuple[int, ...]:
        """Return which coordinates are picked, from 0 on; none for all of them."""
        words = [word.strip() for word in self.labelinds.split(",") if word.strip()]
        good = all(word.isdecimal() and int(word) > 0 for word in words)
        if not good or len(words) % 2:
            raise Refusal(
                "labelinds picks no joints",
                expected="numbers from 1 on between commas, two for each joint",
                got=f"'{self.labelinds}'",
                setting="labelinds",
            )
        return tuple(sorted({int(word) - 1 for word in words}))

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        image, maps = bottoms
        return Signature(
            (BlobType((self.batchsize, *image.shape)), BlobType((self.batchsize, *maps.shape)))
        )


@layer("EuclideanLossHeatmap")
@dataclass(frozen=True)
class EuclideanLossHeatmap(Loss):
    """The mean of (a - b)^2 over all elements of heat maps a and b.

    Bottom 2, the images, is not read. The gradient is a - b, whatever the loss weight and the
    number of elements: so in the fork. `visualise` and `visualise_channel`, by which it shows maps
    in a window, have no effect.

    Shapes: a and b (N, C, H, W), images (any) -> loss ().
    Source: the fork of Pfister et al., ICCV 2015.
    """

    bottoms: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        a, b, _ = bottoms
        if a.axes != 4 or a != b:
            raise Refusal(
                "the heat maps differ in shape",
                expected="bottoms 0 and 1 of one shape (N, C, H, W)",
                got=f"shapes {a} and {b}",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        a, b, _ = call.bottoms
        difference = (a - b).reshape(-1)
        return (difference @ difference / max(a.size, 1),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        a, b, _ = call.bottoms
        return Gradients((a - b, None, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        difference = g.op("Sub", bottoms[0], bottoms[1])
        return (g.op("ReduceMean", g.op("Mul", difference, difference), keepdims=0),)
