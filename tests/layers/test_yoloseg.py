"""YoloSeg, SegmentationEvaluate and AssistedExcitation: against loops over their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.data.images import opencv
from netc.layers.types import BlobType, ForwardCall, Layer, Phase, Refusal
from netc.layers.yoloseg import AssistedExcitation, SegmentationEvaluate, YoloSeg, resized_area
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering


def labelled(n: int, c: int, h: int, w: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random((n, c, h, w)) * (rng.random((n, c, h, w)) > 0.4)
    return [smooth(n, c, h, w, seed=seed), labels, labels.sum(axis=(2, 3))]


def weights(x: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    n, c, h, w = x.shape
    out = np.full(x.shape, scale)
    for k in range(c):
        area = sum(labels[i, k].sum() for i in range(n))
        rest = n * h * w - area
        factor = 0.0 if rest == 0 else 2 - area / rest
        for i, y, z in np.ndindex(n, h, w):
            if labels[i, k, y, z] > 0.5:
                out[i, k, y, z] = scale * factor
    return out


@definition("YoloSeg")
def yolo_seg(x: np.ndarray, labels: np.ndarray, scale: float) -> float:
    total = 0.0
    w = weights(x, labels, scale)
    for at in np.ndindex(x.shape):
        total += (w[at] * (1 / (1 + math.exp(-x[at])) - labels[at])) ** 2
    return total / len(x)


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (3, 4, 2, 5)])
def test_yolo_seg(shape: tuple[int, ...]) -> None:
    bottoms = labelled(*shape)
    loss = YoloSeg(object_scale=0.3)
    run = check_layer(loss, bottoms, gradient=False)
    np.testing.assert_allclose(run.tops[0], yolo_seg(*bottoms[:2], 0.3), rtol=1e-12)
    check_lowering(loss, bottoms)
    (dx, *rest) = run.backward([np.array(0.7)]).bottoms
    assert rest == [None, None]

    def entropy(x: np.ndarray) -> float:
        costs = np.logaddexp(0, x) - x * bottoms[1]
        return float((weights(x, bottoms[1], 0.3) * costs).sum() / len(x))

    x, step = bottoms[0], smooth(*shape, seed=9)
    slope = (entropy(x + 1e-5 * step) - entropy(x - 1e-5 * step)) / 2e-5
    assert (dx * step).sum() == pytest.approx(0.7 * slope, rel=1e-7)
    note("gradient", "YoloSeg")


def test_a_class_that_is_everywhere_has_no_slope() -> None:
    bottoms = [smooth(2, 2, 2, 2), np.ones((2, 2, 2, 2)), np.full((2, 2), 4.0)]
    bottoms[1][:, 1], bottoms[2][:, 1] = 0, 0
    run = check_layer(YoloSeg(), bottoms, gradient=False)
    (dx, *_) = run.backward([np.array(1.0)]).bottoms
    assert (dx[:, 0] == 0).all() and (dx[:, 1] != 0).all()
    check_lowering(YoloSeg(), bottoms)


@definition("SegmentationEvaluate")
def evaluated(x: np.ndarray, labels: np.ndarray, threshold: float) -> list[float]:
    cv2 = opencv()
    found = []
    for said, true in zip(x[0], labels[0], strict=True):
        if said.shape == true.shape:
            chosen = said > threshold
        else:
            pixels = (said * 255).astype(np.uint8)
            resized = cv2.resize(pixels, true.shape[::-1], interpolation=cv2.INTER_AREA)
            chosen = resized > int(threshold * 255)
        common = either = of_class = 0
        for at in np.ndindex(true.shape):
            of_class += true[at] > threshold
            common += chosen[at] and true[at] > threshold
            either += chosen[at] or true[at] > threshold
        nothing = -1 if said.shape != true.shape and not of_class else 0
        found.append(common / either if common else nothing)
    return found


@pytest.mark.parametrize("size", [(6, 8), (12, 16), (3, 4)])
def test_segmentation_is_judged(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.random((2, 4, 6, 8)), (rng.random((2, 4, *size)) > 0.5) * 1.0
    labels[:, 2] = 0
    x[:, 3] = 0
    judge = SegmentationEvaluate(num_classes=4, threshold=0.3)
    run = check_layer(judge, [x, labels], gradient=False)
    want = evaluated(x, labels, 0.3)
    np.testing.assert_allclose(run.tops[0].reshape(-1), want, rtol=1e-12)
    assert want[2] == (0 if size == (6, 8) else -1)


@pytest.mark.parametrize("size", [(3, 4), (2, 8), (5, 3), (12, 16), (7, 20), (6, 11), (3, 9)])
def test_sizes_change_as_in_opencv(size: tuple[int, int]) -> None:
    cv2 = opencv()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 6, 8)).astype(np.uint8)
    got = resized_area(np, pixels.astype(float), size)
    for one, out in zip(pixels, got, strict=True):
        want = cv2.resize(one, size[::-1], interpolation=cv2.INTER_AREA).astype(float)
        # OpenCV counts in fixed point where a side grows.
        assert np.abs(out - want).max() <= 1


def objects(n: int, *rows: tuple[int, float, float, float, float]) -> np.ndarray:
    """Return a list of 4 for each image: the rows of the first, those but one of the second."""
    out = np.zeros((n, 1, 4, 5))
    for image in range(n):
        for i, row in enumerate(rows[image:]):
            out[image, 0, i] = row
    return out


ROWS = ((2, 0.5, 0.5, 0.3, 0.6), (0, 0.05, 0.9, 0.2, 0.4), (1, 0.99, 0.01, 0.005, 0.001))


@definition("AssistedExcitation")
def excited(x: np.ndarray, listed: np.ndarray, mean: np.ndarray, alpha: float) -> np.ndarray:
    y = x.copy()
    n, c, h, w = x.shape
    for b in range(n):
        places = set()
        for _, cx, cy, bw, bh in listed[b, 0]:
            if cx == 0:
                break
            left, top = int((cx - bw / 2) * w), int((cy - bh / 2) * h)
            left, top = min(max(left, 0), w - 1), min(max(top, 0), h - 1)
            right, end = int((cx + bw / 2) * w + 0.95), int((cy + bh / 2) * h + 0.95)
            right, end = min(max(right, left + 1), w), min(max(end, top + 1), h)
            places |= {(i, j) for i in range(top, end) for j in range(left, right)}
        for i, j in places:
            for k in range(c):
                y[b, k, i, j] += alpha * mean[b, i, j]
    return y


@pytest.mark.parametrize(
    ("progress", "alpha"),
    [(0.0, 1.0), (0.25, math.cos(math.pi / 6)), (0.75, 0.0), (0.9, 0.0), (1.0, 0.0)],
)
def test_excitation_fades(progress: float, alpha: float) -> None:
    bottoms = (smooth(3, 2, 5, 6), objects(3, *ROWS), smooth(3, 5, 6, seed=1))
    call = ForwardCall(np, bottoms, (), (), (), lambda: np.random.default_rng(0), lambda: progress)
    (y,) = AssistedExcitation().forward(call)
    np.testing.assert_allclose(y, excited(*bottoms, alpha), atol=1e-12)
    assert np.allclose(y, bottoms[0]) == (alpha == 0)


def test_excitation_passes_gradients_on() -> None:
    bottoms = [smooth(2, 2, 3, 4), objects(2, *ROWS), smooth(2, 3, 4, seed=1)]
    check_layer(AssistedExcitation(), bottoms)
    assert AssistedExcitation().gradient_bottoms(3) == (True, False, False)


def test_nothing_is_excited_in_phase_test() -> None:
    shapes = [BlobType(s) for s in ((2, 2, 3, 4), (2, 1, 300, 5), (2, 3, 4))]
    (part,) = AssistedExcitation(phase=Phase.TEST).expand(*shapes) or ()
    x = smooth(2, 2, 3, 4)
    np.testing.assert_array_equal(forward(part.layer, [x]).tops[0], x)
    assert AssistedExcitation().expand(*shapes) is None


SCORES, EXCITED = ((2, 3, 4, 5),) * 2, ((2, 3, 4, 5), (2, 1, 300, 5))


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (YoloSeg(), ((2, 3), (2, 3), (2, 3)), "bottom"),
        (YoloSeg(), ((2, 3, 4, 5), (2, 1, 4, 5), (2, 3)), "bottom"),
        (YoloSeg(), (*SCORES, (2, 4)), "bottom"),
        (YoloSeg(), (*SCORES, (6,)), "bottom"),
        (SegmentationEvaluate(), SCORES, "num_classes"),
        (SegmentationEvaluate(num_classes=3), ((2, 3, 4, 5), (2, 4, 4, 5)), "bottom"),
        (SegmentationEvaluate(num_classes=3), ((2, 3, 4, 5), (2, 3)), "bottom"),
        (AssistedExcitation(), ((2, 3), (2, 1, 300, 5), (2, 3)), "bottom"),
        (AssistedExcitation(), ((2, 3, 4, 5), (1, 1, 4, 8), (2, 4, 5)), "bottom"),
        (AssistedExcitation(), (*EXCITED, (2, 5)), "bottom"),
    ],
)
def test_refused(layer: Layer, shapes: tuple[tuple[int, ...], ...], setting: str) -> None:
    with pytest.raises(Refusal) as error:
        layer.infer(*map(BlobType, shapes))
    assert error.value.setting == setting
    assert error.value.expected and str(error.value.got)
