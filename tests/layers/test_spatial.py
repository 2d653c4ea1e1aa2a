from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.export import Session, lower_layer
from netc.layers.spatial import SpatialTransformer
from netc.layers.types import BlobType, ForwardCall, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import assert_close, check_layer, forward, smooth
from tests.support.nets import executor_of, graph_of, set_inputs

IDENTITY = np.array([1.0, 0, 0, 0, 1, 0])


@definition("SpatialTransformer")
def slow_transform(u: np.ndarray, theta: np.ndarray, height: int, width: int) -> np.ndarray:
    """One pixel at a time, over all pixels of the image with the weights of a tent."""
    n, channels, h, w = u.shape
    y = np.zeros((n, channels, height, width))
    for item, i, j in np.ndindex(n, height, width):
        a = theta[item].reshape(2, 3) @ [2 * i / height - 1, 2 * j / width - 1, 1]
        r, c = (a[0] + 1) / 2 * h, (a[1] + 1) / 2 * w
        for row, column in np.ndindex(h, w):
            weight = max(0, 1 - abs(r - row)) * max(0, 1 - abs(c - column))
            y[item, :, i, j] += weight * u[item, :, row, column]
    return y


def near_identity(n: int, seed: int) -> np.ndarray:
    """Return maps that look at most of an image, and a little beyond its edges.

    No place is a pixel: there the slope jumps.
    """
    return IDENTITY + np.random.default_rng(seed).uniform(-0.4, 0.4, (n, 6))


@settings(max_examples=25)
@given(
    n=st.integers(1, 2),
    channels=st.integers(0, 2),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    out=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_definition_and_gradient(
    n: int, channels: int, size: tuple[int, int], out: tuple[int, int], seed: int
) -> None:
    u, theta = smooth(n, channels, *size), near_identity(n, seed)
    layer = SpatialTransformer(output_H=out[0], output_W=out[1])
    # A place within a step of a pixel is a kink; such a draw is rare and not interesting.
    places = layer._places(ForwardCall(np, (u, theta), (), (), (), lambda: None))[1]
    gradient = bool((abs(places - places.round()) > 1e-3).all())
    run = check_layer(layer, [u, theta], gradient=gradient)
    np.testing.assert_allclose(run.tops[0], slow_transform(u, theta, *out), rtol=1e-9, atol=1e-9)


def test_the_identity_gives_every_pixel_back() -> None:
    u = smooth(2, 3, 5, 7)
    run = forward(SpatialTransformer(), [u, np.stack([IDENTITY] * 2)])
    np.testing.assert_allclose(run.tops[0], u, atol=1e-12)


def test_a_shift_by_whole_pixels() -> None:
    u = smooth(1, 1, 4, 4)
    down_and_left = IDENTITY + np.array([0, 0, 2 / 4, 0, 0, -2 / 4])
    y = forward(SpatialTransformer(), [u, down_and_left[None]]).tops[0]
    want = np.zeros_like(u)
    want[:, :, :-1, 1:] = u[:, :, 1:, :-1]
    np.testing.assert_allclose(y, want, atol=1e-12)


def test_fixed_entries_are_not_in_the_bottom() -> None:
    u, theta = smooth(2, 2, 4, 5), near_identity(2, 3)
    theta[:, 1], theta[:, 3] = 0.0, 0.25
    layer = SpatialTransformer(theta_1_2=0.0, theta_2_1=0.25)
    free = theta[:, [0, 2, 4, 5]]
    run = check_layer(layer, [u, free])
    np.testing.assert_allclose(run.tops[0], forward(SpatialTransformer(), [u, theta]).tops[0])


def test_the_gradient_of_the_image_can_be_left_out() -> None:
    layer = SpatialTransformer(to_compute_dU=False)
    assert layer.gradient_bottoms(2) == (False, True)
    check_layer(layer, [smooth(1, 2, 3, 3), near_identity(1, 0)])


def test_places_far_outside_and_nan_are_black() -> None:
    theta = np.stack([IDENTITY + np.array([0, 0, 1e30, 0, 0, 0]), IDENTITY * math.nan])
    with np.errstate(invalid="ignore"):
        run = forward(SpatialTransformer(), [smooth(2, 1, 2, 2), theta])
    assert not np.nan_to_num(run.tops[0]).any()


@pytest.mark.parametrize("opset", [16, 17, 20])
@pytest.mark.parametrize("batch", ["", "dynamic"])
@pytest.mark.parametrize(
    "layer",
    [
        SpatialTransformer(),
        SpatialTransformer(output_H=3, output_W=6),
        SpatialTransformer(theta_1_2=0.1, theta_2_1=-0.2),
    ],
)
def test_onnx(layer: SpatialTransformer, batch: str, opset: int) -> None:
    u, theta = smooth(2, 3, 5, 4), near_identity(2, 1)[:, : layer._fixed.count(None)]
    shapes = [BlobType(u.shape), BlobType(theta.shape)]
    more = {"batch": batch} if batch else {}
    model = lower_layer(layer, shapes, [], opset=opset, **more)
    session = Session(model, threads=1)
    values = [a.astype(np.float32) for a in (u, theta)]
    given = dict(zip([i.name for i in model.graph.input], values, strict=True))
    assert_close(session.run(given)["top0"], forward(layer, values).tops[0])
    assert "GridSample" in [node.op_type for node in model.graph.node]
    note("onnx", "SpatialTransformer")


def test_onnx_of_an_old_opset_lacks_the_operator() -> None:
    with pytest.raises(Exception, match="GridSample"):
        lower_layer(SpatialTransformer(), [BlobType((1, 1, 2, 2)), BlobType((1, 6))], [], opset=13)


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (SpatialTransformer("projective"), [(1, 1, 2, 2), (1, 6)], "transform_type"),
        (SpatialTransformer(sampler_type="nearest"), [(1, 1, 2, 2), (1, 6)], "sampler_type"),
        (SpatialTransformer(), [(1, 1, 2), (1, 6)], ""),
        (SpatialTransformer(), [(1, 1, 2, 0), (1, 6)], ""),
        (SpatialTransformer(), [(1, 1, 2, 2), (1, 5)], ""),
        (SpatialTransformer(), [(2, 1, 2, 2), (1, 12)], ""),
        (SpatialTransformer(theta_1_1=1.0), [(1, 1, 2, 2), (1, 6)], ""),
        (SpatialTransformer(output_H=0), [(1, 1, 2, 2), (1, 6)], "output_H"),
        (SpatialTransformer(output_W=-1), [(1, 1, 2, 2), (1, 6)], "output_W"),
    ],
)
def test_refuses(layer: SpatialTransformer, shapes: list[tuple[int, ...]], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


def test_from_text() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x"
              input_param { shape { dim: 2 dim: 1 dim: 4 dim: 4 } } }
            layer { name: "theta" type: "InnerProduct" bottom: "x" top: "theta"
              inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
            layer { name: "st" type: "SpatialTransformer" bottom: "x" bottom: "theta" top: "st"
              st_param { output_H: 3 output_W: 2 theta_1_2: 0 theta_2_1: 0 } }
            layer { name: "y" type: "Input" top: "y"
              input_param { shape { dim: 2 dim: 1 dim: 3 dim: 2 } } }
            layer { name: "loss" type: "EuclideanLoss" bottom: "st" bottom: "y" top: "loss" }
            """
        )
    )
    set_inputs(net)
    net.forward()
    net.backward()
    assert all(d.any() for d in net.param_diffs)
