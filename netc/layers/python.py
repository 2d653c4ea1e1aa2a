"""Layers whose code is Python: the well-known ones as netc's own types, others only if allowed.

Published nets name a class in a module, and what that class does is known: such a layer becomes the
type that does the same, and needs no Python. All others are code from somewhere, which runs only
where the caller brings a `CodeHost`; that is how `-allow_python_layers` arrives here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from netc.errors import nearest
from netc.layers.activation import Power
from netc.layers.data import Reader
from netc.layers.fillers import Filler
from netc.layers.gridboxes import GridClusters, GridTruth, JudgedPrecision, ScoreDetections
from netc.layers.input import BlobShape
from netc.layers.losses import EuclideanLoss
from netc.layers.masks import BestClassBoxes
from netc.layers.mtcnn import KnownEuclideanLoss, KnownRows
from netc.layers.ohem import HardRegions
from netc.layers.paramstr import Settings
from netc.layers.proposal import (
    POST_NMS_TOPN,
    PRE_NMS_TOPN,
    RATIOS,
    SCALES,
    AnchorTarget,
    Proposal,
    ProposalTarget,
)
from netc.layers.pyramid import PyramidAnchorTarget, PyramidProposal, PyramidRegions
from netc.layers.registry import layer
from netc.layers.shape import Reshape
from netc.layers.spatialdropout import SpatialDropout
from netc.layers.textlines import TextProposal
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    CodeHost,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    ParamType,
    Part,
    Phase,
    Refusal,
    Signature,
    Value,
    at_least,
    exactly,
)


@layer("Python", "python_param")
@dataclass(frozen=True)
class Python(Layer):
    """A layer whose code is the class `layer` of the Python module `module`.

    Well-known ones are run as netc's own types, by the names of module and class. Others run where
    `-allow_python_layers` says so, as in pycaffe: `setup` once, `reshape` and `forward` in each
    pass, `backward` for the gradients. `param_str` is handed to the class as it is;
    `share_in_parallel` changes nothing here. `reshape` and `forward` may give tops other shapes in
    each pass, and the net follows. Such a layer draws its random numbers, and remembers where it is
    in its data, by itself, so that a snapshot does not know of them.

    ONNX: none, where its code is not one of netc's own types.

    Shapes: whatever the code says.
    Source: BVLC Caffe.
    """

    module: str = ""
    layer: str = ""
    param_str: str = ""
    share_in_parallel: bool = False
    loss_weight: tuple[float, ...] = ()
    phase: Phase = Phase.TRAIN
    bottom: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    name: str = ""

    bottoms: ClassVar[Arity] = at_least(0)
    tops: ClassVar[Arity] = at_least(0)

    def resolve(self, host: CodeHost | None) -> Layer:
        for name in ("module", "layer"):
            if not getattr(self, name):
                raise Refusal(
                    f"python_param names no {name}",
                    expected='python_param { module: "MODULE" layer: "CLASS" }',
                    got=f"no {name}",
                    setting=name,
                )
        make = WELL_KNOWN.get((self.module, self.layer))
        if host is not None and (make is None or (host.has(self.module) and not host.known)):
            return PythonCode(self, _Code(host, self))
        if make is not None:
            settings = Settings(self.param_str)
            known = make(self, settings)
            settings.finish()
            return known
        raise self._not_allowed()

    def _not_allowed(self) -> Refusal:
        of_module = [name for module, name in WELL_KNOWN if module == self.module]
        # Of another module only if it has such a class.
        modules = {module for module, name in WELL_KNOWN if nearest(self.layer, [name])}
        alike = nearest(self.layer, of_module) or nearest(self.module, modules)
        return Refusal(
            f"the Python code of class {self.module}.{self.layer} is not allowed to run",
            expected="a well-known class, which needs no code, or -allow_python_layers",
            got=f'module: "{self.module}" layer: "{self.layer}"',
            hint=f"{alike}\n".lstrip() + "with -allow_python_layers the module is imported and its "
            "code runs as you: do so for code that you trust",
            setting="layer" if of_module else "module",
        )


# -- what the well-known ones are ------------------------------------------------------------------

#: A class of which `setup` and the like are known: what stands for it, given its settings.
Maker = Callable[[Python, Settings], Layer]

# The images of py-faster-rcnn are 600 pixels high and 1000 wide, or the other way round; these are
# the next sizes that every backbone halves five times without a rest.
REGION_IMAGE = (608, 1024)
TRUTH = 20
REGIONS = 128

# The side of the square that anchors are made around.
SQUARE = 16

# The numbers that the `param_str` of DetectNet's layers begins with.
_GRID = ("image_size_x", "image_size_y", "stride")

# The sides of MNC's masks, and how many regions it learns from at once.
MASK = 21
MASKED_REGIONS = 64

# What the configuration of FPN says, and how many tops its targets are: four levels, labels, shifts
# and two kinds of weights.
PYRAMID_SCALES = (16.0, 32.0)
PYRAMID_TOPN = {Phase.TRAIN: 2000, Phase.TEST: 1000}
PYRAMID_BORDER = 1000
PYRAMID_BATCH = 256
PYRAMID_TARGETS = PyramidRegions.n_levels + 4


def _shapes(settings: Settings) -> dict[str, Any]:
    return {
        "ratio": settings.numbers("ratios", RATIOS),
        "scale": settings.numbers("scales", SCALES),
    }


def _proposal(layer: Python, settings: Settings) -> Layer:
    strides = settings.integers("feat_stride")
    if len(strides) > 1:
        return PyramidProposal(
            scale=PYRAMID_SCALES,
            stride=strides,
            pre_nms_topn=PRE_NMS_TOPN[layer.phase],
            post_nms_topn=PYRAMID_TOPN[layer.phase],
        )
    return Proposal(
        feat_stride=strides[0],
        **_shapes(settings),
        pre_nms_topn=PRE_NMS_TOPN[layer.phase],
        post_nms_topn=POST_NMS_TOPN[layer.phase],
        top=layer.top,
    )


def _anchor_target(layer: Python, settings: Settings) -> Layer:
    strides = settings.integers("feat_stride")
    if len(strides) > 1:
        border = settings.integer("allowed_border", PYRAMID_BORDER)
        return PyramidAnchorTarget(scale=PYRAMID_SCALES, stride=strides, allowed_border=border)
    border = settings.integer("allowed_border", 0)
    return AnchorTarget(feat_stride=strides[0], **_shapes(settings), allowed_border=border)


def _proposal_target(layer: Python, settings: Settings) -> Layer:
    if len(layer.top) == PYRAMID_TARGETS:
        return _pyramid_target(PYRAMID_BATCH)(layer, settings)
    # R-FCN writes 2 for "one box for all classes"; with two classes in earnest it is the same.
    classes = settings.integer("num_classes")
    return ProposalTarget(num_classes=classes, agnostic=classes == 2)


@dataclass(frozen=True)
class SeveralLayers(Layer):
    """A Python class that is several of netc's types one behind the other."""

    parts: tuple[Part, ...]

    type: ClassVar[str] = "Python"

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        return self.parts


@dataclass(frozen=True)
class ProposalAndTarget(SeveralLayers):
    """PVANet's ProposalLayer2: Proposal and ProposalTarget."""

    bottoms: ClassVar[Arity] = exactly(4)
    tops: ClassVar[Arity] = exactly(5)


def _proposal_and_target(layer: Python, settings: Settings) -> Layer:
    proposal = Proposal(
        feat_stride=settings.integer("feat_stride"),
        **_shapes(settings),
        pre_nms_topn=PRE_NMS_TOPN[Phase.TRAIN],
        post_nms_topn=POST_NMS_TOPN[Phase.TRAIN],
        top=("regions",),
    )
    regions, tops = ".regions", tuple(f"$t{i}" for i in range(5))
    return ProposalAndTarget(
        (
            Part("proposal", proposal, ("$b0", "$b1", "$b2"), (regions,)),
            Part("target", _proposal_target(layer, settings), (regions, "$b3"), tops),
        )
    )


@dataclass(frozen=True)
class PyramidTarget(SeveralLayers):
    """FPN's ProposalTargetLayer: ProposalTarget and PyramidRegions; it does not read the image."""

    bottoms: ClassVar[Arity] = exactly(3)
    tops: ClassVar[Arity] = exactly(PYRAMID_TARGETS)


def _pyramid_target(rows: int) -> Maker:
    """Return the maker of FPN's targets, with so many rows for each level, or 0."""

    def make(layer: Python, settings: Settings) -> Layer:
        classes = settings.integer("num_classes")
        target = ProposalTarget(num_classes=classes, batch_size=PYRAMID_BATCH, bg_thresh_lo=0.0)
        tops = tuple(f"$t{i}" for i in range(PYRAMID_TARGETS))
        regions = PyramidRegions(rows=rows, top=tops)
        between = tuple(f".{i}" for i in range(5))
        return PyramidTarget(
            (
                Part("target", target, ("$b0", "$b1"), between),
                Part("regions", regions, between, tops),
            )
        )

    return make


def _pyramid_regions(rows: int) -> Maker:
    def make(layer: Python, settings: Settings) -> Layer:
        return PyramidRegions(rows=rows, top=layer.top)

    return make


def _ssh_proposal(layer: Python, settings: Settings) -> Layer:
    # For testing it leaves boxes that overlap to a program, which has those of several maps.
    train = layer.phase is Phase.TRAIN
    return Proposal(
        feat_stride=settings.integer("feat_stride"),
        base_size=settings.integer("base_size", SQUARE),
        **_shapes(settings),
        min_size=4 if train else 0,
        pre_nms_topn=1000,
        post_nms_topn=300 if train else 0,
        nms_thresh=0.3 if train else 1.0,
        top=layer.top,
    )


def _ssh_anchor_target(layer: Python, settings: Settings) -> Layer:
    return AnchorTarget(
        feat_stride=settings.integer("feat_stride"),
        base_size=settings.integer("base_size", SQUARE),
        **_shapes(settings),
        allowed_border=settings.integer("allowed_border", 0),
        fg_fraction=0.25,
        positive_overlap=settings.number("positive_overlap", 0.5),
        each_truth=False,
    )


def _text_proposal(layer: Python, settings: Settings) -> Layer:
    return TextProposal(feat_stride=settings.integer("feat_stride"))


@dataclass(frozen=True)
class PythonData(Reader):
    """The tops of a Python class that reads data: netc knows their shapes, and reads none.

    A net with it can be looked at and timed. `remark` says what was assumed. No shapes are known
    where the class's code has them.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    remark: str = ""
    names: tuple[str, ...] = ()
    code: str = ""

    type: ClassVar[str] = "Python"
    tops: ClassVar[Arity] = at_least(1)

    def check(self) -> None:
        if len(self.top) != len(self.names):
            raise Refusal(
                f"{self.code} has another number of tops",
                expected=f"{len(self.names)} tops: {', '.join(self.names)}",
                got=f"{len(self.top)}: {', '.join(self.top)}",
                setting="top",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature(bottoms)


def _data(
    layer: Python, names: tuple[str, ...], shapes: Sequence[tuple[int, ...]], why: str
) -> Layer:
    if not why:
        shown = ", ".join(
            f"{name} {BlobType(shape)}" for name, shape in zip(layer.top, shapes, strict=False)
        )
        why = f"assumed {shown}"
    code = f"{layer.module}.{layer.layer}"
    return PythonData(top=layer.top, shapes=tuple(shapes), remark=why, names=names, code=code)


def _roi_data(layer: Python, settings: Settings) -> Layer:
    columns = 4 * settings.integer("num_classes")
    if len(layer.top) == 3 and "rois" not in layer.top:
        names: tuple[str, ...] = ("data", "im_info", "gt_boxes")
        return _data(layer, names, [(1, 3, *REGION_IMAGE), (1, 3), (TRUTH, 5)], "")
    names = ("data", "rois", "labels", "bbox_targets", "bbox_inside_weights",
             "bbox_outside_weights")  # fmt: skip
    shapes = [(2, 3, *REGION_IMAGE), (REGIONS, 5), (REGIONS, 1, 1, 1)] + [(REGIONS, columns)] * 3
    if len(layer.top) == 3:
        names, shapes = names[:3], shapes[:3]
    elif len(layer.top) == 5:  # the first version of Fast R-CNN has one kind of weights
        names, shapes = (*names[:4], "bbox_loss_weights"), shapes[:5]
    return _data(layer, names, shapes, "")


def _images(height: int, width: int, **channels: int) -> Maker:
    """Return the maker for a class whose tops are one image and one label for each pixel."""

    def make(layer: Python, settings: Settings) -> Layer:
        settings.ignore("voc_dir", "sbdd_dir", "siftflow_dir", "context_dir", "nyud_dir")
        settings.ignore("seed", "split", "mean", "randomize")
        shapes = [(1, count, height, width) for count in channels.values()]
        return _data(layer, tuple(channels), shapes, "")

    return make


def _nyud(layer: Python, settings: Settings) -> Layer:
    channels = {"color": 3, "depth": 1, "hha": 3, "label": 1}
    tops = settings.words("tops")
    for name in tops:
        if name not in channels:
            raise Refusal(
                f"param_str: there is no image '{name}' in NYUDv2",
                expected=f"of {', '.join(channels)}",
                got=name,
                hint=nearest(name, channels),
                setting="param_str",
            )
    return _images(425, 560, **{name: channels[name] for name in tops})(layer, settings)


def _lrcn(videos: int) -> Maker:
    """Return the maker for a reader of LRCN: 16 frames of each of some videos, frame by frame."""

    def make(layer: Python, settings: Settings) -> Layer:
        n = 16 * videos
        shapes = [(n, 3, 227, 227), (n,), (n,)]
        return _data(layer, ("data", "label", "clip_markers"), shapes, "its code tells the shapes")

    return make


def _multilabel(layer: Python, settings: Settings) -> Layer:
    settings.ignore("split", "pascal_root")
    batch = settings.integer("batch_size")
    height, width = (int(n) for n in (*settings.numbers("im_shape"), 0.0, 0.0)[:2])
    shapes = [(batch, 3, height, width), (batch, 20)]
    return _data(layer, ("data", "label"), shapes, "its settings tell the shapes")


def _for_testing(layer: Python) -> None:
    """Refuse a class of MNC that netc knows for testing only."""
    if layer.phase is Phase.TRAIN:
        raise Refusal(
            f"{layer.module}.{layer.layer} is known for testing only",
            expected="the phase TEST, or -allow_python_layers",
            got="the phase TRAIN",
            hint="for training its regions have gradients, which netc's type has not",
            setting="layer",
        )


def _mnc_proposal(layer: Python, settings: Settings) -> Layer:
    _for_testing(layer)
    settings.ignore("gradient_scale", "use_clip", "clip_base")  # of gradients
    return Proposal(feat_stride=settings.integer("feat_stride"), top=layer.top)


def _mask(layer: Python, settings: Settings) -> Layer:
    _for_testing(layer)
    return Reshape(shape=BlobShape((0, 1, MASK, MASK)))


def _best_class_boxes(layer: Python, settings: Settings) -> Layer:
    _for_testing(layer)
    settings.ignore("feat_stride", "use_clip", "clip_base", "num_classes")  # for training
    return BestClassBoxes()


def _cfm_data(layer: Python, settings: Settings) -> Layer:
    names = (
        "data", "rois", "masks", "box_label", "mask_label", "bbox_targets", "mask_targets",
        "bbox_inside_weights", "bbox_outside_weights", "mask_weight",
    )  # fmt: skip
    rows, boxes = MASKED_REGIONS, (MASKED_REGIONS, 4 * settings.integer("num_classes"))
    masks = (rows, 1, MASK, MASK)
    shapes = [
        (1, 3, *REGION_IMAGE), (rows, 5), (rows, 1, 14, 14), (rows, 1), (rows, 1), boxes, masks,
        boxes, boxes, masks,
    ]  # fmt: skip
    return _data(layer, names, shapes, "")


def _hard_regions(layer: Python, settings: Settings) -> Layer:
    settings.ignore("num_classes")  # its bottoms tell
    return HardRegions()


def _mtcnn_data(layer: Python, settings: Settings) -> Layer:
    # The code says how large images are, for each of three nets another size.
    return _data(layer, ("data", "label", "roi", "pts"), (), "its code tells the shapes")


def _known_rows(layer: Python, settings: Settings) -> Layer:
    return KnownRows()


def _known_euclidean(layer: Python, settings: Settings) -> Layer:
    return KnownEuclideanLoss()


def _euclidean(layer: Python, settings: Settings) -> Layer:
    return EuclideanLoss()


def _spatial_dropout(layer: Python, settings: Settings) -> Layer:
    ratio = settings.number("p")
    phase = settings.word("phase")
    if not 0 < ratio < 1 or phase not in Phase.__members__:
        raise Refusal(
            "param_str is not that of a SpatialDropoutLayer",
            expected="0 < p < 1, and the phase TRAIN or TEST",
            got=f"p {ratio:g}, phase {phase}",
            setting="param_str",
        )
    if Phase[phase] is Phase.TRAIN:
        return SpatialDropout(dropout_ratio=ratio, phase=Phase.TRAIN)
    # It scales in its phase TEST too, and the published weights are used with that.
    return Power(scale=1 / (1 - ratio))


def _grid_clusters(layer: Python, settings: Settings) -> Layer:
    numbers = ("gridbox_cvg_threshold", "gridbox_rect_thresh", "gridbox_rect_eps", "min_height")
    settings.name(*_GRID, *numbers, "num_classes")
    x, y, stride = (settings.integer(name) for name in _GRID)
    return GridClusters(
        x,
        y,
        stride,
        settings.integer("num_classes", 1),
        settings.number("gridbox_cvg_threshold"),
        settings.integer("gridbox_rect_thresh"),
        settings.number("gridbox_rect_eps"),
        settings.integer("min_height"),
    )


def _grid_truth(layer: Python, settings: Settings) -> Layer:
    settings.name(*_GRID, "num_classes")
    x, y, stride = (settings.integer(name) for name in _GRID)
    return GridTruth(x, y, stride, settings.integer("num_classes", 1))


def _score_detections(layer: Python, settings: Settings) -> Layer:
    return ScoreDetections()


def _judged_precision(layer: Python, settings: Settings) -> Layer:
    settings.name(*_GRID)
    settings.ignore(*_GRID)
    return JudgedPrecision()


#: (module, class) -> what stands for it.
WELL_KNOWN: dict[tuple[str, str], Maker] = {
    # py-faster-rcnn, and R-FCN and PVANet after it
    ("rpn.proposal_layer", "ProposalLayer"): _proposal,
    ("rpn.proposal_layer", "ProposalLayer2"): _proposal_and_target,
    ("rpn.anchor_target_layer", "AnchorTargetLayer"): _anchor_target,
    ("rpn.proposal_target_layer", "ProposalTargetLayer"): _proposal_target,
    ("roi_data_layer.layer", "RoIDataLayer"): _roi_data,
    # FPN of unsky, whose ProposalLayer and others have the names above
    ("rpn.as_rois", "As_roisLayer"): _pyramid_regions(PYRAMID_TOPN[Phase.TEST]),
    ("rpn.as_rois_mrcnn", "As_rois_MergeRcnnLayer"): _pyramid_regions(0),
    ("rpn.proposal_target_layer_mrcnn", "ProposalMergeRcnnTargetLayer"): _pyramid_target(0),
    # SSH
    ("SSH.layers.proposal_layer", "ProposalLayer"): _ssh_proposal,
    ("SSH.layers.anchor_target_layer", "AnchorTargetLayer"): _ssh_anchor_target,
    # CTPN
    ("layers.text_proposal_layer", "ProposalLayer"): _text_proposal,
    # MNC
    ("pylayer.proposal_layer", "ProposalLayer"): _mnc_proposal,
    ("pylayer.mask_layer", "MaskLayer"): _mask,
    ("pylayer.stage_bridge_layer", "StageBridgeLayer"): _best_class_boxes,
    ("pylayer.cfm_data_layer", "CFMDataLayer"): _cfm_data,
    # MTCNN of CongWeilin
    ("pythonLayer", "Data_Layer_train"): _mtcnn_data,
    ("pythonLayer", "cls_Layer"): _known_rows,
    ("pythonLayer", "cls_Layer_fc"): _known_rows,
    ("pythonLayer", "regression_Layer"): _known_euclidean,
    # Fast R-CNN with OHEM
    ("roi_data_layer.layer", "OHEMDataLayer"): _hard_regions,
    # FCN: the sizes are those of the largest images (VOC), or of all (NYUDv2, SIFT Flow)
    ("voc_layers", "VOCSegDataLayer"): _images(500, 500, data=3, label=1),
    ("voc_layers", "SBDDSegDataLayer"): _images(500, 500, data=3, label=1),
    ("pascalcontext_layers", "PASCALContextSegDataLayer"): _images(500, 500, data=3, label=1),
    ("siftflow_layers", "SIFTFlowSegDataLayer"): _images(256, 256, data=3, sem=1, geo=1),
    ("nyud_layers", "NYUDSegDataLayer"): _nyud,
    # LRCN
    ("sequence_input_layer", "videoReadTrain_RGB"): _lrcn(24),
    ("sequence_input_layer", "videoReadTrain_flow"): _lrcn(24),
    ("sequence_input_layer", "videoReadTest_RGB"): _lrcn(3),
    ("sequence_input_layer", "videoReadTest_flow"): _lrcn(3),
    # BVLC Caffe's examples
    ("pascal_multilabel_datalayers", "PascalMultilabelDataLayerSync"): _multilabel,
    ("pyloss", "EuclideanLossLayer"): _euclidean,
    # DetectNet
    ("caffe.layers.detectnet.clustering", "ClusterDetections"): _grid_clusters,
    ("caffe.layers.detectnet.clustering", "ClusterGroundtruth"): _grid_truth,
    ("caffe.layers.detectnet.mean_ap", "ScoreDetections"): _score_detections,
    ("caffe.layers.detectnet.mean_ap", "mAP"): _judged_precision,
    # ENet
    ("spatial_dropout", "SpatialDropoutLayer"): _spatial_dropout,
}


# -- code that is allowed to run -------------------------------------------------------------------


class Blob:
    """What the code of a layer is given for a bottom, a top or a param, with pycaffe's names."""

    def __init__(self, host: CodeHost, shape: tuple[int, ...]) -> None:
        self._host = host
        self.data: Array = host.zeros(shape)
        self._diff: Array | None = None

    @property
    def diff(self) -> Array:
        """The gradient, zero until somebody sets it."""
        if self._diff is None or self._diff.shape != self.data.shape:
            self._diff = self._host.zeros(self.data.shape)
        return self._diff

    @diff.setter
    def diff(self, value: Array | None) -> None:
        self._diff = value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        found: tuple[int, ...] = tuple(self.data.shape)
        return found

    @property
    def count(self) -> int:
        """The number of values."""
        return BlobType(self.shape).count

    def _axis(self, index: int) -> int:
        return (*self.shape, 1, 1, 1, 1)[index]

    num = property(lambda self: self._axis(0), doc="The size of axis 0, 1 where there is none.")
    channels = property(lambda self: self._axis(1), doc="The size of axis 1.")
    height = property(lambda self: self._axis(2), doc="The size of axis 2.")
    width = property(lambda self: self._axis(3), doc="The size of axis 3.")

    def reshape(self, *shape: int) -> None:
        """Take another shape; the values are then zero."""
        wanted = tuple(int(n) for n in shape)
        if wanted != self.shape:
            self.data = self._host.zeros(wanted)


class Blobs(list[Blob]):
    """The params of a layer: `self.blobs.add_blob(3, 4)` in its `setup` adds one."""

    def __init__(self, host: CodeHost) -> None:
        super().__init__()
        self._host = host

    def add_blob(self, *shape: int) -> None:
        """Add a param of that shape, at zero."""
        self.append(Blob(self._host, tuple(int(n) for n in shape)))


class _Code:
    """The object of a layer's class, made at the first look at its shapes."""

    def __init__(self, host: CodeHost, text: Python) -> None:
        self.host = host
        self._text = text
        self._object: Any = None
        self._first: dict[tuple[BlobType, ...], Signature] = {}
        # In Caffe a top has the shape of the last pass until the layer changes it, which many do
        # in `setup` only.
        self._top_shapes: list[tuple[int, ...]] = [() for _ in text.top]

    def signature(self, bottoms: tuple[BlobType, ...]) -> Signature:
        """Return what the layer says of bottoms of these shapes when they are met first.

        It is not asked again: it may open the next image there.
        """
        if bottoms not in self._first:
            tops = self.tops()
            self.shape([Blob(self.host, bottom.shape) for bottom in bottoms], tops)
            self.keep_shapes(tops)
            self._first[bottoms] = Signature(
                tuple(BlobType(top.shape) for top in tops),
                tuple(ParamType(p.shape, Given(values=p.data.copy())) for p in self.params),
            )
        return self._first[bottoms]

    def tops(self) -> list[Blob]:
        """Return tops of the shapes that they had last."""
        return [Blob(self.host, shape) for shape in self._top_shapes]

    def keep_shapes(self, tops: list[Blob]) -> None:
        """Let the next tops have the shapes of these."""
        self._top_shapes = [top.shape for top in tops]

    def shape(self, bottoms: list[Blob], tops: list[Blob]) -> None:
        """Set the tops' shapes, as Caffe does before each forward pass."""
        if self._object is None:
            found = self.host.load(self._text.module, self._text.layer)
            made = found.__new__(found)
            made.param_str = made.param_str_ = self._text.param_str
            made.type, made.phase = self._text.type, self._text.phase.value
            made.blobs = Blobs(self.host)
            if found.__init__ is not object.__init__:
                # A class may have its own, which is handed the layer's message in pycaffe.
                self.host.run(made.__init__, self._text)
            self.host.run(made.setup, bottoms, tops)
            self._object = made
        self.host.run(self._object.reshape, bottoms, tops)

    @property
    def instance(self) -> Any:
        """The object, once there are shapes."""
        return self._object

    @property
    def params(self) -> list[Blob]:
        """The layer's own params."""
        found: list[Blob] = self._object.blobs
        return found

    def run(self, name: str, *arguments: object) -> None:
        """Run `forward` or `backward`."""
        self.host.run(getattr(self._object, name), *arguments)


@dataclass(frozen=True, slots=True)
class Given(Filler):
    """The values that a layer's `setup` gave a param."""

    values: Array = None

    def draw(self, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
        return xp.asarray(self.values, dtype="float32").copy()


@dataclass(frozen=True)
class PythonCode(Layer):
    """A Python layer that is allowed to run."""

    text: Python
    code: _Code = field(compare=False, repr=False)

    type: ClassVar[str] = "Python"
    bottoms: ClassVar[Arity] = at_least(0)
    tops: ClassVar[Arity] = at_least(0)
    data_dependent: ClassVar[bool] = True

    def show(self, params: Sequence[Array], diffs: Sequence[Array]) -> None:
        """Let these be the arrays of the object's own `blobs`, between passes."""
        for blob, data, diff in zip(self.code.params, params, diffs, strict=True):
            blob.data, blob.diff = data, diff

    def _blobs(self, n: int) -> list[Blob]:
        return [Blob(self.code.host, ()) for _ in range(n)]

    def infer(self, *bottoms: BlobType) -> Signature:
        return self.code.signature(bottoms)

    def _given(self, arrays: tuple[Array, ...]) -> list[Blob]:
        blobs = self._blobs(len(arrays))
        for blob, array in zip(blobs, arrays, strict=True):
            blob.data = array
        return blobs

    def _set_params(self, arrays: tuple[Array, ...]) -> None:
        for blob, array in zip(self.code.params, arrays, strict=True):
            blob.data = array
            blob.diff = None

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        tops = self._given(call.out) if call.out else self.code.tops()
        below = self._given(call.bottoms)
        self._set_params(call.params)
        self.code.shape(below, tops)
        self.code.run("forward", below, tops)
        self.code.keep_shapes(tops)
        for index, (top, out) in enumerate(zip(tops, call.out, strict=False)):
            if top.shape != out.shape:
                raise Refusal(
                    f"the layer has changed the shape of top {index}",
                    expected=f"shape {BlobType(out.shape)}, which the net was built for",
                    got=f"shape {BlobType(top.shape)}",
                    hint="the shapes of this net are fixed: give the tops their largest shape",
                )
        return tuple(top.data for top in tops)

    def is_source(self) -> bool:
        return not self.text.bottom

    def deployed(self) -> Layer | None:
        return None if any(self.text.loss_weight) else self

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            f"what {self.text.module}.{self.text.layer} does is said in Python, not in ONNX",
            hint="-outputs gives out blobs before it, which can be exported",
        )

    def backward(self, call: BackwardCall) -> Gradients:
        tops, below = self._given(call.tops), self._given(call.bottoms)
        self._set_params(call.params)
        for top, diff in zip(tops, call.top_diffs, strict=True):
            top.diff = diff.copy()
        self.code.run("backward", tops, list(call.wants_bottoms), below)
        pairs = (
            zip(below, call.wants_bottoms, strict=True),
            zip(self.code.params, call.wants_params, strict=True),
        )
        return Gradients(*(tuple(b.diff if w else None for b, w in pair) for pair in pairs))
