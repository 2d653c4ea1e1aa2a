"""What users see of blobs, while parts of a net run: as if each blob were one piece of memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netc.pycaffe as caffe
from tests.pycaffe.nets import SMALL, copy_params, net_of, write_inputs
from tests.support.nets import net_texts


def arrays(net: caffe.Net, what: str) -> dict[str, np.ndarray]:
    return {name: getattr(blob, what).copy() for name, blob in net.blobs.items()}


def param_diffs(net: caffe.Net) -> list[np.ndarray]:
    return [blob.diff.copy() for layer in net.layers for blob in layer.blobs]


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


# The small net with tops of their own for the layers that work in place.
APART = (
    SMALL.replace('"Power" bottom: "conv" top: "conv"', '"Power" bottom: "conv" top: "conv_power"')
    .replace('"ReLU" bottom: "conv" top: "conv"', '"ReLU" bottom: "conv_power" top: "conv_relu"')
    .replace('"Pooling" bottom: "conv"', '"Pooling" bottom: "conv_relu"')
)


@pytest.fixture
def nets(tmp_path: Path) -> tuple[caffe.Net, caffe.Net]:
    """The small net, and the same with blobs of their own for what it computes in place."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small, clear = net_of(tmp_path / "a"), net_of(tmp_path / "b", APART)
    assert set(clear.blobs) - set(small.blobs) == {"conv_power", "conv_relu"}
    copy_params(clear, small)
    for net in (small, clear):
        write_inputs(net)
    return small, clear


def test_after_a_pass_a_blob_holds_its_last_version(nets: tuple[caffe.Net, caffe.Net]) -> None:
    small, clear = nets
    small.forward()
    clear.forward()
    np.testing.assert_array_equal(small.blobs["conv"].data, clear.blobs["conv_relu"].data)


def test_after_a_pass_up_to_a_layer_a_blob_holds_the_version_there(
    nets: tuple[caffe.Net, caffe.Net],
) -> None:
    small, clear = nets
    seen = small.blobs["conv"].data
    clear.forward()
    for layer, blob in (("conv", "conv"), ("power", "conv_power"), ("relu", "conv_relu")):
        found = small.forward(end=layer)
        np.testing.assert_array_equal(found["conv"], clear.blobs[blob].data)
        np.testing.assert_array_equal(seen, clear.blobs[blob].data)


def test_a_pass_from_a_layer_takes_the_blob_as_it_is(nets: tuple[caffe.Net, caffe.Net]) -> None:
    small, _ = nets
    small.forward()
    y = small.blobs["conv"].data.copy()
    small.forward(start="power", end="power")  # once more, on the result of the whole chain
    np.testing.assert_allclose(small.blobs["conv"].data, 2 * y + 0.25, rtol=1e-6)
    small.blobs["conv"].data[...] = -1
    small.forward(start="relu", end="relu")
    assert not small.blobs["conv"].data.any()


def test_after_backward_the_diff_is_that_of_the_first_version(
    nets: tuple[caffe.Net, caffe.Net],
) -> None:
    small, clear = nets
    seen = small.blobs["conv"].diff
    for net in nets:
        net.forward()
        net.backward()
    assert clear.blobs["conv"].diff.any()
    np.testing.assert_array_equal(seen, clear.blobs["conv"].diff)
    assert not np.array_equal(seen, clear.blobs["conv_relu"].diff)
    np.testing.assert_array_equal(small.blobs["data"].diff, clear.blobs["data"].diff)
    for net in nets:
        net.backward(end="relu")
    np.testing.assert_array_equal(small.blobs["conv"].diff, clear.blobs["conv_power"].diff)


@pytest.mark.parametrize(
    ("start", "blob"), [("relu", "conv_relu"), ("power", "conv_power"), ("conv", "conv")]
)
def test_a_diff_written_by_the_user_starts_the_pass_there(
    nets: tuple[caffe.Net, caffe.Net], start: str, blob: str
) -> None:
    small, clear = nets
    rng = np.random.default_rng(3)
    seed = rng.standard_normal(small.blobs["conv"].shape)
    for net, name in ((small, "conv"), (clear, blob)):
        net.forward()
        net.blobs[name].diff[...] = seed
        net.backward(start=start)
    assert clear.blobs["data"].diff.any()
    np.testing.assert_array_equal(small.blobs["data"].diff, clear.blobs["data"].diff)


def test_gradients_of_a_branch_do_not_pile_up(tmp_path: Path) -> None:
    # As in pictures made by climbing the gradient of a blob in the middle: the other readers of
    # the blobs below never run backward.
    net = net_of(tmp_path)
    write_inputs(net)
    net.forward(end="side")
    found = []
    for _ in range(3):
        net.blobs["side"].diff[...] = 1
        net.backward(start="side")
        found.append(net.blobs["data"].diff.copy())
    assert found[0].any()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_each_reader_of_a_blob_keeps_its_share_of_the_gradient(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    write_inputs(net)
    net.forward()
    net.backward()
    whole = net.blobs["data"].diff.copy()
    share = net.blobs["pool_pool_0_split_1"].diff.copy()
    net.blobs["side"].diff[...] = 0
    net.backward(start="side")
    np.testing.assert_array_equal(net.blobs["pool_pool_0_split_1"].diff, share)
    np.testing.assert_array_equal(net.blobs["pool"].diff, share)
    assert not np.array_equal(net.blobs["data"].diff, whole)


def test_an_input_that_a_layer_overwrites_is_computed_from_what_was_written(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }
        layer { name: "double" type: "Power" bottom: "x" top: "x" power_param { scale: 2 } }
        """,
    )
    x = net.blobs["x"].data
    for _ in range(2):
        x[...] = [1, 2, 3]
        np.testing.assert_array_equal(net.forward()["x"], [2, 4, 6])
    net.forward()  # as in Caffe, the input is gone
    np.testing.assert_array_equal(x, [4, 8, 12])


def test_a_weighted_top_in_place_starts_every_pass_from_its_weight(tmp_path: Path) -> None:
    # In Caffe only the first pass does: the layer's own gradient overwrites the weight.
    net = net_of(
        tmp_path,
        """
        force_backward: true
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }
        layer { name: "one" type: "Power" bottom: "x" top: "y" }
        layer { name: "double" type: "Power" bottom: "y" top: "y" loss_weight: 3
                power_param { scale: 2 } }
        """,
    )
    net.forward()
    for _ in range(2):
        net.backward()
        np.testing.assert_array_equal(net.blobs["x"].diff, [6, 6, 6])
        np.testing.assert_array_equal(net.blobs["y"].diff, [3, 3, 3])


def test_a_loss_that_is_read_has_its_weight_and_its_readers_gradient(tmp_path: Path) -> None:
    text = """
    force_backward: true
    layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "loss" }
    layer { name: "twice" type: "Power" bottom: "loss" top: "twice" power_param { scale: 2 } }
    """
    net = net_of(tmp_path, text)
    write_inputs(net)
    net.forward()
    difference = net.blobs["x"].data - net.blobs["t"].data
    net.blobs["twice"].diff[...] = 10
    for _ in range(2):
        net.backward()
        np.testing.assert_allclose(net.blobs["x"].diff, 21 * difference, rtol=1e-6)
        net.backward(end="twice")
        net.backward(start="loss")
        np.testing.assert_allclose(net.blobs["x"].diff, 21 * difference, rtol=1e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(net_texts(), st.data())
def test_parts_looked_at_in_between_are_the_whole(text: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = net_of(Path(folder), text.replace("layer {", "force_backward: true layer {", 1))
        parts = net_of(Path(folder), text.replace("layer {", "force_backward: true layer {", 1))
    for net in (whole, parts):
        net._runner.seed = 1
        write_inputs(net)
    copy_params(parts, whole)
    names, blobs = whole._layer_names, sorted(whole.blobs)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(names) - 1), max_size=3)))
    looks = st.lists(st.sampled_from(blobs), max_size=3)
    ranges = list(zip([0, *cuts], [*cuts, len(names)], strict=True))
    for _ in range(2):
        whole._runner.forward_pass = 0
        whole.forward()
        for start, end in ranges:
            parts._runner.forward_pass = 0
            parts.forward(start=names[start], end=names[end - 1])
            for name in data.draw(looks):
                assert parts.blobs[name].data.shape == whole.blobs[name].shape
        same(arrays(parts, "data"), arrays(whole, "data"))
        whole.backward()
        for start, end in reversed(ranges):
            parts.backward(start=names[end - 1], end=names[start])
            for name in data.draw(looks):
                assert parts.blobs[name].diff.shape == whole.blobs[name].shape
    same(arrays(parts, "diff"), arrays(whole, "diff"))
    for ours, theirs in zip(param_diffs(parts), param_diffs(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
