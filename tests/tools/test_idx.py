from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from idx import read_idx, read_images_and_labels

from netc.errors import NetcError


def idx_bytes(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.astype(np.uint8).tobytes())
    )


IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_the_array_comes_back(tmp_path: Path, pack: type[bytes]) -> None:
    file = tmp_path / "images"
    file.write_bytes(pack(idx_bytes(IMAGES)))
    np.testing.assert_array_equal(read_idx(file), IMAGES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG....", "89 50 4e 47"),
        (b"\0\0\x0d\x01" + struct.pack(">If", 1, 1.0), "not an IDX file of unsigned bytes"),
        (idx_bytes(IMAGES)[:6], "ends within its header"),
        (idx_bytes(IMAGES)[:-1], "59 bytes"),
        (idx_bytes(IMAGES) + b"x", "3 x 4 x 5 = 60 bytes"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-9], "cannot read"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:9] + bytes(20), "cannot read"),
    ],
    ids=["empty", "png", "floats", "no sizes", "short", "long", "short gzip", "bad gzip"],
)
def test_what_is_not_idx_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "images"
    file.write_bytes(data)
    with pytest.raises(NetcError) as caught:
        read_idx(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match=r"nothing here"):
        read_idx(tmp_path / "nothing here")


def test_images_and_labels_must_fit(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(IMAGES))
    labels.write_bytes(idx_bytes(np.array([1, 2, 0])))
    x, y = read_images_and_labels(images, labels)
    assert x.shape == (3, 1, 4, 5)
    assert y.tolist() == [1, 2, 0]

    with pytest.raises(NetcError, match="wrong order"):
        read_images_and_labels(labels, images)
    with pytest.raises(NetcError, match="these are not labels"):
        read_images_and_labels(images, images)
    labels.write_bytes(idx_bytes(np.array([1, 2])))
    with pytest.raises(NetcError, match="3 labels, for the images in"):
        read_images_and_labels(images, labels)
