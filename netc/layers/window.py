"""Windows that slide over an image: where each tap of a kernel meets which pixel.

Convolution and pooling are the same walk with other sums. Nothing here pads an image: for one tap,
the windows in which it lies inside the image are a range, and so are the pixels it meets there. So
a loop over the taps, each a slice of everything else at once, is the whole of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from netc.layers.types import Array, ArrayNamespace, Coordinates


def extent(kernel: int, dilation: int = 1) -> int:
    """Return the number of pixels from a window's first tap to its last."""
    return dilation * (kernel - 1) + 1


@dataclass(frozen=True, slots=True)
class Slide:
    """Windows along one axis of an image: `pixels` long, with `places` for the window."""

    pixels: int
    places: int
    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    @property
    def end_pad(self) -> int:
        """The pixels that the last window needs behind the image; below 0, those not needed."""
        reach = (self.places - 1) * self.stride + extent(self.kernel, self.dilation)
        return reach - self.pixels - self.pad

    def tap(self, index: int) -> tuple[slice, slice]:
        """Return the places where tap `index` lies inside the image, and the pixels it meets."""
        shift = index * self.dilation - self.pad
        first = max(0, -(shift // self.stride))
        last = min(self.places, -((shift - self.pixels) // self.stride))
        if first >= last:
            return slice(0, 0), slice(0, 0)
        start, stop = (place * self.stride + shift for place in (first, last - 1))
        return slice(first, last), slice(start, stop + 1, self.stride)


def sliding(axis: int, steps: Iterable[tuple[int, ...]]) -> Coordinates:
    """Return where the pixels under windows are among their places.

    `steps` are kernel, stride, pad and dilation of each axis behind `axis`, or of all at once. A
    window stands for the pixel in its middle.
    """
    axes = [
        (1 / stride, (pad - (extent(kernel, dilation) - 1) / 2) / stride)
        for kernel, stride, pad, dilation in steps
    ]
    return Coordinates(axis, tuple(a for a, _ in axes), tuple(b for _, b in axes))


#: One tap of a kernel: its index, the places where it is inside the image, the pixels it meets
#: there; each with one entry per axis.
Tap = tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]


def taps(slides: Sequence[Slide]) -> Iterator[Tap]:
    """Yield the taps of a kernel, the last axis fastest."""
    along = [[(index, *slide.tap(index)) for index in range(slide.kernel)] for slide in slides]
    for chosen in itertools.product(*along):
        yield (
            tuple(index for index, _, _ in chosen),
            tuple(places for _, places, _ in chosen),
            tuple(pixels for _, _, pixels in chosen),
        )


def unfold(xp: ArrayNamespace, image: Array, slides: Sequence[Slide]) -> Array:
    """Return what every tap sees in every window, 0 outside the image.

    Shapes: image (N, C, pixels...) -> (C, kernel..., N, places...). The batch lies behind the taps,
    so that one matrix product serves all images.
    """
    n, channels = image.shape[:2]
    shape = (channels, *(s.kernel for s in slides), n, *(s.places for s in slides))
    covered = all(s.pad == 0 and s.end_pad <= 0 for s in slides)
    columns = (xp.empty if covered else xp.zeros)(shape, image.dtype)
    source = image.swapaxes(0, 1)
    for tap, places, pixels in taps(slides):
        columns[(slice(None), *tap, slice(None), *places)] = source[(..., *pixels)]
    return columns


def fold(columns: Array, slides: Sequence[Slide], image: Array) -> None:
    """Add to each pixel of `image` what the taps upon it hold: the transpose of `unfold`."""
    target = image.swapaxes(0, 1)
    for tap, places, pixels in taps(slides):
        target[(..., *pixels)] += columns[(slice(None), *tap, slice(None), *places)]
