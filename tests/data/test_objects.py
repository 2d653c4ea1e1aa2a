"""DetectionData, EvalData and ImageGtData: images with the boxes of their objects.

Images are black, and every object is a rectangle of a colour of its own: wherever an image is moved
to, its box says where its colour is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.data import DataAbsent, probe
from netc.data.objects import cut, read_objects
from netc.errors import NetcError
from netc.layers.data import Reader
from netc.layers.fielddata import DetectionData, EvalData, ImageGtData
from netc.layers.transform import DistortionParam, TransformParam
from netc.layers.types import BlobType, Refusal
from tests.data.samples import OpenLayer, batches, pixels

# Class, ignored, difficult, x1, y1, x2, y2.
Row = tuple[int, int, int, int, int, int, int]
WriteObjects = Callable[..., Path]
F = np.float32


@pytest.fixture
def write_objects(tmp_path: Path) -> WriteObjects:
    """Return a function that writes images with their objects and regions, and the list."""

    def write(
        *images: tuple[np.ndarray, list[Row], list[tuple[int, ...]]], difficult: bool = True
    ) -> Path:
        lines: list[str] = []
        for i, (image, rows, regions) in enumerate(images):
            assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
            lines += [f"# {i}", f"{i}.png", "3", *map(str, image.shape[:2]), str(len(rows))]
            for row in rows:
                kept = row if difficult else (*row[:2], *row[3:])
                lines.append(" ".join(map(str, kept)))
            lines.append(str(len(regions)))
            lines += [" ".join(map(str, region)) for region in regions]
        (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
        return tmp_path / "list.txt"

    return write


def painted(height: int, width: int, rows: list[Row]) -> np.ndarray:
    """A black image with each object in a colour that tells its class."""
    image = np.zeros((height, width, 3), np.uint8)
    for label, _, _, x1, y1, x2, y2 in rows:
        image[y1 : y2 + 1, x1 : x2 + 1] = 60 * label
    return image


FIRST: list[Row] = [(1, 0, 0, 4, 6, 23, 25), (2, 0, 1, 40, 10, 69, 33)]
SECOND: list[Row] = [(3, 0, 0, 10, 30, 29, 59), (1, 1, 0, 2, 2, 11, 11)]
IMAGES = (
    (painted(48, 80, FIRST), FIRST, [(0, 0, 9, 9)]),
    (painted(70, 50, SECOND), SECOND, []),
    (painted(40, 40, []), [], []),
)


def detection(source: object, **changes: object) -> DetectionData:
    wanted: dict[str, object] = {
        "batch_size": 2, "top": ("data", "map", "boxes"), "stride": (8,), "field_h": (24,),
        "field_w": (24,), "short_size": 64, "long_size": 96, "output_gt_boxes": True,
    }  # fmt: skip
    return DetectionData(source=str(source), **(wanted | changes))  # type: ignore[arg-type]


def image_gt(source: object, **changes: object) -> ImageGtData:
    wanted: dict[str, object] = {
        "batch_size": 2, "top": ("data", "map", "boxes"), "downsample_rate": (8,),
        "field_h": (24,), "field_w": (24,), "output_gt_boxes": True, "resize_height": 48,
        "resize_width": 80, "crop_height": 40, "crop_width": 64,
    }  # fmt: skip
    return ImageGtData(source=str(source), **(wanted | changes))  # type: ignore[arg-type]


def check_painted(images: np.ndarray, boxes: np.ndarray) -> int:
    """Check that boxes are where their colours are; return how many could be looked at."""
    seen = 0
    for row in boxes[:, :, 0, 0]:
        image, box, label = images[int(row[0])], row[1:5], row[5]
        if row[0] < 0:
            continue
        x, y = ((box[axis] + box[axis + 2]) / 2 for axis in (0, 1))
        if not (1 <= x < image.shape[2] - 1 and 1 <= y < image.shape[1] - 1):
            continue
        seen += 1
        assert image[0, int(y), int(x)] == pytest.approx(60 * label, abs=3)
        # Its colour ends where the box does, within what interpolation blurs.
        column, line = image[0, :, int(x)], image[0, int(y)]
        for values, centre, low, high in ((line, x, *box[::2]), (column, y, *box[1::2])):
            same = abs(values - 60 * label) < 25
            first = last = int(centre)
            while first > 0 and same[first - 1]:
                first -= 1
            while last < len(values) - 1 and same[last + 1]:
                last += 1
            assert first == pytest.approx(max(low, 0), abs=5)
            assert last == pytest.approx(min(high, len(values) - 1), abs=5)
    return seen


SCALED = {"min_scale": 20.0, "max_scale": 60.0, "multiscale_prob": 0.8}
STRETCHED = {"low_scale_ratio": 0.5, "high_scale_ratio": 1.2, "min_whaspect": 0.7}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transform_param": TransformParam(mirror=True)},
        SCALED,
        {**STRETCHED, "max_whaspect": 1.5, "multiscale_prob": 1.0},
        {"short_size": None, "resize_ratio": 1.5},
        {"short_size": None, "crop_width": 64, "crop_height": 48},
        {"short_size": None, "resize_width": 96, "resize_height": 64},
        {"crop_short_size": 32, "crop_long_size": 48},
        {"template_ratio": (0.5, 1.0, 1.5), "shuffle": "random"},
        {"short_size": None},
    ],
)
def test_boxes_stay_upon_their_objects(
    changes, write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    layer = detection(write_objects(*IMAGES), **changes)
    if layer.short_size is None:
        layer = replace(layer, long_size=None)
    seen = sum(check_painted(b[0], b[2]) for b in batches(open_layer(layer), 12))
    assert seen >= 12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transform_param": TransformParam(mirror=True), "shuffle": True},
        {"do_multiple_scale": True, "min_scale": 12, "max_scale": 60},
        {
            "do_multiple_scale": True, "min_scale": 12, "max_scale": 60, "min_whaspect": 0.4,
            "max_whaspect": 2.0,
        },
        {"crop_width": None},
        {"crop_width": 0},
    ],
)  # fmt: skip
def test_boxes_of_mscnn_stay_upon_their_objects(
    changes, write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    layer = image_gt(write_objects(*IMAGES, difficult=False), **changes)
    seen = 0
    for data, maps, boxes in batches(open_layer(layer), 16):
        assert boxes.shape[1] == 7 and maps.shape[1] == 6
        seen += check_painted(data, boxes)
    assert seen >= 12


def test_labels_are_those_of_the_moved_objects(
    write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    layer = detection(write_objects(*IMAGES), fg_threshold=0.4)
    for _, maps, boxes in batches(open_layer(layer), 4):
        for image, one in enumerate(maps):
            own = [row for row in boxes[:, :, 0, 0] if row[0] == image]
            for h, w in np.argwhere(one[0] > 0):
                label, x, y, wide, high, _ = one[:, h, w]
                box = [x - (wide - 1) / 2, y - (high - 1) / 2]
                box += [x + (wide - 1) / 2, y + (high - 1) / 2]
                assert any(
                    np.allclose(row[1:5], box, atol=1e-3) and row[5] == label and not row[6]
                    for row in own
                )
        assert maps[:, 0].any()


def test_the_first_image_of_a_batch_decides_its_size(
    write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    source = write_objects(*IMAGES)
    feed = open_layer(detection(source, batch_size=1))
    sizes = [b[0].shape[2:] for b in batches(feed, 4)]
    assert sizes == [(64, 96), (96, 64), (96, 64), (64, 96)]
    feed = open_layer(detection(source))
    assert [b[0].shape for b in batches(feed, 2)] == [(2, 3, 64, 96), (2, 3, 96, 64)]
    # Sizes are those of a grid.
    layer = detection(source, short_size=70, long_size=100, template_ratio=(1.0,))
    assert layer.window(90, 80) == (96, 64) and layer.resized(80, 90) == (64, 72)
    assert batches(open_layer(layer), 1)[0][1].shape == (2, 6, 8, 12)


def test_images_without_objects(write_objects: WriteObjects, open_layer: OpenLayer) -> None:
    nothing = (painted(40, 40, []) + 9, [], [])
    source = write_objects(nothing, nothing)
    data, maps, boxes = batches(open_layer(detection(source)), 1)[0]
    assert boxes.shape == (1, 8, 1, 1) and (boxes == -1).all()
    assert not maps[:, :5].any() and (data[:, :, 32:64] == 9).all()
    boxes = batches(open_layer(image_gt(source)), 1)[0][2]
    assert boxes.ravel().tolist() == [0, 1, 1, 2, 2, 1, 1]
    tops = batches(open_layer(evaluated(source, resize_width=64, resize_height=32)), 1)[0]
    assert (tops[1] == -1).all() and tops[2].ravel().tolist() == [32, 64]


def test_mean_and_scale(write_objects: WriteObjects, open_layer: OpenLayer) -> None:
    image = pixels(64, 96, 3)
    source = write_objects((image, [], []))
    param = TransformParam(mean_value=(1.0, 2.0, 3.0), scale=0.5)
    want = (image.transpose(2, 0, 1) - np.array([1.0, 2, 3]).reshape(3, 1, 1)) / 2
    layers: list[Reader] = [
        detection(source, batch_size=1, transform_param=param),
        image_gt(
            source, batch_size=1, transform_param=replace(param, scale=1.0), scale=0.5,
            resize_height=64, resize_width=96, crop_height=None,
        ),
        evaluated(source, transform_param=param),
    ]  # fmt: skip
    for layer in layers:
        np.testing.assert_array_equal(batches(open_layer(layer), 1)[0][0][0], want)


def test_colours_are_changed_and_boxes_are_not(
    write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    source = write_objects(*IMAGES)
    param = DistortionParam(brightness_prob=1.0, brightness_delta=30.0)
    plain, changed = (
        batches(open_layer(detection(source, distort_param=p)), 2) for p in (None, param)
    )
    for one, other in zip(plain, changed, strict=True):
        assert (one[0] != other[0]).any()
        np.testing.assert_array_equal(one[2], other[2])


def test_feeding_goes_on_where_it_stood(write_objects: WriteObjects, open_layer: OpenLayer) -> None:
    source = write_objects(*IMAGES)
    layers: list[Reader] = [
        detection(source, shuffle="random_aspect", template_ratio=(1.0, 1.5), **SCALED),
        image_gt(
            write_objects(*IMAGES, difficult=False), shuffle=True, fg_img_multiple=3,
            do_multiple_scale=True, min_scale=12, max_scale=60,
        ),
    ]  # fmt: skip
    for layer in layers[::-1]:
        if isinstance(layer, DetectionData):
            write_objects(*IMAGES)
        feed = open_layer(layer)
        every = batches(feed, 6)
        again = open_layer(layer)
        batches(again, 2)
        cursor = again.state()
        another = open_layer(layer)
        another.restore(cursor)
        for one, other in zip(every[2:], batches(another, 4), strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        assert any(
            (a[0] != b[0]).any()
            for a, b in zip(every, batches(open_layer(layer, seed=2), 6), strict=True)
            if a[0].shape == b[0].shape
        )


# -- the order -------------------------------------------------------------------------------------


def order(feed, count: int) -> list[int]:
    """Which images come, by the brightness that each has all over."""
    return [int(b[0][0].max()) for b in batches(feed, count)]


GREY = [(np.full(size, 10 * i + 10, np.uint8), [], []) for i, size in enumerate(
    [(40, 64, 3), (64, 40, 3), (40, 64, 3), (40, 64, 3), (64, 40, 3), (40, 40, 3)]
)]  # fmt: skip
HIGH = {20, 50, 60}


def test_orders_of_a_pass(write_objects: WriteObjects, open_layer: OpenLayer) -> None:
    source = write_objects(*GREY)
    everyone = [10, 20, 30, 40, 50, 60]
    one = {"batch_size": 1, "short_size": None, "long_size": None}
    assert order(open_layer(detection(source, **one)), 7) == [*everyone, 10]
    found = order(open_layer(detection(source, shuffle="random", **one)), 18)
    assert all(sorted(found[i : i + 6]) == everyone for i in (0, 6, 12))
    assert len({tuple(found[i : i + 6]) for i in (0, 6, 12)}) > 1
    firsts = set()
    feed = open_layer(detection(source, shuffle="random_aspect", **one))
    for i in range(0, 60, 6):
        found = order(feed, 6)
        assert sorted(found) == everyone and {*found[:3]} in (HIGH, {10, 30, 40}), i
        firsts.add(found[0] in HIGH)
    assert firsts == {True, False}
    feed = open_layer(detection(source, shuffle="random_mix_aspect", mix_group_size=2, **one))
    for _ in range(4):
        found = order(feed, 6)
        kinds = [value in HIGH for value in found]
        assert sorted(found) == everyone
        assert kinds[0] == kinds[1] != kinds[2] == kinds[3] and kinds[4] != kinds[5]


def test_images_with_objects_come_several_times(
    write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    ignored = [(2, 1, 0, 3, 3, 20, 20)]
    shown = [(1, 0, 0, 3, 3, 20, 20)]
    source = write_objects(
        (np.full((48, 80, 3), 10, np.uint8), shown, []),
        (np.full((48, 80, 3), 20, np.uint8), ignored, []),
        (np.full((48, 80, 3), 30, np.uint8), [], []),
        difficult=False,
    )
    layer = image_gt(source, batch_size=1, fg_img_multiple=2)
    feed = open_layer(layer)
    assert feed.state().size == 4
    assert order(feed, 5) == [10, 10, 20, 30, 10]
    found = order(open_layer(replace(layer, shuffle=True)), 4)
    assert sorted(found) == [10, 10, 20, 30]


# -- where a window lies ---------------------------------------------------------------------------


def c_round(x: float) -> int:
    return int(math.floor(x + 0.5) if x >= 0 else -math.floor(-x + 0.5))


def slow_cut(side: int, window: int, centre: float, factor: float, much: bool, noise: int):
    """Along one axis: part, length, start in the window, start in the image, how much is shared."""
    begin, part = 0, side
    if much:
        part = min(c_round(1.2 * side / float(F(factor))), side)
        begin = max(c_round(float(F(centre)) - part * 0.5), 0)
        begin -= max(begin + part - side, 0)
    length = c_round(float(F(part) * F(factor)))
    if length < window:
        start = min(max(c_round((window - length) / 2.0) + noise, 0), window - length)
        return (begin, part), length, start, 0, length
    middle = c_round(float((F(centre) - F(begin)) * F(factor))) + noise
    start = min(max(middle - c_round(window / 2.0), 0), length - window)
    return (begin, part), length, 0, start, window


@settings(deadline=None)
@given(
    *(st.integers(4, 90) for _ in range(4)), *(st.floats(0.25, 4, width=32) for _ in range(2)),
    *(st.floats(0, 1, width=32) for _ in range(2)), *(st.integers(-10, 9) for _ in range(2)),
)  # fmt: skip
def test_where_a_window_lies(
    height: int, width: int, high: int, wide: int, fx: float, fy: float, cx: float, cy: float,
    nx: int, ny: int,
) -> None:  # fmt: skip
    centre = (cx * width, cy * height)
    found = cut((height, width), (high, wide), centre, (fx, fy), (nx, ny))
    much = max(F(fx), F(fy)) > 1.5
    x = slow_cut(width, wide, centre[0], fx, much, nx)
    y = slow_cut(height, high, centre[1], fy, much, ny)
    assert found.part == (x[0][0], y[0][0], x[0][1], y[0][1])
    assert found.size == (y[1], x[1]) and found.start == (x[3], y[3])
    inside = found.inside
    assert (inside.left, inside.top, inside.width, inside.height) == (x[2], y[2], x[4], y[4])


# -- to test on ------------------------------------------------------------------------------------


def evaluated(source: object, **changes: object) -> EvalData:
    wanted: dict[str, object] = {"batch_size": 1, "top": ("data", "boxes", "sizes")}
    return EvalData(source=str(source), **(wanted | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, [(64, 96), (64, 64)]),
        ({"short_size": 70, "long_size": 120}, [(64, 128), (96, 64)]),
        ({"short_size": 70, "long_size": 90}, [(64, 96), (96, 64)]),
        ({"resize_width": 70, "resize_height": 90}, [(96, 64), (96, 64)]),
    ],
)
def test_images_to_test_on(
    changes, sizes, write_objects: WriteObjects, open_layer: OpenLayer
) -> None:
    layer = evaluated(write_objects(*IMAGES[:2]), **changes)
    for (data, boxes, told), size, (image, rows, _) in zip(
        batches(open_layer(layer), 2), sizes, IMAGES[:2], strict=True
    ):
        assert data.shape == (1, 3, *size) and told.ravel().tolist() == list(size)
        want = cv2.resize(image, size[::-1]).transpose(2, 0, 1)
        np.testing.assert_array_equal(data[0], want)
        by = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
        for found, row in zip(boxes[:, :, 0, 0], rows, strict=True):
            np.testing.assert_allclose(found, [0, *(row[3:] * by), *row[:3]], rtol=1e-6)


def test_a_batch_of_one_size(write_objects: WriteObjects, open_layer: OpenLayer) -> None:
    layer = evaluated(
        write_objects(*IMAGES), batch_size=3, resize_width=64, resize_height=32, top=("a", "b")
    )
    data, boxes = batches(open_layer(layer), 1)[0]
    assert data.shape == (3, 3, 32, 64) and boxes[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


# -- what is not there, or not right ---------------------------------------------------------------


def test_shapes_without_data() -> None:
    for layer, size in (
        (detection("no.txt"), (96, 64)),
        (detection("no.txt", crop_short_size=32, crop_long_size=48), (48, 32)),
        (image_gt("no.txt"), (40, 64)),
        (evaluated("no.txt", short_size=600, long_size=1000), (1000, 600)),
        (evaluated("no.txt", resize_width=70, resize_height=90), (96, 64)),
    ):
        item = probe(layer, assume=True)
        assert item.types == (BlobType((3, *size)),) and "assumed" in item.assumed
        with pytest.raises(DataAbsent):
            probe(layer)
    for layer in (
        detection("no.txt", short_size=None, long_size=None),
        image_gt("no.txt", resize_height=None, crop_height=0),
        evaluated("no.txt"),
    ):
        with pytest.raises(DataAbsent):
            probe(layer, assume=True)
    tops = detection("no.txt", stride=(16,), field_h=(9,), field_w=(9,)).infer(
        BlobType((3, 600, 1000))
    )
    assert [top.shape for top in tops.tops] == [(2, 3, 600, 1000), (2, 6, 38, 63), (1, 8, 1, 1)]
    tops = image_gt("no.txt").infer(BlobType((3, 480, 448)))
    assert [top.shape for top in tops.tops] == [(2, 3, 480, 448), (2, 6, 60, 56), (1, 7, 1, 1)]


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 0, "# 0"),
        ("# 0\n", 1, "the path of an image"),
        ("# 1\n0.png\n3\n4\n4\n0\n0\n", 1, "# 0"),
        ("# 0\n0.png\n1\n4\n4\n0\n0\n", 3, "3 channels: images are decoded in colour"),
        ("# 0\n0.png\n3\n4\n4\n1\n1 0 0 1 1 3\n0\n", 7, "class ignored difficult x1 y1 x2 y2"),
        ("# 0\n0.png\n3\n4\n4\n1\n0 0 0 1 1 3 3\n0\n", 7, "a class above 0"),
        ("# 0\n0.png\n3\n4\n4\n0\n", 6, "the number of regions of no interest"),
        ("# 0\n0.png\n3\n4\n4\n0\n1\n1 2 3\n", 8, "x1 y1 x2 y2"),
    ],
)
def test_a_damaged_list(text: str, line: int, expected: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(NetcError) as caught:
        read_objects(tmp_path / "list.txt", "class ignored difficult", numbered=True)
    (problem,) = caught.value.problems
    assert expected in problem.expected
    assert problem.span is not None and (problem.span.line or 0) == line


def test_a_missing_image(write_objects: WriteObjects, open_layer: OpenLayer) -> None:
    source = write_objects(*IMAGES)
    feed = open_layer(detection(source))
    (source.parent / "1.png").unlink()
    with pytest.raises(NetcError) as caught:
        batches(feed, 1)
    assert caught.value.problems[0].span.line == 12


@pytest.mark.parametrize(
    ("layer", "setting"),
    [
        (detection("x", coord_num=5), "coord_num"),
        (detection("x", stride=(0,)), "stride"),
        (detection("x", field_w=(24, 24)), "field_w"),
        (detection("x", top=("data", "map")), "top"),
        (detection("x", shuffle="no"), "shuffle"),
        (detection("x", resize_ratio=2.0), "short_size"),
        (detection("x", resize_width=9, resize_height=9), "short_size"),
        (detection("x", crop_width=9, crop_height=9, crop_short_size=3), "crop_short_size"),
        (detection("x", long_size=64), "short_size"),
        (detection("x", **SCALED, low_scale_ratio=1.0), "low_scale_ratio"),
        (detection("x", min_scale=9.0, max_scale=8.0), "min_scale"),
        (detection("x", template_ratio=(0.0,)), "template_ratio"),
        (detection("x", crop_width=0), "crop_width"),
        (detection("x", fg_threshold=0.0), "fg_threshold"),
        (detection("x", transform_param=TransformParam(crop_size=8)), "crop_size"),
        (detection("x", transform_param=TransformParam(mean_file="m")), "mean_file"),
        (image_gt("x", downsample_rate=(), field_h=(), field_w=(), top=("a", "b")),
         "downsample_rate"),
        (image_gt("x", downsample_rate=(30,)), "downsample_rate"),
        (image_gt("x", fg_img_multiple=0), "fg_img_multiple"),
        (image_gt("x", crop_height=60), "crop_height"),
        (image_gt("x", transform_param=TransformParam(scale=2.0)), "scale"),
        (image_gt("x", do_multiple_scale=True, min_scale=9, max_scale=8), "min_scale"),
        (image_gt("x", min_whaspect=1.0, max_whaspect=1.0), "min_whaspect"),
        (evaluated("x", batch_size=2), "batch_size"),
        (evaluated("x", transform_param=TransformParam(mirror=True)), "mirror"),
        (evaluated("x", transform_param=TransformParam(mean_value=(1.0, 2.0))), "mean_value"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(layer: Reader, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((3, 48, 80)))
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got
