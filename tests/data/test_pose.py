"""CPMData: people of an LMDB, the maps of their joints and the fields along their limbs."""

from __future__ import annotations

import math
import struct

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.pose import BODIES, People, add_joint, add_limb, as_body, read_people, write_labels
from netc.errors import NetcError
from netc.layers.data import Database
from netc.layers.pose import CPMData
from netc.layers.types import BlobType, Phase
from netc.schema import netc_pb2
from tests.data.samples import MakeDatabase, OpenLayer, batches, pixels

COCO = 17


def floats(row: np.ndarray, *values: float) -> None:
    """Write numbers of 32 bits to the beginning of a row of bytes."""
    data = struct.pack(f"<{len(values)}f", *values)
    row[: len(data)] = np.frombuffer(data, np.uint8)


def person(n_joints: int, seed: int, size: tuple[int, int]) -> np.ndarray:
    """Return joints (3, n) as a record has them: x and y from 1 on, and how visible."""
    rng = np.random.default_rng(seed)
    xs, ys = (rng.integers(1, side + 1, n_joints) for side in (size[1], size[0]))
    return np.array([xs, ys, rng.integers(0, 2, n_joints)], float)


def record(
    image: np.ndarray,
    people: list[np.ndarray],
    *,
    scale: float = 1.0,
    mask: np.ndarray | None = None,
) -> netc_pb2.Datum:
    """Return a Datum of 6 channels: the image (H, W, 3), what is known of it, and two masks."""
    height, width = image.shape[:2]
    known = np.zeros((height, width), np.uint8)
    known[0, :4] = list(b"COCO")
    floats(known[1], height, width)
    known[2, 1] = len(people) - 1
    floats(known[3], *(people[0][:2].mean(axis=1)))
    floats(known[4], scale)
    rows = [5, *(9 + len(people) - 1 + 3 * i for i in range(len(people) - 1))]
    for row, joints in zip(rows, people, strict=True):
        for i in range(3):
            floats(known[row + i], *joints[i])
    masks = np.full((2, height, width), 255, np.uint8)
    if mask is not None:
        masks[0] = mask
    planes = np.concatenate([image.transpose(2, 0, 1), known[None], masks])
    return netc_pb2.Datum(channels=6, height=height, width=width, data=planes.tobytes())


def cpm(source: str, **settings: object) -> CPMData:
    fields: dict[str, object] = {
        "backend": Database.LMDB, "batch_size": 1, "top": ("data", "label"), "num_parts": 56,
        "np_in_lmdb": COCO, "stride": 8, "crop_size_x": 64, "crop_size_y": 48, "scale_prob": 0.0,
        "max_rotate_degree": 0.0, "center_perterb_max": 0.0, "flip_prob": -1.0,
    }  # fmt: skip
    return CPMData(source=source, **(fields | settings))  # type: ignore[arg-type]


# -- records ---------------------------------------------------------------------------------------


def test_people_are_read_from_the_bytes_of_a_channel() -> None:
    people = [person(COCO, seed, (70, 80)) for seed in range(3)]
    people[0][:, 2] = [0.0, 5.0, 1.0]  # left of the image
    people[0][:, 3] = [9.0, 9.0, 3.0]
    people[1][:, 4] = [81.0, 5.0, 1.0]  # right of it
    people[1][:, 5] = [9.0, 9.0, 3.0]
    datum = record(pixels(70, 80, 3), people, scale=1.25)
    planes = np.frombuffer(datum.data, np.uint8).reshape(6, 70, 80)
    found = read_people(planes[3], COCO)
    assert found is not None and found.scale == 1.25
    for joints, seen, given in zip(found.joints, found.seen, people, strict=True):
        np.testing.assert_array_equal(joints, given[:2].T - 1)
        for k in range(6, COCO):
            assert seen[k] == given[2, k]
    assert found.seen[0, 2] == found.seen[1, 4] == 2
    assert (found.seen[0, 3], found.seen[1, 5]) == (3, 1)
    np.testing.assert_allclose(found.place, people[0][:2].mean(axis=1) - 1, rtol=1e-6)


def test_joints_of_a_body_are_middles_of_two() -> None:
    rng = np.random.default_rng(0)
    joints = rng.random((2, COCO, 2)).astype(np.float32)
    seen = np.ones((2, COCO), np.int64)
    seen[0, [5, 16]], seen[1, 6], seen[0, 9] = 2, 3, 0
    people = People(np.zeros(2, np.float32), 1.0, joints, seen)
    as_body(people, BODIES[56])
    assert people.joints.shape == (2, 18, 2)
    # The neck lies between the shoulders; the nose is itself.
    np.testing.assert_allclose(people.joints[:, 1], (joints[:, 5] + joints[:, 6]) / 2)
    np.testing.assert_array_equal(people.joints[:, 0], joints[:, 0])
    assert people.seen[:, 1].tolist() == [2, 3]
    assert people.seen[0, 7] == 0 and people.seen[0, 10] == 2


@pytest.mark.parametrize("parts", [56, 43])
def test_limbs_and_sides_are_those_of_the_body(parts: int) -> None:
    body = BODIES[parts]
    joints = len(body.first)
    assert len(body.second) == joints and 2 * len(body.limbs) + joints == parts
    assert len({*body.right, *body.left}) == 2 * len(body.right)
    assert {k for limb in body.limbs for k in limb} == set(range(joints))


# -- labels, by the definition ---------------------------------------------------------------------


def slow_labels(layer: CPMData, mask: np.ndarray, people: People) -> np.ndarray:
    """Return the labels of an image, place by place."""
    body, parts, stride = BODIES[layer.num_parts], layer.num_parts, layer.stride
    height, width = mask.shape
    rows, columns = height // stride, width // stride
    small = cv2.resize(mask, None, fx=1 / stride, fy=1 / stride, interpolation=cv2.INTER_CUBIC)
    out = np.zeros((2 * (parts + 1), rows, columns))
    for i, row, column in np.ndindex(parts + 1, rows, columns):
        known = i >= len(body.first) or people.seen[0, i] != 3
        out[i, row, column] = small[row, column] / 255 * known
    for k, (start, end) in enumerate(body.limbs):
        for joints, seen in zip(people.joints / 8, people.seen, strict=True):
            away = joints[end] - joints[start]
            length = math.hypot(*away)
            if max(seen[start], seen[end]) > 1 or not length:
                continue
            x, y = away / length
            low = [min(joints[start][i], joints[end][i]) - 1 for i in range(2)]
            high = [max(joints[start][i], joints[end][i]) + 1 for i in range(2)]
            for row, column in np.ndindex(rows, columns):
                inside = all(
                    round(low[i]) <= place < round(high[i]) for i, place in enumerate((column, row))
                )
                across = (column - joints[start][0]) * y - (row - joints[start][1]) * x
                if inside and abs(across) <= 1:
                    out[parts + 1 + 2 * k : parts + 3 + 2 * k, row, column] = x, y
    first = parts + 1 + 2 * len(body.limbs)
    for k in range(len(body.first)):
        for joints, seen in zip(people.joints, people.seen, strict=True):
            for row, column in np.ndindex(rows, columns):
                x, y = (stride / 2 - 0.5 + n * stride for n in (column, row))
                square = (x - joints[k][0]) ** 2 + (y - joints[k][1]) ** 2
                exponent = square / 2 / layer.sigma**2
                if seen[k] <= 1 and exponent <= 4.6052:
                    value = out[first + k, row, column] + math.exp(-exponent)
                    out[first + k, row, column] = min(value, 1)
    out[-1] = np.maximum(1 - out[first:-1].max(axis=0), 0)
    return out


@pytest.mark.parametrize(("parts", "seed"), [(56, 0), (56, 1), (43, 2)])
def test_labels_are_maps_and_fields(parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    joints = len(BODIES[parts].first)
    places = (rng.random((3, joints, 2)) * [90, 70] - 10).astype(np.float32)
    places[1] = places[0] + rng.normal(0, 4, (joints, 2))  # close: their maps add up
    places[2, 1] = places[2, 0]
    seen = rng.integers(0, 3, (3, joints))
    seen[0, :2] = 3
    people = People(np.zeros(2, np.float32), 1.0, places, seen)
    layer = cpm("db", num_parts=parts, crop_size_x=72, crop_size_y=56)
    mask = np.where(pixels(56, 72, seed=seed) > 90, 255, 0).astype(np.uint8)
    out = np.full([2 * (parts + 1), 7, 9], np.nan, np.float32)
    write_labels(layer, mask, people, out)
    np.testing.assert_allclose(out, slow_labels(layer, mask, people), atol=1e-5)


def test_a_later_limb_hides_an_earlier_one_and_a_point_is_none() -> None:
    out = np.zeros((2, 8, 8), np.float32)
    add_limb(out, np.float32([8, 32]), np.float32([56, 32]))
    assert out[0, 4, 3] == 1 and out[1, 4, 3] == 0 and not out[:, 0].any()
    add_limb(out, np.float32([24, 8]), np.float32([24, 56]))
    assert (out[0, 4, 3], out[1, 4, 3]) == (0, 1) and out[0, 4, 6] == 1
    before = out.copy()
    add_limb(out, np.float32([24, 8]), np.float32([24, 8]))
    np.testing.assert_array_equal(out, before)


def test_maps_of_one_joint_add_up_to_1() -> None:
    out = np.zeros((4, 4), np.float32)
    for _ in range(3):
        add_joint(out, np.float32([11.5, 11.5]), 8, 7.0)
    assert out[1, 1] == 1 and out[3, 3] == 0 and 0 < out[1, 2] <= 1


# -- images ----------------------------------------------------------------------------------------


def dotted(joints: np.ndarray) -> np.ndarray:
    """Return a grey image with a white dot at the nose, a joint that is not the middle of two."""
    image = np.full((90, 100, 3), 128, np.uint8)
    cv2.circle(image, (int(joints[0, 0]) - 1, int(joints[1, 0]) - 1), 3, (255, 255, 255), -1)
    return image


def test_without_changes_the_person_is_in_the_middle(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    joints = np.ones((3, COCO))
    joints[0], joints[1] = 52.0, 43.0
    joints[:2, 0] = [60.0, 50.0]
    layer = cpm(make_database([record(dotted(joints), [joints])]), sigma=4.0)
    [(data, labels)] = batches(open_layer(layer, Phase.TRAIN), 1)
    assert data.shape == (1, 6, 48, 64) and labels.shape == (1, 114, 6, 8)
    assert not data[0, 3:].any()
    bright = np.argwhere(data[0, 0] > 0.3)
    middle = joints[:2].mean(axis=1)
    # The fork's box around an image that is not turned is one pixel larger: all moves by a half.
    want = joints[:2, 0] - 1 + 0.5 - (np.rint(middle - 1 + 0.5) - [32, 24])
    np.testing.assert_allclose(bright.mean(axis=0)[::-1], want, atol=0.6)
    nose = labels[0, 95]
    y, x = np.unravel_index(int(nose.argmax()), nose.shape)
    assert abs(3.5 + 8 * x - want[0]) <= 4 and abs(3.5 + 8 * y - want[1]) <= 4
    assert (labels[0, :57] == 1).all()


def test_joints_move_with_their_pixels(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    joints = np.ones((3, COCO))
    joints[0], joints[1] = 52.0, 43.0
    joints[:2, 0] = [60.0, 50.0]
    layer = cpm(
        make_database([record(dotted(joints), [joints])]), sigma=3.0, stride=1, scale_prob=1.0,
        scale_min=0.7, scale_max=1.2, max_rotate_degree=40.0, center_perterb_max=8.0,
        flip_prob=0.5,
    )  # fmt: skip
    seen = []
    for data, labels in batches(open_layer(layer, Phase.TRAIN), 12):
        bright = np.argwhere(data[0, 0] > 0.25)
        nose = np.argwhere(labels[0, 95] > 0.9)
        np.testing.assert_allclose(bright.mean(axis=0), nose.mean(axis=0), atol=1.0)
        seen.append(tuple(nose.mean(axis=0)))
    assert len(set(seen)) == 12


def test_beyond_the_edges_images_are_grey_and_nobody_is_missing(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    joints = np.ones((3, COCO))
    image = np.zeros((80, 80, 3), np.uint8)
    database = make_database([record(image, [joints], mask=np.zeros((80, 80)))])
    [(data, labels)] = batches(open_layer(cpm(database), Phase.TRAIN), 1)
    assert (data[0, :3, :20, :30] == 0).all() and (data[0, :3, 30:, 40:] == -0.5).all()
    assert (labels[0, :57, :2, :3] == 1).all() and (labels[0, :57, 4:, 5:] == 0).all()


def test_a_mirrored_person_has_left_and_right_exchanged(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    joints = np.ones((3, COCO))
    joints[0], joints[1] = 52.0, 43.0
    joints[:2, 9], joints[:2, 10] = [40.0, 30.0], [60.0, 50.0]  # wrists, left and right
    database = make_database([record(dotted(joints), [joints])])
    plain, mirrored = (
        batches(open_layer(cpm(database, flip_prob=prob, stride=1, sigma=2.0), Phase.TRAIN), 1)[0]
        for prob in (-1.0, 1.0)
    )
    np.testing.assert_allclose(mirrored[0], plain[0][..., ::-1])
    right, left = 95 + 4, 95 + 7
    np.testing.assert_allclose(mirrored[1][0, right], plain[1][0, left, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(mirrored[1][0, left], plain[1][0, right, :, ::-1], atol=1e-5)


def test_colours_may_be_evened_out_and_taken_away(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    joints = np.ones((3, COCO))
    joints[0], joints[1] = 52.0, 43.0
    database = make_database([record(pixels(90, 100, 3), [joints])])
    grey = batches(open_layer(cpm(database, gray=1), Phase.TRAIN), 1)[0][0]
    np.testing.assert_array_equal(grey[0, 0], grey[0, 2])
    assert grey[0, 0].std() > 0.05
    plain, even = (
        batches(open_layer(cpm(database, do_clahe=on), Phase.TRAIN), 1)[0][0]
        for on in (False, True)
    )
    assert np.abs(plain - even).max() > 0.05


def test_a_resumed_run_sees_what_an_uninterrupted_one_does(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    people = [[person(COCO, 10 * i + j, (90, 100)) for j in range(2)] for i in range(3)]
    database = make_database(
        [record(pixels(90, 100, 3, seed=i), people[i], scale=1 + i / 4) for i in range(3)]
    )
    layer = cpm(
        database, batch_size=2, scale_prob=0.8, max_rotate_degree=30.0, center_perterb_max=9.0,
        flip_prob=0.5,
    )  # fmt: skip
    whole = batches(open_layer(layer, Phase.TRAIN), 5)
    feed = open_layer(layer, Phase.TRAIN)
    batches(feed, 2)
    again = open_layer(layer, Phase.TRAIN)
    again.restore(feed.state())
    for ours, theirs in zip(batches(again, 3), whole[2:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


# -- what is refused -------------------------------------------------------------------------------


def test_phase_test_has_no_data(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    layer = cpm(make_database([record(pixels(80, 80, 3), [person(COCO, 0, (80, 80))])]))
    with pytest.raises(NetcError, match="in phase TRAIN only"):
        batches(open_layer(layer, Phase.TEST), 1)


def test_absent_data_has_the_size_of_the_settings() -> None:
    with pytest.raises(DataAbsent):
        probe(cpm("nowhere"))
    item = probe(cpm("nowhere"), assume=True)
    assert item.types == (BlobType((6, 48, 64)), BlobType((114, 6, 8)))


def test_records_without_people_are_refused(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    good = record(pixels(80, 80, 3), [person(COCO, 0, (80, 80))])
    narrow = record(pixels(80, 80, 3), [person(COCO, 0, (80, 80))])
    narrow.width, narrow.data = 60, bytes(6 * 80 * 60)
    crowded = record(pixels(80, 80, 3), [person(COCO, 0, (80, 80))])
    data = bytearray(crowded.data)
    data[3 * 6400 + 2 * 80 + 1] = 250
    crowded.data = bytes(data)
    tiny = record(pixels(80, 80, 3), [person(COCO, 0, (80, 80))], scale=1000.0)
    plain = netc_pb2.Datum(channels=3, height=2, width=2, data=bytes(12))
    for i, bad in enumerate((plain, narrow, crowded, b"\xff\xff", tiny)):
        database = make_database([good, bad], name=f"db{i}")
        with pytest.raises(NetcError, match="holds no people") as caught:
            batches(open_layer(cpm(database), Phase.TRAIN), 2)
        assert "00000001" in caught.value.problems[0].got
