r"""Turn IDX files (MNIST's, gzipped or not) into an LMDB for the Data layer, in their order.

    python tools/idx_to_lmdb.py train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz \
        build/mnist/train_lmdb
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import run
from datum_lmdb import raw_datum, write_database
from idx import read_images_and_labels


def main() -> None:
    """Read the command line, write the database, say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="IDX file of images, axes (N, H, W)")
    parser.add_argument("labels", type=Path, help="IDX file of labels, axis (N)")
    parser.add_argument("output", type=Path, help="the LMDB folder to write")
    parser.add_argument(
        "-overwrite", "--overwrite", action="store_true", help="replace an LMDB that exists"
    )
    options = parser.parse_args()

    images, labels = read_images_and_labels(options.images, options.labels)
    datums = (("", raw_datum(x, int(y))) for x, y in zip(images, labels, strict=True))
    count = write_database(options.output, datums, overwrite=options.overwrite)
    print(f"{count} images of {' x '.join(map(str, images.shape[1:]))} -> {options.output}")


if __name__ == "__main__":
    run(main)
