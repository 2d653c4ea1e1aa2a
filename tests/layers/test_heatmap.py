"""Heat maps: settings and shapes of their reader, and their loss."""

from __future__ import annotations

import numpy as np
import pytest

from netc.layers.heatmap import DataHeatmap, EuclideanLossHeatmap
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

SIZES = {"batchsize": 2, "cropsize": 8, "outsize": 9, "label_width": 4, "label_height": 4}


def reader(**settings: object) -> DataHeatmap:
    fields: dict[str, object] = {"source": "list", "top": ("data", "label")} | SIZES
    return DataHeatmap(**(fields | settings))  # type: ignore[arg-type]


def test_the_tops_are_images_and_maps() -> None:
    tops = reader().infer(BlobType((3, 9, 9)), BlobType((7, 4, 4))).tops
    assert [top.shape for top in tops] == [(2, 3, 9, 9), (2, 7, 4, 4)]
    assert reader(labelinds="1,2, 13,14").chosen() == (0, 1, 12, 13)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        *(({name: 0}, name) for name in ("batchsize", "cropsize", "outsize", "multfact")),
        ({"label_height": 0}, "label_height"),
        ({"label_width": 5}, "label_width"),
        ({"source": ""}, "source"),
        ({"meanfile": "mean"}, "meanfile"),
        ({"labelinds": "1,x"}, "labelinds"),
        ({"labelinds": "0,1"}, "labelinds"),
        ({"labelinds": "1,2,3"}, "labelinds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        reader(**settings).check()
    assert caught.value.setting == setting and caught.value.expected


@definition("EuclideanLossHeatmap")
def test_the_loss_of_maps_is_their_mean_square() -> None:
    a, b, images = smooth(2, 3, 4, 4), smooth(2, 3, 4, 4, seed=1), smooth(2, 3, 8, 8)
    run = check_layer(EuclideanLossHeatmap(), [a, b, images], gradient=False)
    total = 0.0
    for index in np.ndindex(2, 3, 4, 4):
        total += (a[index] - b[index]) ** 2
    np.testing.assert_allclose(run.tops[0], total / (2 * 3 * 4 * 4))
    for weight in (1.0, 3.0):
        dx, *others = run.backward([np.array(weight)]).bottoms
        np.testing.assert_array_equal(dx, a - b)
        assert others == [None, None]
    note("gradient", "EuclideanLossHeatmap")
    assert check_lowering(EuclideanLossHeatmap(), [a, b, images]) == ["Sub", "Mul", "ReduceMean"]


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 4), (2, 2, 4, 4))])
def test_maps_that_differ_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(Refusal, match="differ in shape"):
        EuclideanLossHeatmap().infer(*map(BlobType, shapes), BlobType((2, 3, 8, 8)))


def test_a_net_runs_from_text_and_shows_nothing() -> None:
    text = """
        layer { name: "in" type: "Input" top: "x" top: "t" top: "images" input_param {
          shape { dim: 2 dim: 1 dim: 3 dim: 3 } shape { dim: 2 dim: 1 dim: 3 dim: 3 }
          shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
        layer { name: "conv" type: "Convolution" bottom: "x" top: "y"
          convolution_param { num_output: 1 kernel_size: 1 } }
        layer { name: "loss" type: "EuclideanLossHeatmap" bottom: "y" bottom: "t"
          bottom: "images" top: "loss" visualise: false visualise_channel: 2 loss_weight: 3 }
    """
    net = executor_of(graph_of(text))
    x, t = smooth(2, 1, 3, 3), smooth(2, 1, 3, 3, seed=1)
    net.data("x")[...], net.data("t")[...] = x, t
    net.forward()
    net.backward()
    np.testing.assert_allclose(net.param_diffs[1], [(-t).sum()], rtol=1e-5)
