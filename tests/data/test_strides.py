"""SegData: pairs resized at random, and cut to multiples of a stride."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.errors import NetcError
from netc.layers.segdata import SegData, StrideTransform
from netc.layers.types import BlobType, Phase, Refusal
from tests.data.samples import OpenLayer, batches

HEIGHT, WIDTH = 21, 26


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        assert cv2.imwrite(
            str(tmp_path / f"{name}.png"), rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        )
        labels = rng.integers(0, 20, (HEIGHT, WIDTH)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{name}_l.png"), labels)
    (tmp_path / "list").write_text("/a.png /a_l.png\n/b.png /b_l.png\n")
    return tmp_path


def layer(folder: Path, balance: bool = False, **transform: Any) -> SegData:
    return SegData(
        source=str(folder / "list"), top=("data", "label"), root_dir=str(folder), balance=balance,
        transform_param=StrideTransform(**transform),
    )  # fmt: skip


def stored(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.imread(str(folder / f"{name}.png"))
    return image, cv2.imread(str(folder / f"{name}_l.png"), cv2.IMREAD_GRAYSCALE)


def test_a_pair_as_it_is(folder: Path, open_layer: OpenLayer) -> None:
    found = layer(folder, mean_value=(1.0, 2.0, 3.0), scale=0.5)
    assert probe(found).types == (BlobType((3, HEIGHT, WIDTH)),)
    for name, (data, labels) in zip("ab", batches(open_layer(found), 2), strict=True):
        image, wanted = stored(folder, name)
        np.testing.assert_array_equal(
            data[0], ((image - np.float32([1, 2, 3])) * 0.5).transpose(2, 0, 1)
        )
        np.testing.assert_array_equal(labels[0, 0], wanted)


def test_parts_of_images_of_many_sizes(folder: Path, open_layer: OpenLayer) -> None:
    """Each pair is one that the fork's rules could give, and many of these occur."""
    found = layer(folder, scale_ratios=(0.5, 1.5), stride=8, mirror=True)
    sizes, turned = set(), set()
    for i, (data, labels) in enumerate(batches(open_layer(found, Phase.TEST), 40)):
        image, wanted = stored(folder, "ab"[i % 2])
        h, w = data.shape[2:]
        assert labels.shape == (1, 1, h, w) and h % 8 == w % 8 == 0
        hits = 0
        for step in range(1001):
            factor = np.float32(step / 1000 + 0.5)
            high = int(float(np.float32(HEIGHT) * factor) + 0.5)
            wide = int(float(np.float32(WIDTH) * factor) + 0.5)
            if (high // 8 * 8, wide // 8 * 8) != (h, w) or hits:
                continue
            pixels = cv2.resize(image, (wide, high)).transpose(2, 0, 1)
            classes = cv2.resize(wanted, (wide, high), interpolation=cv2.INTER_NEAREST)
            for y in range(high - h + 1):
                for x in range(wide - w + 1):
                    for way in (1, -1):
                        part = pixels[:, y : y + h, x : x + w][..., ::way]
                        if np.array_equal(part, data[0]):
                            np.testing.assert_array_equal(
                                labels[0, 0], classes[y : y + h, x : x + w][:, ::way]
                            )
                            hits += 1
                            turned.add(way)
        assert hits
        sizes.add((h, w))
    assert len(sizes) > 2 and turned == {1, -1}


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        ({"stride": 4, "upper_size": 18}, (18, 18)),
        ({"stride": 4, "upper_height": 30, "upper_width": 9}, (20, 9)),
        ({"stride": 4, "upper_height": 3}, (20, 24)),
    ],
)
def test_parts_have_a_largest_size(folder: Path, transform: dict[str, Any], size) -> None:
    found = layer(folder, **transform)
    shapes = [top.shape[2:] for top in found.infer(*probe(found).types).tops]
    assert shapes == [size, size]


def test_parts_of_one_label_are_drawn_anew(folder: Path, open_layer: OpenLayer) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:, 20:] = np.arange(6) + 1
    for name in "ab":
        cv2.imwrite(str(folder / f"{name}_l.png"), labels)
    shares = {}
    for balance in (False, True):
        feed = open_layer(layer(folder, balance, upper_size=8))
        shares[balance] = [
            np.bincount(part.astype(int).ravel()).max() / part.size for _, part in batches(feed, 60)
        ]
    assert np.mean(np.array(shares[False]) > 0.8) > 0.4
    assert np.mean(np.array(shares[True]) > 0.8) < 0.1


def test_a_shuffled_feed_goes_on_where_another_stood(folder: Path, open_layer: OpenLayer) -> None:
    found = SegData(
        source=str(folder / "list"), top=("data", "label"), root_dir=str(folder), shuffle=True,
        transform_param=StrideTransform(scale_ratios=(0.8, 1.2), stride=4, mirror=True),
    )  # fmt: skip
    first, second = (open_layer(found, Phase.TRAIN) for _ in range(2))
    batches(first, 3)
    second.restore(first.state())
    for one, other in zip(batches(first, 5), batches(second, 5), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_does_not_suit(folder: Path, open_layer: OpenLayer) -> None:
    with pytest.raises(Refusal, match="smaller than the stride"):
        found = layer(folder, stride=32)
        found.infer(*probe(found).types)
    with pytest.raises(NetcError, match="smaller than the stride"):
        batches(open_layer(layer(folder, stride=20, scale_ratios=(0.5, 0.5))), 1)
    cv2.imwrite(str(folder / "a_l.png"), np.zeros((3, 3), np.uint8))
    with pytest.raises(NetcError, match="another size than their image"):
        batches(open_layer(layer(folder)), 1)
    absent = SegData(source="none", top=("data", "label"))
    with pytest.raises(DataAbsent):
        probe(absent)
    item = probe(absent, assume=True)
    assert item.types == (BlobType((3, 500, 500)),) and "PASCAL VOC" in item.assumed


@pytest.mark.parametrize(
    ("transform", "setting"),
    [
        ({"mean_file": "m"}, "mean_file"),
        ({"crop_size": 3}, "crop_size"),
        ({"scale_ratios": (1.0,)}, "scale_ratios"),
        ({"scale_ratios": (1.2, 1.0)}, "scale_ratios"),
        ({"stride": 0}, "stride"),
        ({"upper_size": 0}, "upper_size"),
    ],
)
def test_settings_that_make_no_sense(folder: Path, transform: dict[str, Any], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer(folder, **transform).check()
    assert caught.value.setting == setting
