"""Convolution, pooling and losses over videos, by their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from netc.layers.input import BlobShape
from netc.layers.pooling import LOWEST, PoolMethod
from netc.layers.types import BlobType, Layer, Refusal
from netc.layers.volume import (
    Convolution3D,
    Deconvolution3D,
    NdConvolution,
    NdPooling,
    Pooling3D,
    VoxelSoftmaxWithLoss,
)
from tests.backends.cpu.test_choice import kernels
from tests.backends.cpu.test_equality import agree, run_both
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of, require

MAX, AVE = PoolMethod.MAX, PoolMethod.AVE


def inner(layer: Layer, shape: tuple[int, ...]) -> Layer:
    """Return the layer that one stands for."""
    (part,) = layer.expand(BlobType(shape))
    assert part.name == ""
    return part.layer


# -- convolution -----------------------------------------------------------------------------------


@definition("Convolution3D", "NdConvolution")
def convolution(x, weight, bias, steps):
    """Sum what the kernel sees at every place; `steps` are (kernel, stride, pad) of each axis."""
    padded = np.pad(x, [(0, 0), (0, 0), *((pad, pad) for _, _, pad in steps)])
    places = [
        (size + 2 * pad - kernel) // stride + 1
        for size, (kernel, stride, pad) in zip(x.shape[2:], steps, strict=True)
    ]
    y = np.zeros((len(x), len(weight), *places))
    for place in itertools.product(*map(range, places)):
        window = tuple(
            slice(p * stride, p * stride + kernel)
            for p, (kernel, stride, _) in zip(place, steps, strict=True)
        )
        seen = padded[(slice(None), slice(None), *window)].reshape(len(x), -1)
        y[(slice(None), slice(None), *place)] = seen @ weight.reshape(len(weight), -1).T + bias
    return y


@definition("Deconvolution3D")
def deconvolution(x, weight, bias, steps):
    """Add the kernel, times each value of the bottom, where that value is."""
    sizes = [
        (size - 1) * stride + kernel
        for size, (kernel, stride, _) in zip(x.shape[2:], steps, strict=True)
    ]
    y = np.zeros((len(x), weight.shape[1], *sizes))
    for place in itertools.product(*map(range, x.shape[2:])):
        window = tuple(
            slice(p * stride, p * stride + kernel)
            for p, (kernel, stride, _) in zip(place, steps, strict=True)
        )
        values = x[(slice(None), slice(None), *place)]
        y[(slice(None), slice(None), *window)] += np.einsum("nc,co...->no...", values, weight)
    cut = tuple(slice(pad, size - pad) for size, (*_, pad) in zip(sizes, steps, strict=True))
    return y[(slice(None), slice(None), *cut)] + bias.reshape(-1, 1, 1, 1)


SETTINGS = {
    "num_output": 4, "kernel_size": 3, "kernel_depth": 2, "stride": 2, "temporal_stride": 1,
    "pad": 1, "temporal_pad": 0, "filter_group": 2,
}  # fmt: skip
STEPS = [(2, 1, 0), (3, 2, 1), (3, 2, 1)]


@pytest.mark.parametrize(
    ("layer", "slow", "weights"),
    [
        (Convolution3D, convolution, (4, 3, 2, 3, 3)),
        (Deconvolution3D, deconvolution, (3, 4, 2, 3, 3)),
    ],
)
def test_convolutions_of_c3d_are_their_definitions(layer, slow, weights):
    x, weight, bias = distinct(2, 3, 4, 5, 6), smooth(*weights), smooth(4, seed=1)
    whole = inner(layer(**SETTINGS), x.shape)
    run = check_layer(whole, [x], [weight, bias])
    assert_close(run.tops[0], slow(x, weight, bias, STEPS), rtol=1e-10, atol=1e-10)
    check_lowering(whole, [x], [weight, bias])


def test_kernels_as_shapes_are_their_definition():
    layer = NdConvolution(
        num_output=4,
        kernel_shape=BlobShape((2, 3, 3)),
        stride_shape=BlobShape((1, 2, 2)),
        pad_shape=BlobShape((0, 1, 1)),
    )
    x, weight, bias = distinct(2, 3, 4, 5, 6), smooth(4, 3, 2, 3, 3), smooth(4, seed=1)
    run = forward(inner(layer, x.shape), [x], [weight, bias])
    assert_close(run.tops[0], convolution(x, weight, bias, STEPS), rtol=1e-10, atol=1e-10)


def test_shapes_may_be_left_out_and_bottoms_may_be_several():
    layer = NdConvolution(num_output=2, kernel_shape=BlobShape((3,)))
    x = BlobType((2, 3, 7))
    (part,) = layer.expand(x, x)
    assert part.bottoms == ("$b0", "$b1") and part.tops == ("$t0", "$t1")
    assert [t.shape for t in part.layer.infer(x, x).tops] == [(2, 2, 5)] * 2


VIDEO = (1, 2, 4, 5, 5)


@pytest.mark.parametrize(
    ("layer", "shape", "setting"),
    [
        (Convolution3D(num_output=2, kernel_size=3), VIDEO, "kernel_depth"),
        (Convolution3D(num_output=2, kernel_depth=3), VIDEO, "kernel_size"),
        (Convolution3D(num_output=2, kernel_depth=3, kernel_size=3), (1, 2, 5, 5), ""),
        (Convolution3D(**SETTINGS | {"filter_group": 3}), VIDEO, "filter_group"),
        (Convolution3D(**SETTINGS | {"temporal_stride": 0}), VIDEO, "temporal_stride"),
        (NdConvolution(num_output=2), VIDEO, ""),
        (NdConvolution(num_output=2, kernel_shape=BlobShape((3, 3))), VIDEO, "kernel_shape"),
        (NdConvolution(num_output=2, kernel_shape=BlobShape((3,))), (1, 2), ""),
        (
            NdConvolution(
                num_output=2, kernel_shape=BlobShape((1, 1, 1)), stride_shape=BlobShape((1, 0, 1))
            ),
            VIDEO,
            "stride_shape",
        ),
    ],
)
def test_convolutions_that_are_refused(layer, shape, setting):
    with pytest.raises(Refusal) as caught:
        layer.expand(BlobType(shape))
    assert caught.value.setting == setting


# -- pooling ---------------------------------------------------------------------------------------


@definition("Pooling3D", "NdPooling")
def pooling(x, method, steps, *, clips, whole):
    """Return the number of each window; `clips`: no last window starts in padding behind.

    `whole`: a mean is over the kernel; else over what of it lies in the image and its padding.
    """
    spans = []
    for size, (kernel, stride, pad) in zip(x.shape[2:], steps, strict=True):
        places = math.ceil((size + 2 * pad - kernel) / stride) + 1
        if clips and pad and (places - 1) * stride >= size + pad:
            places -= 1
        starts = [place * stride - pad for place in range(places)]
        ends = [min(start + kernel, size + pad) for start in starts]
        spans.append(
            [
                (max(start, 0), min(end, size), kernel if whole else end - start)
                for start, end in zip(starts, ends, strict=True)
            ]
        )
    y = np.zeros((*x.shape[:2], *map(len, spans)))
    for place in itertools.product(*(range(len(s)) for s in spans)):
        windows = [spans[axis][p] for axis, p in enumerate(place)]
        cut = tuple(slice(start, end) for start, end, _ in windows)
        seen = x[(slice(None), slice(None), *cut)].reshape(*x.shape[:2], -1)
        here = (slice(None), slice(None), *place)
        if method is MAX:
            y[here] = seen.max(axis=2, initial=LOWEST)
        else:
            y[here] = seen.sum(axis=2) / math.prod(size for *_, size in windows)
    return y


POOLS_3D = {
    "first of C3D": ({"kernel_size": 2, "kernel_depth": 1, "stride": 2}, (2, 2, 3, 6, 4)),
    "others of C3D": (
        {"kernel_size": 2, "kernel_depth": 2, "stride": 2, "temporal_stride": 2}, (2, 2, 4, 7, 7),
    ),
    "over the edge": (
        {"kernel_size": 3, "kernel_depth": 2, "stride": 2, "temporal_stride": 2}, (1, 2, 5, 6, 8),
    ),
    "all": ({"kernel_size": 4, "kernel_depth": 3}, (2, 2, 3, 4, 4)),
}  # fmt: skip


def steps_of(layer):
    image = (layer.kernel_size, layer.stride, layer.pad)
    return [(layer.kernel_depth, layer.temporal_stride, 0), image, image]


@pytest.mark.parametrize("case", POOLS_3D)
@pytest.mark.parametrize("method", [MAX, AVE])
def test_pooling_of_c3d_is_its_definition(case, method):
    options, shape = POOLS_3D[case]
    layer, x = Pooling3D(pool=method, **options), distinct(*shape)
    run = check_layer(layer, [x])
    assert_close(
        run.tops[0], pooling(x, method, steps_of(layer), clips=False, whole=False), rtol=1e-10
    )
    check_lowering(layer, [x], other_batch=[distinct(3, *shape[1:])])


def test_a_mean_of_c3d_may_be_padded():
    layer = Pooling3D(pool=AVE, kernel_size=3, kernel_depth=1, stride=2, pad=1)
    x = distinct(2, 2, 2, 6, 7)
    run = check_layer(layer, [x])
    assert_close(
        run.tops[0], pooling(x, AVE, steps_of(layer), clips=False, whole=False), rtol=1e-10
    )
    check_lowering(layer, [x])


ND = {
    "one axis": (BlobShape((3,)), BlobShape((2,)), BlobShape((1,)), (2, 2, 8)),
    "two axes": (BlobShape((3, 2)), BlobShape((2, 1)), None, (2, 2, 8, 5)),
    "three axes": (
        BlobShape((2, 3, 3)),
        BlobShape((2, 2, 2)),
        BlobShape((0, 1, 1)),
        (1, 2, 5, 6, 7),
    ),
    "four axes": (BlobShape((2, 1, 2, 2)), None, None, (1, 2, 3, 2, 3, 3)),
}


@pytest.mark.parametrize("case", ND)
@pytest.mark.parametrize("method", [MAX, AVE])
def test_windows_as_shapes_are_their_definition(case, method):
    kernel, stride, pad, shape = ND[case]
    layer = NdPooling(pool=method, kernel_shape=kernel, stride_shape=stride, pad_shape=pad)
    n = len(shape) - 2
    strides, pads = stride.dim if stride else (1,) * n, pad.dim if pad else (0,) * n
    x = distinct(*shape)
    run = check_layer(layer, [x])
    want = pooling(
        x, method, list(zip(kernel.dim, strides, pads, strict=True)), clips=True, whole=True
    )
    assert_close(run.tops[0], want, rtol=1e-10)
    if n < 4:  # ONNX Runtime pools over three axes at most
        check_lowering(layer, [x])


def test_whole_images_do_not_look_at_the_kernel():
    layer = NdPooling(pool=AVE, kernel_shape=BlobShape((1, 1)), global_pooling=True)
    x = distinct(2, 3, 4, 5)
    assert_close(forward(layer, [x]).tops[0][:, :, 0, 0], x.mean(axis=(2, 3)), rtol=1e-12)
    assert layer.coordinates() is None


@pytest.mark.parametrize(
    ("layer", "shape", "setting"),
    [
        (Pooling3D(kernel_size=2), VIDEO, "kernel_depth"),
        (Pooling3D(kernel_size=2, kernel_depth=2), (1, 2, 5, 5), ""),
        (Pooling3D(kernel_size=2, kernel_depth=2, pad=1), VIDEO, "pad"),
        (Pooling3D(kernel_size=2, kernel_depth=2, pool=PoolMethod.STOCHASTIC), VIDEO, "pool"),
        (Pooling3D(kernel_size=7, kernel_depth=2), VIDEO, "kernel_size"),
        (Pooling3D(kernel_size=2, kernel_depth=6), VIDEO, "kernel_depth"),
        (
            Pooling3D(pool=AVE, kernel_size=1, kernel_depth=1, temporal_stride=7),
            VIDEO,
            "round_mode",
        ),
        (NdPooling(), VIDEO, ""),
        (NdPooling(kernel_shape=BlobShape((2, 2))), VIDEO, "kernel_shape"),
        (
            NdPooling(kernel_shape=BlobShape((1, 1, 1)), pad_shape=BlobShape((0, 1, 0))),
            VIDEO,
            "pad_shape",
        ),
        (NdPooling(kernel_shape=BlobShape((5, 1, 1))), VIDEO, "kernel_shape"),
        (
            NdPooling(kernel_shape=BlobShape((1, 1, 1)), pool=PoolMethod.STOCHASTIC),
            VIDEO,
            "pool",
        ),
    ],
)
def test_poolings_that_are_refused(layer, shape, setting):
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType(shape))
    assert caught.value.setting == setting


# -- the loss of every voxel -----------------------------------------------------------------------


@definition("VoxelSoftmaxWithLoss")
def voxel_loss(x, labels):
    """Sum -log p of the label of each voxel that has one; divide by the number of all."""
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    total, n = 0.0, 0
    for i, frame, h, w in np.ndindex(len(x), *x.shape[2:]):
        n += 1
        label = int(labels[i, 0, frame, h, w])
        if label < x.shape[1]:
            total -= np.log(p[i, label, frame, h, w])
    return total / n


def test_the_loss_of_voxels_is_its_definition():
    x = smooth(2, 4, 2, 3, 3)
    labels = np.random.default_rng(0).integers(0, 4, (2, 1, 2, 3, 3)).astype(float)
    run = check_layer(VoxelSoftmaxWithLoss(), [x, labels])
    assert_close(run.tops[0], voxel_loss(x, labels), rtol=1e-10)
    labels[0, 0, 0, 0] = 7
    check_lowering(VoxelSoftmaxWithLoss(), [x, labels])


def test_a_voxel_without_a_label_costs_nothing_and_has_the_gradient_of_the_fork():
    x = smooth(1, 3, 1, 1, 2)
    labels = np.array([1.0, 9.0]).reshape(1, 1, 1, 1, 2)
    run = forward(VoxelSoftmaxWithLoss(), [x, labels])
    assert_close(run.tops[0], voxel_loss(x, labels), rtol=1e-10)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    want = p.copy()
    want[0, 1, 0, 0, 0] -= 1
    assert_close(run.backward([np.array(1.0)]).bottoms[0], want / 2, rtol=1e-10)


@pytest.mark.parametrize(
    ("x", "labels"),
    [
        ((1, 2, 3, 4), (1, 1, 3, 4)),
        ((1, 2, 3, 4, 5), (1, 3, 4, 5)),
        ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
    ],
)
def test_labels_of_another_shape_are_refused(x, labels):
    with pytest.raises(Refusal):
        VoxelSoftmaxWithLoss().infer(BlobType(x), BlobType(labels))


def test_in_use_the_loss_is_a_softmax():
    assert VoxelSoftmaxWithLoss().deployed().infer(BlobType(VIDEO)).tops[0].shape == VIDEO


# -- whole nets ------------------------------------------------------------------------------------

C3D = """
layers { name: "c" type: CONVOLUTION3D bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2
         convolution_param { num_output: 8 kernel_size: 3 kernel_depth: 3 pad: 1 temporal_pad: 1
                             weight_filler { type: "gaussian" std: 0.1 } } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "p" type: POOLING3D bottom: "c" top: "p"
         pooling_param { pool: %s kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 } }
layers { name: "d" type: DECONVOLUTION3D bottom: "p" top: "d"
         convolution_param { num_output: 4 kernel_size: 4 kernel_depth: 4 stride: 2
                             temporal_stride: 2 pad: 1 temporal_pad: 1
                             weight_filler { type: "gaussian" std: 0.1 } } }
layers { name: "loss" type: VOXEL_SOFTMAX_LOSS bottom: "d" bottom: "t" top: "loss" }
"""
INPUTS = """
input: "x" input_shape { dim: 2 dim: 3 dim: 4 dim: 8 dim: 8 }
input: "t" input_shape { dim: 2 dim: 1 dim: 4 dim: 8 dim: 8 }
"""
CURRENT = """
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 2 dim: 3 dim: 4 dim: 8 dim: 8 } shape { dim: 2 dim: 5 } } }
layer { name: "c" type: "NdConvolution" bottom: "x" top: "c"
        convolution_param { num_output: 8 kernel_shape { dim: 3 dim: 3 dim: 3 }
                            weight_filler { type: "xavier" } } }
layer { name: "p" type: "NdPooling" bottom: "c" top: "p"
        pooling_param { pool: %s kernel_shape { dim: 2 dim: 3 dim: 3 }
                        stride_shape { dim: 1 dim: 2 dim: 2 } pad_shape { dim: 0 dim: 1 dim: 1 } } }
layer { name: "f" type: "InnerProduct" bottom: "p" top: "f"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "f" bottom: "t" top: "loss" }
"""


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("text", [INPUTS + C3D, CURRENT])
def test_the_cpu_backend_agrees_and_takes_them_all(text, method):
    require("cpu")
    graph = graph_of(text % method)
    reference, cpu = run_both(graph)
    agree(cpu.data("loss"), reference.data("loss"), "loss")
    for i in range(len(graph.params)):
        agree(cpu.param_diff_array(i), reference.param_diff_array(i), f"gradient of param {i}")
    for kind, backends in kernels(cpu.plan).items():
        if "Pooling" in kind or "Convolution" in kind:
            assert backends == {"cpu"}, kind
