"""Parts of lines of text: against plain loops over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.layers.textlines import HEIGHTS, TextProposal
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer
from tests.support.lowering import check_lowering


@definition("TextProposal")
def text_boxes(layer, scores, deltas, info):
    heights = layer.height or HEIGHTS
    high, wide = info.ravel()[:2]
    found = []
    for y in range(scores.shape[2]):
        for x in range(scores.shape[3]):
            for k, h in enumerate(heights):
                top, bottom = math.trunc(7.5 - h // 2), math.trunc(7.5 + h // 2)
                tall, middle = bottom - top + 1, (top + bottom) / 2 + y * layer.feat_stride
                dy, dh = deltas[0, 2 * k : 2 * k + 2, y, x]
                size = tall * math.exp(dh)
                first = middle + dy * tall - size / 2
                left = x * layer.feat_stride
                box = [left, first, left + 15, first + size]
                box = [max(min(v, m - 1), 0) for v, m in zip(box, (wide, high) * 2, strict=True)]
                found.append((box, scores[0, len(heights) + k, y, x]))
    return found


@pytest.mark.parametrize("settings", [{}, {"height": (16, 33), "feat_stride": 8}])
def test_boxes_of_text(settings) -> None:
    layer = TextProposal(**settings)
    rng = np.random.default_rng(0)
    count = 2 * len(layer.height or HEIGHTS)
    scores, deltas = rng.random((1, count, 3, 4)), rng.normal(0, 0.3, (1, count, 3, 4))
    bottoms = [scores, deltas, np.array([[45.0, 60, 1]])]
    boxes, found = check_layer(layer, bottoms, gradient=False).tops
    want = text_boxes(layer, *bottoms)
    np.testing.assert_allclose(boxes, [box for box, _ in want], atol=1e-5)
    np.testing.assert_array_equal(found[:, 0], [score for _, score in want])
    check_lowering(layer, bottoms)


def test_maps_that_do_not_fit_are_refused() -> None:
    maps, info = BlobType((1, 20, 3, 4)), BlobType((1, 3))
    assert TextProposal().infer(maps, maps, info).tops[0].shape == (120, 4)
    with pytest.raises(Refusal, match="bottom 1 does not fit"):
        TextProposal().infer(maps, BlobType((1, 20, 3, 3)), info)
    with pytest.raises(Refusal, match="height is not positive"):
        TextProposal(height=(0,)).infer(maps, maps, info)
