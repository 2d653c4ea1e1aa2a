"""Mean field inference against its formula, with the filters as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.crf import DenseCRF, Kernel, MultiStageMeanfield
from netc.layers.types import Layer, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, forward, infer, smooth
from tests.support.lowering import check_lowering

CRF_RNN: dict[str, Any] = {
    "num_iterations": 3,
    "theta_alpha": 4.0,
    "theta_beta": 0.8,
    "theta_gamma": 1.5,
    "spatial_filter_weight": 3.0,
    "bilateral_filter_weight": 5.0,
}


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the softmax over the first axis."""
    e = np.exp(scores - scores.max(axis=0))
    return e / e.sum(axis=0)


def matrix(kernel: Kernel, n: int) -> np.ndarray:
    """Return a kernel as a matrix (n, n)."""
    return kernel.apply(np.eye(n))


def test_the_rows_of_a_kernel_add_up_to_1() -> None:
    image = smooth(3, 5, 6)
    for kernel in (Kernel(np, (5, 6), 2.0), Kernel(np, (5, 6), 2.0, image, 0.7)):
        assert_close(kernel.apply(np.ones((1, 30))), np.ones((1, 30)), rtol=1e-9)


def test_what_looks_alike_is_near() -> None:
    # Two halves of different colours: a kernel over colours keeps to its half.
    image = np.zeros((1, 6, 8))
    image[:, :, 4:] = 100
    values = (image[0] > 0).astype(float).reshape(1, -1)
    by_color = Kernel(np, (6, 8), 3.0, image, 5.0).apply(values)
    assert_close(by_color, values, rtol=1e-6, atol=1e-6)
    by_place = Kernel(np, (6, 8), 3.0).apply(values).reshape(6, 8)
    assert 0.2 < by_place[3, 3] < 0.5 < by_place[3, 4] < 0.8


@pytest.mark.parametrize("iterations", [2, 4])
@definition("MultiStageMeanfield")
def test_crf_rnn_iterates_its_formula(iterations: int) -> None:
    layer = MultiStageMeanfield(**(CRF_RNN | {"num_iterations": iterations}))
    unary, start, image = smooth(2, 3, 4, 5), smooth(2, 3, 4, 5, seed=1), smooth(2, 3, 4, 5, seed=2)
    params = [smooth(1, 1, 3, 3, seed=i) * 0.4 for i in range(3)]
    # Gradients pass through softmaxes and products several times over.
    run = check_layer(layer, [unary, start, image], params, tolerance=1e-5)
    spatial, bilateral, fit = (p[0, 0] for p in params)
    near = matrix(Kernel(np, (4, 5), 1.5), 20)
    for n in range(2):
        alike = matrix(Kernel(np, (4, 5), 4.0, image[n], 0.8), 20)
        scores = start[n].reshape(3, 20)
        for _ in range(iterations):
            q = probabilities(scores)
            message = spatial @ (q @ near) + bilateral @ (q @ alike)
            scores = unary[n].reshape(3, 20) - fit @ message
        assert_close(run.tops[0][n], scores.reshape(3, 4, 5), rtol=1e-9, atol=1e-9)


def test_crf_rnn_starts_from_the_weights_of_the_text() -> None:
    bottoms = [np.zeros((1, 2, 3, 3))] * 2 + [np.zeros((1, 3, 3, 3))]
    params = infer(MultiStageMeanfield(**CRF_RNN), bottoms).params
    rng = np.random.default_rng(0)
    filled = [p.filler.draw(np, rng, p.shape)[0, 0] for p in params]
    for got, value in zip(filled, (3.0, 5.0, -1.0), strict=True):
        np.testing.assert_array_equal(got, value * np.eye(2))


@pytest.mark.parametrize("log", [False, True])
@definition("DenseCRF")
def test_dense_crf_iterates_its_formula(log: bool) -> None:
    layer = DenseCRF(
        max_iter=3, pos_xy_std=(1.5,), pos_w=(2.0,), bi_xy_std=(4.0, 2.0), bi_rgb_std=(0.9, 2.0),
        bi_w=(3.0, 1.0), output_probability=not log,
    )  # fmt: skip
    scores, image = smooth(2, 3, 4, 5), smooth(2, 3, 4, 5, seed=1)
    sizes = np.array([[4.0, 5], [3, 7]]).reshape(2, 1, 1, 2)
    run = check_layer(layer, [scores, sizes, image], gradient=False)
    for n, (h, w) in enumerate(((4, 5), (3, 5))):
        u = scores[n, :, :h, :w].reshape(3, -1)
        part = image[n, :, :h, :w]
        kernels = [
            (2.0, Kernel(np, (h, w), 1.5)),
            (3.0, Kernel(np, (h, w), 4.0, part, 0.9)),
            (1.0, Kernel(np, (h, w), 2.0, part, 2.0)),
        ]
        q = probabilities(u)
        for _ in range(3):
            q = probabilities(u + sum(weight * q @ matrix(k, h * w) for weight, k in kernels))
        want = np.zeros((3, 4, 5))
        want[:, :h, :w] = (np.log(q) if log else q).reshape(3, h, w)
        assert_close(run.tops[0][n], want, rtol=1e-9, atol=1e-9)


def test_dense_crf_smooths_a_segmentation() -> None:
    truth = np.zeros((12, 12))
    truth[:, 6:] = 1
    noisy = truth.copy()
    noisy[3, 2] = 1
    noisy[8, 9] = 0
    scores = np.stack([1 - noisy, noisy])[None] * 2.0
    image = np.stack([truth * 200] * 3)[None]
    layer = DenseCRF(bi_xy_std=(10.0,), bi_rgb_std=(5.0,), bi_w=(6.0,))
    sizes = np.array([12.0, 12]).reshape(1, 1, 1, 2)
    top = forward(layer, [scores, sizes, image]).tops[0]
    np.testing.assert_array_equal(top[0].argmax(axis=0), truth)


def test_positions_alone_need_no_image() -> None:
    layer = DenseCRF(pos_xy_std=(2.0,), pos_w=(1.0,))
    bottoms = [smooth(1, 2, 4, 4), np.array([4.0, 4]).reshape(1, 1, 1, 2)]
    assert forward(layer, bottoms).tops[0].shape == (1, 2, 4, 4)
    assert layer.gradient_bottoms(2) == (False, False)


S, D, I = (1, 2, 4, 5), (1, 1, 1, 2), (1, 3, 4, 5)  # noqa: E741  # scores, dimensions, image


@pytest.mark.parametrize(
    ("layer", "setting", "shapes"),
    [
        (MultiStageMeanfield(**(CRF_RNN | {"num_iterations": 1})), "num_iterations", (S, S, I)),
        (MultiStageMeanfield(**(CRF_RNN | {"theta_beta": 0.0})), "theta_beta", (S, S, I)),
        (MultiStageMeanfield(**CRF_RNN), "bottom", (S, (1, 3, 4, 5), I)),
        (MultiStageMeanfield(**CRF_RNN), "bottom", (S, S, (1, 3, 4, 4))),
        (MultiStageMeanfield(**CRF_RNN), "bottom", ((1, 2, 4), (1, 2, 4), I)),
        (DenseCRF(pos_w=(1.0,)), "pos_w", (S, D)),
        (DenseCRF(bi_w=(1.0,), bi_xy_std=(1.0,)), "bi_w", (S, D, I)),
        (DenseCRF(pos_w=(1.0,), pos_xy_std=(0.0,)), "pos_xy_std", (S, D)),
        (DenseCRF(), "bi_w", (S, D, I)),
        (DenseCRF(bi_w=(1.0,), bi_xy_std=(1.0,), bi_rgb_std=(1.0,)), "bi_w", (S, D)),
        (DenseCRF(bi_w=(1.0,), bi_xy_std=(1.0,), bi_rgb_std=(1.0,)), "bottom", (S, D, S)),
        (DenseCRF(), "bottom", (S, (1, 3))),
        (DenseCRF(max_iter=-1), "max_iter", (S, D)),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    layer: Layer, setting: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(Refusal) as caught:
        infer(layer, [np.zeros(shape) for shape in shapes])
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got != ""


def test_there_is_no_onnx_form() -> None:
    layer = DenseCRF(pos_xy_std=(2.0,), pos_w=(1.0,))
    with pytest.raises(NetcError, match="no ONNX operator"):
        check_lowering(layer, [np.zeros(S), np.zeros(D)])
