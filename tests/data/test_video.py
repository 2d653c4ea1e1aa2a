"""VideoData: its shapes, and that its frames cannot be had."""

from __future__ import annotations

import pytest

from netc.data import DataAbsent, probe
from netc.layers.annotated import AnnotatedTransform, ResizeParam
from netc.layers.types import BlobType, Refusal
from netc.layers.video import VideoData, VideoType


def layer(**settings: object) -> VideoData:
    fields: dict[str, object] = {"batch_size": 2, "top": ("data",)}
    return VideoData(**(fields | settings))  # type: ignore[arg-type]


RESIZED = AnnotatedTransform(resize_param=ResizeParam(height=300, width=200))


@pytest.mark.parametrize(
    ("transform", "shape"),
    [(RESIZED, (3, 300, 200)), (AnnotatedTransform(crop_size=64), (3, 64, 64))],
)
def test_the_transformation_says_what_size_frames_have(
    transform: AnnotatedTransform, shape: tuple[int, ...]
) -> None:
    video = layer(transform_param=transform)
    item = probe(video, assume=True)
    assert item.types == (BlobType(shape),) and "assumed" in item.assumed
    assert video.infer(*item.types).tops == (BlobType((2, *shape)),)


@pytest.mark.parametrize(
    ("settings", "words", "setting"),
    [
        ({"device_id": 3}, "device 3", "device_id"),
        ({"video_type": VideoType.VIDEO, "video_file": "a.mp4"}, "'a.mp4'", "video_file"),
    ],
)
def test_frames_cannot_be_had(settings: dict[str, object], words: str, setting: str) -> None:
    with pytest.raises(DataAbsent) as caught:
        probe(layer(**settings))
    assert (caught.value.got, caught.value.setting) == (words, setting)
    assert "ImageData" in caught.value.hint
    with pytest.raises(DataAbsent):
        probe(layer(**settings), assume=True)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"source": "db"}, "source"),
        ({"video_type": VideoType.VIDEO}, "video_type"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        probe(layer(**settings), assume=True)
    assert caught.value.setting == setting
