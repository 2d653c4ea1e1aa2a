"""FrcnnRoiData: images with their objects, against OpenCV and the definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.frcnn import read_list
from netc.errors import NetcError
from netc.layers.frcnn import FrcnnParam, FrcnnRoiData
from netc.layers.types import Phase, Refusal
from tests.data.samples import OpenLayer, batches, pixels

TOPS = ("data", "im_info", "gt_boxes")
MEANS = (10.0, 20.0, 30.0)


def layer(folder: Path, **param: object) -> FrcnnRoiData:
    settings = FrcnnParam(**{"pixel_means": MEANS, "scales": (20.0,), **param})
    return FrcnnRoiData(
        source=str(folder / "list"), batch_size=1, top=TOPS, root_folder=f"{folder}/",
        frcnn_param=settings,
    )  # fmt: skip


OBJECTS = [[(1, 2, 3, 9, 11, 0)], [(2, 0, 0, 30, 50, 1), (3, 5, 6, 7, 8, 0)]]
SIZES = [(24, 18), (15, 40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = ""
    for k, (size, rows) in enumerate(zip(SIZES, OBJECTS, strict=True)):
        assert cv2.imwrite(str(tmp_path / f"{k}.png"), pixels(*size, 3, seed=k))
        text += f"# {k} {k}.png\n{len(rows)}\n"
        text += "".join(" ".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "list").write_text(text)
    return tmp_path


def definition(k: int, scale: float, most: float, flip: bool, align: int):
    """Return the tops for image k."""
    image = pixels(*SIZES[k], 3, seed=k).astype(np.float32)
    height, width = SIZES[k]
    boxes = np.array([row[1:5] for row in OBJECTS[k]], np.float32)
    if flip:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = np.stack(
            [width - boxes[:, 2] - 1, boxes[:, 1], width - boxes[:, 0] - 1, boxes[:, 3]], axis=1
        )
    factor = np.float32(min(scale / min(height, width), most / max(height, width)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = cv2.resize(
        image - np.float32(MEANS), None, fx=float(factor), fy=float(factor), interpolation=way
    )
    h, w = (-(-side // align) * align for side in image.shape[:2])
    data = np.zeros((1, 3, h, w), np.float32)
    data[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    boxes = np.clip(boxes, 0, [width - 1, height - 1, width - 1, height - 1]) * factor
    boxes = np.minimum(boxes, [w - 1, h - 1, w - 1, h - 1])
    labels = np.array([[row[0]] for row in OBJECTS[k]])
    return data, np.array([[h, w, factor]]), np.concatenate([boxes, labels], axis=1)


def which(data: np.ndarray) -> int:
    return int(data.shape[3] > data.shape[2])


@pytest.mark.parametrize(("scale", "most", "align"), [(20, 1000, 1), (12, 36, 8), (30, 48, 1)])
def test_images_are_scaled_with_their_objects(
    folder: Path, open_layer: OpenLayer, scale: float, most: float, align: int
) -> None:
    reader = layer(folder, scales=(float(scale),), max_size=float(most), im_size_align=align)
    feed = open_layer(reader)
    seen = set()
    for tops in batches(feed, 4):
        k = which(tops[0])
        for found, want in zip(tops, definition(k, scale, most, False, align), strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-4)
        seen.add(k)
    assert seen == {0, 1}


def test_images_are_mirrored_in_training_alone(folder: Path, open_layer: OpenLayer) -> None:
    seen = set()
    for phase, flips in ((Phase.TEST, {False}), (Phase.TRAIN, {False, True})):
        feed = open_layer(layer(folder), phase)
        for data, _, rows in batches(feed, 20):
            k = which(data)
            same = [
                flip for flip in (False, True)
                if np.allclose(data, definition(k, 20, 1000, flip, 1)[0], atol=1e-3)
                and np.allclose(rows, definition(k, 20, 1000, flip, 1)[2], atol=1e-4)
            ]  # fmt: skip
            assert len(same) == 1 and same[0] in flips
            seen.add((phase, k, same[0]))
    assert len(seen) == 6
    feed = open_layer(layer(folder, use_flipped=False), Phase.TRAIN)
    for data, *_ in batches(feed, 6):
        np.testing.assert_allclose(data, definition(which(data), 20, 1000, False, 1)[0], atol=1e-3)


def test_scales_are_drawn(folder: Path, open_layer: OpenLayer) -> None:
    feed = open_layer(layer(folder, scales=(20.0, 30.0)))
    assert {min(tops[0].shape[2:]) for tops in batches(feed, 12)} == {20, 30}


def test_what_is_absent_is_assumed(folder: Path) -> None:
    absent = replace(layer(folder, max_size=33.0, im_size_align=8), source="nowhere")
    assert probe(absent, assume=True).types[0].shape == (3, 24, 40)
    (folder / "0.png").unlink()
    with pytest.raises(DataAbsent, match=r"image .*0.png' does not exist"):
        probe(layer(folder))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0 a.png 1", "'#'|#"),
        ("# 0 a.png\n0\n", "an image with objects"),
        ("# 0 a.png\n1\n1 2 3 4 5", "the end of the file"),
        ("# 0 a.png\n1\n1 2 3 4 x 0", "class x1 y1 x2 y2 difficult"),
        ("# 0 a.png\n1\n4 2 3 4 5 0", r"a class of 1\.\.3"),
        ("# 0 a.png\n1\n1 9 3 4 5 0", "x1 <= x2"),
        ("", "the list is empty"),
    ],
)
def test_lists_that_are_damaged(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(NetcError, match=what):
        read_list(tmp_path / "list", 4)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"scales": (0.0,)}, "scales"), ({"pixel_means": (1.0,)}, "pixel_means")],
)
def test_settings_that_do_not_fit(folder: Path, change: dict[str, object], what: str) -> None:
    with pytest.raises(Refusal, match=f"{what} does not fit"):
        layer(folder, **change).check()
    with pytest.raises(Refusal, match="batch_size does not fit"):
        replace(layer(folder), batch_size=2).check()
