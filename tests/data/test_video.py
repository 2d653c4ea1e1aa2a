"""VideoData: the frames of a file are those that OpenCV decodes, in order; a camera is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.video import Frames
from netc.errors import NetcError, Span
from netc.layers.transform import ImageTransform, ResizeParam
from netc.layers.types import BlobType, Phase, Refusal
from netc.layers.video import VideoData, VideoType
from tests.data.samples import OpenLayer, batches

N_FRAMES = 7


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video of frames 24 x 32 that grow brighter, from left to right and from one to the next."""
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 24))
    assert writer.isOpened()
    for i in range(N_FRAMES):
        frame = np.zeros((24, 32, 3), np.uint8)
        frame[...] = (np.arange(32) * 2 + 20 * i)[None, :, None]
        frame[..., 2] //= 2
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def decoded(video: Path) -> np.ndarray:
    """Its frames (7, 3, 24, 32), read one after the other."""
    capture = cv2.VideoCapture(str(video))
    frames = [capture.read()[1].transpose(2, 0, 1) for _ in range(N_FRAMES)]
    assert not capture.read()[0]
    capture.release()
    return np.stack(frames)


def layer(**settings: object) -> VideoData:
    fields: dict[str, object] = {"batch_size": 2, "top": ("data",)}
    return VideoData(**(fields | settings))  # type: ignore[arg-type]


def of_file(video: Path, **settings: object) -> VideoData:
    return layer(video_type=VideoType.VIDEO, video_file=str(video), **settings)


def test_frames_in_their_order_over_and_over(
    video: Path, decoded: np.ndarray, open_layer: OpenLayer
) -> None:
    assert probe(of_file(video)).types == (BlobType((3, 24, 32)),)
    feed = open_layer(of_file(video, top=("data", "label")))
    seen = batches(feed, 5)
    assert all(labels.tolist() == [0, 0] for _, labels in seen)
    images = np.concatenate([images for images, _ in seen])
    np.testing.assert_array_equal(images, decoded[np.arange(10) % N_FRAMES])
    # The frames do differ, and colours are B, G, R.
    assert decoded[1].mean() > decoded[0].mean() + 10
    assert decoded[3, 0].mean() > decoded[3, 2].mean() + 10


@pytest.mark.parametrize(("skip", "wanted"), [(1, [1, 3, 5, 1, 3, 5]), (2, [2, 5, 2, 5, 2, 5])])
def test_frames_are_skipped_before_each_that_is_taken(
    video: Path, decoded: np.ndarray, open_layer: OpenLayer, skip: int, wanted: list[int]
) -> None:
    feed = open_layer(of_file(video, skip_frames=skip))
    images = np.concatenate([images for (images,) in batches(feed, 3)])
    np.testing.assert_array_equal(images, decoded[wanted])


def test_a_feed_goes_on_where_another_stood(
    video: Path, decoded: np.ndarray, open_layer: OpenLayer
) -> None:
    first = open_layer(of_file(video))
    batches(first, 2)
    second = open_layer(of_file(video))
    second.restore(first.state())
    np.testing.assert_array_equal(batches(second, 1)[0][0], decoded[[4, 5]])


def test_frames_are_changed_as_the_settings_say(
    video: Path, decoded: np.ndarray, open_layer: OpenLayer
) -> None:
    transform = ImageTransform(
        resize_param=(ResizeParam(height=12, width=20),), crop_h=10, crop_w=8, mean_value=(3.0,),
        scale=0.5,
    )  # fmt: skip
    feed = open_layer(of_file(video, transform_param=transform))
    ((images,),) = batches(feed, 1)
    resized = cv2.resize(decoded[1].transpose(1, 2, 0), (20, 12)).transpose(2, 0, 1)
    np.testing.assert_array_equal(images[1], (resized[:, 1:11, 6:14] - np.float32(3)) * 0.5)
    mirrored = ImageTransform(mirror=True)
    feed = open_layer(of_file(video, transform_param=mirrored, batch_size=7), Phase.TRAIN)
    ((images,),) = batches(feed, 1)
    same = [bool((image == frame).all()) for image, frame in zip(images, decoded, strict=True)]
    turned = [
        bool((image == frame[..., ::-1]).all())
        for image, frame in zip(images, decoded, strict=True)
    ]
    assert all(a != b for a, b in zip(same, turned, strict=True)) and any(same) and any(turned)


def test_paths_start_from_the_folder_of_the_net(video: Path) -> None:
    found = layer(video_type=VideoType.VIDEO, video_file="a.avi")
    span = Span(str(video.with_name("net.prototxt")), 1, 1)
    assert probe(found, span).types == (BlobType((3, 24, 32)),)


def test_what_is_no_video(tmp_path: Path, video: Path) -> None:
    (tmp_path / "b.avi").write_bytes(b"no video at all")
    with pytest.raises(NetcError, match="no video that OpenCV reads") as error:
        probe(of_file(tmp_path / "b.avi"))
    assert "b.avi', 15 bytes" in str(error.value)
    with pytest.raises(Refusal, match="leaves no frame") as caught:
        probe(of_file(video, skip_frames=7))
    assert (caught.value.expected, caught.value.setting) == (
        "skip_frames < 7, the number of frames",
        "skip_frames",
    )


def test_a_video_that_ends_before_its_last_frame(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = Frames(video)
    monkeypatch.setattr(frames, "_count", 9)
    with pytest.raises(NetcError, match="ends before its last frame") as error:
        frames.read(8)
    assert "9 frames" in str(error.value) and "got       7 frames" in str(error.value)
    # It can still be read from its beginning.
    assert frames.read(6).shape == (3, 24, 32)
    frames.close()


# -- absent ----------------------------------------------------------------------------------------

RESIZED = ImageTransform(resize_param=(ResizeParam(height=300, width=200),))


@pytest.mark.parametrize(
    ("transform", "shape"),
    [(RESIZED, (3, 300, 200)), (ImageTransform(crop_size=64), (3, 64, 64))],
)
def test_the_transformation_says_what_size_frames_have(
    transform: ImageTransform, shape: tuple[int, ...]
) -> None:
    video = layer(transform_param=transform)
    item = probe(video, assume=True)
    assert item.types == (BlobType(shape),) and "assumed" in item.assumed
    assert video.infer(*item.types).tops == (BlobType((2, *shape)),)


@pytest.mark.parametrize(
    ("settings", "words", "setting"),
    [
        ({"device_id": 3}, "device 3", "device_id"),
        ({"video_type": VideoType.VIDEO, "video_file": "none.mp4"}, "none.mp4", "video_file"),
    ],
)
def test_frames_cannot_be_had(settings: dict[str, object], words: str, setting: str) -> None:
    with pytest.raises(DataAbsent) as caught:
        probe(layer(**settings))
    assert words in f"{caught.value.got} {caught.value}" and caught.value.setting == setting
    with pytest.raises(DataAbsent):
        probe(layer(**settings), assume=True)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"video_type": VideoType.VIDEO}, "video_type"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        probe(layer(**settings), assume=True)
    assert caught.value.setting == setting
