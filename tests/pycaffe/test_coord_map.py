"""Maps between the coordinates of blobs, against where a single pixel really ends up."""

from __future__ import annotations

import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.errors import NetcError
from netc.pycaffe import coord_map
from netc.pycaffe import layers as L
from netc.pycaffe import params as P
from netc.pycaffe.coord_map import compose, coord_map_from_to, crop, inverse
from netc.pycaffe.net_spec import Top


def fcn(
    kernel: object = 3, stride: object = 1, pad: object = 0, pool: int = 2, up: object = 2,
    up_pad: int = 0,
) -> caffe.NetSpec:  # fmt: skip
    """A convolution, a pooling, and a deconvolution that makes up for it."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=2, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool)
    size = [2 * s for s in up] if isinstance(up, list) else 2 * up
    n.up = L.Deconvolution(n.pool, num_output=2, kernel_size=size, stride=up, pad=up_pad)
    return n


def told(top: Top, other: Top) -> tuple[object, list[float], list[float]]:
    axis, scale, shift = coord_map_from_to(top, other)
    return axis, scale.tolist(), shift.tolist()


def test_what_is_enlarged_as_much_as_it_was_reduced() -> None:
    n = fcn()
    assert told(n.up, n.data) == (1, [1], [0])
    n = fcn(pool=4, up=4)
    assert told(n.up, n.data) == (1, [1], [-1])
    n = fcn(pool=3)
    assert told(n.up, n.data)[1] == [1.5]


def test_padding_moves() -> None:
    for pad in (0, 1, 7):
        n = fcn(pad=pad)
        assert told(n.up, n.data) == (1, [1], [-pad])
        n = fcn(up_pad=pad)
        assert told(n.up, n.data) == (1, [1], [pad])
        n = fcn(pad=pad, up_pad=pad)
        assert told(n.up, n.data) == (1, [1], [0])


def test_each_axis_has_its_own() -> None:
    both, one, other = fcn([3, 5], [1, 2], [0, 10]), fcn(3, 1, 0), fcn(5, 2, 10)
    axis, scale, shift = told(both.up, both.data)
    ones, others = told(one.up, one.data), told(other.up, other.data)
    assert axis == 1
    assert scale == ones[1] + others[1] and shift == ones[2] + others[2]
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, 30, 30]))
    n.conv = L.Convolution(n.data, num_output=1, kernel_h=3, kernel_w=5, stride_h=1, stride_w=2,
                           pad_h=0, pad_w=10)  # fmt: skip
    three = caffe.NetSpec()
    three.data = n.data
    three.conv = L.Convolution(n.data, num_output=1, kernel_size=[3, 5], stride=[1, 2], pad=[0, 10])
    assert told(n.conv, n.data) == told(three.conv, n.data)


def test_three_spatial_axes() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 100, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=[3, 3, 3], pad=[0, 1, 2])
    n.pool = L.Pooling(n.conv, kernel_size=2, stride=2)
    n.up = L.Deconvolution(n.pool, num_output=10, kernel_size=4, stride=2)
    assert told(n.up, n.data) == (1, [1, 1, 1], [0, -1, -2])


def test_layers_that_leave_pixels_where_they_are() -> None:
    n = fcn()
    top = n.up
    for make in (
        L.ReLU, L.AbsVal, L.BatchNorm, L.Bias, L.BNLL, L.Dropout, L.ELU, L.Log, L.LRN, L.Exp, L.MVN,
        L.Power, L.PReLU, L.Scale, L.Sigmoid, L.Split, L.TanH, L.Threshold,
        lambda x: L.Eltwise(x, x), lambda x: L.Convolution(x, kernel_size=1, num_output=1),
    ):  # fmt: skip
        top = make(top)
        assert told(top, n.data) == told(n.up, n.data)


def test_bottoms_of_one_layer_are_mapped_alike() -> None:
    n = fcn()
    n.aux = L.Input(shape=dict(dim=[2, 1, 20, 20]))
    a, b = L.Convolution(n.data, n.aux, ntop=2, num_output=10, kernel_size=5, stride=2)
    assert told(a, n.data) == told(b, n.aux) == (1, [2], [2])


def test_a_crop_of_a_crop() -> None:
    n = fcn()
    for offset in (0, 4):
        n.crop = L.Crop(n.up, n.data, axis=2, offset=offset)
        assert told(n.crop, n.data) == (1, [1], [offset])


@pytest.mark.parametrize(
    "settings",
    [dict(), dict(pad=30), dict(kernel=[3, 5], pad=[20, 33], stride=[1, 1]), dict(pool=4, up=4)],
)
def test_a_crop_puts_pixel_upon_pixel(settings: dict[str, object], tmp_path) -> None:
    n = fcn(**settings)
    n.score = crop(n.up, n.data)
    text = n.to_proto()
    for layer in text.layer:
        for filler in (layer.convolution_param.weight_filler,) * (layer.type[-5:] == "ution"):
            filler.type, filler.value = "constant", 1
        if layer.type == "Pooling":
            layer.pooling_param.pool = P.Pooling.AVE
    (tmp_path / "net.prototxt").write_text(str(text))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    assert net.blobs["score"].shape[2:] == (100, 100)
    y, x = 52, 40
    net.blobs["data"].data[0, 0, y, x] = 1
    seen = net.forward()["score"][0, 0]
    rows, columns = np.indices(seen.shape)
    centre = [(seen * at).sum() / seen.sum() for at in (rows, columns)]
    # The windows of pooling do not overlap, so a pixel's blob is off by up to half of one.
    assert np.abs(np.subtract(centre, (y, x))).max() <= settings.get("pool", 2) / 2


def test_blobs_that_do_not_correspond() -> None:
    n = fcn()
    n.ip = L.InnerProduct(n.up, num_output=10)
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        coord_map_from_to(n.ip, n.data)
    for fn in (n.ip.fn, L.NobodyKnows(n.data).fn, L.Pooling(n.data, global_pooling=True).fn):
        with pytest.raises(coord_map.UndefinedMapException, match=fn.type_name):
            coord_map.coord_map(fn)
    with pytest.raises(NetcError, match="kernel_size is missing"):
        coord_map.coord_map(L.Pooling(n.data).fn)


def test_blobs_that_cannot_be_cropped() -> None:
    for settings, match in (
        (dict(pool=3), r"scale mismatch(.|\n)*scale 1\.5"),
        (dict(up_pad=10), r"negative offset(.|\n)*offset -10(.|\n)*padding the first"),
        (dict(kernel=2), r"noninteger offset(.|\n)*offset 0\.5"),
    ):
        n = fcn(**settings)
        with pytest.raises(AssertionError, match=match):
            crop(n.up, n.data)


def test_maps_along_different_axes() -> None:
    one, other = (1, np.ones(1), np.ones(1)), (2, np.ones(1), np.ones(1))
    with pytest.raises(coord_map.AxisMismatchException, match="axis 1 and axis 2"):
        compose(one, other)
    axis, scale, shift = compose(inverse((1, np.array([2.0]), np.array([3.0]))), (None, 2, 4))
    assert (axis, scale.tolist(), shift.tolist()) == (1, [1], [0.5])
