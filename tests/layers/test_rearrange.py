from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.rearrange import Flip, ShuffleChannel
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of


@settings(max_examples=20)
@given(
    n=st.integers(0, 2),
    group=st.integers(1, 4),
    per_group=st.integers(0, 3),
    sizes=st.lists(st.integers(0, 3), max_size=3),
)
@definition("ShuffleChannel")
def test_shuffle(n: int, group: int, per_group: int, sizes: list[int]) -> None:
    x = smooth(n, group * per_group, *sizes)
    run = check_layer(ShuffleChannel(group), [x])
    for channel in range(x.shape[1]):
        hand, card = divmod(channel, per_group)
        np.testing.assert_array_equal(run.tops[0][:, card * group + hand], x[:, channel])


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_opencv_shuffles_the_same_way(group: int) -> None:
    text = f"""
        layer {{ name: "x" type: "Input" top: "x"
          input_param {{ shape {{ dim: 2 dim: 6 dim: 3 dim: 2 }} }} }}
        layer {{ name: "y" type: "ShuffleChannel" bottom: "x" top: "y"
          shuffle_channel_param {{ group: {group} }} }}
    """
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    x = smooth(2, 6, 3, 2).astype(np.float32)
    net.setInput(x, "x")
    found = forward(ShuffleChannel(group), [x]).tops[0]
    np.testing.assert_array_equal(found, net.forward("y"))


@settings(max_examples=20)
@given(
    shape=st.tuples(*[st.integers(0, 3)] * 4),
    flip_width=st.booleans(),
    flip_height=st.booleans(),
)
@definition("Flip")
def test_flip(shape: tuple[int, ...], flip_width: bool, flip_height: bool) -> None:
    x = smooth(*shape)
    run = check_layer(Flip(flip_width, flip_height), [x])
    height, width = shape[2:]
    for n, c, i, j in np.ndindex(*shape):
        row = height - 1 - i if flip_height else i
        column = width - 1 - j if flip_width else j
        assert run.tops[0][n, c, i, j] == x[n, c, row, column]


def test_onnx() -> None:
    x, more = smooth(2, 6, 3, 4), smooth(3, 6, 3, 4)
    assert check_lowering(ShuffleChannel(3), [x], other_batch=[more]) == [
        "Reshape",
        "Transpose",
        "Reshape",
    ]
    for layer in (Flip(), Flip(False, True), Flip(True, True)):
        assert check_lowering(layer, [x], other_batch=[more]) == ["Slice"]
    assert check_lowering(Flip(False), [x], other_batch=[more]) == ["Identity"]


@pytest.mark.parametrize(("group", "shape"), [(0, (1, 4)), (3, (1, 4)), (1, (4,))])
def test_shuffle_refuses(group: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match="group does not divide") as caught:
        ShuffleChannel(group).infer(BlobType(shape))
    assert caught.value.setting == "group"


def test_flip_refuses_what_is_no_image() -> None:
    with pytest.raises(Refusal, match="images"):
        Flip().infer(BlobType((2, 3, 4)))


def test_from_text() -> None:
    graph = graph_of(
        'layer { name: "x" type: "Input" top: "x"'
        " input_param { shape { dim: 1 dim: 6 dim: 2 dim: 2 } } }"
        'layer { name: "s" type: "ShuffleChannel" bottom: "x" top: "s"'
        " shuffle_channel_param { group: 3 } }"
        'layer { name: "f" type: "Flip" bottom: "s" top: "f" flip_param { flip_width: false } }'
    )
    assert [node.layer for node in graph.nodes[1:]] == [ShuffleChannel(3), Flip(False)]
