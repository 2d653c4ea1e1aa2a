"""LRN across channels."""

from __future__ import annotations

from ctypes import c_int64

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Impossible, Kernel, fast, positive, same_layout
from netc.backends.cpu.onednn import Desc, primitive
from netc.layers.normalization import LRN, NormRegion
from netc.layers.types import Array, KeptType, Reads


class LrnKernel(Kernel):
    """The neighbours are channels."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, LRN)
        if layer.norm_region is not NormRegion.ACROSS_CHANNELS:
            raise Impossible("the neighbours lie within a channel")
        positive(job.bottoms[0])
        self._x, layout = same_layout(job)
        settings = (
            c_int64(layer.local_size),
            float(layer.alpha),
            float(layer.beta),
            float(layer.k),
        )
        self._forward = fast(
            primitive(
                "lrn_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                onednn.LRN_ACROSS,
                self._x,
                self._x.free(self._x.dims),
                *settings,
            ),
            "LRN",
        )
        self._y = self._forward.desc(onednn.DST_MD)
        kept: tuple[KeptType, ...] = ()
        self._workspace: Desc | None = None
        if job.train:
            self._backward = fast(
                primitive(
                    "lrn_backward",
                    onednn.LRN_ACROSS,
                    self._x,
                    self._y,
                    self._x,
                    *settings,
                    self._forward,
                ),
                "gradient of LRN",
            )
            self._workspace = self._forward.workspace()
            if self._workspace is not None:
                kept = (KeptType("workspace", (self._workspace.nbytes,), "uint8"),)
        self.terms = Terms(
            bottoms=(layout,),
            tops=(self._y.layout,),
            params=(),
            kept=kept,
            reads=Reads.BOTTOM if job.train else Reads.NOTHING,
        )

    def forward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DST: (self._y, binding.tops[0]),
        }
        return self._forward.bind(arrays | self._left(binding))

    def backward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DIFF_DST: (self._y, binding.top_diffs[0]),
            onednn.DIFF_SRC: (self._x, binding.bottom_diffs[0]),
        }
        return self._backward.bind(arrays | self._left(binding))

    def _left(self, binding: Binding) -> dict[int, tuple[Desc, Array]]:
        if self._workspace is None:
            return {}
        return {onednn.WORKSPACE: (self._workspace, binding.kept[0])}
