"""Regions that may be parts of a line of text: narrow anchors of several heights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.proposal import check_info, check_one_image, check_positive, lower_info
from netc.layers.registry import layer
from netc.layers.roi import check_maps
from netc.layers.types import (
    Arity,
    Array,
    BlobType,
    ForwardCall,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)

#: The heights of CTPN's anchors; their width is that of a position.
HEIGHTS = (11, 16, 23, 33, 48, 68, 97, 139, 198, 283)

# The anchors are made around a square of this size, whatever the stride.
SQUARE = 16


@layer("TextProposal", "text_proposal_param")
@dataclass(frozen=True)
class TextProposal(Layer):
    """The parts of lines of text that anchors become when moved up or down and made taller.

    Shapes: probabilities (1, 2A, H, W), the second half those of text; shifts (1, 2A, H, W), for
    each anchor (dy, dh); (height, width, scale) of the image (1, 3) -> boxes (H W A, 4) as x1, y1,
    x2, y2, and their probabilities (H W A, 1), row by row, then by anchor. None are left out.

    An anchor of height h reaches from 7.5 - h // 2 to 7.5 + h // 2, both cut towards zero, and over
    the 16 pixels of its position. With y the middle of its first and last pixel and h from one to
    the other inclusive, the box is h exp(dh) high and begins half of that above y + h dy. Boxes are
    clipped to the image. No gradient.

    Source: Z. Tian et al., "Detecting Text in Natural Image with Connectionist Text Proposal
    Network", 2016, and its code.
    """

    feat_stride: int = 16
    height: tuple[int, ...] = ()

    bottoms: ClassVar[Arity] = exactly(3)
    tops: ClassVar[Arity] = exactly(2)
    stops_gradients: ClassVar[bool] = True

    @property
    def _heights(self) -> tuple[int, ...]:
        return self.height or HEIGHTS

    @property
    def _anchors(self) -> list[tuple[int, int, int, int]]:
        """The anchors around the first position."""
        middle, half = (SQUARE - 1) / 2, SQUARE // 2
        x = (int(middle - half), int(middle + half))
        return [(x[0], int(middle - h // 2), x[1], int(middle + h // 2)) for h in self._heights]

    def infer(self, *bottoms: BlobType) -> Signature:
        scores, deltas, info = bottoms
        check_positive(self, "feat_stride", "height")
        channels = 2 * len(self._heights)
        for index, blob in enumerate((scores, deltas)):
            check_maps(blob, f"bottom {index}")
            check_one_image(blob)
            if blob.shape != (1, channels, *scores.shape[2:]):
                raise Refusal(
                    f"bottom {index} does not fit the anchors",
                    expected=f"shape {BlobType((1, channels, *scores.shape[2:]))}: two channels "
                    f"for each of {len(self._heights)} heights",
                    got=f"shape {blob}",
                    setting="height" if self.height else "bottom",
                )
        check_info(info, 2)
        count = scores.span(2) * len(self._heights)
        return Signature((BlobType((count, 4)), BlobType((count, 1))))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def _grid(self, call: ForwardCall | OnnxBuilder, height: int, width: int) -> Array:
        """Return the anchors of all positions, (height * width * anchors, 4), row by row."""
        xp = call.xp
        y, x = xp.arange(height) * self.feat_stride, xp.arange(width) * self.feat_stride
        y, x = xp.broadcast_to(y[:, None], (height, width)), xp.broadcast_to(x, (height, width))
        shifts = xp.stack([x, y, x, y], axis=2)[:, :, None, :]
        return (xp.asarray(self._anchors) + shifts).reshape(-1, 4).astype("float32")

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (scores, deltas, info) = call.xp, call.bottoms
        count, (height, width) = len(self._heights), scores.shape[2:]
        scores = scores[0, count:].transpose(1, 2, 0).reshape(-1, 1)
        deltas = deltas[0].reshape(count, 2, height, width).transpose(2, 3, 0, 1).reshape(-1, 2)
        anchors = self._grid(call, height, width).astype(deltas.dtype)
        tall = anchors[:, 3] - anchors[:, 1] + 1
        size = xp.exp(deltas[:, 1]) * tall
        low = deltas[:, 0] * tall + (anchors[:, 1] + anchors[:, 3]) / 2 - size / 2
        boxes = xp.stack([anchors[:, 0], low, anchors[:, 2], low + size], axis=1)
        high, wide = info.reshape(-1)[0], info.reshape(-1)[1]
        limit = xp.stack([wide, high, wide, high]) - 1
        return xp.maximum(xp.minimum(boxes, limit), 0), scores

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        scores, deltas, info = bottoms
        count, (height, width) = len(self._heights), scores.shape[2:]
        total = height * width * count
        _, scores = g.op("Split", scores, g.constant([count] * 2, "int64"), outputs=2, axis=1)
        scores = g.reshape(g.op("Transpose", scores, perm=[0, 2, 3, 1]), (total, 1))
        deltas = g.reshape(deltas, (count, 2, height, width))
        deltas = g.reshape(g.op("Transpose", deltas, perm=[2, 3, 0, 1]), (total, 2))
        shift, growth = g.op("Split", deltas, g.constant([1, 1], "int64"), outputs=2, axis=1)
        anchors = self._grid(g, height, width)
        tall = anchors[:, 3:] - anchors[:, 1:2] + 1
        size = g.op("Mul", g.op("Exp", growth), g.constant(tall))
        middle = g.constant((anchors[:, 1:2] + anchors[:, 3:]) / 2)
        middle = g.op("Add", g.op("Mul", shift, g.constant(tall)), middle)
        low = g.op("Sub", middle, g.op("Div", size, g.constant(2.0)))
        edges = (g.constant(anchors[:, k : k + 1]) for k in (0, 2))
        left, right = edges
        boxes = g.op("Concat", left, low, right, g.op("Add", low, size), axis=1)
        limit = g.op("Gather", lower_info(g, info), g.constant([1, 0, 1, 0], "int64"), axis=0)
        limit = g.op("Sub", limit, g.constant(1.0))
        return g.op("Max", g.op("Min", boxes, limit), g.constant(0.0)), scores
