"""Write the databases of the digits nets from the images in zoo/digits.

    python tools/make_digits.py          # into build/digits

Ten, 0-4 and 5-9 (labelled 0-4, as the last layer of a net for five classes counts), each split into
train and test: within each class, in the order of the file, every fifth image is a test image. So
the split is the same everywhere, and every class has its share of both.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from command import run
from datum_lmdb import raw_datum, write_database
from idx import read_images_and_labels
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
SETS = {"all": range(10), "0_4": range(5), "5_9": range(5, 10)}


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the 1,797 images (N, 1, 8, 8), grey levels 0-16, and their labels 0-9."""
    folder = ROOT / "zoo" / "digits"
    return read_images_and_labels(
        folder / "digits-images-idx3-ubyte.gz", folder / "digits-labels-idx1-ubyte.gz"
    )


def held_out(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which images are test images: each class's 5th, 10th, 15th, ... in file order."""
    mask = np.zeros(len(labels), np.bool_)
    for digit in np.unique(labels):
        mask[np.flatnonzero(labels == digit)[4::5]] = True
    return mask


def main() -> None:
    """Write the six databases and say how large they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "output", type=Path, nargs="?", default=ROOT / "build" / "digits", help="folder to write to"
    )
    folder = parser.parse_args().output

    images, labels = load_digits()
    is_test = held_out(labels)
    for name, digits in SETS.items():
        for part, chosen in (("train", ~is_test), ("test", is_test)):
            wanted = np.flatnonzero(chosen & np.isin(labels, list(digits)))
            database = folder / f"{name}_{part}_lmdb"
            datums = (("", raw_datum(images[i], int(labels[i]) - digits.start)) for i in wanted)
            count = write_database(database, datums, overwrite=True)
            print(f"{count:5} images -> {os.path.relpath(database)}")


if __name__ == "__main__":
    run(main)
