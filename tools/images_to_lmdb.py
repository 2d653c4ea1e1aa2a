"""Turn a list of image files into an LMDB for the Data layer.

The list has one `path label` per line, the path relative to the root folder and the label an
integer after the last space, as for the ImageData layer. Raw pixels are stored as 8-bit BGR planes
(C, H, W). The keys are "%08d_path", in list order.

    python tools/images_to_lmdb.py photos photos/train.txt build/photos_lmdb -resize 256x256
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from command import run
from datum_lmdb import DatumWriter, encoded_datum, raw_datum
from numpy.typing import NDArray

from netc.errors import Problem, Problems, Span, fail

# After so many files that cannot be read, the folder is wrong, not the files.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list."""

    path: str
    label: int
    span: Span


def read_list(path: Path) -> list[Entry]:
    """Return the entries of a list file; raises one NetcError with every bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise fail("cannot read the list", span=Span(str(path)), got=error) from error
    entries, problems = [], Problems()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.rstrip().rpartition(" ")
        span = Span(str(path), number, 1)
        if not name or not _is_integer(label):
            problems.add(
                Problem(
                    "this line of the list has no label",
                    span,
                    expected="a path, a space and an integer",
                    got=line,
                )
            )
            continue
        entries.append(Entry(name, int(label), span))
    problems.raise_any()
    if not entries:
        raise fail("the list is empty", span=Span(str(path)))
    return entries


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
        pixels = self._pixels(file_bytes)
        shape = _channels_first(pixels).shape
        if not self.encoded:
            return raw_datum(np.ascontiguousarray(_channels_first(pixels)), label), shape
        # A second encoding loses quality and time: the file goes in as it is where it can.
        if self.size is None and not self.gray and _extension(name) == self.encoded:
            return encoded_datum(file_bytes, label), shape
        ok, again = cv2.imencode("." + self.encoded, pixels)
        if not ok:
            raise ValueError(f"cannot be encoded as {self.encoded}")
        return encoded_datum(again.tobytes(), label), shape

    def _pixels(self, file_bytes: bytes) -> NDArray[np.uint8]:
        mode = cv2.IMREAD_GRAYSCALE if self.gray else cv2.IMREAD_COLOR
        try:
            pixels = cv2.imdecode(np.frombuffer(file_bytes, np.uint8), mode)
        except cv2.error:  # raised for an empty file only; anything else unreadable gives None
            pixels = None
        if pixels is None:
            raise ValueError("is not an image that OpenCV can read")
        if self.size:
            pixels = cv2.resize(pixels, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        return pixels.astype(np.uint8, copy=False)


def convert(
    root: Path,
    entries: list[Entry],
    out: DatumWriter,
    conversion: Conversion,
    *,
    check_size: bool = False,
) -> None:
    """Write one Datum per entry; raises NetcError that names the unreadable files."""
    problems, found, first = Problems(), 0, None
    for entry in entries:
        try:
            datum, shape = conversion.datum(
                (root / entry.path).read_bytes(), entry.path, entry.label
            )
            first = first or shape
            if check_size and shape != first:
                raise ValueError(f"has the shape {shape}, the first image {first}")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            problems.add(Problem(f"image {root / entry.path}: {reason}", entry.span))
            found += 1
            if found == _ENOUGH:
                break
            continue
        out.put(datum, suffix=entry.path)
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

    entries = read_list(options.list)
    if options.shuffle:
        random.Random(options.seed).shuffle(entries)
    conversion = Conversion(options.gray, options.resize, options.encoded)
    with DatumWriter(options.output, overwrite=options.overwrite) as out:
        convert(options.root, entries, out, conversion, check_size=options.check_size)
    print(f"{out.count} images -> {options.output}")


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, got {text!r}")
    return int(height), int(width)


def _is_integer(text: str) -> bool:
    try:
        return bool(text) and int(text) is not None
    except ValueError:
        return False


def _extension(name: str) -> str:
    extension = name.rpartition(".")[2].lower()
    return "jpg" if extension == "jpeg" else extension


def _channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


if __name__ == "__main__":
    run(main)
