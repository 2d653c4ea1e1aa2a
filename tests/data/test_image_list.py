"""The ImageData layer: image files named by a list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.image_list import read_list
from netc.errors import NetcError, Span
from netc.layers.data import ImageData
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal
from tests.data.samples import OpenLayer, batches, pixels

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

WriteImages = Callable[..., Path]


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    """Return a function that writes images "0.png", "1.png", ... and their list, labels 0, 1 ..."""

    def write(images: list[np.ndarray], prefix: str = "", names: str = "{}.png") -> Path:
        lines = []
        for i, image in enumerate(images):
            name = names.format(i)
            (tmp_path / prefix / name).parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(tmp_path / prefix / name), image)
            lines.append(f"{name} {i}\n")
        (tmp_path / "list.txt").write_text("".join(lines))
        return tmp_path / "list.txt"

    return write


def layer(source: object, **settings: object) -> ImageData:
    fields: dict[str, object] = {"batch_size": 3, "top": ("data", "label")}
    return ImageData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def numbered(count: int) -> list[np.ndarray]:
    """Return images of one pixel whose three values are their number."""
    return [np.full((1, 1, 3), i, np.uint8) for i in range(count)]


# -- the list --------------------------------------------------------------------------------------


def test_the_label_follows_the_last_space(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(
        b"a.jpg 3\n\nmy photos/b c.jpg -1\r\n  \nd.jpg  7  \n\xff\xc3\xa4.jpg 0"
    )
    found = read_list(tmp_path / "list")
    # The second of two spaces in a row belongs to the label's side, the first to the path.
    assert [path.encode("utf-8", "surrogateescape") for path in found.paths] == [
        b"a.jpg",
        b"my photos/b c.jpg",
        b"d.jpg ",
        b"\xff\xc3\xa4.jpg",
    ]
    assert found.labels.tolist() == [3, -1, 7, 0]
    assert [found.span(i).line for i in range(4)] == [1, 3, 5, 6]


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(
        "good.jpg 1\nno_label.jpg\nx.jpg\t3\nx.jpg 0.5\n 3\na b.jpg c\ny.jpg 99999999999\n"
    )
    with pytest.raises(NetcError) as told:
        read_list(path)
    problems = told.value.problems
    assert [problem.span for problem in problems] == [
        Span(str(path), line, 1) for line in (2, 4, 5, 6, 7)
    ]
    assert all(p.what == "this line of the list names no label" for p in problems)
    assert problems[0].got == "no_label.jpg"
    assert "HDF5Data" in problems[1].hint


def test_a_tab_separates_too(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("my photos/x.jpg\t3\ny z.jpg 4\n")
    found = read_list(tmp_path / "list")
    assert list(found.paths) == ["my photos/x.jpg", "y z.jpg"]
    assert found.labels.tolist() == [3, 4]


def test_a_list_of_something_else_is_told_briefly(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("word\n" * 1000)
    with pytest.raises(NetcError) as told:
        read_list(tmp_path / "list")
    assert len(told.value.problems) == 10


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "list").write_text(content)
    with pytest.raises(NetcError, match="the list is empty"):
        probe(layer(tmp_path / "list"))


def test_a_list_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataAbsent, match="image list 'absent' does not exist"):
        probe(layer("absent"))
    with pytest.raises(NetcError, match="the list cannot be read"):
        probe(layer(tmp_path))


# -- the images ------------------------------------------------------------------------------------


def test_images_and_labels_in_the_order_of_the_list(
    write_images: WriteImages, open_layer: OpenLayer
) -> None:
    images = [pixels(4, 5, 3, seed=i) for i in range(5)]
    feed = open_layer(layer(write_images(images)))
    for k, (found, labels) in enumerate(batches(feed, 5)):
        assert labels.tolist() == [(3 * k + i) % 5 for i in range(3)]
        for image, label in zip(found, labels, strict=True):
            np.testing.assert_array_equal(image, images[int(label)].transpose(2, 0, 1))


@pytest.mark.parametrize("is_color", [True, False])
@pytest.mark.parametrize("stored", [(7, 5, 3), (7, 5), (7, 5, 4)])
def test_color_and_size_are_those_of_opencv(
    write_images: WriteImages, open_layer: OpenLayer, is_color: bool, stored: tuple[int, ...]
) -> None:
    source = write_images([pixels(*stored)])
    settings = {"is_color": is_color, "new_height": 3, "new_width": 11, "batch_size": 1}
    ((found, _),) = batches(open_layer(layer(source, **settings)), 1)
    flag = cv2.IMREAD_COLOR if is_color else cv2.IMREAD_GRAYSCALE
    image = cv2.resize(cv2.imread(str(source.parent / "0.png"), flag), (11, 3))
    np.testing.assert_array_equal(found[0], np.atleast_3d(image).transpose(2, 0, 1))


@pytest.mark.parametrize("bicubic", [True, False])
@pytest.mark.parametrize(
    ("stored", "wanted"), [((7, 5), (8, 6)), ((4, 8), (6, 12)), ((5, 5), (6, 6))]
)
def test_the_shorter_side_may_be_given(
    write_images: WriteImages, open_layer: OpenLayer, stored, wanted, bicubic: bool
) -> None:
    image = pixels(*stored, 3)
    settings = {"new_dim": 6, "bicubic": bicubic, "batch_size": 1}
    ((found, _),) = batches(open_layer(layer(write_images([image]), **settings)), 1)
    way = cv2.INTER_CUBIC if bicubic else cv2.INTER_LINEAR
    want = cv2.resize(image, wanted[::-1], interpolation=way)
    np.testing.assert_array_equal(found[0], want.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ((5, 9), (8, 14)),  # lacks height: 8 * 9 / 5 is 14.4
        ((7, 4), (11, 6)),  # lacks more width than height: 6 * 7 / 4 is 10.5
        ((8, 5), (10, 6)),
        ((6, 4), (8, 5)),  # as much of both: then it is the height, and the width stays short
        ((9, 7), (9, 7)),
    ],
)
def test_small_images_are_enlarged(
    write_images: WriteImages, open_layer: OpenLayer, stored, wanted
) -> None:
    image = pixels(*stored, 3)
    settings = {"min_height": 8, "min_width": 6, "batch_size": 1}
    ((found, _),) = batches(open_layer(layer(write_images([image]), **settings)), 1)
    want = cv2.resize(image, wanted[::-1])
    np.testing.assert_array_equal(found[0], want.transpose(2, 0, 1))
    # A size that is given counts more.
    settings |= {"new_height": 3, "new_width": 3}
    ((found, _),) = batches(open_layer(layer(write_images([image]), **settings)), 1)
    np.testing.assert_array_equal(found[0], cv2.resize(image, (3, 3)).transpose(2, 0, 1))


def test_the_mean_belongs_to_the_resized_image(
    write_images: WriteImages, open_layer: OpenLayer
) -> None:
    image = pixels(8, 8, 3)
    param = TransformParam(crop_size=2, mean_value=(1.0, 2.0, 3.0), scale=0.5)
    settings = {"new_height": 4, "new_width": 4, "batch_size": 1, "transform_param": param}
    ((found, _),) = batches(open_layer(layer(write_images([image]), **settings)), 1)
    small = cv2.resize(image, (4, 4))[1:3, 1:3].astype(np.float32)
    np.testing.assert_array_equal(found[0], ((small - [1, 2, 3]) * 0.5).transpose(2, 0, 1))


def test_every_pass_is_shuffled_anew(write_images: WriteImages, open_layer: OpenLayer) -> None:
    source = write_images(numbered(12))
    feed = open_layer(layer(source, shuffle=True, batch_size=8), Phase.TRAIN)
    found = batches(feed, 6)
    labels = np.concatenate([labels for _, labels in found])
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found])[:, 0, 0, 0], labels)
    passes = labels.reshape(4, 12)
    for order in passes:
        assert sorted(order.tolist()) == list(range(12))
    assert len({tuple(order.tolist()) for order in passes}) == 4
    again = batches(open_layer(layer(source, shuffle=True, batch_size=8), Phase.TRAIN), 6)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in again]), labels)
    other = batches(open_layer(layer(source, shuffle=True, batch_size=8), seed=2), 6)
    assert np.concatenate([labels for _, labels in other]).tolist() != labels.tolist()


def test_rand_skip(write_images: WriteImages, open_layer: OpenLayer) -> None:
    source = write_images(numbered(6))
    feeds = [open_layer(layer(source, rand_skip=6, batch_size=1), seed=seed) for seed in range(60)]
    starts = [feed.state().position for feed in feeds]
    assert set(starts) == set(range(6))
    assert [int(batches(feed, 1)[0][1][0]) for feed in feeds[:5]] == starts[:5]
    with pytest.raises(NetcError, match="rand_skip goes past the end"):
        open_layer(layer(source, rand_skip=10**9))


def test_paths_start_at_the_list(write_images: WriteImages, tmp_path: Path) -> None:
    write_images(numbered(1), names="my photos/{}.png")
    (tmp_path / "nets").mkdir()
    span = Span(str(tmp_path / "nets" / "net.prototxt"), 1, 1)
    assert probe(layer("../list.txt"), span).types == (BlobType((3, 1, 1)),)


def test_the_root_folder_is_named_by_the_net(write_images: WriteImages, tmp_path: Path) -> None:
    source = write_images(numbered(1), prefix="images")
    span = Span(str(tmp_path / "net.prototxt"), 1, 1)
    for root in ("images/", str(tmp_path / "images") + "/"):
        assert probe(layer(source, root_folder=root), span).types == (BlobType((3, 1, 1)),)
    with pytest.raises(NetcError) as told:
        probe(layer(source, root_folder="images"), span)
    assert "'images0.png' does not exist" in str(told.value)
    assert "end it with a slash" in str(told.value)


def test_an_image_that_is_missing(write_images: WriteImages, open_layer: OpenLayer) -> None:
    source = write_images(numbered(6))
    (source.parent / "4.png").unlink()
    feed = open_layer(layer(source))
    batches(feed, 1)
    with pytest.raises(NetcError) as told:
        batches(feed, 1)
    assert str(told.value).startswith(f"{source}:5:1: layer 'layer' (ImageData): image '4.png'")
    assert "| 4.png 4" in str(told.value)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n and so on"])
def test_an_image_that_cannot_be_decoded(
    write_images: WriteImages, open_layer: OpenLayer, content: bytes
) -> None:
    source = write_images(numbered(3))
    (source.parent / "1.png").write_bytes(content)
    with pytest.raises(NetcError) as told:
        batches(open_layer(layer(source)), 1)
    assert told.value.problems[0].span == Span(str(source), 2, 1)
    assert "the image cannot be decoded" in str(told.value)
    assert f"'{source.parent / '1.png'}', {len(content)} bytes" in str(told.value)


def test_an_image_that_is_a_folder(write_images: WriteImages) -> None:
    source = write_images(numbered(1))
    (source.parent / "0.png").unlink()
    (source.parent / "0.png").mkdir()
    with pytest.raises(NetcError, match="the image cannot be read") as told:
        probe(layer(source))
    assert told.value.problems[0].span == Span(str(source), 1, 1)


def test_images_of_two_sizes_in_a_batch(write_images: WriteImages, open_layer: OpenLayer) -> None:
    source = write_images([pixels(4, 4, 3), pixels(4, 4, 3), pixels(4, 5, 3)])
    with pytest.raises(NetcError) as told:
        batches(open_layer(layer(source)), 1)
    assert str(told.value).startswith(f"{source}:3:1: ")
    assert "the images of a batch differ in size" in str(told.value)
    assert "expected  (3, 4, 4), as '0.png'" in str(told.value)
    assert "got       (3, 4, 5): '2.png'" in str(told.value)
    assert "set new_height and new_width" in str(told.value)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"new_height": 6, "new_width": 7}, (3, 6, 7)),
        ({"new_height": 6, "new_width": 7, "is_color": False}, (1, 6, 7)),
        ({"transform_param": TransformParam(crop_size=5)}, (3, 5, 5)),
    ],
)
def test_shapes_can_be_assumed(settings: dict[str, object], shape: tuple[int, ...]) -> None:
    item = probe(layer("absent", **settings), assume=True)
    assert item.types == (BlobType(shape),)
    assert "'absent' does not exist: images of shape" in item.assumed


def test_an_image_of_an_existing_list_is_not_assumed(write_images: WriteImages) -> None:
    source = write_images(numbered(1))
    (source.parent / "0.png").unlink()
    with pytest.raises(NetcError, match=r"image '0.png' does not exist"):
        probe(layer(source, new_height=2, new_width=2), assume=True)


def test_photographs(open_layer: OpenLayer, tmp_path: Path) -> None:
    folder = SHARED / "camvid" / "train"
    if not folder.is_dir():
        pytest.skip(f"no photographs: {folder} is absent")
    names = sorted(path.name for path in folder.glob("*.jpg"))[:6]
    (tmp_path / "list").write_text("".join(f"{name} 0\n" for name in names))
    settings = {"root_folder": f"{folder}/", "batch_size": 6}
    ((found, _),) = batches(open_layer(layer(tmp_path / "list", **settings)), 1)
    for image, name in zip(found, names, strict=True):
        np.testing.assert_array_equal(image, cv2.imread(str(folder / name)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"new_dim": 6, "new_height": 6, "new_width": 6}, "given two sizes"),
        ({"bicubic": True}, "bicubic is set without new_dim"),
        ({"min_width": 6}, "min_width is set without min_height"),
    ],
)
def test_sizes_that_contradict(settings: dict[str, object], what: str) -> None:
    with pytest.raises(Refusal, match=what):
        layer("absent", **settings).check()
