"""Average all images of an LMDB into a mean.binaryproto, for `transform_param { mean_file }`.

python tools/compute_mean.py build/cifar10/train_lmdb build/cifar10/mean.binaryproto
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from command import run
from datum_lmdb import read_datums
from numpy.typing import NDArray

from netc.data.images import decode
from netc.errors import Span, fail
from netc.schema import netc_pb2


def mean_image(database: Path) -> NDArray[np.float32]:
    """Return the mean (C, H, W) of all images, summed in float64.

    Raises NetcError for an empty database and for images of different sizes.
    """
    total, count = None, 0
    for datum in read_datums(database):
        pixels = _pixels(datum)
        if pixels is None:
            raise fail(
                f"image {count}, counted from 0, cannot be decoded", span=Span(str(database))
            )
        if total is None:
            total = np.zeros(pixels.shape, np.float64)
        if pixels.shape != total.shape:
            raise fail(
                "the images differ in size, so that they have no mean image",
                span=Span(str(database)),
                expected=f"{total.shape} (channels, height, width), as the first one",
                got=f"{pixels.shape}, image {count}, counted from 0",
                hint="resize them all (tools/images_to_lmdb.py -resize HxW), or use mean_value",
            )
        total += pixels
        count += 1
    assert total is not None  # an empty database is refused when it is opened
    return (total / count).astype(np.float32)


def write_mean(mean: NDArray[np.float32], path: Path) -> None:
    """Write a BlobProto with the four legacy sizes, as Caffe's own tool does."""
    channels, height, width = mean.shape
    blob = netc_pb2.BlobProto(num=1, channels=channels, height=height, width=width)
    blob.data.extend(mean.ravel())
    partial = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(blob.SerializeToString())
        os.replace(partial, path)
    except OSError as error:
        raise fail("cannot write here", span=Span(str(path)), got=error) from error


def main() -> None:
    """Read the command line, write the file, print the mean of each channel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("database", type=Path, help="the LMDB")
    parser.add_argument("output", type=Path, nargs="?", help="the .binaryproto file to write")
    options = parser.parse_args()

    mean = mean_image(options.database)
    for channel, value in enumerate(mean.mean(axis=(1, 2), dtype=np.float64)):
        print(f"mean_value: {value:.6g}  # channel {channel}")
    if options.output:
        write_mean(mean, options.output)
        print(f"mean of {' x '.join(map(str, mean.shape))} -> {options.output}")


def _pixels(datum: netc_pb2.Datum) -> NDArray[np.floating | np.uint8] | None:
    if datum.encoded:
        return decode(datum.data, None)
    shape = (datum.channels, datum.height, datum.width)
    values = (
        np.frombuffer(datum.data, np.uint8)
        if datum.data
        else np.asarray(datum.float_data, np.float32)
    )
    return values.reshape(shape) if values.size == np.prod(shape) else None


if __name__ == "__main__":
    run(main)
