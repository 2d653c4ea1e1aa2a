"""The layers of makefile's frcnn: those of Faster R-CNN, whose settings are in a file of their own.

A net names that file once, in the layer that reads its data; when the net is read, what the file
says becomes the `frcnn_param` of each of these layers. A net without such a layer, for testing, may
say it there itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from netc.layers.data import Reader
from netc.layers.proposal import AnchorTarget, Proposal, ProposalTarget
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    BlobType,
    CodeHost,
    Layer,
    Part,
    Phase,
    Refusal,
    Signature,
    exactly,
)

#: What the settings are where a list of them is empty.
SCALES = (600.0,)
PIXEL_MEANS = (102.9801, 115.9465, 122.7717)


@dataclass(frozen=True, slots=True)
class FrcnnParam:
    """A `frcnn_param` message: the content of a file of settings, under its names."""

    scales: tuple[float, ...] = ()
    max_size: float = 1000.0
    pixel_means: tuple[float, ...] = ()
    use_flipped: bool = True
    im_size_align: int = 1
    n_classes: int = 21
    feat_stride: int = 16
    anchors: tuple[float, ...] = ()
    batch_size: int = 128
    fg_fraction: float = 0.25
    fg_thresh: float = 0.5
    bg_thresh_hi: float = 0.5
    bg_thresh_lo: float = 0.0
    bbox_normalize_targets: bool = True
    bbox_inside_weights: tuple[float, ...] = ()
    bbox_normalize_means: tuple[float, ...] = ()
    bbox_normalize_stds: tuple[float, ...] = ()
    rpn_positive_overlap: float = 0.7
    rpn_negative_overlap: float = 0.3
    rpn_clobber_positives: bool = False
    rpn_fg_fraction: float = 0.5
    rpn_batchsize: int = 256
    rpn_bbox_inside_weights: tuple[float, ...] = ()
    rpn_positive_weight: float = -1.0
    rpn_allowed_border: float = 0.0
    rpn_nms_thresh: float = 0.7
    rpn_pre_nms_top_n: int = 12000
    rpn_post_nms_top_n: int = 2000
    rpn_min_size: float = 16.0
    test_rpn_nms_thresh: float = 0.7
    test_rpn_pre_nms_top_n: int = 6000
    test_rpn_post_nms_top_n: int = 300
    test_rpn_min_size: float = 16.0


@dataclass(frozen=True)
class FrcnnLayer(Layer):
    """Base of the types with these settings that another type stands for."""

    frcnn_param: FrcnnParam = field(default_factory=FrcnnParam)

    def whole(self, other: Layer, n_bottoms: int, n_tops: int) -> tuple[Part, ...]:
        """Return the expansion to another type with the same bottoms and tops."""
        bottoms, tops = (
            tuple(f"${side}{k}" for k in range(n)) for side, n in (("b", n_bottoms), ("t", n_tops))
        )
        return (Part("", other, bottoms, tops),)


@layer("FrcnnProposal", "proposal_param")
@dataclass(frozen=True)
class FrcnnProposal(FrcnnLayer):
    """Proposal with the settings of `frcnn_param`: those of its phase, and the anchors.

    Shapes: as Proposal. A `feat_stride` above 0 counts in place of that of `frcnn_param`.

    Source: the fork of Caffe makefile/frcnn.
    """

    feat_stride: int = 0
    phase: Phase = Phase.TRAIN
    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = Proposal.bottoms
    tops: ClassVar[Arity] = Proposal.tops

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        param, train = self.frcnn_param, self.phase is Phase.TRAIN
        proposal = Proposal(
            feat_stride=self.feat_stride or param.feat_stride,
            anchor=param.anchors,
            min_size=int(param.rpn_min_size if train else param.test_rpn_min_size),
            pre_nms_topn=param.rpn_pre_nms_top_n if train else param.test_rpn_pre_nms_top_n,
            post_nms_topn=param.rpn_post_nms_top_n if train else param.test_rpn_post_nms_top_n,
            nms_thresh=param.rpn_nms_thresh if train else param.test_rpn_nms_thresh,
            top=self.top,
        )
        return self.whole(proposal, len(bottoms), max(len(self.top), 1))


@layer("FrcnnAnchorTarget")
@dataclass(frozen=True)
class FrcnnAnchorTarget(FrcnnLayer):
    """AnchorTarget with the settings of `frcnn_param`.

    Shapes: as AnchorTarget.
    Source: as FrcnnProposal.
    """

    bottoms: ClassVar[Arity] = AnchorTarget.bottoms
    tops: ClassVar[Arity] = AnchorTarget.tops

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        param = self.frcnn_param
        target = AnchorTarget(
            feat_stride=param.feat_stride,
            anchor=param.anchors,
            allowed_border=int(param.rpn_allowed_border),
            batch_size=param.rpn_batchsize,
            fg_fraction=param.rpn_fg_fraction,
            positive_overlap=param.rpn_positive_overlap,
            negative_overlap=param.rpn_negative_overlap,
            clobber_positives=param.rpn_clobber_positives,
            bbox_inside_weights=param.rpn_bbox_inside_weights,
            positive_weight=param.rpn_positive_weight,
        )
        return self.whole(target, len(bottoms), 4)


@layer("FrcnnProposalTarget")
@dataclass(frozen=True)
class FrcnnProposalTarget(FrcnnLayer):
    """ProposalTarget with the settings of `frcnn_param`, and `fill`.

    Shapes: as ProposalTarget.
    Source: as FrcnnProposal. Of several boxes that overlap a region equally the first counts here,
    the last there.
    """

    bottoms: ClassVar[Arity] = ProposalTarget.bottoms
    tops: ClassVar[Arity] = ProposalTarget.tops

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        param = self.frcnn_param
        target = ProposalTarget(
            num_classes=param.n_classes,
            batch_size=param.batch_size,
            fg_fraction=param.fg_fraction,
            fg_thresh=param.fg_thresh,
            bg_thresh_hi=param.bg_thresh_hi,
            bg_thresh_lo=param.bg_thresh_lo,
            bbox_normalize_targets=param.bbox_normalize_targets,
            bbox_normalize_means=param.bbox_normalize_means,
            bbox_normalize_stds=param.bbox_normalize_stds,
            bbox_inside_weights=param.bbox_inside_weights,
            fill=True,
        )
        return self.whole(target, len(bottoms), 5)


@layer("FrcnnRoiData", "window_data_param")
@dataclass(frozen=True)
class FrcnnRoiData(Reader):
    """One image at a time, with its objects, from a list.

    For each image the list has

        # number path
        number of objects
        class x1 y1 x2 y2 difficult

    with a line for each object, classes from 1 to `n_classes` - 1, and both corners in pixels,
    counted from 0. Difficult ones count too; an image without objects is an error.

    Each pass has another order. In the phase TRAIN every second image is mirrored, at random, with
    `use_flipped`. From pixels `pixel_means` are subtracted; the image is resized by the factor that
    makes its shorter side one of `scales`, drawn at random, but its longer side at most `max_size`:
    smaller by the means of areas, larger bilinearly. Sides are filled up with zeros to multiples of
    `im_size_align`. Boxes are cut to the image and scaled. `root_folder` is put before each path
    as it is; `cache_images` has no effect.

    Shapes: tops (1, 3, H, W), (height, width, factor) (1, 3), objects (G, 5) as x1, y1, x2, y2,
    class. All but (1, 3) are those of each image.

    Source: as FrcnnProposal, whose other ways to change images at random are refused.
    """

    root_folder: str = ""
    cache_images: bool = False
    phase: Phase = Phase.TRAIN
    frcnn_param: FrcnnParam = field(default_factory=FrcnnParam)

    tops: ClassVar[Arity] = exactly(3)
    message: ClassVar[str] = "window_data_param"

    @property
    def scales(self) -> tuple[float, ...]:
        """The lengths that shorter sides are brought to."""
        return self.frcnn_param.scales or SCALES

    def resolve(self, host: CodeHost | None) -> Layer:
        return self if self.batch_size else replace(self, batch_size=1)

    def check(self) -> None:
        super().check()
        param = self.frcnn_param
        sizes = (*self.scales, param.max_size, param.im_size_align)
        for name, wrong, expected, got in (
            ("batch_size", self.batch_size != 1, "1: images differ in size", self.batch_size),
            ("scales", min(sizes) <= 0, "sizes above 0", " ".join(f"{s:g}" for s in sizes)),
            (
                "pixel_means", len(param.pixel_means) not in (0, 3), "three values: B, G, R",
                len(param.pixel_means),
            ),
        ):  # fmt: skip
            if wrong:
                raise Refusal(
                    f"{name} does not fit",
                    expected=f"{name}: {expected}",
                    got=got,
                    setting=name if name == "batch_size" else "frcnn_param",
                )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        image = BlobType((1, *bottoms[0].shape))
        return Signature((image, BlobType((1, 3)), BlobType((1, 5))))
