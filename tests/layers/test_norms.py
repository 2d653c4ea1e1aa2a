from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.fillers import Filler
from netc.layers.norms import GroupNorm, LayerNorm, RowNorm
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of


def normalised(values: list[float], eps: float) -> list[float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / math.sqrt(variance + eps) for v in values]


@definition("GroupNorm")
def slow_group_norm(
    x: np.ndarray, groups: int, eps: float, scale: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """A group of channels of one item at a time."""
    y = np.empty_like(x)
    per_group = x.shape[1] // groups
    for n, group in np.ndindex(x.shape[0], groups):
        at = (n, slice(group * per_group, (group + 1) * per_group))
        y[at] = np.reshape(normalised(list(x[at].flat), eps), x[at].shape)
    for channel in range(x.shape[1]):
        y[:, channel] = y[:, channel] * scale[channel] + shift[channel]
    return y


@definition("LayerNorm")
def slow_layer_norm(x: np.ndarray, axis: int, eps: float) -> np.ndarray:
    y = np.empty_like(x)
    for outer in np.ndindex(*x.shape[:axis]):
        y[outer] = np.reshape(normalised(list(x[outer].flat), eps), x[outer].shape)
    return y


@settings(max_examples=20)
@given(
    n=st.integers(0, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 3), max_size=3),
    eps=st.sampled_from([1e-5, 0.1]),
    affine=st.booleans(),
)
def test_group_norm(
    n: int, groups: int, per_group: int, sizes: list[int], eps: float, affine: bool
) -> None:
    layer = GroupNorm(eps=eps, group_num=groups, affine=affine)
    channels = groups * per_group
    x = smooth(n, channels, *sizes)
    # Where a group holds one value the top is 0 whatever the bottom, or a curve as steep as
    # 1 / sqrt(eps) where it holds two: differences lose digits there.
    run = check_layer(layer, [x], tolerance=1e-4, rounding=1e-3)
    scale, shift = run.params if affine else (np.ones(channels), np.zeros(channels))
    want = slow_group_norm(x, groups, eps, scale, shift)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    last=st.integers(2, 4),
    axis=st.integers(0, 4),
    eps=st.sampled_from([1e-5, 0.1]),
    affine=st.booleans(),
)
def test_layer_norm(sizes: list[int], last: int, axis: int, eps: float, affine: bool) -> None:
    x = smooth(*sizes, last)
    axis %= x.ndim
    layer = LayerNorm(eps=eps, axis=axis - x.ndim, affine=affine)
    run = check_layer(layer, [x], tolerance=1e-4, rounding=1e-3)
    scale, shift = run.params if affine else (1, 0)
    want = slow_layer_norm(x, axis, eps) * scale + shift
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [GroupNorm(group_num=2), GroupNorm(group_num=1, affine=False), LayerNorm(axis=1), LayerNorm()],
)
def test_gradient_to_the_last_digits(layer: RowNorm) -> None:
    check_layer(layer, [smooth(3, 4, 3, 2)])


@pytest.mark.parametrize(
    ("layer", "operators"),
    [
        (GroupNorm(group_num=2), ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]),
        (
            GroupNorm(group_num=4, affine=False, eps=0.1),
            ["Reshape", "InstanceNormalization", "Reshape"],
        ),
        (LayerNorm(), ["LayerNormalization"]),
        (LayerNorm(axis=1), ["LayerNormalization"]),
        (LayerNorm(axis=2, affine=False, eps=0.1), ["LayerNormalization"]),
    ],
)
def test_onnx(layer: RowNorm, operators: list[str]) -> None:
    bottoms, other = [smooth(2, 4, 3, 3)], [smooth(5, 4, 3, 3)]
    assert check_lowering(layer, bottoms, other_batch=other) == operators


def test_empty_rows_are_nothing_to_normalise() -> None:
    for layer in (GroupNorm(group_num=1), LayerNorm()):
        check_layer(layer, [np.zeros((2, 3, 0))])
        check_layer(layer, [np.zeros((0, 3, 2))])


def test_params_and_fillers() -> None:
    x = BlobType((2, 6, 4))
    group = GroupNorm(group_num=3, bias_filler=Filler(value=0.5)).infer(x)
    assert [p.shape for p in group.params] == [(6,), (6,)]
    assert [p.filler.value for p in group.params] == [1, 0.5]
    assert [p.shape for p in LayerNorm(axis=1).infer(x).params] == [(6, 4), (6, 4)]
    assert LayerNorm(affine=False).infer(x).params == ()


@pytest.mark.parametrize("groups", [0, 4, 12])
def test_refuses_groups_that_do_not_divide_the_channels(groups: int) -> None:
    with pytest.raises(Refusal, match="group_num") as caught:
        GroupNorm(group_num=groups).infer(BlobType((2, 6, 4)))
    assert caught.value.setting == "group_num"


def test_refuses_other_settings() -> None:
    with pytest.raises(Refusal, match="axis 3 is out of range"):
        LayerNorm(axis=3).infer(BlobType((2, 3)))
    with pytest.raises(Refusal, match="single number"):
        LayerNorm().infer(BlobType(()))
    with pytest.raises(Refusal, match="group_num"):
        GroupNorm(group_num=1).infer(BlobType((2,)))
    with pytest.raises(Refusal, match="eps is negative"):
        LayerNorm(eps=-1.0).infer(BlobType((2, 3)))


def test_from_text() -> None:
    graph = graph_of(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 64 } } }'
        'layer { name: "g" type: "GroupNorm" bottom: "x" top: "x" }'
        'layer { name: "l" type: "LayerNorm" bottom: "x" top: "x" layer_norm_param { eps: 0.1 } }'
    )
    assert graph.nodes[1].layer == GroupNorm()
    assert graph.nodes[2].layer == LayerNorm(eps=0.1)
