"""Clips that lists name: which frames, and what is done to them, by the forks' rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.clips import read_clips
from netc.errors import NetcError
from netc.layers.clips import (
    Modality,
    SnippetTransform,
    VideoClipData,
    VideoSampleData,
    VideoSnippetData,
)
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase
from tests.data.samples import OpenLayer, batches
from tests.weights.samples import number_field, packed

N_FRAMES, HEIGHT, WIDTH = 9, 20, 24


def frame_of(video: int, number: int, channels: int = 3) -> np.ndarray:
    """Return a frame (H, W, C) that differs from all others."""
    rng = np.random.default_rng([video, number, channels])
    return cv2.resize(
        rng.integers(0, 256, (5, 6, channels)).astype(np.uint8), (WIDTH, HEIGHT)
    ).reshape(HEIGHT, WIDTH, channels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos as folders of files, named as each fork wants them, and one as a file."""
    for video in (1, 2):
        place = tmp_path / f"v{video}"
        place.mkdir()
        for number in range(N_FRAMES + 1):
            frame = frame_of(video, number)
            for name in (f"{number:06d}.jpg", f"image_{number:04d}.jpg", f"img_{number:05d}.png"):
                assert cv2.imwrite(str(place / name), frame)
            for k, direction in enumerate("xy"):
                gray = frame_of(video + 10 * k, number, 1)
                assert cv2.imwrite(str(place / f"flow_{direction}_{number:04d}.jpg"), gray)
    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT)
    )
    for number in range(N_FRAMES):
        writer.write(frame_of(3, number))
    writer.release()
    return tmp_path


def read(path: Path, color: bool = True) -> np.ndarray:
    """Return an image as (C, H, W)."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decoded(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1].transpose(2, 0, 1) for _ in range(N_FRAMES)]
    capture.release()
    return frames


def listed(folder: Path, *lines: str) -> str:
    (folder / "list.txt").write_text("".join(line + "\n" for line in lines))
    return str(folder / "list.txt")


TOPS = {"top": ("data", "label")}


# -- video-caffe -----------------------------------------------------------------------------------


def clips(folder: Path, *lines: str, **settings: Any) -> VideoClipData:
    fields: dict[str, Any] = {"new_length": 3, "batch_size": 2, **TOPS}
    return VideoClipData(source=listed(folder, *lines), **(fields | settings))


def test_frames_follow_the_one_that_the_line_tells(folder: Path, open_layer: OpenLayer) -> None:
    layer = clips(folder, "v1 2 7", "a.avi 4 5")
    assert probe(layer).types == (BlobType((3, 3, HEIGHT, WIDTH)),)
    ((data, labels),) = batches(open_layer(layer), 1)
    assert data.shape == (2, 3, 3, HEIGHT, WIDTH)
    for k in range(3):
        np.testing.assert_array_equal(data[0, :, k], read(folder / "v1" / f"image_{2 + k:04d}.jpg"))
        # Frame 4 is the fourth.
        np.testing.assert_array_equal(data[1, :, k], decoded(folder / "a.avi")[3 + k])
    assert labels.tolist() == [7, 5]


def test_a_clip_is_resized_cropped_and_mirrored_as_one(folder: Path, open_layer: OpenLayer) -> None:
    transform = TransformParam(crop_size=8, mirror=True, mean_value=(10.0, 20.0, 30.0), scale=0.5)
    layer = clips(
        folder, "v1 1 0", new_height=10, new_width=12, transform_param=transform, batch_size=6
    )
    ((data, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    frames = [read(folder / "v1" / f"image_{n:04d}.jpg") for n in (1, 2, 3)]
    small = np.stack(
        [cv2.resize(f.transpose(1, 2, 0), (12, 10)).transpose(2, 0, 1) for f in frames], axis=1
    ).astype(np.float32)
    small = (small - np.array([10, 20, 30], np.float32).reshape(3, 1, 1, 1)) * 0.5
    places = [
        small[:, :, y : y + 8, x : x + 8][..., ::step]
        for y in range(3)
        for x in range(5)
        for step in (1, -1)
    ]
    found = [[i for i, p in enumerate(places) if np.array_equal(p, clip)] for clip in data]
    assert all(len(hits) == 1 for hits in found)
    assert len({hits[0] for hits in found}) > 2


def test_the_mean_of_a_clip(folder: Path, open_layer: OpenLayer) -> None:
    sizes = (1, 3, 3, HEIGHT, WIDTH)
    mean = np.random.default_rng(0).random(sizes, np.float32)
    raw = b"".join(number_field(n, size) for n, size in enumerate(sizes, start=1))
    (folder / "mean").write_bytes(raw + packed(6, mean.ravel()))
    param = TransformParam(mean_file=str(folder / "mean"), crop_size=10)
    ((data, _),) = batches(open_layer(clips(folder, "v1 1 0", transform_param=param)), 1)
    frames = [read(folder / "v1" / f"image_{n:04d}.jpg") for n in (1, 2, 3)]
    want = np.stack(frames, axis=1).astype(np.float32) - mean[0]
    np.testing.assert_array_equal(data[0], want[:, :, 5:15, 7:17])


def test_gray_clips_under_a_root_folder(folder: Path, open_layer: OpenLayer) -> None:
    layer = clips(folder, "v1 1 0", "a.avi 1 0", is_color=False, root_folder=f"{folder}/")
    ((data, _),) = batches(open_layer(layer), 1)
    np.testing.assert_array_equal(
        data[0, :, 0], read(folder / "v1" / "image_0001.jpg", color=False)
    )
    first = decoded(folder / "a.avi")[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(data[1, 0, 0], cv2.cvtColor(first, cv2.COLOR_BGR2GRAY))


def test_a_shuffled_feed_goes_on_where_another_stood(folder: Path, open_layer: OpenLayer) -> None:
    lines = [f"v{v} {n} {n + 10 * v}" for v in (1, 2) for n in (1, 2, 3)]
    param = TransformParam(crop_size=9, mirror=True)
    layer = clips(folder, *lines, shuffle=True, transform_param=param)
    first = open_layer(layer, Phase.TRAIN)
    seen = batches(first, 4)
    assert sorted(np.concatenate([labels for _, labels in seen[:3]])) == [11, 12, 13, 21, 22, 23]
    second = open_layer(layer, Phase.TRAIN)
    batches(second, 1)
    state = second.state()
    third = open_layer(layer, Phase.TRAIN)
    third.restore(state)
    for one, other in zip(seen[1:], batches(third, 3), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


# -- C3D -------------------------------------------------------------------------------------------


def samples(folder: Path, *lines: str, **settings: Any) -> VideoSampleData:
    fields: dict[str, Any] = {"new_length": 2, "batch_size": 1, **TOPS}
    return VideoSampleData(source=listed(folder, *lines), **(fields | settings))


def test_each_third_frame(folder: Path, open_layer: OpenLayer) -> None:
    layer = samples(folder, "v2 1 4", use_image=True, sampling_rate=3)
    ((data, labels),) = batches(open_layer(layer), 1)
    for k, number in enumerate((1, 4)):
        np.testing.assert_array_equal(data[0, :, k], read(folder / "v2" / f"{number:06d}.jpg"))
    assert labels.tolist() == [4]
    # Of video files, frames are numbered from 0.
    ((data, _),) = batches(open_layer(samples(folder, "a.avi 1 4", sampling_rate=3)), 1)
    for k, number in enumerate((1, 4)):
        np.testing.assert_array_equal(data[0, :, k], decoded(folder / "a.avi")[number])


@pytest.mark.parametrize("images", [True, False])
def test_the_first_frame_is_drawn(folder: Path, open_layer: OpenLayer, images: bool) -> None:
    lines = [f"v1 {N_FRAMES} 0"] if images else ["a.avi 0"]
    layer = samples(
        folder, *lines, use_image=images, use_temporal_jitter=True, sampling_rate=2, batch_size=40
    )
    ((data, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    if images:
        stored = {n: read(folder / "v1" / f"{n:06d}.jpg") for n in range(1, N_FRAMES + 1)}
    else:
        stored = dict(enumerate(decoded(folder / "a.avi")))
    starts = set()
    for clip in data:
        (start,) = (n for n, frame in stored.items() if np.array_equal(frame, clip[:, 0]))
        np.testing.assert_array_equal(clip[:, 1], stored[start + 2])
        starts.add(start)
    # As in the fork, the frame behind the last one that is taken is there too.
    assert starts == set(range(int(images), N_FRAMES - 4 + 1 + int(images)))


def test_folders_in_phase_test_begin_at_their_file_0(folder: Path, open_layer: OpenLayer) -> None:
    layer = samples(folder, f"v1 {N_FRAMES} 0", use_image=True, use_temporal_jitter=True)
    ((data, _),) = batches(open_layer(layer, Phase.TEST), 1)
    np.testing.assert_array_equal(data[0, :, 0], read(folder / "v1" / "000000.jpg"))


def test_the_rate_is_drawn(folder: Path, open_layer: OpenLayer) -> None:
    layer = samples(
        folder, "v1 1 0", use_image=True, use_sampling_rate_jitter=True, max_sampling_rate=3,
        batch_size=30,
    )  # fmt: skip
    ((data, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    seconds = [read(folder / "v1" / f"{n:06d}.jpg") for n in (2, 3, 4)]
    found = {
        next(k for k, frame in enumerate(seconds) if np.array_equal(frame, clip[:, 1]))
        for clip in data
    }
    assert found == {0, 1, 2}


def test_several_labels(folder: Path, open_layer: OpenLayer) -> None:
    layer = samples(
        folder, "v1 1 0,3", "v2 1 2", use_image=True, use_multiple_label=True, num_of_labels=4,
        batch_size=2,
    )  # fmt: skip
    for _, labels in batches(open_layer(layer), 2):
        assert labels.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]
    with pytest.raises(NetcError, match="not below num_of_labels"):
        probe(samples(folder, "v1 1 4", use_image=True, use_multiple_label=True, num_of_labels=4))


# -- temporal segment networks ---------------------------------------------------------------------


def snippets(folder: Path, *lines: str, **settings: Any) -> VideoSnippetData:
    fields: dict[str, Any] = {"new_length": 2, "num_segments": 2, "batch_size": 1, **TOPS}
    return VideoSnippetData(source=listed(folder, *lines), **(fields | settings))


def test_flow_from_the_middle_of_each_part(folder: Path, open_layer: OpenLayer) -> None:
    ((data, labels),) = batches(open_layer(snippets(folder, "v1 9 3")), 1)
    # Parts of 4 frames: from the second of each, of the three that are possible.
    want = [
        read(folder / "v1" / f"flow_{direction}_{number:04d}.jpg", color=False)
        for number in (2, 3, 6, 7)
        for direction in "xy"
    ]
    np.testing.assert_array_equal(data[0], np.concatenate(want))
    assert labels.tolist() == [3]


def test_frames_by_a_pattern(folder: Path, open_layer: OpenLayer) -> None:
    layer = snippets(
        folder, "v2 9 3", modality=Modality.RGB, name_pattern="img_%05d.png", new_length=1
    )
    ((data, _),) = batches(open_layer(layer), 1)
    want = [read(folder / "v2" / f"img_{number:05d}.png") for number in (3, 7)]
    np.testing.assert_array_equal(data[0], np.concatenate(want))
    gray = snippets(folder, "v2 9 3", modality=Modality.RGB, grayscale=True)
    assert probe(gray).types == (BlobType((4, HEIGHT, WIDTH)),)


def test_in_training_each_part_draws_its_frames(folder: Path, open_layer: OpenLayer) -> None:
    layer = snippets(folder, "v1 8 3", new_length=1, batch_size=60, modality=Modality.RGB)
    ((data, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    stored = [read(folder / "v1" / f"image_{n:04d}.jpg") for n in range(1, 9)]

    def number(image: np.ndarray) -> int:
        return next(k for k, frame in enumerate(stored) if np.array_equal(frame, image))

    assert {number(image[:3]) for image in data} == {0, 1, 2, 3}
    assert {number(image[3:]) for image in data} == {4, 5, 6, 7}


def test_a_part_that_is_too_short_begins_at_the_first_file(
    folder: Path, open_layer: OpenLayer
) -> None:
    layer = snippets(folder, "v1 3 0", modality=Modality.RGB)
    for phase in Phase:
        ((data, _),) = batches(open_layer(layer, phase), 1)
        want = [read(folder / "v1" / f"image_{n:04d}.jpg") for n in (1, 2, 1, 2)]
        np.testing.assert_array_equal(data[0], np.concatenate(want))


def test_windows_of_several_sizes(folder: Path, open_layer: OpenLayer) -> None:
    """Every image is one of those that the fork's loops would make."""
    param = SnippetTransform(
        crop_size=10, mirror=True, fix_crop=True, more_fix_crop=True, multi_scale=True,
        scale_ratios=(1.0, 0.75, 0.55), max_distort=1, is_flow=True, mean_value=(128.0, 100.0),
        scale=0.5,
    )  # fmt: skip
    layer = snippets(folder, "v1 1 0", num_segments=1, new_length=1, batch_size=80,
                     transform_param=param)  # fmt: skip
    ((data, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    image = np.concatenate([read(folder / "v1" / f"flow_{d}_0001.jpg", color=False) for d in "xy"])
    # 0.55 of 20 is 11, which counts as 10.
    sides = {20: 0, 15: 1, 10: 2}
    grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4), (1, 1),
            (1, 3), (3, 1), (3, 3)]  # fmt: skip
    possible = {}
    for h, i in sides.items():
        for w, k in sides.items():
            for down, across in grid:
                top, left = down * ((HEIGHT - h) // 4), across * ((WIDTH - w) // 4)
                part = image[:, top : top + h, left : left + w]
                part = np.stack([cv2.resize(p, (10, 10)) for p in part]).astype(np.float32)
                for mirror in (False, True):
                    one = part.copy()
                    if mirror:
                        one[0] = 255 - one[0]
                        one = one[..., ::-1]
                    one = (one - np.array([128, 100], np.float32).reshape(2, 1, 1)) * 0.5
                    possible[one.tobytes()] = (abs(i - k), h, w, mirror)
    found = [possible[one.tobytes()] for one in data]
    assert {one[0] for one in found} == {0, 1}
    assert {one[1:3] for one in found} == {
        (20, 20), (20, 15), (15, 20), (15, 15), (15, 10), (10, 15), (10, 10)
    }  # fmt: skip
    assert {one[3] for one in found} == {False, True}


def test_windows_anywhere_with_the_mean_of_their_place(folder: Path, open_layer: OpenLayer) -> None:
    mean = np.random.default_rng(0).random((1, 6, HEIGHT, WIDTH), np.float32)
    raw = b"".join(number_field(n, size) for n, size in enumerate(mean.shape, start=1))
    (folder / "mean").write_bytes(raw + packed(5, mean.ravel()))
    param = SnippetTransform(crop_size=12, mean_file=str(folder / "mean"))
    layer = snippets(folder, "v1 2 0", modality=Modality.RGB, new_length=1, batch_size=20,
                     transform_param=param)  # fmt: skip
    ((data, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    frames = [read(folder / "v1" / f"image_{n:04d}.jpg") for n in (1, 2)]
    whole = np.concatenate(frames).astype(np.float32) - mean[0]
    places = {whole[:, y : y + 12, x : x + 12].tobytes() for y in range(9) for x in range(13)}
    assert all(one.tobytes() in places for one in data)
    assert len({one.tobytes() for one in data}) > 5
    ((data, _),) = batches(open_layer(layer, Phase.TEST), 1)
    np.testing.assert_array_equal(data[0], whole[:, 4:16, 6:18])


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "numbered", "several"),
    [
        ("v1 7", True, False),
        ("v1 x 7", True, False),
        ("v1 1 7 8", True, False),
        ("v1 1 7", False, False),
        ("v1 1 7,", True, True),
        ("v1 1 a", True, False),
    ],
)
def test_lines_that_name_no_clip(tmp_path: Path, line: str, numbered: bool, several: bool) -> None:
    (tmp_path / "list").write_text(f"\n{line}\n")
    with pytest.raises(NetcError, match="names no clip") as caught:
        read_clips(tmp_path / "list", numbered=numbered, several=several)
    (problem,) = caught.value.problems
    assert problem.span is not None and problem.span.line == 2


def test_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n")
    with pytest.raises(NetcError, match="the list is empty"):
        read_clips(tmp_path / "list")


def test_what_is_not_there(folder: Path) -> None:
    with pytest.raises(DataAbsent, match="list of clips"):
        probe(VideoClipData(source=str(folder / "none"), **TOPS))
    with pytest.raises(DataAbsent, match="video"):
        probe(clips(folder, "v7 1 0"))
    with pytest.raises(NetcError, match="image_0010") as caught:
        probe(clips(folder, "v1 8 0"))
    assert "list.txt:1" in str(caught.value)
    with pytest.raises(NetcError, match="does not have the frames of the clip"):
        probe(clips(folder, "a.avi 8 0"))
    with pytest.raises(NetcError, match="too few frames"):
        probe(samples(folder, "a.avi 0", use_temporal_jitter=True, new_length=10))


def test_shapes_without_data(folder: Path) -> None:
    layer = VideoClipData(source="none", new_length=16, new_height=128, new_width=171, **TOPS)
    item = probe(layer, assume=True)
    assert item.types == (BlobType((3, 16, 128, 171)),)
    assert item.assumed.endswith("are assumed, from new_length and new_height, new_width")
    flow = VideoSnippetData(
        source="none", batch_size=4, new_length=5, num_segments=3,
        transform_param=SnippetTransform(crop_size=224), **TOPS,
    )  # fmt: skip
    item = probe(flow, assume=True)
    assert item.types == (BlobType((30, 224, 224)),)
    assert [top.shape for top in flow.infer(*item.types).tops] == [(4, 30, 224, 224), (4,)]
    assert ("crop_size" in item.assumed) or ("video_data_param" in item.assumed)
    with pytest.raises(DataAbsent):
        probe(VideoClipData(source="none", **TOPS), assume=True)
