"""Pooling of regions: against loops over the definitions, and ONNX Runtime."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from netc.errors import NetcError
from netc.export import DEFAULT_OPSET, OLDEST_OPSET, Session, lower_layer
from netc.layers.roi import (
    NOT_RUN,
    GridParam,
    PSROIPooling,
    ROIAlign,
    ROIGridAlign,
    ROIPooling,
    ROIWarping,
)
from netc.layers.types import BlobType, Layer, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering

# Inside, across the edges, outside, of one pixel, swapped corners; half pixels to be rounded.
REGIONS = np.array(
    [
        [0, 0, 0, 40, 24],
        [1, 8, 12, 19, 27],
        [1, -20, 4, 12, 80],
        [0, 100, 100, 120, 130],
        [0, 9, 9, 9, 9],
        [1, 20, 20, 4, 4],
        [0, 4.5, 8.5, 28.5, 20.5],
    ],
    np.float64,
)


def c_round(x: float) -> int:
    return math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1)


@definition("ROIPooling")
def max_definition(x, regions, ph, pw, scale):
    y = np.zeros((len(regions), x.shape[1], ph, pw))
    for r, (n, *corners) in enumerate(regions):
        x1, y1, x2, y2 = (c_round(c * scale) for c in corners)
        h, w = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for c in range(x.shape[1]):
            for i in range(ph):
                for j in range(pw):
                    rows = range(
                        min(max(y1 + math.floor(i * h / ph), 0), x.shape[2]),
                        min(max(y1 + math.ceil((i + 1) * h / ph), 0), x.shape[2]),
                    )
                    columns = range(
                        min(max(x1 + math.floor(j * w / pw), 0), x.shape[3]),
                        min(max(x1 + math.ceil((j + 1) * w / pw), 0), x.shape[3]),
                    )
                    values = [x[int(n), c, a, b] for a in rows for b in columns]
                    y[r, c, i, j] = max(values, default=0)
    return y


@definition("PSROIPooling")
def mean_definition(x, regions, d, k, scale):
    y = np.zeros((len(regions), d, k, k))
    for r, (n, *corners) in enumerate(regions):
        x1, y1, x2, y2 = (c_round(c) for c in corners)
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        h, w = max(y2 - y1, 0.1) / k, max(x2 - x1, 0.1) / k
        for c in range(d):
            for i in range(k):
                for j in range(k):
                    rows = range(
                        max(math.floor(i * h + y1), 0),
                        min(math.ceil((i + 1) * h + y1), x.shape[2]),
                    )
                    columns = range(
                        max(math.floor(j * w + x1), 0),
                        min(math.ceil((j + 1) * w + x1), x.shape[3]),
                    )
                    channel = (c * k + i) * k + j
                    values = [x[int(n), channel, a, b] for a in rows for b in columns]
                    y[r, c, i, j] = np.mean(values) if values else 0
    return y


def bilinear(image, y, x):
    height, width = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    a, b = min(int(y), height - 1), min(int(x), width - 1)
    c, d = min(a + 1, height - 1), min(b + 1, width - 1)
    fy, fx = y - a, x - b
    return (
        image[a, b] * (1 - fy) * (1 - fx)
        + image[a, d] * (1 - fy) * fx
        + image[c, b] * fy * (1 - fx)
        + image[c, d] * fy * fx
    )


@definition("ROIAlign")
def align_definition(x, regions, layer):
    ph, pw = layer.pooled_h, layer.pooled_w
    y = np.zeros((len(regions), x.shape[1], ph, pw))
    shift = 0.5 if layer.aligned else 0
    for r, (n, *corners) in enumerate(regions):
        x1, y1, x2, y2 = (c * layer.spatial_scale - shift for c in corners)
        h, w = y2 - y1, x2 - x1
        if not layer.aligned:
            h, w = max(h, 1), max(w, 1)
        nh = layer.sampling_ratio or math.ceil(h / ph)
        nw = layer.sampling_ratio or math.ceil(w / pw)
        for c in range(x.shape[1]):
            for i in range(ph):
                for j in range(pw):
                    total = 0.0
                    for a in range(nh):
                        for b in range(nw):
                            total += bilinear(
                                x[int(n), c],
                                y1 + i * h / ph + (a + 0.5) * h / ph / nh,
                                x1 + j * w / pw + (b + 0.5) * w / pw / nw,
                            )
                    y[r, c, i, j] = total / max(nh * nw, 1)
    return y


@definition("ROIGridAlign")
def grid_definition(x, regions, layer):
    ph, pw = layer.pooled_h, layer.pooled_w
    y = np.zeros((len(regions), x.shape[1], ph + 1, pw + 1))
    for r, (n, x1, y1, x2, y2) in enumerate(regions):
        dx, dy = ((b - a + 1) * layer.pad_ratio for a, b in ((x1, x2), (y1, y2)))
        x1, y1, x2, y2 = (
            c * layer.spatial_scale - 0.5 for c in (x1 - dx, y1 - dy, x2 + dx, y2 + dy)
        )
        for c, i, j in np.ndindex(*y.shape[1:]):
            at = y1 + i * (y2 - y1) / ph, x1 + j * (x2 - x1) / pw
            inside = all(-0.5 <= a <= s - 0.5 for a, s in zip(at, x.shape[2:], strict=True))
            if x1 < x2 and y1 < y2 and inside:
                y[r, c, i, j] = bilinear(x[int(n), c], *at)
    return y


@pytest.mark.parametrize(("ph", "pw"), [(2, 2), (4, 1), (3, 5), (7, 7)])
def test_roi_pooling_is_the_maximum_of_bins(ph: int, pw: int) -> None:
    x = distinct(2, 3, 7, 11)
    layer = ROIPooling(spatial_scale=0.25, pooled_h=ph, pooled_w=pw)
    run = forward(layer, [x, REGIONS])
    np.testing.assert_array_equal(run.tops[0], max_definition(x, REGIONS, ph, pw, 0.25))


def test_roi_pooling_of_regions_with_a_margin() -> None:
    x = distinct(2, 3, 7, 11)
    layer = ROIPooling(spatial_scale=0.25, pooled_h=2, pooled_w=4, pad_ratio=0.25)
    wider = REGIONS.copy()
    for row in wider:
        width, height = row[3] - row[1] + 1, row[4] - row[2] + 1
        row[1:] += np.array([-width, -height, width, height]) / 4
    want = max_definition(x, wider, 2, 4, 0.25)
    np.testing.assert_array_equal(check_layer(layer, [x, REGIONS]).tops[0], want)
    assert (want != max_definition(x, REGIONS, 2, 4, 0.25)).any()


# Bins of sizes that are no fractions of two begin elsewhere in float32 than in float64, in Caffe
# too; in these layers all sizes are such fractions.
@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (ROIPooling(spatial_scale=0.25, pooled_h=2, pooled_w=4), 3),
        (ROIPooling(spatial_scale=0.25, pooled_size=(2,)), 1),
        (PSROIPooling(spatial_scale=0.25, output_dim=3, group_size=2), 12),
        (PSROIPooling(spatial_scale=0.25, output_dim=1, group_size=1), 1),
        (ROIAlign(spatial_scale=0.25, pooled_h=2, pooled_w=4), 2),
        (ROIAlign(spatial_scale=0.25, pooled_h=2, pooled_w=3, sampling_ratio=2), 2),
        (ROIAlign(spatial_scale=0.25, pooled_h=2, pooled_w=4, aligned=True), 2),
    ],
)
def test_rules_agree(layer: Layer, channels: int) -> None:
    check_layer(layer, [distinct(2, channels, 7, 11), REGIONS])


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_psroi_pooling_is_the_mean_of_bins(k: int) -> None:
    x = distinct(2, 2 * k * k, 7, 11)
    layer = PSROIPooling(spatial_scale=0.25, output_dim=2, group_size=k)
    run = forward(layer, [x, REGIONS])
    want = mean_definition(x, REGIONS, 2, k, 0.25)
    np.testing.assert_allclose(run.tops[0], want, atol=1e-12)  # another order of summation


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_roi_align_is_the_mean_of_samples(ratio: int, aligned: bool) -> None:
    x = distinct(2, 2, 7, 11)
    layer = ROIAlign(
        spatial_scale=0.3, pooled_h=2, pooled_w=3, sampling_ratio=ratio, aligned=aligned
    )
    regions = REGIONS[[0, 1, 2, 3, 4, 6]] if aligned else REGIONS
    run = forward(layer, [x, regions])
    np.testing.assert_allclose(run.tops[0], align_definition(x, regions, layer), atol=1e-12)


@pytest.mark.parametrize(("size", "pad"), [((2, 3), 0.0), ((1, 4), 0.25)])
def test_samples_at_the_corners_of_bins(size: tuple[int, int], pad: float) -> None:
    x = distinct(2, 2, 7, 11)
    layer = ROIGridAlign(0.3, *size, pad_ratio=pad)
    run = check_layer(layer, [x, REGIONS])
    np.testing.assert_allclose(run.tops[0], grid_definition(x, REGIONS, layer), atol=1e-12)
    # The rest is behind the border of the maps, and float32 may take another side of it.
    assert check_lowering(ROIGridAlign(0.25, *size, pad_ratio=pad), [x, REGIONS])


def test_the_text_tells_which_samples_are_meant() -> None:
    grid = GridParam(7, 6, 0.25, 0.5)
    assert ROIAlign(roi_pooling_param=grid).resolve(None) == ROIGridAlign(0.25, 7, 6, 0.5)
    plain = ROIAlign(pooled_h=7, pooled_w=7)
    assert plain.resolve(None) is plain
    with pytest.raises(Refusal, match="exclude each other"):
        replace(plain, roi_pooling_param=grid).resolve(None)
    with pytest.raises(Refusal, match="pooled_w is missing"):
        ROIGridAlign(pooled_h=2).infer(BlobType((1, 3, 4, 4)), BlobType((2, 5)))


def test_the_first_of_equal_maxima_takes_the_gradient() -> None:
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 0, 2] = x[0, 0, 2, 0] = 5
    run = forward(ROIPooling(pooled_h=1, pooled_w=1), [x, np.array([[0, 0, 0, 2, 2.0]])])
    [dx, _] = run.backward([np.ones((1, 1, 1, 1))]).bottoms
    assert dx[0, 0, 0, 2] == 1 and dx.sum() == 1


def test_regions_of_one_image_add_their_gradients() -> None:
    region = [[0, 0, 0, 1, 1.0]] * 3
    run = forward(ROIPooling(pooled_h=1, pooled_w=1), [distinct(1, 1, 2, 2), np.array(region)])
    [dx, _] = run.backward([np.ones((3, 1, 1, 1))]).bottoms
    assert dx.max() == 3 and dx.sum() == 3


def test_regions_may_have_trailing_axes() -> None:
    layer = PSROIPooling(spatial_scale=0.25, output_dim=1, group_size=2)
    x = distinct(2, 4, 7, 11)
    flat = forward(layer, [x, REGIONS]).tops[0]
    np.testing.assert_array_equal(forward(layer, [x, REGIONS[..., None, None]]).tops[0], flat)
    assert check_lowering(layer, [x, REGIONS[..., None, None]])


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (ROIPooling(spatial_scale=0.25, pooled_h=2, pooled_w=4), "MaxRoiPool"),
        (ROIPooling(spatial_scale=0.25, pooled_h=2, pooled_w=4, pad_ratio=0.25), "MaxRoiPool"),
        (ROIAlign(spatial_scale=0.25, pooled_h=2, pooled_w=3), "RoiAlign"),
        (ROIAlign(spatial_scale=0.25, pooled_h=2, pooled_w=3, sampling_ratio=2), "RoiAlign"),
    ],
)
def test_operators_of_onnx(layer: Layer, operator: str) -> None:
    x, regions = distinct(2, 3, 7, 11).astype(np.float32), REGIONS.astype(np.float32)
    want = forward(layer, [x, regions]).tops[0]
    shapes = [BlobType(x.shape), BlobType(regions.shape)]
    for opset in sorted({OLDEST_OPSET, min(DEFAULT_OPSET, NOT_RUN - 1), NOT_RUN - 1}):
        model = lower_layer(layer, shapes, [], opset=opset)
        assert operator in [node.op_type for node in model.graph.node]
        names = [i.name for i in model.graph.input]
        got = Session(model, threads=1).run(dict(zip(names, (x, regions), strict=True)))
        # Samples are summed in another order.
        np.testing.assert_allclose(got["top0"], want, atol=1e-6)
    note("onnx", layer.type)
    with pytest.raises(NetcError, match=f"has no {operator} of opset 22"):
        lower_layer(layer, shapes, [], opset=NOT_RUN)


def test_bins_of_any_size_are_those_of_onnx() -> None:
    """Where 7 bins of a region begin depends on how float32 rounds: here as there."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 38, 50)).astype(np.float32)
    corners = np.sort(rng.uniform(0, 800, (400, 2, 2)), axis=1).reshape(400, 4)
    regions = np.concatenate([np.zeros((400, 1)), corners], axis=1).astype(np.float32)
    layer = ROIPooling(spatial_scale=0.0625, pooled_h=7, pooled_w=6)
    model = lower_layer(layer, [BlobType(x.shape), BlobType(regions.shape)], [], opset=13)
    names = [i.name for i in model.graph.input]
    got = Session(model, threads=1).run(dict(zip(names, (x, regions), strict=True)))
    np.testing.assert_array_equal(got["top0"], forward(layer, [x, regions]).tops[0])


def test_aligned_regions_in_onnx() -> None:
    layer = ROIAlign(spatial_scale=0.25, pooled_h=2, pooled_w=2, aligned=True)
    x, regions = distinct(2, 3, 7, 11).astype(np.float32), REGIONS[[0, 1, 2, 4]].astype(np.float32)
    shapes = [BlobType(x.shape), BlobType(regions.shape)]
    with pytest.raises(NetcError, match="knows no aligned regions"):
        lower_layer(layer, shapes, [], opset=15)
    model = lower_layer(layer, shapes, [], opset=16)
    names = [i.name for i in model.graph.input]
    got = Session(model, threads=1).run(dict(zip(names, (x, regions), strict=True)))
    np.testing.assert_allclose(got["top0"], forward(layer, [x, regions]).tops[0], atol=1e-6)


@pytest.mark.parametrize("operator", ["MaxRoiPool", "RoiAlign"])
def test_onnx_runtime_still_lacks_the_newest_operators(operator: str) -> None:
    """Should this fail, the refusal in `lower` has had its day."""
    if operator == "MaxRoiPool":
        node = helper.make_node(operator, ["x", "r"], ["y"], pooled_shape=[1, 1])
    else:
        node = helper.make_node(operator, ["x", "c", "n"], ["y"])
    inputs = {"x": [1, 1, 2, 2], "r": [1, 5], "c": [1, 4]}
    graph = helper.make_graph(
        [node],
        "g",
        [
            *(helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()),
            helper.make_tensor_value_info("n", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", NOT_RUN)], ir_version=10
    )
    with pytest.raises(NetcError, match="does not accept the model"):
        Session(model, threads=1)


@pytest.mark.parametrize("k", [1, 3])
def test_psroi_pooling_in_onnx(k: int) -> None:
    layer = PSROIPooling(spatial_scale=0.25, output_dim=2, group_size=k)
    check_lowering(layer, [distinct(2, 2 * k * k, 7, 11), REGIONS])


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_region_is_pooled(data: st.DataObject) -> None:
    """Bins of sizes in powers of two are the same in every precision."""
    n, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    h, w = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    k = data.draw(st.sampled_from([1, 2, 4]))
    value = st.integers(-40, 80).map(lambda q: q / 2)
    count = data.draw(st.integers(1, 4))
    rows = [
        [data.draw(st.integers(0, n - 1)), *(data.draw(value) for _ in range(4))]
        for _ in range(count)
    ]
    regions = np.array(rows, np.float64)
    x = distinct(n, channels * k * k, h, w)
    check_layer(ROIPooling(spatial_scale=0.25, pooled_h=k, pooled_w=2), [x, regions])
    layer = PSROIPooling(spatial_scale=0.25, output_dim=channels, group_size=k)
    run = check_layer(layer, [x, regions])
    np.testing.assert_allclose(
        run.tops[0], mean_definition(x, regions, channels, k, 0.25), atol=1e-12
    )


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (ROIPooling(1.0, 2, 2, pad_ratio=-0.5), ((1, 3, 4, 4), (2, 5)), "pad_ratio"),
        (ROIPooling(), ((1, 3, 4, 4), (2, 5)), "pooled_h"),
        (ROIPooling(pooled_h=2), ((1, 3, 4, 4), (2, 5)), "pooled_w"),
        (ROIPooling(pooled_h=2, pooled_w=2), ((1, 3, 4), (2, 5)), "bottom"),
        (ROIPooling(pooled_h=2, pooled_w=2), ((1, 3, 4, 4), (2, 4)), "bottom"),
        (ROIPooling(pooled_h=2, pooled_size=(2,)), ((1, 3, 4, 4), (2, 5)), "pooled_size"),
        (ROIPooling(pooled_size=(2, 3, 4)), ((1, 3, 4, 4), (2, 5)), "pooled_size"),
        (ROIPooling(pooled_size=(2,), spatial_scale=0), ((1, 3, 4, 4), (2, 5)), "spatial_scale"),
        (PSROIPooling(output_dim=2), ((1, 3, 4, 4), (2, 5)), "group_size"),
        (PSROIPooling(output_dim=2, group_size=3), ((1, 9, 4, 4), (2, 5)), "output_dim"),
        (ROIAlign(pooled_h=2), ((1, 3, 4, 4), (2, 5)), "pooled_w"),
        (
            ROIAlign(pooled_h=2, pooled_w=2, sampling_ratio=-1),
            ((1, 3, 4, 4), (2, 5)),
            "sampling_ratio",
        ),
    ],
)
def test_refused(layer: Layer, shapes: tuple[tuple[int, ...], ...], setting: str) -> None:
    with pytest.raises(Refusal) as error:
        layer.infer(*map(BlobType, shapes))
    assert error.value.setting == setting
    assert error.value.expected and error.value.got


@pytest.mark.parametrize("image", [2, -1, math.nan])
def test_a_region_of_an_image_that_is_not_there_is_refused(image: float) -> None:
    regions = REGIONS.copy()
    regions[3, 0] = image
    for layer in (ROIPooling(pooled_size=(1,)), PSROIPooling(1.0, 1, 1)):
        with pytest.raises(Refusal, match="image that the batch does not have") as error:
            forward(layer, [distinct(2, 1, 7, 11), regions])
        assert "in region 3" in error.value.got


@definition("ROIWarping")
def warped(layer: ROIWarping, x: np.ndarray, regions: np.ndarray) -> np.ndarray:
    y = np.zeros((len(regions), x.shape[1], layer.pooled_h, layer.pooled_w))
    height, width = x.shape[2:]

    def rounded(value: float) -> float:
        return math.floor(value * layer.spatial_scale + 0.5)

    for r, (image, x1, y1, x2, y2) in enumerate(regions):
        left, top = rounded(x1), rounded(y1)
        wide, high = max(rounded(x2) - left, 0), max(rounded(y2) - top, 0)
        for i, j in np.ndindex(layer.pooled_h, layer.pooled_w):
            a, b = top + i * high / layer.pooled_h, left + j * wide / layer.pooled_w
            if not (-0.5 <= a <= height - 0.5 and -0.5 <= b <= width - 0.5):
                continue
            a, b = min(max(a, 0), height - 1), min(max(b, 0), width - 1)
            for row in range(height):
                for column in range(width):
                    weight = max(1 - abs(a - row), 0) * max(1 - abs(b - column), 0)
                    y[r, :, i, j] += weight * x[int(image), :, row, column]
    return y


def test_warped_regions() -> None:
    layer = ROIWarping(0.5, 3, 4)
    x = smooth(2, 3, 6, 7)
    regions = np.array(
        [[0, 1, 1, 9, 8], [1, 0, 3, 11, 5.2], [0, 4, 4, 4, 4], [1, 6, 2, 30, 26], [0, 9, 9, 2, 3.0]]
    )
    (y,) = check_layer(layer, [x, regions]).tops
    np.testing.assert_allclose(y, warped(layer, x, regions), atol=1e-12)
    assert (y[3] == 0).any() and y[4].any()
    check_lowering(layer, [x, regions])
