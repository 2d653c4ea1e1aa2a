"""The Data layer: databases of Datum messages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from netc.data import (
    Cursor,
    DataAbsent,
    open_feed,
    probe,
    write_datums,
    write_records,
)
from netc.data.datums import Records
from netc.data.source import Opening
from netc.errors import NetcError, Span, fail
from netc.layers.data import Data, Database
from netc.layers.transform import ImageTransform, NoiseParam, ResizeMode, ResizeParam
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import netc_pb2
from tests.data.samples import FILES, MakeDatabase, OpenLayer, batches, encoded, pixels, raw

LMDB = Database.LMDB


def data(source: str, **settings: object) -> Data:
    fields: dict[str, object] = {"batch_size": 4, "top": ("data", "label"), "backend": LMDB}
    return Data(source=source, **(fields | settings))  # type: ignore[arg-type]


# -- reading ---------------------------------------------------------------------------------------


def test_the_images_of_a_database_that_caffe_made(open_layer: OpenLayer) -> None:
    feed = open_layer(data(str(FILES / "images_lmdb"), batch_size=20))
    ((images, labels),) = batches(feed, 1)
    with np.load(FILES / "images_reference.npz") as reference:
        np.testing.assert_array_equal(images, reference["images"])
        np.testing.assert_array_equal(labels, reference["labels"])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 12])
def test_batches_run_over_the_end(
    make_database: MakeDatabase, open_layer: OpenLayer, batch_size: int
) -> None:
    source = make_database(raw(pixels(1, 2, 2, seed=i), label=i) for i in range(5))
    found = batches(open_layer(data(source, batch_size=batch_size)), 8)
    labels = np.concatenate([labels for _, labels in found])
    assert labels.tolist() == [i % 5 for i in range(8 * batch_size)]
    images = np.concatenate([images for images, _ in found])
    for i in range(8 * batch_size):
        np.testing.assert_array_equal(images[i], pixels(1, 2, 2, seed=i % 5))


def test_float_data_and_a_layer_without_labels(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    images = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    layer = data(make_database(map(raw, images)), batch_size=3, top=("data",))
    ((found,),) = batches(open_layer(layer), 1)
    np.testing.assert_array_equal(found, images)


def test_raw_and_encoded_images_in_one_batch(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    bgr = pixels(6, 5, 3)
    source = make_database([encoded(bgr, 1), raw(bgr.transpose(2, 0, 1), 2)])
    ((images, labels),) = batches(open_layer(data(source, batch_size=2)), 1)
    for image in images:
        np.testing.assert_array_equal(image, bgr.transpose(2, 0, 1))
    assert labels.tolist() == [1, 2]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encoded_images_keep_their_channels(
    make_database: MakeDatabase, open_layer: OpenLayer, channels: int
) -> None:
    image = pixels(6, 5, channels)
    layer = data(make_database([encoded(image)]), batch_size=1)
    ((found, _),) = batches(open_layer(layer), 1)
    np.testing.assert_array_equal(found[0], image.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"transform_param": ImageTransform(force_color=True)}, cv2.IMREAD_COLOR),
        ({"force_encoded_color": True}, cv2.IMREAD_COLOR),
        ({"transform_param": ImageTransform(force_gray=True)}, cv2.IMREAD_GRAYSCALE),
    ],
)
def test_encoded_images_in_forced_color(
    make_database: MakeDatabase, open_layer: OpenLayer, settings: dict[str, object], flag: int
) -> None:
    images = [encoded(pixels(6, 5)), encoded(pixels(6, 5, 3), extension=".jpg")]
    feed = open_layer(data(make_database(images), batch_size=2, **settings))
    ((found, _),) = batches(feed, 1)
    for image, datum in zip(found, images, strict=True):
        content = np.frombuffer(datum.data, np.uint8)
        expected = np.atleast_3d(cv2.imdecode(content, flag)).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, expected)


def test_encoded_and_raw_images_are_transformed_alike(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    images = [pixels(9, 8, 3, seed=i) for i in range(12)]
    planes = [image.transpose(2, 0, 1) for image in images]
    param = ImageTransform(crop_size=5, mirror=True, mean_value=(10.0, 20.0, 30.0), scale=0.1)
    results = []
    for name, datums in (("raw", map(raw, planes)), ("png", map(encoded, images))):
        layer = data(make_database(datums, name), batch_size=12, transform_param=param)
        results.append(batches(open_layer(layer, Phase.TRAIN), 2))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_images_of_one_size_per_batch_only(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    sizes = [(1, 2, 3), (1, 4, 4), (2, 1, 1)]
    layer = data(make_database(raw(pixels(*size)) for size in sizes), batch_size=1)
    for (image, _), size in zip(batches(open_layer(layer), 6), sizes * 2, strict=True):
        np.testing.assert_array_equal(image[0], pixels(*size))


def test_rand_skip_starts_inside_the_first_pass(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    source = make_database(raw(pixels(1, 1, 1), label=i) for i in range(8))
    starts = set()
    for seed in range(60):
        feed = open_layer(data(source, batch_size=8, rand_skip=5), seed=seed)
        start = feed.state().position
        ((_, labels),) = batches(feed, 1)
        assert labels.tolist() == [(start + i) % 8 for i in range(8)]
        starts.add(start)
    assert starts == set(range(5))


def test_two_layers_read_one_database(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    source = make_database(raw(pixels(1, 1, 1), label=i) for i in range(5))
    one, other = open_layer(data(source, batch_size=2)), open_layer(data(source, batch_size=3))
    for k in range(4):
        assert batches(one, 1)[0][1].tolist() == [(2 * k + i) % 5 for i in range(2)]
        assert batches(other, 1)[0][1].tolist() == [(3 * k + i) % 5 for i in range(3)]
    one.close()
    assert batches(other, 1)[0][1].tolist() == [2, 3, 4]
    other.close()
    lmdb.open(source, readonly=True, lock=False).close()  # refused while it is open here


def test_the_path_of_the_file_itself(make_database: MakeDatabase) -> None:
    source = make_database([raw(pixels(1, 2, 3))])
    assert probe(data(source + "/data.mdb")).types == (BlobType((1, 2, 3)),)


@pytest.mark.parametrize("position", [0, 1, 3, 4, 5, 9, 5_000_003])
def test_reading_can_begin_anywhere(tmp_path: Path, position: int) -> None:
    write_records(tmp_path / "db", [(b"%d" % i, b"value %d" % i) for i in range(5)])
    records = Records(tmp_path / "db")
    records.read(2, 2)
    found = [bytes(record) for record in records.read(position, 7)]
    assert found == [b"value %d" % ((position + i) % 5) for i in range(7)]
    assert records.key(position) == str(position % 5)
    records.close()
    records.close()


# -- mistakes --------------------------------------------------------------------------------------


def error_of(layer: Data, open_layer: OpenLayer | None = None) -> str:
    """Return what the user is told when the layer is looked at, or when its first batch is read."""
    with pytest.raises((NetcError, Refusal)) as told:
        probe(layer) if open_layer is None else batches(open_layer(layer), 1)
    error = told.value
    if isinstance(error, Refusal):
        error = fail(error.what, expected=error.expected, got=error.got, hint=error.hint)
    return str(error)


def test_a_missing_database(tmp_path: Path) -> None:
    span = Span(str(tmp_path / "net.prototxt"), 7, 3)
    with pytest.raises(DataAbsent, match="database 'nowhere_lmdb' does not exist") as refused:
        probe(data("nowhere_lmdb"), span)
    assert str(tmp_path / "nowhere_lmdb") in refused.value.expected
    assert refused.value.setting == "source"
    with pytest.raises(NetcError) as told:
        open_feed(data("nowhere_lmdb"), "x", [(1,)], phase=Phase.TEST, seed=1, span=span)
    assert str(told.value).startswith(f"{span}: layer 'x' (Data): database 'nowhere_lmdb'")


def test_a_relative_path_starts_at_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, size in (("nets", 2), ("here", 3)):
        write_datums(tmp_path / folder / "db", [raw(pixels(1, size, size))])
    monkeypatch.chdir(tmp_path / "here")
    named = Span(str(tmp_path / "nets" / "net.prototxt"), 1, 1)
    assert probe(data("db"), named).types == (BlobType((1, 2, 2)),)
    shutil.rmtree(tmp_path / "nets" / "db")
    assert probe(data("db"), named).types == (BlobType((1, 3, 3)),)


def test_what_is_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(b"")
    for name in ("file", "folder", "other"):
        told = error_of(data(str(tmp_path / name)))
        assert "the source is not an LMDB" in told
        assert str(tmp_path / name) in told


def test_an_empty_database(tmp_path: Path) -> None:
    write_records(tmp_path / "db", [])
    assert "the database is empty" in error_of(data(str(tmp_path / "db")))


def test_a_database_that_is_cut_off(make_database: MakeDatabase) -> None:
    source = make_database(raw(pixels(1, 50, 50)) for _ in range(50))
    file = Path(source, "data.mdb")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    told = error_of(data(source))
    assert "the database is damaged" in told
    assert "the file is cut off" in told


def test_a_leveldb(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "CURRENT").write_text("MANIFEST-000004\n")
    layer = data(
        str(tmp_path / "db"),
        backend=Database.LEVELDB,
        transform_param=ImageTransform(crop_size=7),
    )
    assert probe(layer, assume=True).types == (BlobType((3, 7, 7)),)
    told = error_of(layer)
    assert "netc reads no LevelDB databases" in told
    assert "is a LevelDB" in told
    assert "netc.data.write_records('NEW_LMDB', plyvel.DB('OLD_LEVELDB'))" in told
    told = error_of(data(str(tmp_path / "db")))
    assert "the source is not an LMDB" in told
    assert "plyvel" in told


def test_the_backend_that_everybody_forgets(make_database: MakeDatabase) -> None:
    layer = data(make_database([raw(pixels(1, 2, 2))]), backend=Database.LEVELDB)
    assert "hint      add backend: LMDB to data_param" in error_of(layer)


GOOD = raw(pixels(1, 2, 2))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"\xff\xff\xff", "a record of the database is not a Datum"),
        (netc_pb2.Datum(), "0 * 0 * 0 values (channels, height, width)"),
        (netc_pb2.Datum(channels=1, height=2, width=2, data=b"123"), "3 values"),
        (netc_pb2.Datum(channels=1, height=-2, width=-2, data=b"1234"), "1 * -2 * -2 values"),
        (netc_pb2.Datum(channels=1, height=2, width=2, float_data=[1.0]), "1 values"),
        (netc_pb2.Datum(data=b"no image", encoded=True), "an encoded image cannot be decoded"),
        (netc_pb2.Datum(encoded=True), "0 bytes"),
        (encoded(pixels(2, 2).astype(np.uint16)), "more than 8 bits per value"),
        (raw(pixels(1, 2, 3)), "the images of a batch differ in size"),
        (raw(pixels(3, 2, 2)), "(3, 2, 2)"),
    ],
)
def test_a_bad_record_is_named(
    make_database: MakeDatabase, open_layer: OpenLayer, bad: netc_pb2.Datum | bytes, told: str
) -> None:
    source = make_database([GOOD, GOOD, bad, GOOD])
    layer = data(source)
    message = error_of(layer, open_layer)
    assert told in message
    assert f"key '00000002' of '{source}'" in message
    assert "layer 'layer' (Data)" in message


def test_a_first_image_that_does_not_suit(make_database: MakeDatabase) -> None:
    source = make_database([GOOD])
    for settings in ({"crop_size": 3}, {"mean_file": str(FILES / "mean.binaryproto")}):
        layer = data(source, transform_param=ImageTransform(**settings))  # type: ignore[arg-type]
        with pytest.raises(Refusal) as refused:
            probe(layer)
        # The graph points at the setting.
        assert refused.value.setting in settings


def test_a_smaller_image_later_on(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    sizes = [(1, 3, 3), (1, 2, 9)]
    layer = data(
        make_database(raw(pixels(*size)) for size in sizes),
        batch_size=1,
        transform_param=ImageTransform(crop_size=3),
    )
    feed = open_layer(layer)
    batches(feed, 1)
    with pytest.raises(NetcError, match=re.escape("crop_size is larger")) as told:
        batches(feed, 1)
    assert "key '00000001'" in str(told.value)


@pytest.mark.parametrize(
    ("param", "channels"),
    [(ImageTransform(force_color=True), 1), (ImageTransform(force_gray=True), 3)],
)
def test_forced_color_on_raw_images(
    make_database: MakeDatabase, open_layer: OpenLayer, param: ImageTransform, channels: int
) -> None:
    source = make_database([raw(pixels(channels, 2, 2))])
    told = error_of(data(source, transform_param=param))
    assert "force_color and force_gray are for encoded images" in told
    # Where it changes nothing it is accepted.
    source = make_database([raw(pixels(4 - channels, 2, 2))], "other")
    batches(open_layer(data(source, transform_param=param)), 1)


def test_rand_skip_beyond_the_data(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    layer = data(make_database([GOOD]), rand_skip=1_000_000)
    with pytest.raises(NetcError, match="rand_skip goes past the end of the data"):
        open_layer(layer)


def test_a_database_that_has_grown(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    feed = open_layer(data(make_database([GOOD] * 3)))
    with pytest.raises(NetcError, match="the data is not that of the snapshot") as told:
        feed.restore(Cursor(8, 2))
    assert "2 items" in told.value.problems[0].expected


# -- without the data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "param", "shape"),
    [
        ({}, {"crop_size": 227}, (3, 227, 227)),
        ({}, {"crop_size": 7, "force_gray": True}, (1, 7, 7)),
        ({}, {"crop_size": 7, "mean_value": (1.0,)}, (3, 7, 7)),
        ({}, {"crop_size": 7, "mean_value": (1.0, 2.0)}, (2, 7, 7)),
        ({"force_encoded_color": True}, {"crop_size": 7}, (3, 7, 7)),
        ({}, {"crop_size": 7, "mean_file": "absent"}, (3, 7, 7)),
        ({}, {"crop_size": 7, "mean_file": str(FILES / "mean.binaryproto")}, (3, 10, 8)),
        ({}, {"mean_file": str(FILES / "mean.binaryproto")}, (3, 10, 8)),
    ],
)
def test_shapes_can_be_assumed(
    settings: dict[str, object], param: dict[str, object], shape: tuple[int, ...]
) -> None:
    layer = data("absent", transform_param=ImageTransform(**param), **settings)  # type: ignore[arg-type]
    item = probe(layer, assume=True)
    assert item.types == (BlobType(shape),)
    assert f"'absent' does not exist: images of shape {item.types[0]} are assumed" in item.assumed
    layer.infer(*item.types)
    with pytest.raises(DataAbsent):
        probe(layer)


def test_shapes_cannot_always_be_assumed() -> None:
    with pytest.raises(DataAbsent, match="database 'absent' does not exist"):
        probe(data("absent"), assume=True)


def test_a_database_without_its_mean_file(make_database: MakeDatabase) -> None:
    param = ImageTransform(crop_size=2, mean_file="absent")
    layer = data(make_database([GOOD]), transform_param=param)
    with pytest.raises(DataAbsent, match="mean file 'absent' does not exist") as refused:
        probe(layer)
    assert refused.value.setting == "mean_file"
    assert probe(layer, assume=True).assumed.startswith("mean file 'absent' does not exist: images")


def test_nothing_is_assumed_where_the_data_is(make_database: MakeDatabase) -> None:
    layer = data(make_database([GOOD]), transform_param=ImageTransform(crop_size=1))
    item = probe(layer, assume=True)
    assert item.types == (BlobType((1, 2, 2)),)
    assert item.assumed == ""


# -- random changes, as the forks make them --------------------------------------------------------


def test_images_are_resized_and_cropped(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    images = [pixels(20 + 4 * i, 30, 3, seed=i) for i in range(2)]
    source = make_database([encoded(image, i) for i, image in enumerate(images)])
    resize = ResizeParam(resize_mode=ResizeMode.FIT_SMALL_SIZE, height=12, width=12)
    param = ImageTransform(resize_param=(resize,), crop_size=12, mean_value=(5.0,))
    layer = data(source, batch_size=2, transform_param=param)
    ((found, labels),) = batches(open_layer(layer), 1)
    assert labels.tolist() == [0, 1]
    for i, image in enumerate(images):
        height, width = resize.size(*image.shape[:2])
        assert (height, width) == ((12, 18), (12, 15))[i]
        want = cv2.resize(image, (width, height)).transpose(2, 0, 1).astype(np.float32) - 5
        left = (width - 12) // 2
        np.testing.assert_array_equal(found[i], want[:, :, left : left + 12])


def test_each_image_draws_its_change(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    source = make_database([raw(np.full((3, 4, 4), 200, np.uint8), 1)])
    noises = (NoiseParam(prob=0.75, inverse=True), NoiseParam(prob=0.25))
    layer = data(source, batch_size=400, transform_param=ImageTransform(noise_param=noises))
    ((found, _),) = batches(open_layer(layer, Phase.TRAIN), 1)
    inverted = (found == 55).all(axis=(1, 2, 3))
    assert (inverted | (found == 200).all(axis=(1, 2, 3))).all()
    assert 0.65 < inverted.mean() < 0.85


def test_the_shapes_of_absent_data_that_is_resized() -> None:
    resize = ResizeParam(height=30, width=40)
    for param, shape, why in (
        ({"resize_param": (resize,)}, (3, 30, 40), "resize_param"),
        ({"resize_param": (resize,), "crop_size": 20}, (3, 30, 40), "resize_param"),
        ({"crop_h": 8, "crop_w": 9, "mean_value": (1.0, 2.0)}, (2, 8, 9), "crop_h, crop_w"),
    ):
        layer = data("absent", transform_param=ImageTransform(**param))  # type: ignore[arg-type]
        item = probe(layer, assume=True)
        assert item.types == (BlobType(shape),)
        assert why in item.assumed


# -- shuffled --------------------------------------------------------------------------------------


def test_every_pass_has_an_order_of_its_own(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    source = make_database(raw(pixels(1, 2, 2, seed=i), label=i) for i in range(9))
    layer = data(source, batch_size=4, shuffle=True)
    found = batches(open_layer(layer, Phase.TRAIN, 1), 9)
    labels = np.concatenate([labels for _, labels in found]).astype(int)
    images = np.concatenate([images for images, _ in found])
    passes = labels.reshape(4, 9)
    assert all(sorted(order) == list(range(9)) for order in passes)
    assert len({tuple(order) for order in passes}) == 4
    for image, label in zip(images, labels, strict=True):
        np.testing.assert_array_equal(image, pixels(1, 2, 2, seed=label))
    again = batches(open_layer(layer, Phase.TRAIN, 1), 9)
    np.testing.assert_array_equal(labels, np.concatenate([labels for _, labels in again]))
    other = batches(open_layer(layer, Phase.TRAIN, 2), 9)
    assert labels.tolist() != np.concatenate([labels for _, labels in other]).tolist()


def test_a_shuffled_feed_goes_on_where_it_was(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    source = make_database(raw(pixels(1, 2, 2), label=i) for i in range(5))
    layer = data(source, batch_size=3, shuffle=True)
    whole = [labels.tolist() for _, labels in batches(open_layer(layer), 6)]
    late = open_layer(layer)
    late.restore(Cursor(9, 5))
    assert [labels.tolist() for _, labels in batches(late, 3)] == whole[3:]


def test_the_record_at_fault_is_named_where_it_lies(make_database: MakeDatabase) -> None:
    source = make_database([netc_pb2.Datum(channels=1, height=1, width=1, data=b"too long")] * 3)
    layer = data(source, batch_size=1, shuffle=True)
    place = Records(Path(source), Opening(name="", seed=0).draws)
    assert place.key(0) in error_of(layer)
    place.close()
