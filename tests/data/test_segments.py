"""AnnotatedData with a segmentation, and LaneData: records as MobileNet-YOLO writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.data import probe
from netc.data.annotated import AnnotatedSource
from netc.data.lanes import LaneSource
from netc.data.segments import segmentation_of
from netc.data.source import Opening
from netc.errors import NetcError
from netc.layers.annotated import AnnotatedData, BatchSampler, LaneData, Sampler
from netc.layers.data import Database
from netc.layers.transform import ExpansionParam, ImageTransform, InterpMode, ResizeParam
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import netc_pb2
from tests.data.samples import MakeDatabase, OpenLayer, batches, encoded, pixels

LABEL_MAP = """
item { name: "none" label: 0 label_id: 0 }
item { name: "road" label: 1 label_id: 2 r: 128 }
item { name: "car" label: 2 label_id: 1 }
item { name: "bus" label: 3 label_id: 1 }
"""
# Grey values 0 to 4 in blocks of 4 x 4; 4 is in no label map.
BLOCKS = np.array([[0, 1, 2, 3], [3, 1, 4, 0]]).repeat(4, 0).repeat(4, 1).astype(np.uint8)
IMAGES = [pixels(8, 16, 3, seed=seed) for seed in range(3)]
GREYS = [BLOCKS, np.ascontiguousarray(BLOCKS[:, ::-1]), np.ascontiguousarray(BLOCKS[::-1])]
RESIZE = (ResizeParam(height=8, width=16),)


def record(image: np.ndarray, grey: np.ndarray | None) -> bytes:
    """Return a record with one box, and a segmentation in field 8 of its Datum."""
    datum = encoded(image)
    if grey is not None:
        content = encoded(grey).data
        size = len(content)
        assert size < 2**14
        head = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        datum.MergeFromString(b"\x42" + head + content)
    found = netc_pb2.AnnotatedDatum(datum=datum, type=netc_pb2.AnnotatedDatum.BBOXandSeg)
    box = netc_pb2.NormalizedBBox(xmin=0.25, ymin=0.25, xmax=0.75, ymax=0.75)
    found.annotation_group.add(group_label=1).annotation.add(bbox=box)
    return found.SerializeToString()


@pytest.fixture
def database(make_database: MakeDatabase) -> str:
    return make_database(record(*pair) for pair in zip(IMAGES, GREYS, strict=True))


@pytest.fixture
def label_map(tmp_path: Path) -> str:
    path = tmp_path / "labelmap.prototxt"
    path.write_text(LABEL_MAP)
    return str(path)


def layer_of(source: str, label_map: str = "", **settings: Any) -> AnnotatedData:
    param = ImageTransform(**{"resize_param": RESIZE, **settings})
    return AnnotatedData(
        source=source,
        batch_size=3,
        backend=Database.LMDB,
        top=("data", "label", "seg_label"),
        transform_param=param,
        label_map_file=label_map,
        single_class=not label_map,
        seg_scales=2,
    )


def test_the_segmentation_is_an_unknown_field_of_a_datum() -> None:
    message = netc_pb2.AnnotatedDatum.FromString(record(IMAGES[0], BLOCKS))
    decoded = cv2.imdecode(np.frombuffer(segmentation_of(message.datum), np.uint8), 0)
    np.testing.assert_array_equal(decoded, BLOCKS)
    assert segmentation_of(netc_pb2.Datum(record_id=7)) == b""


def test_a_map_for_each_class(database: str, label_map: str, open_layer: OpenLayer) -> None:
    layer = layer_of(database, label_map)
    ((data, labels, maps),) = batches(open_layer(layer), 1)
    assert data.shape == (3, 3, 8, 16) and labels.shape == (1, 1, 3, 8)
    assert maps.shape == (3, 2, 4, 8)
    small = [grey[::2, ::2] for grey in GREYS]
    for got, grey in zip(maps, small, strict=True):
        np.testing.assert_array_equal(got[0], np.isin(grey, (2, 3)))
        np.testing.assert_array_equal(got[1], grey == 1)
    coarse = replace(layer, seg_scales=8)
    ((_, _, maps),) = batches(open_layer(coarse), 1)
    # Pixels that cover the blocks 0, 1, 3, 1 and 2, 3, 4, 0.
    np.testing.assert_allclose(maps[0, :, 0], [[0.25, 0.5], [0.5, 0]], atol=1 / 255)


def test_one_class_is_what_is_bright(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    greys = [np.where(np.arange(16) < 9, 99 + 2 * i, 0).astype(np.uint8) for i in range(3)]
    pairs = [(image, np.tile(grey, (8, 1))) for image, grey in zip(IMAGES, greys, strict=True)]
    source = make_database((record(*pair) for pair in pairs), "bright")
    ((_, _, maps),) = batches(open_layer(layer_of(source)), 1)
    assert maps.shape == (3, 1, 4, 8)
    # Greys of 99, 101 and 103; the pixel across the edge has half of that.
    want = [np.zeros(8), np.arange(8) < 4, np.arange(8) < 4]
    for got, row in zip(maps[:, 0], want, strict=True):
        np.testing.assert_array_equal(got, np.tile(row, (4, 1)))


def test_images_and_segmentations_change_alike(
    make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    """Images that are their own segmentations: wherever a part is cut out, both agree."""
    coarse = np.random.default_rng(5).integers(0, 2, (4, 8)).astype(np.uint8) * 255
    both = [np.ascontiguousarray(np.roll(coarse, i, 1).repeat(8, 0).repeat(8, 1)) for i in range(3)]
    source = make_database((record(np.stack([g] * 3, 2), g) for g in both), "own")
    patch = BatchSampler(sampler=Sampler(0.5, 0.9, 0.8, 1.2), max_sample=1)
    # INTER_AREA for both.
    resize = (ResizeParam(height=16, width=32, interp_mode=(InterpMode.AREA,)),)
    layer = replace(
        layer_of(source, mirror=True, resize_param=resize), batch_sampler=(patch,), seg_scales=1
    )
    feed = open_layer(layer, Phase.TRAIN)
    mirrored = set()
    for data, _, maps in batches(feed, 20):
        np.testing.assert_array_equal(maps[:, 0], data[:, 0] > 100)
        mirrored |= {tuple(row) for row in maps[:, 0, 8].tolist()}
    assert len(mirrored) > 20  # parts and mirror are drawn anew for each


def test_sizes_follow_the_images(database: str, label_map: str) -> None:
    resizes = (ResizeParam(prob=0.5, height=8, width=16), ResizeParam(prob=0.5, height=4, width=6))
    layer = layer_of(database, label_map, resize_param=resizes)
    source = AnnotatedSource(layer, Opening(name="data", phase=Phase.TRAIN))
    shapes = {tuple(top.shape[2:] for top in source.load(30 * i, 3, ())[::2]) for i in range(40)}
    source.close()
    assert shapes == {((8, 16), (4, 8)), ((4, 6), (2, 3))}


def test_shapes_without_data(tmp_path: Path, label_map: str) -> None:
    layer = layer_of(str(tmp_path / "absent"), label_map)
    signature = layer.infer(*probe(layer, assume=True).types)
    assert signature.tops[2] == BlobType((3, 2, 4, 8))
    lost = replace(layer, label_map_file=str(tmp_path / "lost.prototxt"))
    with pytest.raises(Refusal, match="how many classes") as error:
        lost.infer(*probe(lost, assume=True).types)
    assert error.value.setting == "label_map_file"


def test_records_without_a_segmentation(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    source = make_database([record(IMAGES[0], None)], "plain")
    with pytest.raises(NetcError, match="no segmentation"):
        batches(open_layer(layer_of(source)), 1)


def test_a_label_map_without_classes(database: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.prototxt"
    path.write_text('item { name: "none" label: 0 }')
    with pytest.raises(NetcError, match="names no class"):
        probe(layer_of(database, str(path)))


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"seg_scales": 0}, "seg_scales"),
        ({"single_class": False}, "label_map_file"),
        ({"transform_param": ImageTransform(crop_size=4)}, "crop_size"),
        (
            {"transform_param": ImageTransform(expand_param=ExpansionParam(max_expand_ratio=2.0))},
            "expand_param",
        ),
    ],
)
def test_refused(changes: dict[str, Any], setting: str) -> None:
    layer = replace(layer_of("db"), **changes)
    with pytest.raises(Refusal) as error:
        layer.check()
    assert error.value.setting == setting
    # Two tops do not care.
    replace(layer, top=("data", "label")).check()


# -- lanes -----------------------------------------------------------------------------------------

LANES = [[(0.1, 0.9), (0.3, 0.5), (0.4, 0.1)], [(1.5, 0.5), (0.9, 0.9), (0.8, 0.2)]]


def lane_record(image: np.ndarray, lanes: Sequence[Sequence[tuple[float, float]]]) -> bytes:
    found = netc_pb2.AnnotatedDatum(datum=encoded(image), type=netc_pb2.AnnotatedDatum.LANE)
    for lane in lanes:
        group = found.annotation_group.add(group_label=1)
        for x, y in lane:
            group.annotation.add(lanes=netc_pb2.LaneInfo(x=x, y=y))
    return found.SerializeToString()


def lane_layer(source: str, **settings: Any) -> LaneData:
    param = ImageTransform(resize_param=(ResizeParam(height=40, width=80),), **settings)
    return LaneData(
        source=source,
        batch_size=1,
        backend=Database.LMDB,
        top=("data", "label", "seg_label"),
        transform_param=param,
        seg_scales=4,
    )


def test_lanes_as_they_are(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    layer = lane_layer(make_database([lane_record(IMAGES[0], LANES)]))
    ((data, points, maps),) = batches(open_layer(layer), 1)
    assert data.shape == (1, 3, 40, 80)
    assert points.shape == (1, 5, 64, 3) and maps.shape == (1, 1, 10, 20)
    np.testing.assert_allclose(points[0, 0, :3], [(0.4, 0.1, 0), (0.3, 0.5, 0), (0.1, 0.9, 0)])
    np.testing.assert_allclose(points[0, 1, :3], [(0.8, 0.2, 1), (0.9, 0.9, 1), (1.5, 0.5, -1)])
    assert (points[0, :2, 3:] == [0, 0, -1]).all() and (points[0, 2:] == [0, 0, -1]).all()
    want = np.zeros((10, 20), np.uint8)
    for (x0, y0), (x1, y1) in (((8, 1), (6, 5)), ((6, 5), (2, 9)), ((16, 2), (18, 9))):
        cv2.line(want, (x1, y1), (x0, y0), 1)
    np.testing.assert_array_equal(maps[0, 0], want)
    assert 15 < want.sum() < 40


def test_lanes_change_with_their_images(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    source = make_database([lane_record(np.full((40, 80, 3), 7, np.uint8), LANES)])
    base = lane_layer(source, mirror=True)
    ((_, _, plain),) = batches(open_layer(replace(base, transform_param=ImageTransform())), 1)
    found = {maps.tobytes() for _, _, maps in batches(open_layer(base, Phase.TRAIN), 20)}
    assert found == {plain.tobytes(), plain[..., ::-1].tobytes()}
    points = {points.tobytes() for _, points, _ in batches(open_layer(base, Phase.TRAIN), 20)}
    assert len(points) == 1
    cut = replace(base, yolo_data_type=1, yolo_data_jitter=0.4)
    batch = batches(open_layer(cut, Phase.TRAIN), 20)
    assert len({points.tobytes() for _, points, _ in batch}) > 5
    for _, points, _ in batch:
        # A part is cut out: distances grow in proportion, lanes outside say so.
        lanes = points[0, :2, :3].astype(float)
        assert lanes[0, 1, 0] - lanes[0, 2, 0] >= 0.2 - 1e-6
        outside = ((lanes[..., :2] < 0) | (lanes[..., :2] > 1)).any(axis=-1)
        np.testing.assert_array_equal(lanes[..., 2] == -1, outside)


def test_lanes_without_data(tmp_path: Path) -> None:
    layer = lane_layer(str(tmp_path / "absent"))
    tops = layer.infer(*probe(layer, assume=True).types).tops
    assert [top.shape for top in tops] == [(1, 3, 40, 80), (1, 5, 64, 3), (1, 1, 10, 20)]


def test_too_many_points(make_database: MakeDatabase) -> None:
    layer = lane_layer(make_database([lane_record(IMAGES[0], [[(0.5, 0.5)] * 65])]))
    source = LaneSource(layer, Opening(name="data"))
    with pytest.raises(NetcError, match="too many lanes"):
        source.load(0, 1, ())
    source.close()
