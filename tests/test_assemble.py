"""From text to executor: assumed shapes, stand-ins for data, and params without an executor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.assemble import load_graph, load_net, timed_executor
from netc.backends import find_backend
from netc.data import Feed
from netc.errors import NetcError
from netc.layers.types import Phase
from netc.learned import read_params, weights_of
from netc.runtime.standin import StandIn
from netc.weights import Fate, write_weights
from tests.support.furnished import furnish
from tests.support.nets import executor_of


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path / "net.prototxt"


def spoil(path: Path, right: str, wrong: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), encoding="utf-8")


# -- absent data -----------------------------------------------------------------------------------


def test_absent_data_is_an_error_unless_assumed(net: Path) -> None:
    spoil(net, 'source: "db"', 'source: "away"')
    with pytest.raises(NetcError, match="database 'away' does not exist") as told:
        load_graph(net, Phase.TRAIN)
    assert "-shape" not in str(told.value)
    with pytest.raises(NetcError, match=r"-shape data=\.\.\. does without the data"):
        load_graph(net, Phase.TRAIN, assume=True)


def test_settings_tell_the_shape(net: Path) -> None:
    spoil(net, 'source: "db"', 'source: "away"')
    spoil(net, "scale: 0.00390625", "crop_size: 6")
    graph = load_graph(net, Phase.TRAIN, assume=True)
    assert graph.blobs["data"].shape == (4, 3, 6, 6)
    (note,) = graph.notes
    assert "images of shape (3, 6, 6) are assumed, from crop_size" in note


def test_a_given_shape_replaces_absent_data(net: Path) -> None:
    spoil(net, 'source: "db"', 'source: "away"')
    graph = load_graph(net, Phase.TRAIN, shapes={"data": (2, 1, 9, 9)}, assume=True)
    assert [graph.blobs[key].shape for key in ("data", "label")] == [(2, 1, 9, 9), (2,)]
    assert graph.notes[0].endswith("database 'away' does not exist: its shape is the one given")


def test_a_given_shape_counts_more_than_the_settings(net: Path) -> None:
    spoil(net, 'source: "db"', 'source: "away"')
    spoil(net, "scale: 0.00390625", "crop_size: 6")
    graph = load_graph(net, Phase.TRAIN, shapes={"data": (1, 3, 5, 5)}, assume=True)
    assert graph.blobs["data"].shape == (1, 3, 5, 5)
    assert graph.notes[0].endswith("database 'away' does not exist: its shape is the one given")


ABSENT = {
    "Data": "transform_param { crop_size: 24 force_gray: true } "
    'data_param { source: "away" batch_size: 2 }',
    "AnnotatedData": "transform_param { resize_param { prob: 1 resize_mode: WARP height: 30 "
    'width: 20 } } data_param { source: "away" batch_size: 2 }',
    "ImageData": "transform_param { crop_size: 24 } "
    'image_data_param { source: "away" batch_size: 2 new_height: 30 new_width: 20 }',
    "DenseImageData": 'dense_image_data_param { source: "away" batch_size: 2 new_height: 30 '
    "new_width: 20 }",
    "ImageSegData": "transform_param { crop_size: 24 } "
    'image_data_param { source: "away" batch_size: 2 label_type: PIXEL }',
    "WindowData": "transform_param { crop_size: 24 } "
    'window_data_param { source: "away" batch_size: 2 }',
    "VideoData": "transform_param { crop_size: 24 } "
    'video_data_param { video_type: VIDEO video_file: "away" } data_param { batch_size: 2 }',
    "HDF5Data": 'hdf5_data_param { source: "away" batch_size: 2 }',
    "MemoryData": "memory_data_param { batch_size: 2 channels: 3 height: 30 width: 20 }",
}
ASSUMED = {
    "Data": ("crop_size", [(2, 1, 24, 24), (2,)]),
    "AnnotatedData": ("resize_param", [(2, 3, 30, 20), (1, 1, 2, 8)]),
    "ImageData": ("new_height, new_width", None),
    "DenseImageData": ("new_height, new_width", [(2, 3, 30, 20), (2, 1, 30, 20)]),
    "ImageSegData": ("the crop", [(2, 3, 24, 24), (2, 1, 24, 24)]),
    "WindowData": ("crop_size", [(2, 3, 24, 24), (2,)]),
    "VideoData": ("transform_param", [(2, 3, 24, 24), (2,)]),
    "HDF5Data": None,
    "MemoryData": ("", [(2, 3, 30, 20), (2,)]),
}


# Their labels do not follow a batch size that is given for the images.
LABELS_ALONE = {"HDF5Data", "MemoryData"}


def absent_net(folder: Path, kind: str) -> Path:
    text = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {ABSENT[kind]} }}'
    (folder / "absent.prototxt").write_text(text)
    return folder / "absent.prototxt"


@pytest.mark.parametrize("kind", ABSENT)
def test_what_the_settings_of_each_type_tell(tmp_path: Path, kind: str) -> None:
    path = absent_net(tmp_path, kind)
    if ASSUMED[kind] is None:
        with pytest.raises(NetcError, match=r"-shape data=\.\.\. -shape label=\.\.\. does without"):
            load_graph(path, Phase.TRAIN, assume=True)
        return
    source, shapes = ASSUMED[kind]
    if shapes is None:  # A crop that is too large for what the settings say is told.
        with pytest.raises(NetcError, match="crop_size"):
            load_graph(path, Phase.TRAIN, assume=True)
        return
    graph = load_graph(path, Phase.TRAIN, assume=True)
    assert [blob.shape for blob in graph.blobs.values()] == shapes
    assert all(f"are assumed, from {source}" in note for note in graph.notes)
    assert bool(graph.notes) == bool(source)


@pytest.mark.parametrize("kind", ABSENT)
def test_a_shape_can_be_given_for_each_type(tmp_path: Path, kind: str) -> None:
    path = absent_net(tmp_path, kind)
    shapes = {"data": (5, 3, 40, 50)} | ({"label": (5,)} if kind in LABELS_ALONE else {})
    if kind == "ImageData":
        path.write_text(path.read_text().replace("crop_size: 24", ""))
    graph = load_graph(path, Phase.TRAIN, shapes=shapes, assume=True)
    assert graph.blobs["data"].shape == (5, 3, 40, 50)
    label = graph.blobs["label"].shape
    if kind == "AnnotatedData":
        assert label == (1, 1, 2, 8)
    else:
        assert label[0] == 5
    assert all("its shape is the one given" in note for note in graph.notes)


def test_of_hdf5_all_shapes_must_be_given(net: Path) -> None:
    spoil(net, 'type: "Data"', 'type: "HDF5Data"')
    spoil(
        net,
        'data_param { source: "db" backend: LMDB batch_size: 4 }',
        'hdf5_data_param { source: "list" batch_size: 4 }',
    )
    spoil(net, "transform_param { scale: 0.00390625 }", "")
    with pytest.raises(NetcError, match=r"-shape data=\.\.\. -shape label=\.\.\. does without"):
        load_graph(net, Phase.TRAIN, shapes={"data": (4, 3, 8, 8)}, assume=True)
    shapes = {"data": (4, 3, 8, 8), "label": (4, 1)}
    graph = load_graph(net, Phase.TRAIN, shapes=shapes, assume=True)
    assert graph.blobs["label"].shape == (4, 1)


def test_settings_are_still_checked_where_data_is_absent(net: Path) -> None:
    spoil(net, 'source: "db"', 'source: "away"')
    spoil(net, "scale: 0.00390625", "mean_value: 1 mean_value: 2")
    with pytest.raises(NetcError, match="the number of mean values does not match"):
        load_graph(net, Phase.TRAIN, shapes={"data": (2, 3, 9, 9)}, assume=True)


def test_an_upgrade_is_noted(net: Path) -> None:
    graph = load_graph(net.with_name("deploy.prototxt"), Phase.TEST)
    assert graph.notes == (
        f"{net.with_name('deploy.prototxt')}: input 'data' rewritten as a layer of type Input",
    )


# -- nets whose speed alone matters ----------------------------------------------------------------


def test_data_that_is_there_is_read(net: Path) -> None:
    backend = find_backend("reference")
    executor, remarks = timed_executor(load_net(net, Phase.TRAIN), backend, train=True)
    (feed,) = executor.feeds.values()
    assert isinstance(feed, Feed)
    assert not remarks
    executor.forward()
    feed.close()


@pytest.mark.parametrize("absent", [True, False])
def test_other_shapes_and_absent_data_get_a_stand_in(absent: bool, net: Path) -> None:
    if absent:
        spoil(net, 'source: "db"', 'source: "away"')
    shapes = {"data": (2, 3, 9, 9)}
    assumed = load_net(net, Phase.TRAIN, shapes=shapes, assume=True)
    executor, remarks = timed_executor(
        assumed, find_backend("reference"), train=True, replaced=shapes
    )
    (feed,) = executor.feeds.values()
    assert isinstance(feed, StandIn)
    assert remarks == ["layer 'images' (Data) gives random values, and no data is read"]
    executor.forward()
    executor.backward()
    assert np.isfinite(executor.loss())


# -- params of nets that need not run --------------------------------------------------------------


def test_params_from_files(net: Path) -> None:
    graph = load_graph(net.with_name("deploy.prototxt"), Phase.TEST)
    trained = executor_of(graph, train=False, seed=5)
    for param in trained.params:
        param[...] = np.random.default_rng(param.size).random(param.shape)
    write_weights("w.caffemodel", weights_of(trained, []))
    params, found = read_params(graph, ["w.caffemodel"])
    assert [row.fate for row in found.rows] == [Fate.COPIED, Fate.COPIED]
    for one, other in zip(params, trained.params, strict=True):
        np.testing.assert_array_equal(one, other)


def test_params_that_no_file_has(net: Path) -> None:
    graph = load_graph(net, Phase.TRAIN)
    with pytest.raises(NetcError, match="the weights do not have this layer"):
        read_params(graph, [])
    params, found = read_params(graph, [], fill=True, seed=3)
    assert {row.fate for row in found.rows} == {Fate.FRESH}
    for one, other in zip(params, executor_of(graph, seed=3).params, strict=True):
        np.testing.assert_array_equal(one, other)
