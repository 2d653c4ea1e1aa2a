"""The settings and shapes of CPMData."""

from __future__ import annotations

import pytest

from netc.layers.data import Database
from netc.layers.pose import CPMData
from netc.layers.types import Refusal

FIELDS: dict[str, object] = {
    "source": "db", "batch_size": 3, "backend": Database.LMDB, "top": ("data", "label"),
    "num_parts": 56, "np_in_lmdb": 17,
}  # fmt: skip


def layer(**settings: object) -> CPMData:
    return CPMData(**(FIELDS | settings))  # type: ignore[arg-type]


def test_the_tops_are_images_and_maps() -> None:
    tops = layer(stride=8, crop_size_x=60).infer().tops
    assert [top.shape for top in tops] == [(3, 6, 368, 60), (3, 114, 46, 7)]
    tops = layer(num_parts=43, np_in_lmdb=16).infer().tops
    assert tops[1].shape == (3, 88, 92, 92)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("source", ""),
        ("batch_size", 0),
        ("stride", 0),
        ("sigma", 0.0),
        ("crop_size_y", 3),
        ("num_parts", 14),
        ("np_in_lmdb", 16),
        ("aug_way", "table"),
        ("transform_body_joint", False),
        ("scale_min", 2.0),
        ("prefetch", 0),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(Refusal) as caught:
        layer(**{setting: value}).infer()
    assert caught.value.setting == setting and caught.value.expected
