"""Conditional random fields over all pairs of pixels: labels of near and similar pixels agree.

    q = softmax(u + sum over kernels k of A_k (K_k q))

is iterated: u are the scores, K_k is a Gaussian filter whose rows add up to 1, over positions alone
or over positions and colours, and A_k says how much a class at one pixel speaks for a class at the
other. The filters are those of `netc.layers.lattice`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.lattice import Lattice
from netc.layers.registry import layer
from netc.layers.softmax import softmax, softmax_gradient
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)

# What keeps a sum of weights from being 0, and a probability before its logarithm.
TINY = 1e-20
FLT_MIN = 2.0**-126


@dataclass(frozen=True, slots=True)
class Diagonal(Filler):
    """A matrix (..., C, C) with `value` on its diagonal. No text can name it."""

    def draw(self, xp: ArrayNamespace, rng: object, shape: tuple[int, ...]) -> Array:
        """Return the matrix."""
        return xp.broadcast_to(xp.eye(shape[-1], dtype="float32") * self.value, shape)


class CompatibilityMode(enum.Enum):
    """How M starts."""

    POTTS = 0


class Kernel:
    """A Gaussian filter of images (C, H, W) whose rows add up to 1."""

    def __init__(
        self,
        xp: ArrayNamespace,
        size: tuple[int, int],
        spread: float,
        image: Array | None = None,
        contrast: float = 1.0,
    ) -> None:
        """Measure the distance of two pixels in units of `spread`.

        With an image (K, H, W) that of their colours counts too, in units of `contrast`.
        """
        height, width = size
        rows, columns = xp.meshgrid(xp.arange(height), xp.arange(width), indexing="ij")
        features = [columns.reshape(-1) / spread, rows.reshape(-1) / spread]
        if image is not None:
            features += [channel.reshape(-1) / contrast for channel in image]
        self._lattice = Lattice(xp, xp.stack(features, axis=1))
        ones = self._lattice.filter(xp.ones((1, height * width)))
        self._norm = 1 / (ones + TINY)

    def apply(self, x: Array) -> Array:
        """Return the values (C, n), filtered."""
        return self._lattice.filter(x) * self._norm.astype(x.dtype)

    def transpose(self, dy: Array) -> Array:
        """Return the gradient of the values, given that of the filtered ones."""
        return self._lattice.filter(dy * self._norm.astype(dy.dtype), transposed=True)


@dataclass(frozen=True)
class MeanField(Layer):
    """Base of the types that iterate the formula above on scores (N, C, H, W)."""

    def check_images(self, scores: BlobType, others: Sequence[BlobType], what: str) -> None:
        """Refuse what is not images, and others that have not their size."""
        for index, other in enumerate((scores, *others)):
            same = other.axes == 4 and (scores.shape[0], *scores.shape[2:]) == (
                other.shape[0],
                *other.shape[2:],
            )
            if not same:
                raise Refusal(
                    f"{what} are not images of one size",
                    expected="(N, C, H, W)"
                    if scores.axes != 4
                    else f"({scores.shape[0]}, C, {scores.shape[2]}, {scores.shape[3]})",
                    got=f"shape {other}" + (f", scores of shape {scores}" if index else ""),
                    setting="bottom",
                )

    def check_above_zero(self, name: str, values: Sequence[float]) -> None:
        """Refuse widths of kernels that are none."""
        if any(value <= 0 for value in values):
            raise Refusal(
                f"{name} is not a width",
                expected=f"{name} > 0",
                got=f"{min(values):g}",
                setting=name,
            )

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "filters between all pairs of pixels have no ONNX operator",
            hint="export the net up to the scores, and run the CRF on them",
        )


@layer("MultiStageMeanfield", "multi_stage_meanfield_param")
@dataclass(frozen=True)
class MultiStageMeanfield(MeanField):
    """CRF-RNN: mean field inference whose weights are learned with the net.

    `num_iterations` times q = softmax(previous scores), then the scores are
    u - M (S (K_s q) + B (K_b q)).
    K_s filters with the width `theta_gamma` in pixels, K_b with `theta_alpha` in pixels and
    `theta_beta` in units of the image; S, B and M are learned: which class speaks for which, and
    how well they go together. S and B start with `spatial_filter_weight` and
    `bilateral_filter_weight` on the diagonal, M (POTTS) with -1.

    Shapes: unary scores u (N, C, H, W), scores to start from (the same), image (N, K, H, W) -> top
    (N, C, H, W), scores, not probabilities. Params S, B, M (1, 1, C, C). No gradient reaches the
    image. `threshold` is read and, as in the fork, not used.
    ONNX: none, no operator filters between all pairs of pixels; a model ends with the scores.

    Source: Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, and
    its fork of Caffe, which reads the two weights from files of its own.
    """

    num_iterations: int = 0
    compatibility_mode: CompatibilityMode = CompatibilityMode.POTTS
    threshold: float = 0.0
    theta_alpha: float = 0.0
    theta_beta: float = 0.0
    theta_gamma: float = 0.0
    spatial_filter_weight: float = 0.0
    bilateral_filter_weight: float = 0.0

    bottoms: ClassVar[Arity] = exactly(3)
    param_names: ClassVar[tuple[str, ...]] = ("spatial", "bilateral", "compatibility")

    def infer(self, *bottoms: BlobType) -> Signature:
        unary, start, image = bottoms
        self.check_images(unary, (start, image), "the bottoms")
        if start.shape != unary.shape:
            raise Refusal(
                "the scores to start from have another shape than the unary scores",
                expected=f"shape {unary}",
                got=f"shape {start}",
                setting="bottom",
            )
        if self.num_iterations < 2:
            raise Refusal(
                "num_iterations is too small",
                expected="num_iterations >= 2",
                got=self.num_iterations,
                setting="num_iterations",
            )
        for name in ("theta_alpha", "theta_beta", "theta_gamma"):
            self.check_above_zero(name, (getattr(self, name),))
        shape = (1, 1, unary.shape[1], unary.shape[1])
        weights = (self.spatial_filter_weight, self.bilateral_filter_weight, -1.0)
        params = tuple(ParamType(shape, Diagonal(value=weight)) for weight in weights)
        return Signature((unary,), params)

    def _kernels(self, xp: ArrayNamespace, image: Array) -> tuple[Kernel, list[Kernel]]:
        """Return the filter over positions, and that over positions and colours of each image."""
        size = (image.shape[2], image.shape[3])
        both = [Kernel(xp, size, self.theta_alpha, one, self.theta_beta) for one in image]
        return Kernel(xp, size, self.theta_gamma), both

    def _message(
        self, xp: ArrayNamespace, q: Array, near: Kernel, alike: Kernel, params: Sequence[Array]
    ) -> tuple[Array, Array, Array]:
        """Return the two filtered probabilities (C, n) of an image, and their weighted sum."""
        spatial, bilateral = near.apply(q), alike.apply(q)
        return spatial, bilateral, params[0] @ spatial + params[1] @ bilateral

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (unary, start, image) = call.xp, call.bottoms
        near, alike = self._kernels(xp, image)
        params = [_matrix(p) for p in call.params]
        top = call.out[0]
        for n in range(len(unary)):
            u, scores = _flat(unary[n]), _flat(start[n])
            for _ in range(self.num_iterations):
                q = softmax(xp, scores, 0, out=xp.empty_like(scores))
                message = self._message(xp, q, near, alike[n], params)[2]
                scores = u - params[2] @ message
            top[n] = scores.reshape(unary.shape[1:])
        return (top,)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, False)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (unary, start, image) = call.xp, call.bottoms
        near, alike = self._kernels(xp, image)
        params = [_matrix(p) for p in call.params]
        d_params = [xp.zeros(p.shape, p.dtype) for p in params]
        d_unary = xp.empty(unary.shape, unary.dtype)
        d_start = xp.empty(unary.shape, unary.dtype)
        for n in range(len(unary)):
            u, scores = _flat(unary[n]), _flat(start[n])
            passes = []
            for _ in range(self.num_iterations):
                q = softmax(xp, scores, 0, out=xp.empty_like(scores))
                passes.append((q, *self._message(xp, q, near, alike[n], params)))
                scores = u - params[2] @ passes[-1][3]
            d = _flat(call.top_diffs[0][n])
            total = xp.zeros(d.shape, d.dtype)
            for q, spatial, bilateral, message in reversed(passes):
                total += d
                d_params[2] -= d @ message.T
                d_message = -(params[2].T @ d)
                d_params[0] += d_message @ spatial.T
                d_params[1] += d_message @ bilateral.T
                d_q = near.transpose(params[0].T @ d_message)
                d_q += alike[n].transpose(params[1].T @ d_message)
                d = softmax_gradient(xp, q, d_q, 0)
            d_unary[n], d_start[n] = total.reshape(d_unary[n].shape), d.reshape(d_start[n].shape)
        shaped = tuple(d.reshape(p.shape) for d, p in zip(d_params, call.params, strict=True))
        return Gradients((d_unary, d_start, None), shaped)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return the products of the three matrices and of the filters' corners."""
        unary, _, image = bottoms
        corners = 2 * (3 + image.shape[1] + 3)
        return self.num_iterations * unary.count * (3 * unary.shape[1] + corners)


@layer("DenseCRF", "dense_crf_param")
@dataclass(frozen=True)
class DenseCRF(MeanField):
    """DeepLab's dense CRF: mean field inference with fixed weights, `max_iter` times.

    q = softmax(u + sum over i of pos_w[i] * K_i q + sum over j of bi_w[j] * K_j q), from
    q = softmax(u). K_i filters with the width `pos_xy_std`[i] in pixels, K_j with `bi_xy_std`[j] in
    pixels and `bi_rgb_std`[j] in units of the image.

    Shapes: scores u (N, C, H, W), sizes (N, 1, 1, 2), image (N, 3, H, W) -> top (N, C, H, W): the
    probabilities, or with `output_probability` false their logarithms. Of each image only as many
    rows and columns count as its sizes (height, width) say; the rest of the top is 0. Without an
    image, positions alone count. No gradient passes, as in the fork.
    ONNX: none, no operator filters between all pairs of pixels; a model ends with the scores.

    Source: Kraehenbuehl and Koltun, NIPS 2011; Chen et al., "DeepLab", ICLR 2015, and its fork of
    Caffe (which computes exponentials roughly; here they are exact).
    """

    max_iter: int = 10
    pos_xy_std: tuple[float, ...] = ()
    pos_w: tuple[float, ...] = ()
    bi_xy_std: tuple[float, ...] = ()
    bi_rgb_std: tuple[float, ...] = ()
    bi_w: tuple[float, ...] = ()
    output_probability: bool = True

    bottoms: ClassVar[Arity] = between(2, 3)

    def infer(self, *bottoms: BlobType) -> Signature:
        scores, sizes, *images = bottoms
        self.check_images(scores, images, "scores and image")
        if sizes.shape[:1] != scores.shape[:1] or sizes.span(1) != 2:
            raise Refusal(
                "bottom 1 does not hold the size of each image",
                expected=f"shape ({scores.shape[0]}, 1, 1, 2): height and width",
                got=f"shape {sizes}",
                setting="bottom",
            )
        if self.max_iter < 0:
            raise Refusal(
                "max_iter is negative",
                expected="max_iter >= 0",
                got=self.max_iter,
                setting="max_iter",
            )
        self._check_equal("pos_w", "pos_xy_std")
        self._check_equal("bi_w", "bi_xy_std")
        self._check_equal("bi_w", "bi_rgb_std")
        for name in ("pos_xy_std", "bi_xy_std", "bi_rgb_std"):
            self.check_above_zero(name, getattr(self, name))
        if bool(images) != bool(self.bi_w):
            raise Refusal(
                "kernels over colours and an image belong together",
                expected="bi_w, bi_xy_std and bi_rgb_std with 3 bottoms, or neither",
                got=f"{len(self.bi_w)} bi_w, {len(bottoms)} bottoms",
                setting="bi_w",
            )
        if images and images[0].shape[1] != 3:
            raise Refusal(
                "the image is not in colour",
                expected="3 channels",
                got=f"bottom 2 of shape {images[0]}",
                setting="bottom",
            )
        return Signature((scores,))

    def _check_equal(self, one: str, other: str) -> None:
        counts = len(getattr(self, one)), len(getattr(self, other))
        if counts[0] != counts[1]:
            raise Refusal(
                f"{one} and {other} have different numbers of values",
                expected="one of each for every kernel",
                got=f"{counts[0]} {one}, {counts[1]} {other}",
                setting=other if counts[1] else one,
            )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (scores, sizes, *images), out = call.xp, call.bottoms, call.out[0]
        out.fill(0)
        for n in range(len(scores)):
            height, width = (
                max(1, min(int(size), most))
                for size, most in zip(sizes[n].reshape(-1), scores.shape[2:], strict=True)
            )
            u = _flat(scores[n, :, :height, :width])
            image = images[0][n, :, :height, :width] if images else None
            kernels = [
                (w, Kernel(xp, (height, width), std))
                for w, std in zip(self.pos_w, self.pos_xy_std, strict=True)
            ] + [
                (w, Kernel(xp, (height, width), std, image, contrast))
                for w, std, contrast in zip(self.bi_w, self.bi_xy_std, self.bi_rgb_std, strict=True)
            ]
            q = softmax(xp, u, 0, out=xp.empty_like(u))
            for _ in range(self.max_iter):
                total = u.copy()
                for weight, kernel in kernels:
                    total += weight * kernel.apply(q)
                q = softmax(xp, total, 0, out=total)
            if not self.output_probability:
                q = xp.log(xp.maximum(q, FLT_MIN))
            out[n, :, :height, :width] = q.reshape(len(q), height, width)
        return (out,)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return the products of the filters' corners."""
        corners = 2 * (3 * len(self.pos_w) + 6 * len(self.bi_w))
        return self.max_iter * bottoms[0].count * corners


def _matrix(param: Array) -> Array:
    return param.reshape(param.shape[-2:])


def _flat(image: Array) -> Array:
    """View or copy an image (C, H, W) as (C, n)."""
    return image.reshape(len(image), -1)
