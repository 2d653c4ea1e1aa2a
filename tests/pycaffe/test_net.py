"""Net: what it shows, what it runs, and how it follows its inputs' shapes."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.data import write_datums
from netc.errors import NetcError
from netc.layers.types import Phase
from netc.schema import netc_pb2
from netc.weights import read_weights
from tests.pycaffe.nets import SMALL, copy_params, net_of, write_inputs

FULLY_CONVOLUTIONAL = """
layer { name: "in" type: "Input" top: "data" top: "scale"
        input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "times" type: "Scale" bottom: "conv" bottom: "scale" top: "y"
        scale_param { axis: 0 } }
"""

# The outputs "ip" and "side", and one input.
TWO_OUTPUTS = (
    SMALL[: SMALL.index('layer { name: "sum"')]
    .replace(' top: "label"', "")
    .replace("shape { dim: 4 } }", "}")
)


# -- what there is ---------------------------------------------------------------------------------


def test_the_parts_of_a_net(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    assert isinstance(net.blobs, OrderedDict)
    assert isinstance(net.params, OrderedDict)
    assert net.inputs == ["data", "label"]
    assert net.outputs == ["loss"]
    assert list(net.params) == ["conv", "side", "ip"]
    assert [blob.shape for blob in net.params["conv"]] == [(3, 2, 3, 3), (3,)]
    assert len(net.layers) == len(net._layer_names) == 10
    assert [layer.type for layer in net.layers][:3] == ["Input", "Convolution", "Power"]
    assert net.layer_dict["conv"].blobs[0] is net.params["conv"][0]
    assert net.top_names["in"] == ["data", "label"]
    assert net.bottom_names["relu"] == net.top_names["relu"] == ["conv"]
    assert net.bottom_names["loss"] == ["sum", "label"]
    assert net._blob_names == list(net.blobs)
    assert [net._blob_names[i] for i in net._inputs] == net.inputs
    assert [net._blob_names[i] for i in net._outputs] == net.outputs
    assert [net._blob_names[i] for i in net._bottom_ids(9)] == ["sum", "label"]
    assert [net._blob_names[i] for i in net._top_ids(0)] == net.inputs
    assert net.blob_loss_weights["loss"] == 1
    assert not any(weight for name, weight in net.blob_loss_weights.items() if name != "loss")


def test_outputs_are_in_alphabetical_order(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        """
        layer { name: "in" type: "Input" top: "z" input_param { shape { dim: 2 } } }
        layer { name: "split" type: "Split" bottom: "z" top: "y" top: "b" top: "X" }
        """,
    )
    assert net.outputs == ["X", "b", "y"]
    assert list(net.forward()) == ["X", "b", "y"]


def test_phase_level_and_stages(tmp_path: Path) -> None:
    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }
    layer { name: "train" type: "Power" bottom: "x" top: "a" include { phase: TRAIN } }
    layer { name: "deep" type: "Power" bottom: "x" top: "b" include { min_level: 2 } }
    layer { name: "extra" type: "Power" bottom: "x" top: "c" include { stage: "more" } }
    """
    file = tmp_path / "net.prototxt"
    file.write_text(text)

    def outputs(*args: object, **kwargs: object) -> list[str]:
        return caffe.Net(str(file), *args, **kwargs).outputs

    assert outputs(caffe.TRAIN) == ["a"]
    assert outputs(caffe.TEST) == ["x"]
    assert outputs(Phase.TEST) == ["x"]
    assert outputs(phase=caffe.TEST, level=2) == ["b"]
    assert outputs(caffe.TEST, 2, ["more"]) == ["b", "c"]
    assert outputs(caffe.TEST, stages=("more",)) == ["c"]


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        ((), {"phase": 2}, "not a phase"),
        ((), {"phase": "TEST"}, "not a phase"),
        (("no_such.caffemodel",), {}, "not a phase"),
        ((caffe.TEST, Phase.TEST), {}, "a level is a whole number"),
        ((caffe.TEST,), {"stages": "more"}, "stages are a list"),
        ((caffe.TEST,), {"weights": "no_such.caffemodel"}, "no such file"),
        (("no_such.caffemodel", caffe.TEST), {}, "no such file"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, args: tuple[object, ...], kwargs: dict[str, object], match: str
) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(SMALL)
    with pytest.raises(NetcError, match=match):
        caffe.Net(str(file), *args, **kwargs)


def test_a_missing_net_is_an_error_that_names_it() -> None:
    with pytest.raises(NetcError, match=r"no_such\.prototxt"):
        caffe.Net("no_such.prototxt", caffe.TEST)


# -- blobs -----------------------------------------------------------------------------------------


def test_a_blob_tells_its_shape_in_both_ways(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    data, label, loss = (net.blobs[name] for name in ("data", "label", "loss"))
    assert data.shape == (4, 2, 6, 6)
    assert (data.num, data.channels, data.height, data.width) == (4, 2, 6, 6)
    assert (label.num, label.channels, label.height, label.width) == (4, 1, 1, 1)
    assert (data.count, label.count, loss.count) == (288, 4, 1)
    assert loss.shape == ()
    assert len(data) == 4
    assert data.data.dtype == data.diff.dtype == np.float32
    data.reshape(1, 2, 3, 4, 5)
    with pytest.raises(NetcError, match="at most four axes"):
        _ = data.width


def test_arrays_are_the_nets_own(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    d, label = net.blobs["data"].data, net.blobs["label"].data
    ip = net.blobs["ip"].data
    write_inputs(net)
    assert d.any()
    net.forward()
    first = ip.copy()
    assert first.any()
    d[...] *= 2
    label[0] = 2
    net.forward()
    assert not np.array_equal(ip, first)
    assert np.shares_memory(ip, net.blobs["ip"].data)
    with pytest.raises(AttributeError):
        net.blobs["data"].data = first  # type: ignore[misc]
    d.shape = (4, -1)  # the array's shape is the user's, the blob's is not
    assert net.blobs["data"].data.shape == (4, 2, 6, 6)
    assert net.forward()["loss"].shape == ()


def test_values_of_params_can_be_written(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    write_inputs(net)
    for layer in ("ip", "side"):
        for blob in net.params[layer]:
            blob.data[...] = 0
    np.testing.assert_allclose(net.forward()["loss"], np.log(3), rtol=1e-6)
    net.params["ip"][1].data.flat = [1, 2, 3]
    net.forward()
    np.testing.assert_array_equal(net.blobs["ip"].data, [[1, 2, 3]] * 4)


def test_gradients_of_params_add_up_and_can_be_written(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    write_inputs(net)
    net.forward()
    seen = net.params["ip"][0].diff
    net.backward()
    once = seen.copy()
    assert once.any()
    net.backward()
    np.testing.assert_allclose(seen, 2 * once, rtol=1e-6)
    net.clear_param_diffs()
    assert not seen.any()
    net.params["ip"][0].diff[...] = 1
    net.backward()
    np.testing.assert_allclose(net.params["ip"][0].diff, once + 1, rtol=1e-5, atol=1e-6)


def test_layers_that_share_a_param_share_its_memory(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        """
        force_backward: true
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "a" type: "InnerProduct" bottom: "x" top: "y" param { name: "w" }
                inner_product_param { num_output: 3 bias_term: false } }
        layer { name: "b" type: "InnerProduct" bottom: "y" top: "z" param { name: "w" }
                inner_product_param { num_output: 3 bias_term: false } }
        """,
    )
    net.params["a"][0].data[...] = np.eye(3)
    assert np.shares_memory(net.params["a"][0].data, net.params["b"][0].data)
    assert np.shares_memory(net.params["a"][0].diff, net.params["b"][0].diff)
    write_inputs(net)
    np.testing.assert_array_equal(net.forward()["z"], net.blobs["x"].data)


def test_where_no_gradient_arrives_the_diff_is_zero(tmp_path: Path) -> None:
    net = net_of(tmp_path, SMALL.replace("force_backward: true", ""))
    write_inputs(net)
    net.forward()
    found = net.backward()
    assert list(found) == ["data", "label"]
    assert not found["data"].any()
    assert found["data"].shape == (4, 2, 6, 6)
    assert net.params["conv"][0].diff.any()


def test_a_net_through_which_no_gradient_can_flow_runs_forward(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
                inner_product_param { num_output: 1 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "loss" }
        """,
    )
    np.testing.assert_allclose(net.forward()["loss"], np.log(3), rtol=1e-6)
    assert not net.blobs["x"].diff.any()
    with pytest.raises(NetcError, match="a gradient would have to flow into bottom 'y'"):
        net.backward()


# -- running ---------------------------------------------------------------------------------------


def test_forward_takes_inputs_and_gives_what_is_asked(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    data = np.random.default_rng(0).standard_normal((4, 2, 6, 6))
    found = net.forward(blobs=["ip", "pool"], data=data, label=np.arange(4) % 3)
    assert list(found) == ["loss", "ip", "pool"]
    assert np.shares_memory(found["ip"], net.blobs["ip"].data)
    np.testing.assert_array_equal(net.blobs["data"].data, data.astype(np.float32))
    assert list(net.forward(end="pool")) == ["pool"]
    assert list(net.forward(start="side", end="ip", blobs=["pool"])) == ["ip", "pool"]


def test_forward_from_a_layer_leaves_what_is_before_alone(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    write_inputs(net)
    net.forward()
    net.blobs["sum"].data[...] = 0
    net.blobs["pool"].data[...] = 7
    np.testing.assert_allclose(net.forward(start="loss")["loss"], np.log(3), rtol=1e-6)
    assert (net.blobs["pool"].data == 7).all()


def test_backward_takes_gradients_and_gives_what_is_asked(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    write_inputs(net)
    net.forward()
    found = net.backward(diffs=["ip"], loss=np.float32(2))
    assert list(found) == ["data", "label", "ip"]
    doubled = found["data"].copy()
    np.testing.assert_allclose(doubled, 2 * net.backward(loss=np.float32(1))["data"], rtol=1e-5)
    assert list(net.backward(start="sum", end="ip")) == ["pool_pool_0_split_1"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"data": np.zeros((4, 2, 6, 6))}, r"^Input blob arguments do not match net inputs\.\n"),
        (
            {"data": np.zeros((4, 2, 6, 6)), "label": np.zeros(4), "x": 1},
            "Input blob arguments do not match net inputs",
        ),
        ({"data": np.zeros((3, 2, 6, 6)), "label": np.zeros(4)}, "Input is not batch sized"),
        ({"data": np.zeros((4, 2, 6, 7)), "label": np.zeros(4)}, "'data' have another shape"),
        ({"blobs": ["iP"]}, "(?s)no blob 'iP'.*did you mean 'ip'"),
        ({"start": "convv"}, "(?s)no layer 'convv'.*did you mean 'conv'"),
        ({"end": "convv"}, "no layer 'convv'"),
    ],
)
def test_wrong_arguments_of_forward(
    tmp_path: Path, arguments: dict[str, object], match: str
) -> None:
    net = net_of(tmp_path)
    with pytest.raises(NetcError, match=match):
        net.forward(**arguments)
    assert not net.blobs["data"].data.any()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"ip": np.zeros((4, 3))}, "Top diff arguments do not match net outputs"),
        ({"ip": np.zeros((3, 3)), "side": np.zeros((4, 3))}, "Diff is not batch sized"),
    ],
)
def test_wrong_arguments_of_backward(
    tmp_path: Path, arguments: dict[str, object], match: str
) -> None:
    net = net_of(tmp_path, TWO_OUTPUTS)
    with pytest.raises(NetcError, match=match):
        net.backward(**arguments)


def test_an_error_in_the_data_names_the_layer(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    net.blobs["label"].data[1] = 3
    with pytest.raises(NetcError, match=r"(?s)'loss' \(SoftmaxWithLoss\).*3"):
        net.forward()
    net.blobs["label"].data[1] = 2
    net.forward()


def test_forward_returns_its_part_of_the_objective(tmp_path: Path) -> None:
    net = net_of(tmp_path, SMALL.replace('top: "loss" }', 'top: "loss" loss_weight: 3 }'))
    write_inputs(net)
    n = len(net.layers)
    np.testing.assert_allclose(net._forward(0, n - 1), 3 * net.blobs["loss"].data, rtol=1e-6)
    assert net._forward(0, n - 2) == 0
    assert net._forward(n - 1, 0) == 0


def test_any_number_of_items(tmp_path: Path) -> None:
    net = net_of(tmp_path, TWO_OUTPUTS)
    data = np.random.default_rng(0).standard_normal((10, 2, 6, 6)).astype(np.float32)
    found = net.forward_all(blobs=["conv"], data=data)
    assert {name: v.shape[0] for name, v in found.items()} == {"ip": 10, "side": 10, "conv": 10}
    for i in (0, 4, 9):
        one = net.forward(data=np.repeat(data[i : i + 1], 4, axis=0))
        np.testing.assert_allclose(found["ip"][i], one["ip"][0], rtol=1e-5, atol=1e-6)
    tops = {name: np.ones((10, 3), np.float32) for name in net.outputs}
    outputs, gradients = net.forward_backward_all(diffs=["conv"], data=data, **tops)
    np.testing.assert_array_equal(outputs["ip"], found["ip"])
    assert {name: v.shape[0] for name, v in gradients.items()} == {"data": 10, "conv": 10}
    for blob in net.blobs.values():
        blob.diff[...] = 0
    net.forward(data=np.repeat(data[9:], 4, axis=0))
    one = net.backward(**{name: np.ones((4, 3)) for name in net.outputs})
    np.testing.assert_allclose(gradients["data"][9], one["data"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"data": []}, {"data": np.zeros((2, 2, 6, 6))}])
def test_inputs_of_different_lengths(tmp_path: Path, arguments: dict[str, object]) -> None:
    net = net_of(tmp_path)
    label = {"label": np.zeros(3)} if arguments else {}
    with pytest.raises(NetcError, match="same number of items"):
        net.forward_all(**arguments, **label)


def test_calls_around_layers(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    write_inputs(net)
    net.forward()
    net.backward()
    loss, gradient = net.blobs["loss"].data.copy(), net.blobs["data"].diff.copy()
    calls: list[tuple[str, int]] = []
    chain: list[float] = []
    for kind in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, kind)(lambda i, kind=kind: calls.append((kind, i)))
    net.after_forward(lambda i: chain.append(float(net.blobs["conv"].data.min())))
    net.forward()
    net.backward()
    n = len(net.layers)
    assert calls == [
        *((f"{w}_forward", i) for i in range(n) for w in ("before", "after")),
        *((f"{w}_backward", i) for i in reversed(range(n)) for w in ("before", "after")),
    ]
    np.testing.assert_array_equal(net.blobs["loss"].data, loss)
    np.testing.assert_array_equal(net.blobs["data"].diff, gradient)
    # What a call sees of a blob is the version of that moment.
    assert chain[1] < 0
    np.testing.assert_allclose(chain[2], 2 * chain[1] + 0.25, rtol=1e-6)
    assert chain[3] == 0
    calls.clear()
    net.forward(start="conv", end="power")
    net.backward(start="power", end="conv")
    assert [i for _, i in calls] == [1, 1, 2, 2, 2, 2, 1, 1]


def test_calls_around_layers_do_not_change_what_is_drawn(tmp_path: Path) -> None:
    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 100 } } }
    layer { name: "a" type: "Dropout" bottom: "x" top: "a" }
    layer { name: "b" type: "Dropout" bottom: "a" top: "b" }
    """
    quiet, watched = net_of(tmp_path, text), net_of(tmp_path, text)
    watched._runner.seed = quiet._runner.seed
    watched.before_forward(lambda i: None)
    for _ in range(2):
        x = np.ones(100)
        np.testing.assert_array_equal(quiet.forward(x=x)["b"], watched.forward(x=x)["b"])


# -- shapes ----------------------------------------------------------------------------------------


def test_a_net_follows_its_inputs(tmp_path: Path) -> None:
    net = net_of(tmp_path, FULLY_CONVOLUTIONAL)
    weights = net.params["conv"][0].data
    scale = net.blobs["scale"].data
    scale[...] = 1
    net.blobs["data"].reshape(2, 3, 11, 9)
    data = net.blobs["data"].data
    assert data.shape == net.blobs["data"].diff.shape == (2, 3, 11, 9)
    data[...] = np.random.default_rng(0).standard_normal(data.shape)
    assert net.forward()["y"].shape == (2, 4, 9, 7)
    assert np.shares_memory(data, net.blobs["data"].data)
    assert np.shares_memory(scale, net.blobs["scale"].data)
    assert np.shares_memory(weights, net.params["conv"][0].data)

    other = net_of(tmp_path, FULLY_CONVOLUTIONAL.replace("dim: 8 dim: 8", "dim: 11 dim: 9"))
    copy_params(other, net)
    expected = other.forward(data=data, scale=scale)["y"]
    np.testing.assert_array_equal(net.blobs["y"].data, expected)
    scale[...] = 3
    np.testing.assert_allclose(net.forward()["y"], 3 * expected, rtol=1e-6)


def test_two_inputs_change_their_shape_together(tmp_path: Path) -> None:
    net = net_of(tmp_path, FULLY_CONVOLUTIONAL)
    # Of random filters all may sum to less than 0, so that nothing comes through the ReLU.
    net.params["conv"][0].data[...] = 1
    net.blobs["data"].reshape(5, 3, 8, 8)
    net.blobs["data"].data[...] = 1
    with pytest.raises(NetcError, match="'times'"):
        net.reshape()
    assert net.blobs["data"].shape == (5, 3, 8, 8)
    net.blobs["scale"].reshape(5, 4)
    net.blobs["scale"].data[...] = 1
    net.reshape()
    assert net.blobs["y"].shape == net.blobs["y"].diff.shape == (5, 4, 6, 6)
    assert (net.blobs["data"].data == 1).all()
    assert net.forward()["y"].any()
    with pytest.raises(NetcError, match="Input is not batch sized"):
        net.forward(data=np.zeros((2, 3, 8, 8)), scale=np.zeros((2, 4)))


def test_an_input_with_several_readers_changes_its_shape(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }
        layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }
        layer { name: "b" type: "Power" bottom: "x" top: "b" power_param { scale: 3 } }
        """,
    )
    for values in ([1, 2], [5, 6, 7, 8]):
        net.blobs["x"].reshape(len(values))
        x = net.blobs["x"].data
        for factor in (1, 10):
            x[...] = factor * np.array(values)
            found = net.forward()
            np.testing.assert_array_equal(found["a"], 2 * x)
            np.testing.assert_array_equal(found["b"], 3 * x)
            np.testing.assert_array_equal(net.blobs["x_in_0_split_1"].data, x)


def test_a_shape_that_comes_back_keeps_nothing_waiting(tmp_path: Path) -> None:
    net = net_of(tmp_path, FULLY_CONVOLUTIONAL)
    before = net.blobs["data"].data
    net.blobs["data"].reshape(2, 3, 9, 9)
    net.blobs["data"].reshape(2, 3, 8, 8)
    assert np.shares_memory(net.blobs["data"].data, before)
    for size in (9, 8, 10, 9):
        net.blobs["data"].reshape(2, 3, size, size)
        assert net.forward()["y"].shape == (2, 4, size - 2, size - 2)
    assert len(net._runner.replan) == 3


def test_blobs_of_layers_get_their_shape_from_their_layer(tmp_path: Path) -> None:
    net = net_of(tmp_path, FULLY_CONVOLUTIONAL)
    net.blobs["conv"].reshape(1, 2)
    assert net.blobs["conv"].data.shape == (1, 2)
    net.forward()
    assert net.blobs["conv"].shape == (2, 4, 6, 6)


@pytest.mark.parametrize("dims", [(1, -1), ((1, 3),), (1.5,), ("a",)])
def test_what_is_no_shape(tmp_path: Path, dims: tuple[object, ...]) -> None:
    with pytest.raises(NetcError, match="not a shape"):
        net_of(tmp_path).blobs["data"].reshape(*dims)


def test_a_param_cannot_change_its_shape(tmp_path: Path) -> None:
    net = net_of(tmp_path)
    net.params["conv"][1].reshape(3)
    with pytest.raises(NetcError, match="param 1 of layer 'conv'"):
        net.params["conv"][1].reshape(4)


def test_an_input_in_place_changes_its_shape(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }
        layer { name: "double" type: "Power" bottom: "x" top: "x" power_param { scale: 2 } }
        """,
    )
    net.blobs["x"].reshape(2)
    x = net.blobs["x"].data
    x[...] = [1, 2]
    net.forward()
    np.testing.assert_array_equal(x, [2, 4])


def test_recurrent_state_stays_when_the_number_of_steps_changes(tmp_path: Path) -> None:
    text = """
    layer { name: "in" type: "Input" top: "x" top: "cont" input_param {
            shape { dim: %d dim: 2 dim: 3 } shape { dim: %d dim: 2 } } }
    layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param {
            num_output: 4 weight_filler { type: "gaussian" std: 0.5 } } }
    """
    whole = net_of(tmp_path, text % (5, 5))
    parts = net_of(tmp_path, text % (2, 2))
    copy_params(parts, whole)
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    expected = whole.forward(x=x, cont=np.ones((5, 2)))["h"]
    first = parts.forward(x=x[:2], cont=np.ones((2, 2)))["h"].copy()
    parts.blobs["x"].reshape(3, 2, 3)
    parts.blobs["cont"].reshape(3, 2)
    rest = parts.forward(x=x[2:], cont=np.ones((3, 2)))["h"]
    np.testing.assert_allclose(np.concatenate([first, rest]), expected, rtol=1e-5, atol=1e-6)


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("save", "name", "format"),
    [
        ("save", "net.caffemodel", "binaryproto"),
        ("save", "net.caffemodel.h5", "HDF5"),
        ("save_hdf5", "net.weights", "HDF5"),
    ],
)
def test_weights_survive_a_file(tmp_path: Path, save: str, name: str, format: str) -> None:
    net, other = net_of(tmp_path), net_of(tmp_path)
    assert not np.array_equal(net.params["ip"][0].data, other.params["ip"][0].data)
    getattr(net, save)(str(tmp_path / name))
    saved = read_weights(tmp_path / name)
    assert saved.format == format
    assert "pool_pool_0_split" not in [layer.name for layer in saved.layers]
    kept = other.params["ip"][0].data
    other.copy_from(str(tmp_path / name))
    assert np.shares_memory(kept, other.params["ip"][0].data)
    for layer, blobs in net.params.items():
        for ours, theirs in zip(other.params[layer], blobs, strict=True):
            np.testing.assert_array_equal(ours.data, theirs.data)


def test_weights_that_clash_change_nothing(tmp_path: Path) -> None:
    net_of(tmp_path).save(tmp_path / "net.caffemodel")
    other = net_of(tmp_path, SMALL.replace("num_output: 3 kernel", "num_output: 5 kernel"))
    before = [blob.data.copy() for blobs in other.params.values() for blob in blobs]
    with pytest.raises(NetcError, match="'conv'"):
        other.copy_from(tmp_path / "net.caffemodel")
    after = [blob.data for blobs in other.params.values() for blob in blobs]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_nets_that_share_weights(tmp_path: Path) -> None:
    net, other = net_of(tmp_path), net_of(tmp_path)
    for each in (net, other):
        write_inputs(each)
    other.share_with(net)
    assert np.shares_memory(net.params["ip"][0].data, other.params["ip"][0].data)
    assert not np.shares_memory(net.params["ip"][0].diff, other.params["ip"][0].diff)
    net.params["ip"][1].data[...] = [5, 0, 0]
    np.testing.assert_array_equal(net.forward()["loss"], other.forward()["loss"])
    clash = net_of(tmp_path, SMALL.replace("num_output: 3 kernel", "num_output: 5 kernel"))
    with pytest.raises(NetcError, match="cannot share param 0"):
        clash.share_with(net)
    assert not np.shares_memory(net.params["ip"][0].data, clash.params["ip"][0].data)


# -- data ------------------------------------------------------------------------------------------


def data_net(folder: Path, name: str = "db") -> caffe.Net:
    write_datums(
        folder / name,
        [
            netc_pb2.Datum(channels=1, height=2, width=2, data=bytes([i] * 4), label=i)
            for i in range(6)
        ],
    )
    return net_of(
        folder,
        f"""
        layer {{ name: "data" type: "Data" top: "data" top: "label"
                 data_param {{ source: "{name}" batch_size: 2 backend: LMDB }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
                 inner_product_param {{ num_output: 2 }} }}
        """,
    )


def feeding() -> int:
    return sum(thread.name == "netc-feed" for thread in threading.enumerate())


def test_data_layers_go_on_with_every_pass(tmp_path: Path) -> None:
    net = data_net(tmp_path)
    assert net.inputs == []
    assert list(net.forward()["label"]) == [0, 1]
    net.forward(start="ip")
    assert list(net.blobs["label"].data) == [0, 1]
    assert list(net.forward()["label"]) == [2, 3]


def test_a_forgotten_net_lets_go_of_its_data(tmp_path: Path) -> None:
    gc.collect()
    before = feeding()
    net = data_net(tmp_path)
    net.forward()
    data = net.blobs["data"].data
    assert feeding() == before + 1
    del net
    gc.collect()
    assert feeding() == before
    assert data.shape == (2, 1, 2, 2)


def test_a_net_follows_the_size_of_its_images(tmp_path: Path) -> None:
    import cv2

    lines = []
    for i, (height, width) in enumerate([(4, 5), (6, 3), (6, 3), (4, 5)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((height, width, 3), i, np.uint8))
        lines.append(f"{i}.png {i}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    net = net_of(
        tmp_path,
        f"""
        layer {{ name: "data" type: "ImageData" top: "data" top: "label" image_data_param {{
                 source: "list.txt" root_folder: "{tmp_path}/" batch_size: 1 }} }}
        layer {{ name: "pool" type: "Pooling" bottom: "data" top: "pool"
                 pooling_param {{ pool: MAX global_pooling: true }} }}
        """,
    )
    for i, shape in enumerate([(4, 5), (6, 3), (6, 3), (4, 5), (4, 5), (6, 3)]):
        net.forward()
        assert net.blobs["data"].shape == (1, 3, *shape)
        assert (net.blobs["pool"].data == i % 4).all()
        assert list(net.blobs["label"].data) == [i % 4]
