"""The settings and shapes of WindowData."""

from __future__ import annotations

import pytest

from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Refusal
from netc.layers.windowdata import MCWindowData, WindowData


def layer(**settings: object) -> WindowData:
    fields: dict[str, object] = {
        "source": "windows.txt",
        "batch_size": 8,
        "top": ("data", "label"),
        "transform_param": TransformParam(crop_size=227),
    }
    return WindowData(**(fields | settings))  # type: ignore[arg-type]


def test_the_tops_are_crops_and_classes() -> None:
    tops = layer().infer(BlobType((3, 227, 227))).tops
    assert [top.shape for top in tops] == [(8, 3, 227, 227), (8,)]
    assert len(layer(top=("data",)).infer(BlobType((3, 227, 227))).tops) == 1
    assert layer().foreground == 2
    assert layer(fg_fraction=0.3).foreground == 2


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"source": ""}, "source"),
        ({"batch_size": 0}, "batch_size"),
        ({"transform_param": TransformParam()}, "crop_size"),
        ({"transform_param": TransformParam(crop_size=9, scale=2.0)}, "scale"),
        ({"transform_param": TransformParam(crop_size=9, mean_value=(1.0, 2.0))}, "mean_value"),
        ({"context_pad": 114}, "context_pad"),
        ({"crop_mode": "round"}, "crop_mode"),
        ({"fg_fraction": 1.5}, "fg_fraction"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer(**wrong).infer(BlobType((3, 227, 227)))
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got != ""


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"mask_crop_size": 0}, "mask_crop_size"),
        ({"context_pad": 3}, "context_pad"),
        ({"crop_mode": "square"}, "crop_mode"),
        ({"source": ""}, "source"),
    ],
)
def test_windows_with_masks_have_no_context(wrong: dict[str, object], setting: str) -> None:
    fields: dict[str, object] = {
        "source": "windows.txt",
        "batch_size": 8,
        "top": ("data", "mask", "label"),
        "transform_param": TransformParam(crop_size=9, scale=2.0),
        "mask_crop_size": 4,
    }
    assert not MCWindowData(**fields).shuffle  # type: ignore[arg-type]
    with pytest.raises(Refusal) as caught:
        MCWindowData(**(fields | wrong)).check()  # type: ignore[arg-type]
    assert caught.value.setting == setting
