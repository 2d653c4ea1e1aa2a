"""Masks of regions: against plain loops over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.layers.masks import BestClassBoxes, MaskPooling, MaskResize
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, smooth
from tests.support.lowering import check_lowering


@definition("MaskPooling")
def masked(x, masks):
    y = np.zeros_like(x)
    for n, c, i, j in np.ndindex(*x.shape):
        y[n, c, i, j] = x[n, c, i, j] * masks[n, 0, i, j]
    return y


def test_maps_times_a_mask() -> None:
    x, masks = smooth(2, 3, 4, 5), smooth(2, 1, 4, 5, seed=1)
    np.testing.assert_array_equal(check_layer(MaskPooling(), [x, masks]).tops[0], masked(x, masks))
    check_lowering(MaskPooling(), [x, masks])
    with pytest.raises(Refusal, match="masks do not fit"):
        MaskPooling().infer(BlobType((2, 3, 4, 5)), BlobType((2, 3, 4, 5)))


@definition("MaskResize")
def resized(x, height, width):
    n, c, h, w = x.shape
    y = np.zeros((n, c, height, width))
    for i in range(height):
        for j in range(width):
            a, b = min(i * h / height, h - 1), min(j * w / width, w - 1)
            top, left = math.floor(a), math.floor(b)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = a - top, b - left
            y[:, :, i, j] = (1 - a) * (1 - b) * x[:, :, top, left]
            y[:, :, i, j] += (1 - a) * b * x[:, :, top, right]
            y[:, :, i, j] += a * (1 - b) * x[:, :, bottom, left]
            y[:, :, i, j] += a * b * x[:, :, bottom, right]
    return y


@pytest.mark.parametrize("size", [(14, 14), (21, 21), (30, 25), (1, 3)])
def test_masks_of_another_size(size: tuple[int, int]) -> None:
    x, layer = smooth(2, 2, 21, 21), MaskResize(*size)
    np.testing.assert_allclose(check_layer(layer, [x]).tops[0], resized(x, *size), atol=1e-12)
    check_lowering(layer, [x])


def test_a_size_must_be_given() -> None:
    with pytest.raises(Refusal, match="output_width is not positive"):
        MaskResize(14).infer(BlobType((1, 1, 21, 21)))


@definition("BestClassBoxes")
def moved(regions, shifts, scores, info):
    rows = np.zeros((len(regions), 5))
    high, wide = info.ravel()[:2]
    for row, (_, x1, y1, x2, y2), shift, score in zip(rows, regions, shifts, scores, strict=True):
        if not (x1 or y1 or x2 or y2):
            continue
        k = max(range(len(score)), key=lambda k: (score[k], -k))
        dx, dy, dw, dh = shift[4 * k : 4 * k + 4]
        w, h = x2 - x1 + 1, y2 - y1 + 1
        x, y = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
        w, h = w * math.exp(dw), h * math.exp(dh)
        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        row[1:] = [max(min(v, m - 1), 0) for v, m in zip(box, (wide, high) * 2, strict=True)]
    return rows


def test_the_box_of_the_best_class() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 20, (6, 2))
    regions = np.concatenate([np.zeros((6, 1)), low, low + rng.uniform(4, 20, (6, 2))], axis=1)
    regions[5] = 0
    shifts, scores = rng.normal(0, 0.4, (6, 12)), rng.random((6, 3))
    scores[2] = 0.25
    bottoms = [regions, shifts, scores, np.array([[30.0, 36, 1]])]
    (rows,) = check_layer(BestClassBoxes(), bottoms, gradient=False).tops
    np.testing.assert_allclose(rows, moved(*bottoms), atol=1e-9)
    check_lowering(BestClassBoxes(), bottoms)


def test_scores_that_do_not_fit() -> None:
    with pytest.raises(Refusal, match="bottom 1"):
        BestClassBoxes().infer(*map(BlobType, [(6, 5), (6, 8), (6, 3), (1, 3)]))
