"""The settings and shapes of the data layers."""

from __future__ import annotations

import pytest

from netc.layers import registry
from netc.layers.data import Data, Database, HDF5Data, ImageData, Reader
from netc.layers.transform import TransformParam
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
        (data(transform_param=TransformParam(crop_size=8)), [(3, 10, 8)], [(4, 3, 8, 8), (4,)]),
        (data(transform_param=TransformParam(crop_size=1)), [(1, 1, 1)], [(4, 1, 1, 1), (4,)]),
        (images(), [(1, 5, 6)], [(4, 1, 5, 6), (4,)]),
        (images(transform_param=TransformParam(crop_size=5)), [(3, 5, 6)], [(4, 3, 5, 5), (4,)]),
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


CROP_9 = TransformParam(crop_size=9)
MEANS = TransformParam(mean_value=(1.0, 2.0))
TWO_MEANS = TransformParam(mean_file="m", mean_value=(1.0,))
COLOR_AND_GRAY = TransformParam(force_color=True, force_gray=True)
GRAY = TransformParam(force_gray=True)
COLOR = TransformParam(force_color=True)


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
            HDF5Data(source="l", batch_size=1, top=("a",), transform_param=TransformParam()),
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
