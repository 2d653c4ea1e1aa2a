from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.fillers import Filler
from netc.layers.normalize import Normalize
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import Run, assert_close, check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of


@definition("Normalize")
def slowly(layer: Normalize, x: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The definition, one vector after the other."""
    y = np.empty_like(x)
    for item, out in zip(x, y, strict=True):
        vectors = [(slice(None), *place) for place in np.ndindex(*item.shape[1:])]
        if scale is not None and layer.across_spatial is not False:
            vectors = [...]
        for vector in vectors:
            values = item[vector]
            if scale is not None:
                eps = 1e-10 if layer.eps is None else layer.eps
                length = math.sqrt(sum(v * v for v in values.flat) + eps)
            elif layer.normalize_type == "L1":
                length = sum(abs(v) for v in values.flat) + 1e-6
            else:
                length = math.sqrt(sum(v * v for v in values.flat) + 1e-6)
            out[vector] = values / length
        if scale is not None:
            for channel in range(len(out)):
                out[channel] *= scale if scale.ndim == 0 else scale[channel]
    return y


@st.composite
def ssd_layers(draw: st.DrawFn) -> Normalize:
    return Normalize(
        across_spatial=draw(st.sampled_from([None, False, True])),
        channel_shared=draw(st.booleans()),
        eps=draw(st.sampled_from([None, 1e-3, 0.5])),
    )


shapes = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


@given(ssd_layers(), shapes, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_ssds(layer: Normalize, shape: tuple[int, ...], seed: int) -> None:
    x = distinct(*shape, seed=seed)
    run = check_layer(layer, [x], seed=seed)
    assert_close(run.tops[0], slowly(layer, x, run.params[0]), rtol=1e-12, atol=1e-12)


@given(st.sampled_from(["L1", "L2"]), st.booleans(), shapes)
@settings(max_examples=40, deadline=None)
def test_caffe_windows(kind: str, lengths: bool, shape: tuple[int, ...]) -> None:
    x = distinct(*shape)
    top = ("y", "lengths") if lengths else ("y",)
    layer = Normalize(normalize_type=kind, bp_norm=lengths, top=top)
    run = check_layer(layer, [x])
    assert_close(run.tops[0], slowly(layer, x, None), rtol=1e-12, atol=1e-12)
    if lengths:
        assert_close(run.tops[0] * run.tops[1], x, rtol=1e-12, atol=1e-12)


def passed_back(layer: Normalize) -> tuple[Run, np.ndarray]:
    run = forward(layer, [smooth(2, 3, 2)])
    diffs = [np.ones_like(top) for top in run.tops]
    return run, run.backward(diffs).bottoms[0]


def test_lengths_pass_no_gradient_unless_asked() -> None:
    _, alone = passed_back(Normalize())
    _, silent = passed_back(Normalize(top=("y", "lengths")))
    _, heard = passed_back(Normalize(top=("y", "lengths"), bp_norm=True))
    np.testing.assert_array_equal(alone, silent)
    assert not np.allclose(alone, heard)


def test_fix_gradient_leaves_out_the_length() -> None:
    run, plain = passed_back(Normalize())
    _, fixed = passed_back(Normalize(fix_gradient=True))
    assert_close(fixed, plain * run.kept[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", [
    Normalize(across_spatial=True),
    Normalize(across_spatial=False, channel_shared=False),
    Normalize(across_spatial=False),
    Normalize(),
    Normalize(normalize_type="L1", top=("y", "lengths")),
])  # fmt: skip
def test_onnx(layer: Normalize) -> None:
    x, other = smooth(2, 3, 4, 2), smooth(5, 3, 4, 2)
    assert "Div" in check_lowering(layer, [x], other_batch=[other])


def test_what_ssd_nets_say() -> None:
    graph = graph_of("""
        layer { name: "data" type: "Input" top: "data"
                input_param { shape { dim: 1 dim: 4 dim: 2 dim: 2 } } }
        layer { name: "norm" type: "Normalize" bottom: "data" top: "norm"
                norm_param { across_spatial: false scale_filler { type: "constant" value: 20 }
                             channel_shared: false } }
    """)
    (layer,) = [node.layer for node in graph.nodes if node.name == "norm"]
    assert layer == Normalize(
        across_spatial=False, scale_filler=Filler(value=20), channel_shared=False, top=("norm",)
    )
    assert [p.shape for p in graph.params] == [(4,)]
    net = executor_of(graph, train=False)
    net.data("data")[...] = 1
    net.forward()
    assert_close(net.data("norm"), np.full((1, 4, 2, 2), 10, np.float32))


def test_a_text_without_settings_has_no_param() -> None:
    assert Normalize().infer(BlobType((2, 3))).params == ()
    assert Normalize(channel_shared=True).infer(BlobType((2, 3))).params[0].shape == ()


@pytest.mark.parametrize(("layer", "shape", "setting"), [
    (Normalize(), (3,), ""),
    (Normalize(normalize_type="max"), (2, 3), "normalize_type"),
    (Normalize(eps=1e-3, normalize_type="L1"), (2, 3), "normalize_type"),
    (Normalize(eps=1e-3, bp_norm=True), (2, 3), "bp_norm"),
    (Normalize(eps=1e-3, top=("a", "b")), (2, 3), "top"),
])  # fmt: skip
def test_refused(layer: Normalize, shape: tuple[int, ...], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType(shape))
    assert caught.value.setting == setting
    assert caught.value.expected
    assert caught.value.got
