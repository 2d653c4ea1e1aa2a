"""Videos with a truth for each voxel: files of five sizes and their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.errors import NetcError
from netc.layers.clips import VideoSegmentationData, VideoWithVoxelTruthData
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal
from tests.data.samples import OpenLayer, batches

SHAPE = (5, 2, 8, 9)
TOPS = {"top": ("data", "truth")}


def written(path: Path, voxels: np.ndarray) -> np.ndarray:
    path.write_bytes(np.array([1, *voxels.shape], "<i4").tobytes() + voxels.tobytes())
    return voxels.astype(np.float32)


@pytest.fixture
def flows(tmp_path: Path) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    (tmp_path / "list").write_text("a.bin\nb.bin\n")
    return [
        written(tmp_path / f"{name}.bin", rng.standard_normal(SHAPE).astype("<f4")) for name in "ab"
    ]


def layer(folder: Path, **settings: Any) -> VideoWithVoxelTruthData:
    fields = {"source": str(folder / "list"), "batch_size": 2, "num_truth_channels": 2, **TOPS}
    return VideoWithVoxelTruthData(**(fields | settings))


def test_without_a_crop_the_truth_is_as_stored(
    tmp_path: Path, flows: list[np.ndarray], open_layer: OpenLayer
) -> None:
    param = TransformParam(scale=2.0, mean_value=(0.5,))
    found = layer(tmp_path, transform_param=param, truth_scale=0.125, is_flow=True)
    assert probe(found).types == (BlobType((3, 2, 8, 9)), BlobType((2, 2, 8, 9)))
    ((data, truth),) = batches(open_layer(found), 1)
    for i, flow in enumerate(flows):
        np.testing.assert_array_equal(data[i], (flow[:3] - 0.5) * 2)
        np.testing.assert_array_equal(truth[i], flow[3:])


def test_video_and_truth_are_cropped_and_mirrored_alike(
    tmp_path: Path, flows: list[np.ndarray], open_layer: OpenLayer
) -> None:
    param = TransformParam(crop_size=6, mirror=True)
    found = layer(tmp_path, transform_param=param, truth_scale=0.125, is_flow=True, batch_size=24)
    ((data, truth),) = batches(open_layer(found, Phase.TRAIN), 1)
    places, seen = [], set()
    for which, flow in enumerate(flows):
        for y in range(3):
            for x in range(4):
                window = flow[:, :, y : y + 6, x : x + 6]
                places.append((which, y, x, False, window[:3], window[3:] * np.float32(0.125)))
                turned = window[..., ::-1].copy()
                turned[3] *= -1
                places.append((which, y, x, True, turned[:3], turned[3:] * np.float32(0.125)))
    for i in range(24):
        ((*where, _, wanted),) = (p for p in places if np.array_equal(p[4], data[i]))
        assert where[0] == i % 2
        np.testing.assert_array_equal(truth[i], wanted)
        seen.add(tuple(where))
    assert {one[3] for one in seen} == {False, True} and len(seen) > 8


def test_a_truth_that_is_brought_to_a_range(
    tmp_path: Path, flows: list[np.ndarray], open_layer: OpenLayer
) -> None:
    found = layer(
        tmp_path, transform_param=TransformParam(crop_size=6), clip_min=-1.0, clip_max=1.0
    )
    ((_, truth),) = batches(open_layer(found), 1)
    window = flows[0][3:, :, 1:7, 1:7]
    np.testing.assert_allclose(truth[0], np.clip((window + 1) / 2, 0, 1), rtol=1e-6)


def test_classes_are_bytes(tmp_path: Path, open_layer: OpenLayer) -> None:
    rng = np.random.default_rng(1)
    stored = written(tmp_path / "a", rng.integers(0, 256, (4, 2, 5, 6)).astype(np.uint8))
    (tmp_path / "list").write_text(f"{tmp_path}/a")
    found = VideoSegmentationData(
        source=str(tmp_path / "list"), transform_param=TransformParam(crop_size=4), **TOPS
    )
    feed = open_layer(found)
    ((data, truth),) = batches(feed, 1)
    np.testing.assert_array_equal(data[0], stored[:3, :, :4, 1:5])
    np.testing.assert_array_equal(truth[0], stored[3:, :, :4, 1:5])


def test_a_feed_goes_on_where_another_stood(
    tmp_path: Path, flows: list[np.ndarray], open_layer: OpenLayer
) -> None:
    found = layer(
        tmp_path, transform_param=TransformParam(crop_size=6, mirror=True), shuffle=True,
        batch_size=1,
    )  # fmt: skip
    first = open_layer(found, Phase.TRAIN)
    batches(first, 3)
    second = open_layer(found, Phase.TRAIN)
    second.restore(first.state())
    for one, other in zip(batches(first, 4), batches(second, 4), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no video with its truth"),
        (np.array([1, 3, 1, 1, 1], "<i4").tobytes(), "no video with its truth"),
        (np.array([2, 3, 1, 1, 1], "<i4").tobytes() + bytes(24), "no video with its truth"),
        (np.array([1, 2, 1, 1, 1], "<i4").tobytes() + bytes(8), "too few channels"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "list").write_text("a")
    with pytest.raises(NetcError, match=words) as caught:
        probe(layer(tmp_path))
    assert "list:1" in str(caught.value)


def test_files_of_two_shapes_make_no_batch(
    tmp_path: Path, flows: list[np.ndarray], open_layer: OpenLayer
) -> None:
    written(tmp_path / "b.bin", np.zeros((5, 2, 8, 8), "<f4"))
    with pytest.raises(NetcError, match="differ in shape"):
        batches(open_layer(layer(tmp_path)), 1)


def test_what_is_absent(tmp_path: Path) -> None:
    with pytest.raises(DataAbsent):
        probe(layer(tmp_path))
    found = layer(tmp_path, transform_param=TransformParam(crop_size=112))
    item = probe(found, assume=True)
    assert item.types == (BlobType((3, 16, 112, 112)), BlobType((2, 16, 112, 112)))
    assert [top.shape for top in found.infer(*item.types).tops] == [
        (2, 3, 16, 112, 112), (2, 2, 16, 112, 112)
    ]  # fmt: skip
    (tmp_path / "list").write_text("a")
    with pytest.raises(DataAbsent, match="video"):
        probe(layer(tmp_path))
    (tmp_path / "list").write_text(" \n")
    with pytest.raises(NetcError, match="list is empty"):
        probe(layer(tmp_path))


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"num_truth_channels": 0}, "num_truth_channels"),
        ({"clip_min": 1.0}, "clip_min"),
        ({"clip_max": 1.0}, "clip_max"),
        ({"clip_min": 1.0, "clip_max": 1.0}, "clip_min"),
        ({"transform_param": TransformParam(mirror=True)}, "mirror"),
    ],
)
def test_settings_that_make_no_sense(
    tmp_path: Path, settings: dict[str, Any], setting: str
) -> None:
    with pytest.raises(Refusal) as caught:
        layer(tmp_path, **settings).check()
    assert caught.value.setting == setting
