from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import make_digits
import numpy as np
import pytest
from datum_lmdb import read_datums

# Of the images and then the labels of scikit-learn's load_digits(), each as uint8.
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_the_images_are_the_published_ones() -> None:
    images, labels = make_digits.load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.max() == 16
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() == SHA256


def test_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_digits.py", str(tmp_path)])
    make_digits.main()
    images, labels = make_digits.load_digits()
    seen = {}
    for name, first, last in (("all", 0, 9), ("0_4", 0, 4), ("5_9", 5, 9)):
        for part in ("train", "test"):
            datums = list(read_datums(tmp_path / f"{name}_{part}_lmdb"))
            assert {d.label for d in datums} == set(range(last - first + 1))
            seen[name, part] = [(d.data, d.label + first) for d in datums]
        # Together the two parts hold each image of the wanted classes once, with its own label.
        expected = [
            (image.tobytes(), int(label))
            for image, label in zip(images, labels, strict=True)
            if first <= label <= last
        ]
        assert sorted(seen[name, "train"] + seen[name, "test"]) == sorted(expected)
        # A test image is one in every database: the fine-tuned nets are not tested on what the
        # other net was trained on.
        assert set(seen[name, "test"]) <= set(seen["all", "test"])

    for digit in range(10):
        tests = sum(label == digit for _, label in seen["all", "test"])
        assert tests == np.count_nonzero(labels == digit) // 5
