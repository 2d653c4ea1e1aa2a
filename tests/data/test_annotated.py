from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from netc.data import Feed, probe
from netc.data.annotated import AnnotatedSource, count_objects
from netc.data.feed import Cursor
from netc.data.source import Opening
from netc.errors import NetcError
from netc.layers.annotated import (
    AnnotatedData,
    AnnotationType,
    BatchSampler,
    SampleConstraint,
    Sampler,
)
from netc.layers.data import Database
from netc.layers.transform import (
    DistortionParam,
    EmitConstraint,
    ExpansionParam,
    ImageTransform,
    NoiseParam,
    ResizeMode,
    ResizeParam,
    SaltPepperParam,
)
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import netc_pb2
from tests.data.samples import MakeDatabase, OpenLayer, batches, encoded, pixels, raw

# (class, instance, xmin, ymin, xmax, ymax, difficult)
Object = tuple[int, int, float, float, float, float, int]


def record(
    datum: netc_pb2.Datum, objects: Sequence[Object] = (), *, boxed: bool = True
) -> netc_pb2.AnnotatedDatum:
    """Return a record with one group for each class."""
    found = netc_pb2.AnnotatedDatum(datum=datum)
    if boxed:
        found.type = netc_pb2.AnnotatedDatum.BBOX
    groups: dict[int, Any] = {}
    for label, instance, x0, y0, x1, y1, difficult in objects:
        if label not in groups:
            groups[label] = found.annotation_group.add(group_label=label)
        box = netc_pb2.NormalizedBBox(xmin=x0, ymin=y0, xmax=x1, ymax=y1, difficult=bool(difficult))
        groups[label].annotation.add(instance_id=instance, bbox=box)
    return found


A: Object = (1, 0, 0.25, 0.25, 0.5, 0.5, 0)
B: Object = (7, 3, 0.5, 0.125, 1.0, 0.75, 1)
C: Object = (7, 4, 0.0, 0.0, 0.125, 0.125, 0)
IMAGES = [pixels(3, 8, 16, seed=seed) for seed in range(3)]
OBJECTS: list[list[Object]] = [[A], [], [A, B, C]]


@pytest.fixture
def database(make_database: MakeDatabase) -> str:
    return make_database(
        record(raw(image), objects).SerializeToString()
        for image, objects in zip(IMAGES, OBJECTS, strict=True)
    )


def layer_of(source: str, batch_size: int = 2, **settings: Any) -> AnnotatedData:
    samplers = settings.pop("batch_sampler", ())
    return AnnotatedData(
        source=source,
        batch_size=batch_size,
        backend=Database.LMDB,
        top=("data", "label"),
        transform_param=ImageTransform(**settings),
        batch_sampler=samplers,
    )


def rows(labels: np.ndarray) -> list[list[float]]:
    """The rows of objects; what follows them must be empty."""
    assert labels.shape[:2] == (1, 1)
    used = labels[0, 0, :, 0] != -1
    assert (labels[0, 0, ~used] == -1).all()
    count = int(used.sum())
    assert used[:count].all()
    return labels[0, 0, :count].tolist()


def test_images_and_objects_as_they_are(database: str, open_layer: OpenLayer) -> None:
    feed = open_layer(layer_of(database))
    (data, labels), (more, next_labels) = batches(feed, 2)
    np.testing.assert_array_equal(data, np.stack(IMAGES[:2]).astype(np.float32))
    np.testing.assert_array_equal(more, np.stack([IMAGES[2], IMAGES[0]]).astype(np.float32))
    # Two images with up to three objects each.
    assert labels.shape == next_labels.shape == (1, 1, 6, 8)
    assert rows(labels) == [[0, *A]]
    assert rows(next_labels) == [[0, *A], [0, *B], [0, *C], [1, *A]]


def test_mean_scale_and_mirror(database: str, open_layer: OpenLayer) -> None:
    layer = layer_of(database, 3, mean_value=(10, 20, 30), scale=0.5, mirror=True)
    seen = set()
    feed = open_layer(layer, Phase.TRAIN)
    for data, labels in batches(feed, 8):
        for i, image in enumerate(IMAGES):
            want = (image.astype(np.float32) - np.array([[[10]], [[20]], [[30]]])) * 0.5
            mirrored = not np.array_equal(data[i], want)
            np.testing.assert_array_equal(data[i], want[..., ::-1] if mirrored else want)
            own = [row[1:] for row in rows(labels) if row[0] == i]
            boxes = [list(o) for o in OBJECTS[i]]
            for box in boxes if mirrored else ():
                box[2], box[4] = 1 - box[4], 1 - box[2]
            assert own == boxes
            seen.add(mirrored)
    assert seen == {False, True}


def test_a_window_and_what_it_leaves_of_the_objects(database: str, open_layer: OpenLayer) -> None:
    layer = layer_of(database, 3, crop_h=4, crop_w=8)
    ((data, labels),) = batches(open_layer(layer), 1)
    np.testing.assert_array_equal(data, np.stack(IMAGES)[:, :, 2:6, 4:12])
    # The window is 0.25..0.75 of both axes. C lies outside, B is cut off.
    assert rows(labels) == [
        [0, 1, 0, 0.0, 0.0, 0.5, 0.5, 0],
        [2, 1, 0, 0.0, 0.0, 0.5, 0.5, 0],
        [2, 7, 3, 0.5, 0.0, 1.0, 1.0, 1],
    ]
    central = replace(
        layer, transform_param=replace(layer.transform_param, emit_constraint=EmitConstraint())
    )
    # The centre of B is at 0.75, the border of the window.
    assert len(rows(batches(open_layer(central), 1)[0][1])) == 3
    windows = [data for data, _ in batches(open_layer(layer, Phase.TRAIN), 6)]
    assert len({window[0].tobytes() for window in windows}) > 1


def test_resized_and_padded(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[5:15, 10:30] = 255
    box: Object = (1, 0, 0.25, 0.25, 0.75, 0.75, 0)
    source = make_database([record(encoded(image), [box]).SerializeToString()])
    for mode, want in (
        (ResizeMode.WARP, [0.25, 0.25, 0.75, 0.75]),
        (ResizeMode.FIT_LARGE_SIZE_AND_PAD, [0.25, 0.375, 0.75, 0.625]),
    ):
        resize = ResizeParam(resize_mode=mode, height=40, width=40, pad_value=(9,))
        ((data, labels),) = batches(open_layer(layer_of(source, 1, resize_param=(resize,))), 1)
        assert data.shape == (1, 3, 40, 40)
        (row,) = rows(labels)
        assert row[3:7] == want
        inside = np.argwhere(data[0, 0] > 127)
        found = np.concatenate((inside.min(axis=0)[::-1], inside.max(axis=0)[::-1] + 1)) / 40
        np.testing.assert_allclose(found, want, atol=1 / 40)
        assert data[0, 0, 0, 0] == (0 if mode is ResizeMode.WARP else 9)


def test_images_that_fit_the_smaller_side(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    source = make_database(
        record(raw(pixels(3, *size)), [A]).SerializeToString() for size in ((10, 20), (20, 10))
    )
    resize = ResizeParam(resize_mode=ResizeMode.FIT_SMALL_SIZE, height=30, width=30)
    feed = open_layer(layer_of(source, 1, resize_param=(resize,)))
    assert [data.shape[2:] for data, _ in batches(feed, 2)] == [(30, 60), (60, 30)]


def changing(source: str, batch_size: int = 2) -> AnnotatedData:
    """A layer with all that is random."""
    return layer_of(
        source,
        batch_size,
        mirror=True,
        mean_value=(100,),
        resize_param=(ResizeParam(height=12, width=10),),
        noise_param=(
            NoiseParam(
                saltpepper=True, saltpepper_param=SaltPepperParam(0.05, (255,)), hist_eq=True
            ),
        ),
        distort_param=DistortionParam(0.5, 32, 0.5, 0.5, 1.5, 0.5, 18, 0.5, 0.5, 1.5, 0.5),
        expand_param=ExpansionParam(0.5, 3),
        emit_constraint=EmitConstraint(),
        crop_h=9,
        crop_w=9,
        batch_sampler=(
            BatchSampler(max_sample=1, max_trials=1),
            BatchSampler(True, Sampler(0.3, 1, 0.5, 2), SampleConstraint(0.1), 1, 50),
        ),
    )


def test_items_depend_on_seed_and_position_alone(database: str, open_layer: OpenLayer) -> None:
    def read(feed: Feed, count: int) -> list[bytes]:
        return [data.tobytes() + labels.tobytes() for data, labels in batches(feed, count)]

    layer = changing(database)
    whole = read(open_layer(layer, Phase.TRAIN), 9)
    assert whole == read(open_layer(layer, Phase.TRAIN), 9)
    later = open_layer(layer, Phase.TRAIN)
    later.restore(Cursor(8, 3))
    assert read(later, 5) == whole[4:]
    assert whole[:3] != read(open_layer(layer, Phase.TRAIN, seed=2), 3)
    # The same images again, changed anew: batches 0 and 3 begin with the same record.
    assert len(set(whole)) == 9
    one_by_one = batches(open_layer(changing(database, 1), Phase.TRAIN), 4)
    pairs = batches(open_layer(layer, Phase.TRAIN), 2)
    np.testing.assert_array_equal(
        np.concatenate([data for data, _ in one_by_one]), np.concatenate([d for d, _ in pairs])
    )


def test_objects_stay_within_the_image_and_keep_what_they_are(
    database: str, open_layer: OpenLayer
) -> None:
    feed = open_layer(changing(database, 3), Phase.TRAIN)
    known = {(i, *o[:2], o[6]) for i, objects in enumerate(OBJECTS) for o in objects}
    count = 0
    for _, labels in batches(feed, 30):
        for image, label, instance, x0, y0, x1, y1, difficult in rows(labels):
            assert (image, label, instance, difficult) in known
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            count += 1
    assert 0 < count < 30 * 4


def test_a_patch_holds_what_its_boxes_say(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    # One white object on black: wherever it comes to lie, the box says so.
    image = np.zeros((3, 64, 64), np.uint8)
    image[:, 16:48, 24:40] = 255
    box: Object = (1, 0, 24 / 64, 16 / 64, 40 / 64, 48 / 64, 0)
    source = make_database([record(raw(image), [box]).SerializeToString()])
    layer = layer_of(
        source,
        1,
        mirror=True,
        resize_param=(ResizeParam(height=128, width=128),),
        expand_param=ExpansionParam(0.7, 2),
        batch_sampler=(BatchSampler(True, Sampler(0.4, 1, 0.7, 1.5), max_sample=1),),
    )
    found = 0
    for data, labels in batches(open_layer(layer, Phase.TRAIN), 30):
        inside = np.argwhere(data[0, 0] > 127)
        own = rows(labels)
        if not len(inside):
            continue
        found += 1
        (row,) = own
        ends = np.concatenate((inside.min(axis=0)[::-1], inside.max(axis=0)[::-1] + 1)) / 128
        # A pixel of the patch, of which there are at least 0.4 / sqrt(1.5) * 64 = 20 on a side.
        np.testing.assert_allclose(ends, row[3:7], atol=1.5 / 20)
    assert found > 20


def test_records_without_boxes_have_labels(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    source = make_database(
        record(raw(image, label=label), boxed=False).SerializeToString()
        for label, image in enumerate(IMAGES)
    )
    ((_, labels),) = batches(open_layer(layer_of(source, 3)), 1)
    assert labels.tolist() == [0, 1, 2]
    boxed = replace(layer_of(source, 3), anno_type=AnnotationType.BBOX)
    assert rows(batches(open_layer(boxed), 1)[0][1]) == []
    alone = replace(layer_of(source, 3), top=("data",))
    assert len(batches(open_layer(alone), 1)[0]) == 1


def test_pixels_that_are_no_bytes(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    image = np.arange(24, dtype=np.float32).reshape(1, 4, 6) * 100
    source = make_database([record(raw(image), [A]).SerializeToString()])
    ((data, _),) = batches(open_layer(layer_of(source, 1)), 1)
    np.testing.assert_array_equal(data[0], image)
    noisy = layer_of(source, 1, noise_param=(NoiseParam(inverse=True),))
    with pytest.raises(NetcError, match="change bytes"):
        batches(open_layer(noisy), 1)


def test_images_of_several_sizes_want_a_resize(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    source = make_database(
        record(raw(pixels(3, *size)), [A]).SerializeToString() for size in ((10, 20), (20, 10))
    )
    with pytest.raises(NetcError, match="differ in size") as error:
        batches(open_layer(layer_of(source, 2)), 1)
    assert "key '00000001'" in error.value.problems[0].got
    assert "resize_param" in error.value.problems[0].hint
    resized = layer_of(source, 2, resize_param=(ResizeParam(height=6, width=6),))
    assert batches(open_layer(resized), 1)[0][0].shape == (2, 3, 6, 6)


def test_a_database_of_plain_images(make_database: MakeDatabase) -> None:
    source = make_database([raw(pixels(3, 4, 5)).SerializeToString()])
    with pytest.raises(NetcError, match="not an AnnotatedDatum") as error:
        probe(layer_of(source))
    assert "Data layer" in error.value.problems[0].hint


def test_absent_data_is_assumed() -> None:
    layer = layer_of("nowhere", resize_param=(ResizeParam(height=30, width=40),))
    item = probe(layer, assume=True)
    assert item.types == (BlobType((3, 30, 40)), BlobType((1, 8)))
    assert "resize_param" in item.assumed
    cropped = probe(layer_of("nowhere", crop_size=9, force_gray=True), assume=True)
    assert cropped.types == (BlobType((1, 9, 9)), BlobType((1, 8)))
    with pytest.raises(Refusal, match="does not exist"):
        probe(layer_of("nowhere"), assume=True)


def test_a_mean_file_fits_resized_images(database: str, tmp_path: Any) -> None:
    mean = netc_pb2.BlobProto(data=[0.0] * 3 * 12 * 10)
    mean.shape.dim.extend((3, 12, 10))
    (tmp_path / "mean").write_bytes(mean.SerializeToString())
    resize = ResizeParam(height=12, width=10)
    fits = layer_of(database, mean_file=str(tmp_path / "mean"), resize_param=(resize,))
    assert probe(fits).types[0] == BlobType((3, 8, 16))
    with pytest.raises(Refusal, match="mean file has another shape"):
        probe(layer_of(database, mean_file=str(tmp_path / "mean")))


@pytest.mark.parametrize("objects", OBJECTS)
def test_objects_are_counted_without_reading_the_image(objects: list[Object]) -> None:
    content = record(raw(IMAGES[0]), objects).SerializeToString()
    assert count_objects(memoryview(content)) == len(objects)
    # Fields that nobody knows are stepped over: a varint, eight bytes, four bytes, a message.
    unknown = (
        b"\xa0\x06\x96\x01" + b"\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4) + b"\xa2\x06\x00"
    )
    assert count_objects(content + unknown) == len(objects)
    for end in range(1, len(content)):
        try:
            assert count_objects(content[:end]) <= len(objects)
        except DecodeError:
            continue
    with pytest.raises(DecodeError):
        count_objects(content[: len(content) - 1] if objects else content[:-3])
    with pytest.raises(DecodeError):
        count_objects(b"\x0b")


# -- several sizes, and what YOLO's losses read ----------------------------------------------------


def test_a_size_is_drawn_for_ten_batches(database: str, open_layer: OpenLayer) -> None:
    sizes = ((8, 16), (12, 12), (4, 6))
    resizes = tuple(ResizeParam(prob=p, height=h, width=w) for p, (h, w) in zip(
        (0.25, 0.5, 0.25), sizes, strict=True
    ))  # fmt: skip
    layer = layer_of(database, resize_param=resizes)
    signature = layer.infer(*probe(layer).types)
    assert signature.tops[0] == BlobType((2, 3, 8, 16))  # the first, until data comes
    source = AnnotatedSource(layer, Opening(name="data", phase=Phase.TRAIN))
    shapes = [source.load(2 * i, 2, ())[0].shape[2:] for i in range(200)]
    source.close()
    tens = [set(shapes[i : i + 10]) for i in range(0, 200, 10)]
    assert all(len(ten) == 1 for ten in tens)
    assert set.union(*tens) == set(sizes)


def test_boxes_for_yolo(database: str, open_layer: OpenLayer) -> None:
    layer = replace(layer_of(database, 3), yolo_data_type=1, yolo_data_jitter=0.0)
    ((_, labels),) = batches(open_layer(layer), 1)
    assert labels.shape == (3, 1, 300, 5)
    assert labels[0, 0, 0].tolist() == [0, 0.375, 0.375, 0.25, 0.25]
    assert labels[2, 0, :3].tolist() == [
        [0, 0.375, 0.375, 0.25, 0.25],
        [6, 0.75, 0.4375, 0.5, 0.625],
        [6, 0.0625, 0.0625, 0.125, 0.125],
    ]
    assert not labels[0, 0, 1:].any()
    assert not labels[1].any()
    easy = replace(layer, train_diffcult=False)
    ((_, labels),) = batches(open_layer(easy), 1)
    assert labels[2, 0, :3, 0].tolist() == [0, 6, 0]  # B is difficult
    assert labels[2, 0, 1].tolist() == [6, 0.0625, 0.0625, 0.125, 0.125]


def test_sides_are_cut_off_at_random(database: str, open_layer: OpenLayer) -> None:
    resize = (ResizeParam(height=8, width=16),)
    base = layer_of(database, 1, resize_param=resize)
    for layer, changes in (
        (base, False),
        (replace(base, yolo_data_type=1), True),
        (replace(base, yolo_data_jitter=0.5), True),
        (replace(base, yolo_data_type=1, yolo_data_jitter=0.0), False),
        (replace(base, yolo_data_jitter=0.5, batch_sampler=(BatchSampler(),)), False),
    ):
        found = [data for data, _ in batches(open_layer(layer, Phase.TRAIN), 30)]
        as_they_are = [
            np.array_equal(data[0], IMAGES[i % 3].astype(np.float32))
            for i, data in enumerate(found)
        ]
        assert all(as_they_are) is not changes
        assert any(as_they_are)
