"""The settings and shapes of the data layers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netc.layers import registry
from netc.layers.data import Data, Database, HDF5Data, ImageData, Reader
from netc.layers.transform import (
    ImageTransform,
    RandomAspectRatioParam,
    RandomResizeParam,
    ResizeMode,
    ResizeParam,
)
from netc.layers.types import BlobType, Refusal

BOTH = ("data", "label")


def data(**settings: object) -> Data:
    fields: dict[str, object] = {"source": "db", "batch_size": 4, "top": BOTH}
    return Data(**(fields | settings))  # type: ignore[arg-type]


def images(**settings: object) -> ImageData:
    fields: dict[str, object] = {"source": "list.txt", "batch_size": 4, "top": BOTH}
    return ImageData(**(fields | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "item", "tops"),
    [
        (data(), [(3, 10, 8)], [(4, 3, 10, 8), (4,)]),
        (data(top=("data",)), [(3, 10, 8)], [(4, 3, 10, 8)]),
        (data(transform_param=ImageTransform(crop_size=8)), [(3, 10, 8)], [(4, 3, 8, 8), (4,)]),
        (data(transform_param=ImageTransform(crop_size=1)), [(1, 1, 1)], [(4, 1, 1, 1), (4,)]),
        (images(), [(1, 5, 6)], [(4, 1, 5, 6), (4,)]),
        (images(transform_param=ImageTransform(crop_size=5)), [(3, 5, 6)], [(4, 3, 5, 5), (4,)]),
        (ImageData(source="list.txt", top=BOTH), [(3, 5, 6)], [(1, 3, 5, 6), (1,)]),
        (HDF5Data(source="l", batch_size=5, top=("a", "b")), [(2, 3), ()], [(5, 2, 3), (5,)]),
    ],
)
def test_the_tops_are_a_batch_of_items(
    layer: Reader, item: list[tuple[int, ...]], tops: list[tuple[int, ...]]
) -> None:
    signature = layer.infer(*map(BlobType, item))
    assert [blob.shape for blob in signature.tops] == tops
    assert not signature.params
    assert not signature.kept


CROP_9 = ImageTransform(crop_size=9)
MEANS = ImageTransform(mean_value=(1.0, 2.0))
TWO_MEANS = ImageTransform(mean_file="m", mean_value=(1.0,))
COLOR_AND_GRAY = ImageTransform(force_color=True, force_gray=True)
GRAY = ImageTransform(force_gray=True)
COLOR = ImageTransform(force_color=True)


@pytest.mark.parametrize(
    ("layer", "what", "expected", "got", "setting"),
    [
        (data(source=""), "names no source", "data_param { source", "no source", "source"),
        (data(batch_size=0), "batch_size is missing", "> 0", "0", "batch_size"),
        (data(prefetch=0), "read ahead", "prefetch > 0", "0", "prefetch"),
        (
            data(transform_param=CROP_9),
            "crop_size is larger than the images",
            "crop_size <= 8",
            "crop_size 9, images of height 10 and width 8",
            "crop_size",
        ),
        (
            data(transform_param=TWO_MEANS),
            "exclude each other",
            "or",
            "mean_file 'm'",
            "mean_value",
        ),
        (data(transform_param=MEANS), "mean values", "or 3", "2 mean_value", "mean_value"),
        (data(transform_param=COLOR_AND_GRAY), "exclude", "one of them", "both", "force_gray"),
        (
            data(transform_param=GRAY, force_encoded_color=True),
            "force_encoded_color and force_gray exclude each other",
            "one of them",
            "both",
            "force_encoded_color",
        ),
        (images(batch_size=0), "batch_size is missing", "> 0", "0", "batch_size"),
        (
            images(new_height=3),
            "new_height is set without new_width",
            "both",
            "new_width 0",
            "new_height",
        ),
        (
            images(new_width=3),
            "new_width is set without new_height",
            "both",
            "new_height 0",
            "new_width",
        ),
        (images(transform_param=GRAY), "contradicts", "is_color: false", "true", "force_gray"),
        (
            images(transform_param=COLOR, is_color=False),
            "contradicts",
            "is_color: true",
            "false",
            "force_color",
        ),
        (images(transform_param=CROP_9), "crop_size is larger", "<= 8", "9", "crop_size"),
        (HDF5Data(source="l", top=("a",)), "batch_size is missing", "> 0", "0", "batch_size"),
        (
            HDF5Data(source="l", batch_size=1, top=("a",), transform_param=ImageTransform()),
            "HDF5Data does not transform data",
            "no transform_param",
            "transform_param",
            "transform_param",
        ),
    ],
)
def test_impossible_settings_are_refused(
    layer: Reader, what: str, expected: str, got: str, setting: str
) -> None:
    with pytest.raises(Refusal) as refused:
        layer.infer(BlobType((3, 10, 8)))
    assert what in refused.value.what
    assert expected in refused.value.expected
    assert got in refused.value.got
    assert refused.value.setting == setting


def test_force_color_may_repeat_what_is_color_says() -> None:
    images(transform_param=COLOR).check()
    images(transform_param=GRAY, is_color=False).check()


@pytest.mark.parametrize(
    ("layer", "color"),
    [
        (data(), None),
        (data(transform_param=COLOR), True),
        (data(force_encoded_color=True), True),
        (data(transform_param=GRAY), False),
    ],
)
def test_encoded_images_are_decoded_as_the_settings_say(layer: Data, color: bool | None) -> None:
    assert layer.decodes_color is color


@pytest.mark.parametrize(("name", "least", "most"), [("Data", 1, 2), ("HDF5Data", 1, None)])
def test_the_number_of_tops(name: str, least: int, most: int | None) -> None:
    cls = registry.find(name).cls
    assert (cls.tops.least, cls.tops.most) == (least, most)
    assert (cls.bottoms.least, cls.bottoms.most) == (0, 0)
    assert cls.reads_data


def test_the_backend_of_a_text_without_one_is_the_schemas() -> None:
    assert Data().backend is Database.LEVELDB


SMALL = ResizeParam(resize_mode=ResizeMode.FIT_SMALL_SIZE, height=9, width=9)
HALVES = tuple(ResizeParam(prob=0.5, height=n, width=n) for n in (9, 12))


def test_a_batch_has_one_size() -> None:
    for param, words in (
        (ImageTransform(resize_param=(SMALL,)), "FIT_SMALL_SIZE makes images of different sizes"),
        (ImageTransform(resize_param=HALVES), "each image draws its own resize_param"),
    ):
        with pytest.raises(Refusal, match=words):
            data(transform_param=param).infer(BlobType((3, 20, 30)))
        alone = data(transform_param=param, batch_size=1)
        assert alone.infer(BlobType((3, 20, 20))).tops[0] == BlobType((1, 3, 9, 9))
        cropped = data(transform_param=replace(param, crop_size=8))
        assert cropped.infer(BlobType((3, 20, 30))).tops[0] == BlobType((4, 3, 8, 8))


@pytest.mark.parametrize(
    ("resizes", "words"),
    [
        ((replace(SMALL, center_object=True),), "does not look for the object"),
        ((replace(SMALL, max_angle=-1),), "max_angle is no angle"),
        ((replace(SMALL, prob=1.5),), "prob of resize_param is no probability"),
        ((replace(SMALL, width=0),), "resize_param names no size"),
        ((SMALL, SMALL), "do not add up to 1"),
    ],
)
def test_resizing_refused(resizes: tuple[ResizeParam, ...], words: str) -> None:
    with pytest.raises(Refusal, match=words) as caught:
        data(transform_param=ImageTransform(crop_size=8, resize_param=resizes)).check()
    assert caught.value.setting.startswith("resize_param")


STRETCHED: list[dict[str, object]] = [
    {"random_resize_param": RandomResizeParam(min_size=9, max_size=12)},
    {"img_rand_resize_lower": 9, "img_rand_resize_upper": 12},
]


@pytest.mark.parametrize("settings", STRETCHED)
def test_images_of_random_sizes_are_cropped(settings: dict[str, object]) -> None:
    param = ImageTransform(**settings)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="images of random sizes make no batch"):
        data(transform_param=param).infer(BlobType((3, 20, 30)))
    assert data(transform_param=replace(param, crop_size=8)).infer(BlobType((3, 20, 30))).tops[
        0
    ] == BlobType((4, 3, 8, 8))
    if "random_resize_param" in settings:  # NVCaffe makes no side shorter than the crop
        with pytest.raises(Refusal, match="crop_size is larger than the images"):
            data(transform_param=replace(param, crop_size=10)).infer(BlobType((3, 20, 30)))


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"random_resize_param": RandomResizeParam(9, 8)}, "random_resize_param"),
        ({"random_aspect_ratio_param": RandomAspectRatioParam()}, "random_aspect_ratio_param"),
        (
            {"random_aspect_ratio_param": RandomAspectRatioParam(0.5, 0.4), "crop_size": 4},
            "random_aspect_ratio_param",
        ),
        ({"img_rand_resize_lower": 9, "img_rand_resize_upper": 8}, "img_rand_resize_lower"),
    ],
)
def test_random_sizes_refused(settings: dict[str, object], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        data(transform_param=ImageTransform(**settings)).check()  # type: ignore[arg-type]
    assert caught.value.setting == setting
