"""Convolution, with what follows it, and Deconvolution.

Both are made of three products between an image, its windows ("small": one value per window and
output) and the weights: gather (image to windows), scatter (windows to image) and the gradient of
the weights. oneDNN has them as the three passes of a convolution; Deconvolution's forward pass is
the backward pass of a convolution, so that its weights lie as Caffe has them.

In bfloat16 are images and windows, and a copy of the weights that is made anew for each pass: the
weights themselves and their gradient stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netc.backends.base import Binding, Job, Layout, Precision, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.bias import BiasGradient
from netc.backends.cpu.epilogue import Epilogue
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Mover,
    Scratch,
    in_a_row,
    move,
    padding_behind,
    positive,
    quick,
    required,
)
from netc.backends.cpu.onednn import Desc, Primitive, any_layout, dims_of, primitive
from netc.layers.convolution import Filtering
from netc.layers.types import BlobType, Reads
from netc.layers.window import Slide


@dataclass(frozen=True)
class Geometry:
    """The shapes of the three arrays as the library wants them, and how the window slides."""

    image: tuple[int, ...]
    small: tuple[int, ...]
    weight: tuple[int, ...]
    slides: tuple[Slide, ...]

    @classmethod
    def of(cls, job: Job) -> Geometry:
        layer = job.node.layer
        assert isinstance(layer, Filtering)
        x = BlobType(job.bottoms[0])
        slides = layer.slides(x) or (Slide(1, 1, 1),)
        if len(slides) > 3:
            raise Impossible("more than three spatial axes")
        n = x.span(0, x.axis(layer.axis))
        bottom, top = x.shape[x.axis(layer.axis)], layer.num_output
        small, image = (bottom, top) if layer.transposed else (top, bottom)
        group = layer.group
        kernel = tuple(s.kernel for s in slides)
        weight = (small // group, image // group, *kernel)
        return cls(
            positive((n, image, *(s.pixels for s in slides))),
            positive((n, small, *(s.places for s in slides))),
            (group, *weight) if group > 1 else weight,
            slides,
        )

    @property
    def window(self) -> tuple[object, ...]:
        """Strides, dilations and paddings as arguments."""
        return (
            dims_of([s.stride for s in self.slides]),
            dims_of([s.dilation - 1 for s in self.slides]),
            dims_of([s.pad for s in self.slides]),
            dims_of([padding_behind(s) for s in self.slides]),
        )


class ConvolutionKernel(Kernel):
    """One bottom, one top, and their weights."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Filtering)
        if len(job.node.bottoms) > 1:
            raise Impossible("several bottoms share the weights")
        self._layer, self._job = layer, job
        self._shape = Geometry.of(job)
        self._scratch_forward, self._scratch_backward = Scratch(), Scratch()
        self._bias = Desc.plain((layer.num_output,)) if layer.bias_term else None
        # Caffe's Deconvolution adds its bias to an image, which the library does in float32.
        self._half = job.precision is Precision.BF16 and not layer.transposed
        self._dtype = onednn.BF16 if self._half else onednn.F32
        self._epilogue = Epilogue(job, self._shape.small, self._scratch_forward, self._dtype)
        self._any = {
            "image": any_layout(self._shape.image, self._dtype),
            "small": any_layout(self._shape.small, self._dtype),
            "weight": any_layout(self._shape.weight, self._dtype),
        }
        self._any_gradient = any_layout(self._shape.weight)
        self._want_data = job.train and job.wants_bottoms[0]
        self._want_weights = job.train and job.wants_params[0]
        bias = self._bias if job.train and layer.bias_term and job.wants_params[1] else None
        together = self._want_weights and not layer.transposed
        #: The bias whose gradient comes with that of the weights.
        self._trained_bias = bias if together else None
        self._choose_forward(job)
        self._prepare_forward()
        if self._want_data:
            self._choose_data()
        if self._want_weights:
            self._choose_weights()
        self._bias_alone: BiasGradient | None = None
        if bias is not None and not together:
            at = self.image if layer.transposed else self.small
            self._bias_alone = BiasGradient(at, bias, self._scratch_backward)
        bottom = (self.small if layer.transposed else self.image).layout
        top = (self.image if layer.transposed else self.small).layout
        reads = Reads.NOTHING
        if job.train:
            reads = Reads.BOTTOM if self._want_weights else reads
            reads |= Reads.TOP if self._epilogue.formula is not None else reads
        self.terms = Terms(
            bottoms=(bottom, *[top] * self._epilogue.n_bottoms),
            tops=(top,),
            params=(self.weight.layout, *[None] * (len(job.params) - 1)),
            reads=reads,
            forward_scratch=self._scratch_forward.nbytes,
            backward_scratch=self._scratch_backward.nbytes,
            reorders=tuple(self._reorders()),
        )

    def _reorders(self) -> Iterable[str]:
        """Return what is copied between layouts."""
        transposed = self._layer.transposed
        if not transposed and any(mover.differs for mover in self._forward_moves):
            yield "blobs for forward"
        if self._weights_for_forward.differs:
            yield "weights for forward"
        if self._want_data:
            if any(mover.differs for mover in self._data_moves[:2]):
                yield "diffs for backward"
            if self._data_moves[2].differs:
                yield "weights for backward"
        if self._want_weights:
            if any(mover.differs for mover in self._weights_moves[:2]):
                yield "blobs for the gradient of the weights"
            if self._weights_moves[2].differs:
                yield "gradient of the weights"

    # -- choosing ----------------------------------------------------------------------------------

    def _product(self, name: str, image: object, small: object, weight: object) -> Primitive | None:
        """Ask for one of the three products."""
        window = self._shape.window
        algorithm = onednn.CONVOLUTION_DIRECT
        if name == "gather":
            train = self._job.train or self._layer.transposed
            return primitive(
                "convolution_forward",
                onednn.FORWARD_TRAINING if train else onednn.FORWARD_INFERENCE,
                algorithm,
                image,
                weight,
                None if self._layer.transposed or self._epilogue.takes_bias else self._bias,
                small,
                *window,
                post=self._epilogue.post,
            )
        if name == "scatter":
            return primitive(
                "convolution_backward_data",
                algorithm,
                image,
                weight,
                small,
                *window,
                self._hint(),
            )
        return primitive(
            "convolution_backward_weights",
            algorithm,
            image,
            weight,
            self._trained_bias,
            small,
            *window,
            self._hint(),
        )

    def _hint(self) -> Primitive:
        if not hasattr(self, "_gather_hint"):
            found = primitive(
                "convolution_forward",
                onednn.FORWARD_TRAINING,
                onednn.CONVOLUTION_DIRECT,
                self._any["image"],
                self._any["weight"],
                None,
                self._any["small"],
                *self._shape.window,
            )
            self._gather_hint = required(found, "convolution")
        return self._gather_hint

    def _choose_forward(self, job: Job) -> None:
        """Choose the primitive of the forward pass, and by it the layouts of all arrays."""
        free = self._any
        at, other = ("small", "image") if self._layer.transposed else ("image", "small")
        dims = getattr(self._shape, at)
        given = job.layouts[0]
        bottoms: list[object] = []
        if given is not None and given.dims == dims and not self._is_slow_in(given):
            bottoms.append(Desc.of(given, dims))
        bottoms.append(free[at])
        fixed = self._given_weights(job)
        weights: list[object] = [free["weight"]]
        if fixed is not None and not self._half:
            weights.insert(0, fixed)
        results = [free[other], Desc.channels_last(getattr(self._shape, other), self._dtype)]
        if self._is_better_channels_last():
            results.reverse()
        name = "scatter" if self._layer.transposed else "gather"
        self._forward = quick(
            (
                self._product(name, **{at: bottom, other: result, "weight": weight})
                for result in results
                for bottom in bottoms
                for weight in weights
            ),
            "convolution",
        )
        if self._layer.transposed:
            which = onednn.DIFF_SRC_MD, onednn.DIFF_DST_MD
        else:
            which = onednn.SRC_MD, onednn.DST_MD
        self.image, self.small = (self._forward.desc(i) for i in which)
        if self._gathers_faster_channels_last():
            self._gather_channels_last(weights)
        if not self._layer.transposed:
            self._forward_moves = (
                Mover(self.image, self._forward.desc(onednn.SRC_MD), self._scratch_forward),
                Mover(self.small, self._forward.desc(onednn.DST_MD), self._scratch_forward),
            )
        taken = self._forward.desc(onednn.WEIGHTS_MD)
        #: How the weights lie for the whole run: as the forward pass takes them, unless they are
        #: converted for each pass, when it is the gradient that should need no copy.
        self.weight = fixed or self._as_gradient() if self._half else taken
        self._weights_for_forward = Mover(self.weight, taken, self._scratch_forward)

    def _is_better_channels_last(self) -> bool:
        """Say whether results are faster, in all passes together, if their channels are neighbours.

        With AVX-512, blocks of 16 channels waste work where they are not filled: the first layers
        of LeNet, with 20 and 50 channels, are 1.6 times as fast without. Only where images come
        in, with few channels: further on, results lie as the layers before chose. Without AVX-512,
        grey images have a slow gradient of the weights in blocks of 8 (LeNet: 5.2 ms against 0.8).
        """
        if self._layer.transposed or self._layer.group > 1:
            return False
        if onednn.has_avx512():
            block = onednn.channels_in_block()
            return self._shape.image[1] < block and self._shape.small[1] % block > 0
        return self._shape.image[1] == 1 and self._want_weights

    def _is_slow_in(self, given: Layout) -> bool:
        """Say whether a bottom is copied into blocks first, even where it could be taken as it is.

        With AVX-512, groups of channels that are last take up to 1.5 times as long, single ones 3
        times. In bfloat16, groups take half as long.
        """
        if self._layer.group == 1 or not onednn.has_avx512():
            return False
        if self._half and self._layer.group < self._shape.image[1]:
            return False
        return given == Desc.channels_last(given.dims, self._dtype).layout

    def _is_square_of_three(self) -> bool:
        """Say whether windows are of 3 x 3 pixels, one beside the other, without AVX-512.

        There the library's kernels for blocks are slow where the others are not.
        """
        three = [(s.kernel, s.stride, s.dilation) for s in self._shape.slides] == [(3, 1, 1)] * 2
        return three and not self._layer.transposed and not onednn.has_avx512()

    def _gathers_faster_channels_last(self) -> bool:
        """Say whether the forward pass is faster on copies in which channels are last.

        Copies included, 7 to 60 % on blobs of 28 x 28 and fewer pixels; on larger ones there is
        nothing to gain.
        """
        small = all(s.places <= 28 for s in self._shape.slides)
        wide = self._shape.image[1] // self._layer.group >= 16
        alone = self._epilogue.n_bottoms == 0
        return self._is_square_of_three() and small and wide and alone

    def _weights_are_faster_as_product(self) -> bool:
        """Say whether the gradient of the weights is faster as a product of windows in C order.

        Copies included, 6 to 60 % for 128 channels and more. On images of 7 x 7 pixels the weights
        are what is large, of which each thread has one more copy: not worth the memory.
        """
        wide = self._shape.small[1] >= 128 and self._layer.group == 1
        return self._is_square_of_three() and wide and math.prod(self._shape.small[2:]) >= 100

    def _gather_channels_last(self, weights: Sequence[object]) -> None:
        image, small = self._channels_last()
        self._forward = quick(
            (self._product("gather", image, small, weight) for weight in weights), "convolution"
        )

    def _channels_last(self) -> tuple[Desc, Desc]:
        """Return the image and the windows with the channels of a place as neighbours."""
        return (
            Desc.channels_last(self._shape.image, self._dtype),
            Desc.channels_last(self._shape.small, self._dtype),
        )

    def _as_gradient(self) -> Desc:
        """Return how the gradient of the weights lies if it may lie as it likes."""
        if not self._want_weights:
            return Desc.plain(self._shape.weight)
        found = self._product("weights", self.image, self.small, self._any_gradient)
        return required(found, "gradient of the weights").desc(onednn.DIFF_WEIGHTS_MD)

    def _given_weights(self, job: Job) -> Desc | None:
        layout = job.params[0]
        if layout == "":
            return None
        assert layout is None or isinstance(layout, Layout)
        if layout is not None and layout.dims != self._shape.weight:
            return None
        # Weights in C order come from a plan that keeps everything so: a copy is better.
        return None if layout is None else Desc.of(layout, self._shape.weight)

    def _choose_data(self) -> None:
        """Choose the primitive for the gradient of the bottom."""
        free = self._any
        name = "gather" if self._layer.transposed else "scatter"
        self._data = quick(
            (
                self._product(name, image, small, weight)
                for image, small, weight in (
                    (self.image, self.small, self._weights_for_forward.wanted),
                    (self.image, self.small, free["weight"]),
                    (*self._channels_last(), free["weight"]),
                    (free["image"], free["small"], free["weight"]),
                )
            ),
            "convolution for the gradient of the bottom",
        )
        if self._layer.transposed:
            which = onednn.SRC_MD, onednn.DST_MD
        else:
            which = onednn.DIFF_SRC_MD, onednn.DIFF_DST_MD
        image, small = (self._data.desc(i) for i in which)
        scratch = self._scratch_backward
        self._data_moves = (
            Mover(self.image, image, scratch),
            Mover(self.small, small, scratch),
            Mover(self.weight, self._data.desc(onednn.WEIGHTS_MD), scratch),
        )

    def _choose_weights(self) -> None:
        """Choose the primitive for the gradients of the weights and the bias."""
        free = self._any
        what = "convolution for the gradient of the weights"
        if self._weights_are_faster_as_product():
            image, small = (Desc.plain(dims) for dims in (self._shape.image, self._shape.small))
            self._weights = required(
                self._product("weights", image, small, self._any_gradient), what
            )
        else:
            self._weights = quick(
                (
                    self._product("weights", image, small, weight)
                    for image, small, weight in (
                        (self.image, self.small, self.weight),
                        (self.image, self.small, self._any_gradient),
                        (*self._channels_last(), self._any_gradient),
                        (free["image"], free["small"], self._any_gradient),
                    )
                ),
                what,
            )
        scratch = self._scratch_backward
        self._weights_moves = (
            Mover(self.image, self._weights.desc(onednn.SRC_MD), scratch),
            Mover(self.small, self._weights.desc(onednn.DIFF_DST_MD), scratch),
            Mover(self.weight, self._weights.desc(onednn.DIFF_WEIGHTS_MD), scratch),
        )

    def _prepare_forward(self) -> None:
        self._add_bias: Primitive | None = None
        if self._layer.transposed and self._bias is not None:
            each = Desc.plain((1, self._layer.num_output, *(1 for _ in self._shape.slides)))
            self._per_channel = each
            self._add_bias = required(
                primitive("binary", onednn.ADD, self.image, each, self.image), "sum with a bias"
            )

    # -- running -----------------------------------------------------------------------------------

    def forward(self, binding: Binding) -> Prepared:
        x, y, weight = binding.bottoms[0], binding.tops[0], binding.params[0]
        if self._layer.transposed:
            calls = [
                self._forward.bind(
                    {
                        onednn.DIFF_DST: (self.small, x),
                        onednn.WEIGHTS: (self.weight, weight),
                        onednn.DIFF_SRC: (self.image, y),
                    }
                )
            ]
            if self._add_bias is not None:
                calls.append(
                    self._add_bias.bind(
                        {
                            onednn.SRC: (self.image, y),
                            onednn.SRC_1: (self._per_channel, binding.params[1]),
                            onednn.DST: (self.image, y),
                        }
                    )
                )
            return in_a_row(calls)
        to, image, small = self._weights_for_forward, *self._forward_moves
        arrays = {
            onednn.SRC: (image.wanted, image.array(binding, x)),
            onednn.WEIGHTS: (to.wanted, to.array(binding, weight)),
            onednn.DST: (small.wanted, small.array(binding, y)),
            **self._epilogue.arguments(binding, self.small),
        }
        bias = None
        if self._bias is not None:
            bias = binding.params[1]
            if not self._epilogue.takes_bias:
                arrays[onednn.BIAS] = (self._bias, bias)
        return in_a_row(
            [
                *to.before(binding, weight),
                *image.before(binding, x),
                *self._epilogue.before(binding, bias),
                self._forward.bind(arrays),
                *small.after(binding, y),
            ]
        )

    def backward(self, binding: Binding) -> Prepared:
        calls = self._epilogue.gradient(binding, self.small)
        if self._bias_alone is not None:
            db = binding.param_diffs[1]
            assert db is not None
            calls.append(self._bias_alone.bind(binding, binding.top_diffs[0], db))
        if self._want_weights:
            calls += self._weight_calls(binding)
        if self._want_data:
            calls += self._data_calls(binding)
        shortcut = binding.bottom_diffs[1:]
        if shortcut and shortcut[0] is not None:
            calls.append(move(self.small, binding.top_diffs[0], self.small, shortcut[0]))
        return in_a_row(calls)

    def _data_calls(self, binding: Binding) -> list[Prepared]:
        dx, dy, weight = binding.bottom_diffs[0], binding.top_diffs[0], binding.params[0]
        transposed = self._layer.transposed
        image, small = (dy, dx) if transposed else (dx, dy)
        to_image, to_small, to_weight = self._data_moves
        into = to_small if transposed else to_image
        source = to_image if transposed else to_small
        arrays = {
            (onednn.SRC if transposed else onednn.DIFF_SRC): (
                to_image.wanted,
                to_image.array(binding, image),
            ),
            (onednn.DST if transposed else onednn.DIFF_DST): (
                to_small.wanted,
                to_small.array(binding, small),
            ),
            onednn.WEIGHTS: (to_weight.wanted, to_weight.array(binding, weight)),
        }
        return [
            *to_weight.before(binding, weight),
            *source.before(binding, dy),
            self._data.bind(arrays),
            *into.after(binding, dx),
        ]

    def _weight_calls(self, binding: Binding) -> list[Prepared]:
        x, dy = binding.bottoms[0], binding.top_diffs[0]
        transposed = self._layer.transposed
        image, small = (dy, x) if transposed else (x, dy)
        to_image, to_small, to_weight = self._weights_moves
        dw = binding.param_diffs[0]
        arrays = {
            onednn.SRC: (to_image.wanted, to_image.array(binding, image)),
            onednn.DIFF_DST: (to_small.wanted, to_small.array(binding, small)),
            onednn.DIFF_WEIGHTS: (to_weight.wanted, to_weight.array(binding, dw)),
        }
        if self._trained_bias is not None:
            arrays[onednn.DIFF_BIAS] = (self._trained_bias, binding.param_diffs[1])
        return [
            *to_image.before(binding, image),
            *to_small.before(binding, small),
            self._weights.bind(arrays),
            *to_weight.after(binding, dw),
        ]
