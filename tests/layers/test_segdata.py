"""The settings and shapes of the layers that read images with a label for each pixel."""

from __future__ import annotations

import pytest

from netc.layers.segdata import (
    DenseImageData,
    ImageLabelmapData,
    ImageSegData,
    LabelType,
    PairTransform,
)
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Refusal


def dense(source: object, **settings: object) -> DenseImageData:
    fields: dict[str, object] = {"batch_size": 1, "top": ("data", "label")}
    return DenseImageData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def seg(source: object, transform: PairTransform | None = None, **settings: object) -> ImageSegData:
    fields: dict[str, object] = {"label_type": LabelType.PIXEL, "top": ("data", "label")}
    fields["transform_param"] = transform or PairTransform()
    return ImageSegData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "tops"),
    [
        (dense("l"), [(1, 3, 6, 8), (1, 1, 6, 8)]),
        (dense("l", batch_size=5, top=("data",)), [(5, 3, 6, 8)]),
        (dense("l", crop_height=6, crop_width=3), [(1, 3, 6, 3), (1, 1, 6, 3)]),
        (dense("l", label_divide_factor=4), [(1, 3, 6, 8), (1, 1, 1, 2)]),
        (seg("l", top=("a", "b", "c"), batch_size=2), [(2, 3, 6, 8), (2, 1, 6, 8), (2, 1, 1, 2)]),
        (seg("l", PairTransform(crop_size=9)), [(1, 3, 9, 9), (1, 1, 9, 9)]),
        (seg("l", PairTransform(crop_height=2, crop_width=9)), [(1, 3, 2, 9), (1, 1, 2, 9)]),
    ],
)
def test_the_tops_are_a_batch_of_pairs(
    layer: DenseImageData | ImageSegData, tops: list[tuple[int, ...]]
) -> None:
    assert [top.shape for top in layer.infer(BlobType((3, 6, 8))).tops] == tops


@pytest.mark.parametrize(
    ("layer", "setting"),
    [
        (dense("l", new_height=3), "new_height"),
        (dense("l", crop_width=3), "crop_width"),
        (dense("l", crop_height=9, crop_width=2), "crop_height"),
        (dense("l", transform_param=TransformParam(mirror=True)), "mirror"),
        (dense("l", transform_param=TransformParam(crop_size=2)), "crop_size"),
        (dense("l", label_divide_factor=0), "label_divide_factor"),
        (dense("l", label_divide_factor=2, crop_height=2, crop_width=2), "label_divide_factor"),
        (dense("", new_height=3), "source"),
        (dense("l", batch_size=0), "batch_size"),
        (dense("l", transform_param=TransformParam(mean_value=(1.0, 2.0))), "mean_value"),
        (seg("l", PairTransform(crop_height=3)), "crop_height"),
        (seg("l", PairTransform(crop_size=3, crop_height=3, crop_width=3)), "crop_size"),
        (seg("l", PairTransform(mean_file="m")), "mean_file"),
        (seg("l", PairTransform(crop_size=3, scale_factors=(1.0, 0.0))), "scale_factors"),
        (seg("l", PairTransform(scale_factors=(1.0, 2.0))), "scale_factors"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    layer: DenseImageData | ImageSegData, setting: str
) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((3, 6, 6)))
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got != ""


@pytest.mark.parametrize(
    ("transform", "setting"),
    [
        (TransformParam(crop_size=2, mean_file="m"), "mean_file"),
        (TransformParam(crop_size=9), "crop_size"),
    ],
)
def test_edges_refuse_what_cannot_be_cut_out(transform: TransformParam, setting: str) -> None:
    layer = ImageLabelmapData(source="l", top=("data", "label"), transform_param=transform)
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((3, 6, 6)))
    assert caught.value.setting == setting
