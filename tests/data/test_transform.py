"""Crop, mirror, mean and scale, against Caffe's loops written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.data.source import DataAbsent, Opening
from netc.data.transform import Transformer, Windows, read_mean
from netc.errors import NetcError, Span
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import netc_pb2
from tests.data.samples import FILES


def by_the_definition(
    images: np.ndarray, windows: Windows, mean: np.ndarray, scale: float
) -> np.ndarray:
    """(pixel - mean at the pixel) * scale in float32; mirrored, from the other end of the row."""
    n, channels = images.shape[:2]
    out = np.empty((n, channels, windows.height, windows.width), np.float32)
    for i, c, h, w in np.ndindex(out.shape):
        y, x = windows.tops[i] + h, windows.lefts[i] + w
        at = windows.width - 1 - w if windows.mirrored[i] else w
        value = np.float32(images[i, c, y, x]) - np.float32(mean[c, y, x])
        out[i, c, h, at] = value * np.float32(scale)
    return out


@st.composite
def transformations(draw: st.DrawFn) -> tuple[TransformParam, np.ndarray, np.ndarray, Phase, int]:
    """Draw settings, images, the mean that they stand for, a phase and a position."""
    channels, height, width = (draw(st.integers(1, 4)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    count = draw(st.integers(1, 4))
    images: np.ndarray = rng.integers(0, 256, (count, channels, height, width), np.uint8)
    if draw(st.booleans()):
        images = rng.normal(0, 100, images.shape).astype(np.float32)
    values = rng.uniform(0, 255, draw(st.sampled_from([0, 1, channels]))).astype(np.float32)
    mean = np.zeros((channels, height, width), np.float32)
    if len(values):
        mean += values.reshape(-1, 1, 1)
    param = TransformParam(
        scale=draw(st.sampled_from([1.0, 0.00390625, 0.1, -3.0])),
        mirror=draw(st.booleans()),
        crop_size=draw(st.integers(0, min(height, width))),
        mean_value=tuple(map(float, values)),
    )
    return param, images, mean, draw(st.sampled_from(Phase)), draw(st.integers(0, 10**12))


@given(transformations())
def test_a_batch_is_transformed_as_defined(
    drawn: tuple[TransformParam, np.ndarray, np.ndarray, Phase, int],
) -> None:
    param, images, mean, phase, position = drawn
    count, *shape = images.shape
    transformer = Transformer(param, Opening(name="data", phase=phase, seed=3))
    windows = transformer.windows(position, count, *shape[1:])
    out = np.full((count, *transformer.infer(BlobType(tuple(shape))).shape), np.nan, np.float32)
    before = images.copy()

    transformer.batch(images, windows, out)
    np.testing.assert_array_equal(out, by_the_definition(images, windows, mean, param.scale))
    np.testing.assert_array_equal(images, before)

    # One at a time, from an image whose channels lie together, as OpenCV decodes them.
    single = np.full_like(out, np.nan)
    for i in range(count):
        interleaved = np.ascontiguousarray(images[i].transpose(1, 2, 0)).transpose(2, 0, 1)
        transformer.one(interleaved, windows, i, single)
    np.testing.assert_array_equal(single, out)

    # An item's window does not depend on the batch that it comes in.
    alone = transformer.windows(position + count - 1, 1, *shape[1:])
    assert (alone.tops[0], alone.lefts[0]) == (windows.tops[-1], windows.lefts[-1])
    assert alone.mirrored[0] == windows.mirrored[-1]


def write_mean(path: Path, mean: np.ndarray, **fields: object) -> TransformParam:
    blob = netc_pb2.BlobProto(data=mean.ravel().tolist())
    blob.num, (blob.channels, blob.height, blob.width) = 1, mean.shape
    path.write_bytes(blob.SerializeToString())
    return TransformParam(mean_file=str(path), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("crop_size", [0, 3])
def test_the_mean_image_moves_with_the_window(
    tmp_path: Path, phase: Phase, mirror: bool, crop_size: int
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 2, 5, 4), np.uint8)
    mean = rng.uniform(0, 255, (2, 5, 4)).astype(np.float32)
    param = write_mean(tmp_path / "mean", mean, mirror=mirror, crop_size=crop_size, scale=0.1)
    transformer = Transformer(param, Opening(name="data", phase=phase))
    windows = transformer.windows(0, 6, 5, 4)
    out = np.full((6, *transformer.infer(BlobType((2, 5, 4))).shape), np.nan, np.float32)
    transformer.batch(images, windows, out)
    np.testing.assert_array_equal(out, by_the_definition(images, windows, mean, 0.1))


def test_windows_are_random_in_training_and_central_in_testing() -> None:
    param = TransformParam(crop_size=3)
    train = Transformer(param, Opening(name="data", phase=Phase.TRAIN)).windows(0, 4000, 7, 5)
    tops, lefts = np.bincount(train.tops), np.bincount(train.lefts)
    assert len(tops) == 5
    assert len(lefts) == 3
    # Both are even: within five standard deviations of the binomial distribution.
    assert np.abs(tops - 800).max() < 5 * np.sqrt(4000 * 0.2 * 0.8)
    assert np.abs(lefts - 4000 / 3).max() < 5 * np.sqrt(4000 * 2 / 9)
    assert len(set(zip(train.tops, train.lefts, strict=True))) == 15

    test = Transformer(param, Opening(name="data", phase=Phase.TEST)).windows(0, 10, 7, 6)
    assert (set(test.tops), set(test.lefts)) == ({2}, {1})  # (7-3)/2, and (6-3)/2 rounded down
    assert test.alike


@pytest.mark.parametrize("phase", Phase)
def test_every_other_image_is_mirrored_in_both_phases(phase: Phase) -> None:
    transformer = Transformer(TransformParam(mirror=True), Opening(name="data", phase=phase))
    mirrored = transformer.windows(0, 4000, 5, 5).mirrored
    assert abs(sum(mirrored) - 2000) < 5 * np.sqrt(1000)


def test_a_pass_over_the_data_gets_windows_of_its_own() -> None:
    transformer = Transformer(TransformParam(crop_size=8), Opening(name="data", phase=Phase.TRAIN))
    first, second = (transformer.windows(position, 50, 32, 32) for position in (0, 50))
    assert first.tops != second.tops
    assert first.lefts != second.lefts


def test_the_settings_are_compared_with_the_images(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="crop_size is larger"):
        Transformer(TransformParam(crop_size=5), Opening()).infer(BlobType((1, 4, 9)))
    param = write_mean(tmp_path / "mean", np.zeros((1, 4, 4), np.float32), crop_size=2)
    with pytest.raises(Refusal, match="mean file has another shape than the images") as refused:
        Transformer(param, Opening()).infer(BlobType((1, 5, 4)))
    assert "(1, 5, 4)" in refused.value.expected
    assert "(1, 4, 4)" in refused.value.got
    assert refused.value.setting == "mean_file"


# -- mean files ------------------------------------------------------------------------------------


def test_a_mean_file_of_caffe() -> None:
    with np.load(FILES / "images_reference.npz") as reference:
        np.testing.assert_array_equal(read_mean(FILES / "mean.binaryproto"), reference["mean"])


@pytest.mark.parametrize("dims", [(1, 2, 1, 3), (2, 1, 3)])
@pytest.mark.parametrize("field", ["data", "double_data"])
def test_other_forms_of_a_mean(tmp_path: Path, dims: tuple[int, ...], field: str) -> None:
    blob = netc_pb2.BlobProto(shape={"dim": dims}, **{field: range(6)})  # type: ignore[arg-type]
    (tmp_path / "mean").write_bytes(blob.SerializeToString())
    mean = read_mean(tmp_path / "mean")
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, np.arange(6).reshape(2, 1, 3))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a message", "this is not a mean file"),
        (b"", "0 values of shape (0, 0, 0, 0)"),
        (netc_pb2.BlobProto(num=1, channels=1, height=2, width=2, data=[1]), "1 values of shape"),
        (netc_pb2.BlobProto(num=2, channels=1, height=1, width=1, data=[1, 2]), "(2, 1, 1, 1)"),
        (netc_pb2.BlobProto(shape={"dim": [4]}, data=[1] * 4), "4 values of shape (4,)"),
        (netc_pb2.BlobProto(shape={"dim": [1, -1, -4]}, data=[1] * 4), "(1, -1, -4)"),
    ],
)
def test_what_is_no_mean_file(
    tmp_path: Path, content: bytes | netc_pb2.BlobProto, told: str
) -> None:
    path = tmp_path / "mean"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with pytest.raises(NetcError) as error:
        read_mean(path)
    assert told in str(error.value)
    assert error.value.problems[0].span == Span(str(path))


def test_a_mean_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    span = Span(str(tmp_path / "net.prototxt"), 3, 1)
    with pytest.raises(DataAbsent, match="mean file 'nowhere' does not exist"):
        Transformer(TransformParam(mean_file="nowhere"), Opening(span))
    with pytest.raises(NetcError, match="the mean file cannot be read"):
        Transformer(TransformParam(mean_file=str(tmp_path)), Opening(span))
