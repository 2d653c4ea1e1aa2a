"""Turn a list of image files into an LMDB for the Data layer.

The list has one `path label` per line, the path relative to the root folder and the label an
integer after the last space, as for the ImageData layer. Raw pixels are stored as 8-bit BGR planes
(C, H, W). The keys are "%08d_path", in list order.

    python tools/images_to_lmdb.py photos photos/train.txt build/photos_lmdb -resize 256x256
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from command import run
from datum_lmdb import encoded_datum, raw_datum, write_database

from netc.data.image_list import ImageList, read_list
from netc.data.images import decode, resize
from netc.errors import Problem, Problems

# After so many files that cannot be read, the folder is wrong, not the files.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Conversion:
    """What happens to each image between its file and the database."""

    gray: bool = False
    size: tuple[int, int] | None = None
    """(height, width) to resize to, bilinearly and without regard to proportions."""
    encoded: str = ""
    """Store files of this type ("jpg", "png") instead of pixels."""

    def datum(self, file_bytes: bytes, name: str, label: int) -> tuple[bytes, tuple[int, ...]]:
        """Return the serialized Datum and the shape (C, H, W); raises ValueError if unreadable."""
        pixels = decode(file_bytes, color=not self.gray)
        if pixels is None:
            raise ValueError("is not an image that OpenCV can read")
        if self.size:
            pixels = resize(pixels, *self.size)
        if not self.encoded:
            return raw_datum(np.ascontiguousarray(pixels), label), pixels.shape
        # A second encoding loses quality and time: the file goes in as it is where it can.
        if self.size is None and not self.gray and _extension(name) == self.encoded:
            return encoded_datum(file_bytes, label), pixels.shape
        ok, again = cv2.imencode("." + self.encoded, pixels.transpose(1, 2, 0))
        if not ok:
            raise ValueError(f"cannot be encoded as {self.encoded}")
        return encoded_datum(again.tobytes(), label), pixels.shape


def convert(
    root: Path,
    images: ImageList,
    conversion: Conversion,
    *,
    order: list[int],
    check_size: bool = False,
) -> Iterator[tuple[str, bytes]]:
    """Yield (path, Datum) per image; raises NetcError that names the unreadable files."""
    problems, found, first = Problems(), 0, None
    for index in order:
        path, label = images.paths[index], int(images.labels[index])
        try:
            datum, shape = conversion.datum((root / path).read_bytes(), path, label)
            first = first or shape
            if check_size and shape != first:
                raise ValueError(f"has the shape {shape}, the first image {first}")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            problems.add(Problem(f"image {root / path}: {reason}", images.span(index)))
            found += 1
            if found == _ENOUGH:
                break
            continue
        yield path, datum
    problems.raise_any()


def main() -> None:
    """Read the command line, write the database, say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder that the paths of the list are relative to")
    parser.add_argument("list", type=Path, help="file of `path label` lines")
    parser.add_argument("output", type=Path, help="the LMDB folder to write")
    for flag, text in (
        ("gray", "store one grey channel"),
        ("shuffle", "shuffle the list, the same way for the same -seed"),
        ("check_size", "refuse images of different sizes"),
        ("overwrite", "replace an LMDB that exists"),
    ):
        parser.add_argument(f"-{flag}", f"--{flag}", action="store_true", help=text)
    parser.add_argument("-seed", "--seed", type=int, default=0, help="of -shuffle (default 0)")
    parser.add_argument(
        "-resize", "--resize", type=_size, metavar="HxW", help="resize every image, e.g. 256x256"
    )
    parser.add_argument(
        "-encoded",
        "--encoded",
        choices=("jpg", "png"),
        default="",
        help="store files instead of pixels; files of that type go in unchanged",
    )
    options = parser.parse_args()

    images = read_list(options.list)
    order = list(range(len(images.paths)))
    if options.shuffle:
        random.Random(options.seed).shuffle(order)
    conversion = Conversion(options.gray, options.resize, options.encoded)
    datums = convert(options.root, images, conversion, order=order, check_size=options.check_size)
    count = write_database(options.output, datums, overwrite=options.overwrite)
    print(f"{count} images -> {options.output}")


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, got {text!r}")
    return int(height), int(width)


def _extension(name: str) -> str:
    extension = name.rpartition(".")[2].lower()
    return "jpg" if extension == "jpeg" else extension


if __name__ == "__main__":
    run(main)
