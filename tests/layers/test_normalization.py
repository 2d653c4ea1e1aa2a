from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.export import lower_layer
from netc.layers.normalization import LRN, MVN, BatchNorm, NormRegion
from netc.layers.types import BlobType, Phase, Reads, Refusal
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    check_refused,
    check_vector,
    forward,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, require, set_inputs

ACROSS, WITHIN = NormRegion.ACROSS_CHANNELS, NormRegion.WITHIN_CHANNEL


@pytest.mark.parametrize("name", vector_names("lrn", "batchnorm", "mvn"))
def test_golden_vector(name):
    check_vector(name)


# -- LRN -------------------------------------------------------------------------------------------


def lrn(x, layer):
    """Return y by the formula, one element after the other."""
    half = layer.local_size // 2
    y = np.empty_like(x)
    for n, c, i, j in np.ndindex(*x.shape):
        if layer.norm_region is ACROSS:
            near, k = x[n, max(0, c - half) : c + half + 1, i, j], layer.k
            alpha = layer.alpha / layer.local_size
        else:
            rows, columns = (slice(max(0, at - half), at + half + 1) for at in (i, j))
            near, k = x[n, c, rows, columns], 1
            alpha = layer.alpha / layer.local_size**2
        y[n, c, i, j] = x[n, c, i, j] / (k + alpha * (near**2).sum()) ** layer.beta
    return y


@given(
    st.sampled_from([ACROSS, WITHIN]),
    st.sampled_from([1, 3, 5, 9]),
    st.tuples(*[st.integers(1, 4)] * 4),
)
def test_lrn_is_its_formula(region, local_size, shape):
    layer = LRN(local_size=local_size, norm_region=region, alpha=0.7, beta=0.6, k=1.5)
    x = smooth(*shape)
    assert_close(forward(layer, [x]).tops[0], lrn(x, layer), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("region", [ACROSS, WITHIN])
@pytest.mark.parametrize("local_size", [1, 3, 9])
def test_lrn_rules(region, local_size):
    layer = LRN(norm_region=region, local_size=local_size, alpha=2.0, k=2.0)
    check_layer(layer, [smooth(2, 5, 4, 3)])
    operators = check_lowering(layer, [smooth(2, 5, 4, 3)], other_batch=[smooth(3, 5, 4, 3)])
    assert operators == (["LRN"] if region is ACROSS else ["Mul", "AveragePool", *operators[2:]])


@pytest.mark.parametrize("layer", [LRN(beta=0.0), LRN(alpha=-0.5)])
def test_lrn_that_onnx_runtime_does_not_run(layer: LRN) -> None:
    with pytest.raises(NetcError, match="ONNX Runtime has no LRN"):
        check_lowering(layer, [smooth(2, 5, 4, 3)])


@pytest.mark.parametrize(
    ("name", "setting"), [("lrn_even_local_size", "local_size"), ("lrn_not_4d", "")]
)
def test_what_caffe_refuses(name, setting):
    check_refused(name, setting)


def test_lrn_cost_grows_with_the_neighbourhood():
    x = BlobType((2, 3, 4, 5))
    across, within = LRN(local_size=3), LRN(local_size=3, norm_region=WITHIN)
    assert across.cost((x,), across.infer(x)) == 120 * 3
    assert within.cost((x,), within.infer(x)) == 120 * 6


# -- BatchNorm -------------------------------------------------------------------------------------

STATISTICS = [np.array([0.4, -0.2, 1.0]), np.array([2.0, 0.5, 3.0]), np.array([2.0])]


@pytest.mark.parametrize("shape", [(4, 3, 2, 3), (5, 3), (2, 3, 4), (3, 3, 2, 2, 2)])
@pytest.mark.parametrize("phase", Phase)
def test_batchnorm_rules(shape, phase):
    layer = BatchNorm(phase=phase, eps=1e-3)
    check_layer(layer, [smooth(*shape)], STATISTICS)


@pytest.mark.parametrize("shape", [(4, 3, 2, 3), (5, 3), (2, 3, 4)])
def test_batchnorm_onnx(shape):
    layer = BatchNorm(phase=Phase.TEST)
    other = [smooth(7, *shape[1:])]
    operators = check_lowering(layer, [smooth(*shape)], STATISTICS, other_batch=other)
    assert operators == ["BatchNormalization"]
    # An epsilon of its own, statistics of the batch at hand, and statistics without any pass.
    check_lowering(BatchNorm(phase=Phase.TEST, eps=0.3), [smooth(*shape)], STATISTICS)
    check_lowering(
        BatchNorm(phase=Phase.TEST, use_global_stats=False), [smooth(*shape)], STATISTICS
    )
    nothing = [np.zeros(3), np.zeros(3), np.zeros(1)]
    check_lowering(layer, [smooth(*shape)], nothing)


def test_batchnorm_of_a_vector_is_one_channel():
    x = smooth(6)
    run = check_layer(BatchNorm(eps=0.0), [x], [np.zeros(1)] * 3)
    assert_close(run.tops[0], (x - x.mean()) / x.std(), rtol=1e-12, atol=1e-12)
    layer = BatchNorm(phase=Phase.TEST)
    assert "BatchNormalization" in check_lowering(layer, [x], [np.ones(1)] * 3)


def test_running_sums():
    x = smooth(4, 3, 5)
    run = forward(BatchNorm(moving_average_fraction=0.9), [x], STATISTICS)
    mean, variance, weight = run.params
    assert_close(mean, 0.9 * STATISTICS[0] + x.mean(axis=(0, 2)), rtol=1e-12, atol=0)
    # Bessel's correction: n - 1 degrees of freedom.
    unbiased = x.var(axis=(0, 2), ddof=1)
    assert_close(variance, 0.9 * STATISTICS[1] + unbiased, rtol=1e-12, atol=0)
    assert_close(weight, 0.9 * STATISTICS[2] + 1, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("phase", "asked", "taken"),
    [
        (Phase.TRAIN, None, False),
        (Phase.TEST, None, True),
        (Phase.TRAIN, True, True),
        (Phase.TEST, False, False),
    ],
)
def test_which_statistics_count(phase, asked, taken):
    layer = BatchNorm(phase=phase, use_global_stats=asked, eps=0.0)
    x = smooth(4, 3, 5)
    run = forward(layer, [x], STATISTICS)
    mean, variance = (s / STATISTICS[2] for s in STATISTICS[:2])
    if not taken:
        mean, variance = x.mean(axis=(0, 2)), x.var(axis=(0, 2))
    want = (x - mean[:, None]) / np.sqrt(variance[:, None])
    assert_close(run.tops[0], want, rtol=1e-12, atol=1e-12)
    changed = any(not np.array_equal(a, b) for a, b in zip(run.params, STATISTICS, strict=True))
    assert changed is not taken
    assert layer.backward_reads() is (Reads.NOTHING if taken else Reads.TOP)


def test_statistics_are_out_of_the_solvers_reach():
    params = BatchNorm().infer(BlobType((2, 3, 4, 4))).params
    assert [(p.shape, p.lr_mult, p.frozen) for p in params] == [
        ((3,), 0.0, True),
        ((3,), 0.0, True),
        ((1,), 0.0, True),
    ]


def test_a_number_is_not_normalised():
    with pytest.raises(Refusal, match="single number"):
        BatchNorm().infer(BlobType(()))


# -- BatchNorm over parts of a batch ---------------------------------------------------------------


def in_parts(n: int, shape: tuple[int, ...], **settings: float):
    """Return what BatchNorm expands to for a bottom of this shape."""
    (part,) = BatchNorm(stats_batch_size=n, **settings).expand(BlobType(shape))
    return part.layer


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 3)])
def test_each_part_of_a_batch_has_statistics_of_its_own(shape):
    x = smooth(*shape)
    layer = in_parts(2, shape, eps=1e-3, moving_average_fraction=0.9)
    sums = [np.array([v]).repeat(k) for v, k in ((0.5, 3), (2.0, 3), (3.0, 1))]
    run = check_layer(layer, [x], sums)
    mean, variance, weight = sums
    for first in range(0, len(x), 2):
        part, axes = x[first : first + 2], (0, *range(2, x.ndim))
        m = part.mean(axis=axes, keepdims=True)
        v = ((part - m) ** 2).mean(axis=axes, keepdims=True)
        assert_close(run.tops[0][first : first + 2], (part - m) / np.sqrt(v + 1e-3), rtol=1e-9)
        count = part.size // 3
        mean = 0.9 * mean + m.ravel()
        variance = 0.9 * variance + v.ravel() * count / (count - 1)
        weight = 0.9 * weight + 1
    for got, expected in zip(
        forward(layer, [x], sums).params, (mean, variance, weight), strict=True
    ):
        assert_close(got, expected, rtol=1e-9)


def test_parts_are_for_statistics_of_the_batch():
    x = BlobType((4, 3, 2, 2))
    assert BatchNorm(stats_batch_size=2, phase=Phase.TEST).expand(x) is None
    assert BatchNorm(stats_batch_size=4).expand(x) is None
    assert BatchNorm(stats_batch_size=4).expand(BlobType((0, 3))) is None
    assert in_parts(2, x.shape).settled() == BatchNorm(use_global_stats=True)


@pytest.mark.parametrize(
    "settings", [{"stats_batch_size": 3}, {"stats_batch_size": 2, "scale_bias": True}]
)
def test_parts_refuse(settings):
    with pytest.raises(Refusal) as caught:
        BatchNorm(**settings).expand(BlobType((4, 3, 2, 2)))
    assert caught.value.setting == "stats_batch_size"


def test_parts_are_no_onnx():
    with pytest.raises(NetcError, match="for training"):
        lower_layer(in_parts(2, (4, 3)), [BlobType((4, 3))], STATISTICS)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_parts_in_a_net(backend):
    require(backend)
    text = """
        layer { name: "x" type: "Input" top: "x"
          input_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 } } }
        layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y"
          batch_norm_param { stats_batch_size: 2 } }
        layer { name: "s" type: "Scale" bottom: "y" top: "y" scale_param { bias_term: true } }
        layer { name: "r" type: "ReLU" bottom: "y" top: "y" }
        """
    net = executor_of(graph_of(text), backend_name=backend)
    set_inputs(net)
    net.forward()
    x = net.data("x").reshape(2, 2, 3, 5, 5)
    m, v = x.mean(axis=(1, 3, 4), keepdims=True), x.var(axis=(1, 3, 4), keepdims=True)
    expected = np.maximum((x - m) / np.sqrt(v + 1e-5), 0).reshape(4, 3, 5, 5)
    assert_close(net.data("y"), expected, rtol=1e-4, atol=1e-5)


# -- MVN -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("variance", [True, False])
@pytest.mark.parametrize("across", [True, False])
def test_mvn_rules(shape, variance, across):
    layer = MVN(normalize_variance=variance, across_channels=across)
    if len(shape) == 2 and not across:
        # Each value is its own mean. A deviation of 0 divides by eps alone, which no difference
        # quotient gets through.
        assert not check_layer(layer, [smooth(*shape)], gradient=False).tops[0].any()
        return
    run = check_layer(layer, [smooth(*shape)])
    axes = tuple(range(1 if across else 2, len(shape)))
    assert_close(run.tops[0].mean(axis=axes), np.zeros(shape[: 1 if across else 2]))
    if variance:
        assert_close(run.tops[0].std(axis=axes), np.ones(shape[: 1 if across else 2]))
    operators = check_lowering(layer, [smooth(*shape)], other_batch=[smooth(5, *shape[1:])])
    assert operators[:2] == ["ReduceMean", "Sub"]


def test_mvn_adds_eps_to_the_deviation():
    x = smooth(2, 3, 8)
    got = forward(MVN(eps=0.5), [x]).tops[0]
    want = (x - x.mean(axis=2, keepdims=True)) / (x.std(axis=2, keepdims=True) + 0.5)
    assert_close(got, want, rtol=1e-12, atol=1e-12)
    check_lowering(MVN(eps=0.5), [x])
