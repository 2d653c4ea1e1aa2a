"""The gradient of a bias by itself."""

from __future__ import annotations

from netc.backends.base import Binding, Prepared
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Scratch, quick
from netc.backends.cpu.onednn import Desc, Primitive, any_layout, dims_of, primitive
from netc.layers.types import Array


class BiasGradient:
    """The sum over everything but the channels, axis 1, of the diff that `at` describes.

    A convolution of 1 x 1 pixels makes it beside the gradient of its weights. Here that is one of
    a single channel of whatever numbers, and nobody looks at it: the library's reduction over these
    axes is a plain loop, which takes 25 to 250 times as long.
    """

    def __init__(self, at: Desc, bias: Desc, scratch: Scratch) -> None:
        n, channels, *places = at.dims
        images, ones = (n, 1, *places), [1] * len(places)
        zeros = dims_of([0] * len(places))
        weights = (channels, 1, *ones)
        algorithm, window = onednn.CONVOLUTION_DIRECT, (dims_of(ones), zeros, zeros, zeros)

        def sum_with(image: object) -> Primitive | None:
            hint = primitive(
                "convolution_forward",
                onednn.FORWARD_TRAINING,
                *(algorithm, image, at.free(weights), None, at, *window),
            )
            return hint and primitive(
                "convolution_backward_weights",
                *(algorithm, image, any_layout(weights), bias, at, *window, hint),
            )

        asked = (Desc.plain(images, at.type), at.free(images))
        self._sum = quick(map(sum_with, asked), "sum over a channel")
        self._at, self._bias = at, bias
        self._image, self._weight = (
            self._sum.desc(i) for i in (onednn.SRC_MD, onednn.DIFF_WEIGHTS_MD)
        )
        self._unused = [scratch.reserve(desc.nbytes) for desc in (self._image, self._weight)]

    def bind(self, binding: Binding, diff: Array, gradient: Array) -> Prepared:
        """Return the call that writes the gradient."""
        image, weight = (cut(binding) for cut in self._unused)
        return self._sum.bind(
            {
                onednn.SRC: (self._image, image),
                onednn.DIFF_DST: (self._at, diff),
                onednn.DIFF_WEIGHTS: (self._weight, weight),
                onednn.DIFF_BIAS: (self._bias, gradient),
            }
        )
