"""Whose VideoData is meant, and the settings of each."""

from __future__ import annotations

from typing import Any

import pytest

from netc.layers.clips import (
    ClipReader,
    Modality,
    SnippetTransform,
    VideoClipData,
    VideoSampleData,
    VideoSnippetData,
)
from netc.layers.transform import ResizeParam, TransformParam
from netc.layers.types import BlobType, Refusal
from netc.layers.video import AnyVideoTransform, VideoData, VideoType


def meant(**settings: Any) -> ClipReader:
    found = VideoData(**({"source": "list", "batch_size": 2, "top": ("data",)} | settings)).resolve(
        None
    )
    assert isinstance(found, ClipReader)
    return found


def test_a_source_alone_is_video_caffes() -> None:
    param = AnyVideoTransform(crop_size=8, mean_value=(1.0,))
    found = meant(new_length=16, shuffle=True, transform_param=param, rand_skip=3)
    assert found == VideoClipData(
        source="list", batch_size=2, top=("data",), rand_skip=3, shuffle=True, new_length=16,
        transform_param=TransformParam(crop_size=8, mean_value=(1.0,)),
    )  # fmt: skip
    assert isinstance(meant(is_color=False), VideoClipData)
    assert meant(batch_size=0).batch_size == 1


def test_a_setting_of_c3d_tells() -> None:
    found = meant(use_image=False, new_length=16)
    assert found == VideoSampleData(source="list", batch_size=2, top=("data",), new_length=16)
    assert meant(sampling_rate=2) == VideoSampleData(
        source="list", batch_size=2, top=("data",), sampling_rate=2
    )


def test_a_setting_of_temporal_segment_networks_tells() -> None:
    param = AnyVideoTransform(crop_size=8, fix_crop=True, scale_ratios=(1.0, 0.5))
    found = meant(modality=Modality.RGB, num_segments=3, transform_param=param)
    assert found == VideoSnippetData(
        source="list", batch_size=2, top=("data",), num_segments=3, modality=Modality.RGB,
        transform_param=SnippetTransform(crop_size=8, fix_crop=True, scale_ratios=(1.0, 0.5)),
    )  # fmt: skip
    with pytest.raises(Refusal, match="batch_size is missing"):
        meant(num_segments=2, batch_size=0).check()


def test_ssds_video_has_no_source() -> None:
    layer = VideoData(batch_size=2, top=("data",), video_type=VideoType.VIDEO, video_file="a.avi")
    assert layer.resolve(None) is layer


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"use_image": True, "num_segments": 2}, "num_segments"),
        ({"is_color": True, "sampling_rate": 2}, "is_color"),
        ({"video_file": "a.avi"}, "video_file"),
        ({"source": "", "new_length": 3}, "new_length"),
        ({"source": "", "use_image": True}, "use_image"),
        ({"source": "", "transform_param": AnyVideoTransform(is_flow=True)}, "is_flow"),
        ({"transform_param": AnyVideoTransform(multi_scale=True)}, "multi_scale"),
        ({"transform_param": AnyVideoTransform(resize_param=(ResizeParam(),))}, "resize_param"),
        (
            {"modality": Modality.RGB, "transform_param": AnyVideoTransform(crop_h=3)},
            "crop_h",
        ),
    ],
)
def test_mixtures_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        meant(**settings)
    assert caught.value.setting == setting


BASE: dict[str, Any] = {"source": "list", "batch_size": 2, "top": ("data", "label")}


@pytest.mark.parametrize(
    ("layer", "setting"),
    [
        (VideoClipData(**BASE, new_length=0), "new_length"),
        (VideoClipData(**BASE, new_height=4), "new_height"),
        (VideoSampleData(**BASE, sampling_rate=0), "sampling_rate"),
        (VideoSnippetData(**BASE, num_segments=0), "num_segments"),
        (VideoSnippetData(**BASE, name_pattern="img_%05d.jpg"), "name_pattern"),
        (VideoSnippetData(**BASE, modality=Modality.RGB, name_pattern="img"), "name_pattern"),
        (VideoSnippetData(**BASE, transform_param=SnippetTransform(fix_crop=True)), "fix_crop"),
        (
            VideoSnippetData(
                **BASE, transform_param=SnippetTransform(crop_size=4, scale_ratios=(2.0,))
            ),
            "scale_ratios",
        ),
        (VideoSnippetData(**BASE, transform_param=SnippetTransform(max_distort=-1)), "max_distort"),
    ],
)
def test_settings_that_no_data_could_satisfy(layer: ClipReader, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.check()
    assert caught.value.setting == setting


def test_shapes() -> None:
    clip = BlobType((3, 16, 20, 30))
    layer = VideoSampleData(
        **BASE, new_length=16, use_multiple_label=True, num_of_labels=5,
        transform_param=TransformParam(crop_size=12),
    )  # fmt: skip
    assert [t.shape for t in layer.infer(clip).tops] == [(2, 3, 16, 12, 12), (2, 5)]
    with pytest.raises(Refusal, match="does not divide"):
        VideoSnippetData(
            **BASE, transform_param=SnippetTransform(mean_value=(1.0, 2.0, 3.0))
        ).infer(BlobType((10, 20, 30)))
