"""DataHeatmap: images of people, and maps of their joints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.heatmap import heat_maps, read_people
from netc.errors import NetcError
from netc.layers.heatmap import DataHeatmap
from netc.layers.types import BlobType, Phase
from tests.data.samples import OpenLayer, batches, pixels

WritePeople = Callable[..., Path]

JOINTS = np.array([[3.0, 2.0], [5.0, 4.0], [6.0, 7.0]])


@pytest.fixture
def write_people(tmp_path: Path) -> WritePeople:
    """Return a function that writes images of people, and the list of their joints."""

    def write(
        *images: np.ndarray, joints: np.ndarray = JOINTS, groups: tuple[int, ...] = ()
    ) -> Path:
        lines = []
        for i, image in enumerate(images):
            assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
            places = ",".join(f"{v:g}" for v in joints.reshape(-1))
            lines.append(f"{i}.png {places} 1,2,3,4,0 {groups[i] if groups else 0}\n")
        (tmp_path / "list.txt").write_text("".join(lines))
        return tmp_path / "list.txt"

    return write


def heatmap(source: object, **settings: object) -> DataHeatmap:
    fields: dict[str, object] = {
        "batchsize": 1, "cropsize": 8, "outsize": 8, "label_width": 8, "label_height": 8,
        "top": ("data", "label"),
    }  # fmt: skip
    return DataHeatmap(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def peaks(maps: np.ndarray) -> list[tuple[int, int]]:
    """Return where each map (H, W) is highest, as x, y."""
    found = [np.unravel_index(int(one.argmax()), one.shape) for one in maps]
    return [(int(x), int(y)) for y, x in found]


# -- maps and lists --------------------------------------------------------------------------------


def test_a_map_is_a_density_around_its_joint() -> None:
    joints = np.array([[2.5, 6.0], [-3.0, 0.0]], np.float32)
    maps = heat_maps(joints, 9)
    assert maps.shape == (2, 9, 9) and maps.dtype == np.float32
    for joint, row, column in np.ndindex(2, 9, 9):
        x, y = joints[joint]
        square = (row - y) ** 2 + (column - x) ** 2
        want = 4 / (1.5 * math.sqrt(2 * math.pi)) * math.exp(-0.5 * square / 1.5**2)
        assert math.isclose(maps[joint, row, column], want, rel_tol=1e-5, abs_tol=1e-7)


def test_a_list_has_an_image_coordinates_and_a_class(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.jpg 1,2,3.5,-4 1,2,3,4,0 2\n\nb.jpg\t5,6,7,8 0 0\n")
    first, second = read_people(tmp_path / "list", ())
    assert (first.path, first.group, first.line) == ("a.jpg", 2, 1)
    assert first.joints.tolist() == [[1, 2], [3.5, -4]]
    assert (second.path, second.group, second.line) == ("b.jpg", 0, 3)
    assert read_people(tmp_path / "list", (2, 3))[1].joints.tolist() == [[7, 8]]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("b.jpg 1,2 0", "an image, 4 coordinates, as in line 1 between commas"),
        ("b.jpg 1,2,3,x 0 0", "coordinates, as in line 1"),
        ("b.jpg 1,2,3 0 0", "coordinates"),
        ("b.jpg 1,2 0 0", "4 coordinates, as in line 1"),
        ("b.jpg 1,2,3,nan 0 0", "coordinates"),
        ("b.jpg 1,2,3,4 0 -1", "a class"),
    ],
)
def test_lines_without_joints_are_refused(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "list").write_text(f"a.jpg 1,2,3,4 0 0\n{line}\n")
    with pytest.raises(NetcError, match="tells no joints") as caught:
        read_people(tmp_path / "list", ())
    [problem] = caught.value.problems
    assert says in problem.expected and problem.span is not None and problem.span.line == 2


def test_what_is_not_there_is_absent_data() -> None:
    with pytest.raises(DataAbsent):
        probe(heatmap("no.txt"))
    item = probe(heatmap("no.txt", labelinds="1, 2,5,6"), assume=True)
    assert item.types == (BlobType((3, 8, 8)), BlobType((2, 8, 8))) and "labelinds" in item.assumed


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n")
    with pytest.raises(NetcError, match="empty"):
        read_people(tmp_path / "list", ())


# -- images ----------------------------------------------------------------------------------------


def test_without_random_crop_the_middle_is_taken(
    write_people: WritePeople, open_layer: OpenLayer
) -> None:
    image = pixels(11, 13, 3)
    layer = heatmap(write_people(image, joints=JOINTS + np.array([2, 1])), scale=0.5)
    [(data, maps)] = batches(open_layer(layer, Phase.TRAIN), 1)
    # Channels R, G, B.
    np.testing.assert_array_equal(data[0], image[1:9, 2:10, ::-1].transpose(2, 0, 1) / 2)
    assert peaks(maps[0]) == [(3, 2), (5, 4), (6, 7)]


def test_images_are_resized_and_coordinates_with_them(
    write_people: WritePeople, open_layer: OpenLayer
) -> None:
    image = pixels(8, 8, 3)
    layer = heatmap(
        write_people(image, joints=JOINTS / 2), multfact=2, outsize=16, label_width=24,
        label_height=24, labelinds="1,2,5,6",
    )  # fmt: skip
    [(data, maps)] = batches(open_layer(layer), 1)
    want = cv2.resize(image[..., ::-1].astype(np.float32), (16, 16))
    np.testing.assert_array_equal(data[0], want.transpose(2, 0, 1))
    assert peaks(maps[0]) == [(9, 6), (18, 21)]


def test_narrow_images_are_filled_up_on_the_right(
    write_people: WritePeople, open_layer: OpenLayer
) -> None:
    image = pixels(8, 5, 3)
    [(data, maps)] = batches(open_layer(heatmap(write_people(image))), 1)
    want = np.pad(image[..., ::-1], ((0, 0), (0, 3), (0, 0)))
    np.testing.assert_array_equal(data[0], want.transpose(2, 0, 1))
    assert peaks(maps[0])[0] == (3, 2)
    low = heatmap(write_people(pixels(5, 8, 3)))
    with pytest.raises(NetcError, match="lower than the part"):
        batches(open_layer(low), 1)


def marked(height: int, width: int, joints: np.ndarray) -> np.ndarray:
    """Return a black image whose joints are bright, the first in red, then green, then blue."""
    image = np.zeros((height, width, 3), np.uint8)
    for i, (x, y) in enumerate(joints.astype(int)):
        image[y, x, 2 - i] = 255
    return image


@pytest.mark.parametrize(("flip", "first"), [(False, True), (True, True)])
def test_joints_move_with_their_pixels(
    write_people: WritePeople, open_layer: OpenLayer, flip: bool, first: bool
) -> None:
    joints = np.array([[6.0, 5.0], [7.0, 6.0], [5.0, 7.0]])
    image = marked(12, 13, joints)
    layer = heatmap(
        write_people(image, joints=joints), random_crop=True, cropsize=10, outsize=10,
        label_width=10, label_height=10, flip_joint_labels=flip, dont_flip_first=first,
    )  # fmt: skip
    seen = set()
    for data, maps in batches(open_layer(layer, Phase.TEST), 30):
        places = peaks(data[0])
        mirrored = places[1][0] < places[0][0]
        # The fork mirrors x to width - x, where the pixel goes to width - 1 - x.
        expected = [(x + mirrored, y) for x, y in places]
        if mirrored and flip:
            expected = [expected[0], expected[2], expected[1]]
        assert peaks(maps[0]) == [(min(x, 9), y) for x, y in expected]
        seen.add((mirrored, *places[0]))
    assert len(seen) > 10 and {mirrored for mirrored, *_ in seen} == {True, False}


def test_joints_turn_with_their_pixels(write_people: WritePeople, open_layer: OpenLayer) -> None:
    joints = np.array([[30.0, 12.0], [12.0, 26.0], [20.0, 32.0]])
    image = cv2.GaussianBlur(marked(41, 41, joints), (5, 5), 1.5) * 4
    layer = heatmap(
        write_people(image, joints=joints), random_crop=True, cropsize=41, outsize=41,
        label_width=41, label_height=41, flip_joint_labels=False, angle_max=90.0,
    )  # fmt: skip
    moved = set()
    for data, maps in batches(open_layer(layer), 20):
        for (x, y), (u, v) in zip(peaks(data[0]), peaks(maps[0]), strict=True):
            assert abs(x - u) <= 2 and abs(y - v) <= 1
            moved.add((u, v))
    assert len(moved) > 40


def test_segmented_parts_are_black_and_images_without_segments_left_out(
    write_people: WritePeople, open_layer: OpenLayer
) -> None:
    images = [pixels(8, 8, 3, seed=i) for i in range(3)]
    source = write_people(*images)
    (source.parent / "segs").mkdir()
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4], mask[4:] = 40, 41
    assert cv2.imwrite(str(source.parent / "segs" / "1.png"), mask)
    layer = heatmap(source, segmentation=True, root_img_dir=f"{source.parent}/")
    for data, _ in batches(open_layer(layer), 2):
        want = images[1][..., ::-1].copy()
        want[4:] = 0
        np.testing.assert_array_equal(data[0], want.transpose(2, 0, 1))
    (source.parent / "segs" / "1.png").unlink()
    with pytest.raises(NetcError, match="no image of the list has a segmentation"):
        open_layer(layer)


def test_one_image_of_each_class_in_turn(write_people: WritePeople, open_layer: OpenLayer) -> None:
    images = [np.full((8, 8, 3), 10 * i, np.uint8) for i in range(5)]
    source = write_people(*images, groups=(0, 1, 0, 2, 0))
    feed = open_layer(heatmap(source, sample_per_cluster=True))
    values = [int(data[0, 0, 0, 0]) // 10 for data, _ in batches(feed, 9)]
    assert values[1::3] == [1, 1, 1] and values[2::3] == [3, 3, 3]
    assert sorted(values[::3]) == [0, 2, 4]
    again = open_layer(heatmap(source, sample_per_cluster=True))
    again.restore(feed.state())
    (data, _), (other, _) = batches(feed, 1)[0], batches(again, 1)[0]
    np.testing.assert_array_equal(data, other)
    with pytest.raises(NetcError, match="a class has no images"):
        open_layer(heatmap(write_people(*images[:2], groups=(0, 2)), sample_per_cluster=True))


def test_a_resumed_run_sees_what_an_uninterrupted_one_does(
    write_people: WritePeople, open_layer: OpenLayer
) -> None:
    source = write_people(*(pixels(10, 12, 3, seed=i) for i in range(3)))
    layer = heatmap(source, random_crop=True, angle_max=30.0, batchsize=2)
    whole = batches(open_layer(layer), 5)
    feed = open_layer(layer)
    batches(feed, 2)
    again = open_layer(layer)
    again.restore(feed.state())
    for ours, theirs in zip(batches(again, 3), whole[2:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_joints_without_a_partner_are_refused(
    write_people: WritePeople, open_layer: OpenLayer
) -> None:
    layer = heatmap(write_people(pixels(8, 8, 3)), random_crop=True, dont_flip_first=False)
    with pytest.raises(NetcError, match="no pairs of left and right"):
        open_layer(layer)
