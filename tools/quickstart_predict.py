"""Run the exported digits net in ONNX Runtime on the test images, without netc, and show some.

python tools/quickstart_predict.py build/digits/digits.onnx
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from command import run
from make_digits import held_out, load_digits
from numpy.typing import NDArray

from netc.errors import Span, fail

# From paper to full ink.
_SHADES = " .:-=+*#%@"
_PER_ROW = 5


def predict(model: Path, images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the class that the ONNX file gives each image, fed as zoo/digits/digits.yaml does.

    A file with a fixed batch size is run that many images at a time.
    """
    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise fail("ONNX Runtime cannot load it", span=Span(str(model)), got=error) from error
    (feed,) = session.get_inputs()
    batch = feed.shape[0] if isinstance(feed.shape[0], int) else len(images)
    scaled = images.astype(np.float32) / 16  # transform_param { scale: 0.0625 }
    classes = []
    for start in range(0, len(images), batch):
        part = scaled[start : start + batch]
        full = np.zeros((batch, *part.shape[1:]), np.float32)
        full[: len(part)] = part
        scores = session.run(None, {feed.name: full})[0]
        classes.append(scores.reshape(batch, -1)[: len(part)].argmax(axis=1))
    return np.concatenate(classes)


def picture(image: NDArray[np.uint8]) -> list[str]:
    """Return an image of grey levels 0-16 as lines of text, two characters to a pixel."""
    return [
        "".join(_SHADES[level * (len(_SHADES) - 1) // 16] * 2 for level in row) for row in image
    ]


def main() -> None:
    """Predict, show a few images with prediction and truth, print the accuracy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument(
        "-show", "--show", type=int, default=10, metavar="N", help="images to print (default 10)"
    )
    parser.add_argument(
        "-at_least",
        "--at_least",
        type=float,
        default=0,
        metavar="PERCENT",
        help="exit with status 1 where the accuracy is lower",
    )
    options = parser.parse_args()

    images, labels = load_digits()
    chosen = held_out(labels)
    images, labels = images[chosen], labels[chosen]
    predicted = predict(options.model, images)

    shown = np.linspace(0, len(images) - 1, options.show).astype(int)
    for start in range(0, len(shown), _PER_ROW):
        row = shown[start : start + _PER_ROW]
        for parts in zip(*(picture(images[i, 0]) for i in row), strict=True):
            print("  ".join(parts).rstrip())
        captions = (f"predicted {predicted[i]}, is {labels[i]}" for i in row)
        print("  ".join(f"{caption:<16}" for caption in captions).rstrip() + "\n")

    right = int((predicted == labels).sum())
    percent = 100 * right / len(labels)
    print(f"ONNX Runtime reads {right} of {len(labels)} test images correctly: {percent:.2f} %")
    if percent < options.at_least:
        sys.exit(f"error: expected at least {options.at_least:g} %")


if __name__ == "__main__":
    run(main)
