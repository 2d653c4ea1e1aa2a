"""BatchNorm, Scale and Bias: also BatchNorm, Scale and ReLU as one.

Scale and Bias are what a batch normalisation does after it has normalised, so they run as one with
mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from netc.backends.base import Binding, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Scratch,
    fast,
    in_a_row,
    positive,
    same_layout,
)
from netc.backends.cpu.onednn import Desc, primitive
from netc.graph.types import Node
from netc.layers.activation import ReLU
from netc.layers.bn import AffineNorm, Statistics
from netc.layers.normalization import BatchNorm, stored_statistics
from netc.layers.scale import Bias, Broadcasting, Scale
from netc.layers.types import Array, KeptType, Reads

# From the params of a layer, by what it multiplies each channel and what it adds then.
Affine = Callable[[Sequence[Array]], tuple[Array, Any]]


def _how_it_lies(job: Job) -> tuple[Desc, Layout | None]:
    """Return how the bottom and the top lie: as it comes, but for one case.

    For bfloat16 with channels last that fill no block there are plain loops only, which take ten
    times as long as blocks and the copy into them.
    """
    found, layout = same_layout(job)
    dims, half, block = found.dims, onednn.BF16, onednn.channels_in_block()
    unfilled = found.type == half and 3 <= len(dims) <= 5 and dims[1] % block > 0
    if unfilled and found.same(Desc.channels_last(dims, half)):
        found = Desc.in_blocks(dims, block, half)
        layout = found.layout
    return found, layout


class NormKernel(Kernel):
    """A chain of BatchNorm, Scale or Bias, and ReLU, each of which may be absent."""

    def __init__(self, job: Job) -> None:
        self._norm: BatchNorm | None = None
        self._scale: Scale | Bias | None = None
        relu: ReLU | None = None
        for node in job.nodes:
            match node.layer:
                case BatchNorm() as norm:
                    self._norm = norm
                case Scale() | Bias() as scale:
                    self._scale = scale
                case ReLU() as relu:
                    pass
        if relu is not None and relu.negative_slope:
            raise Impossible("this ReLU does not run with the layer before it")
        shape = positive(job.bottoms[0])
        if not 2 <= len(shape) <= 5:
            raise Impossible("the bottom has fewer than 2 or more than 5 axes")
        if self._scale is not None:
            node = job.nodes[0 if self._norm is None else 1]
            _check_scale(self._scale, node, shape)
        self._factors = _factors_of(self._scale)
        self._train = job.train
        self._n = int(np.prod(shape, dtype=np.int64)) // shape[1]
        self._x, layout = _how_it_lies(job)
        self._channels = Desc.plain((shape[1],))
        self._batch = self._norm is not None and not self._norm.global_stats
        flags = 0 if self._batch else onednn.GLOBAL_STATS
        if self._scale is not None:
            for factor in self._factors:
                flags |= factor.flag
        flags |= onednn.FUSED_RELU if relu is not None else 0
        # A scale alone divides by sqrt(0 + 1), not by sqrt(1 + 0): channels that only fill a block
        # have the variance 0 for the library, which would write 0 / 0 there.
        eps = 1.0 if self._norm is None else float(self._norm.eps)
        # Where statistics are those of the batch they have to be handed out, as training does.
        training = job.train or self._batch
        self._forward = fast(
            primitive(
                "batch_normalization_forward",
                onednn.FORWARD_TRAINING if training else onednn.FORWARD_INFERENCE,
                self._x,
                self._x,
                eps,
                flags,
            ),
            "batch normalisation",
        )
        scratch = Scratch()
        n_bn = 3 if self._norm is not None else 0
        if job.train:
            self._backward = fast(
                primitive(
                    "batch_normalization_backward",
                    onednn.BACKWARD if self._scale is not None else onednn.BACKWARD_DATA,
                    self._x,
                    self._x,
                    self._x,
                    eps,
                    flags,
                    self._forward,
                ),
                "gradient of batch normalisation",
            )
            # From the statistics that are kept; the ReLU's mask is there already.
            self._again = fast(
                primitive(
                    "batch_normalization_forward",
                    onednn.FORWARD_INFERENCE,
                    self._x,
                    self._x,
                    eps,
                    flags | onednn.GLOBAL_STATS,
                ),
                "batch normalisation with given statistics",
            )
            self._unused = scratch.reserve(self._channels.nbytes)
            if not job.wants_bottoms[0]:
                self._unused_x = scratch.reserve(self._x.nbytes)
        self._workspace = self._forward.workspace() if training else None
        kept = [KeptType("mean", (shape[1],)), KeptType("variance", (shape[1],))]
        if self._workspace is not None:
            kept.append(KeptType("workspace", (self._workspace.nbytes,), "uint8"))
        self._first_scale = n_bn
        self.terms = Terms(
            bottoms=(layout,),
            tops=(layout,),
            params=(None,) * len(job.params),
            kept=tuple(kept),
            reads=Reads.BOTTOM if job.train else Reads.NOTHING,
            in_place=True,
            again=self._bind_again if job.train else None,
            backward_scratch=scratch.nbytes,
        )

    # -- running -----------------------------------------------------------------------------------

    def forward(self, binding: Binding) -> Prepared:
        mean, variance = binding.kept[:2]
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DST: (self._x, binding.tops[0]),
            **self._statistics(binding),
            **self._bound_factors(binding),
        }
        run = self._forward.bind(arrays)
        if self._norm is None:

            def neutral() -> None:
                mean.fill(0)
                variance.fill(0)

            return in_a_row([neutral, run])
        sum_mean, sum_variance, weight = binding.params[:3]
        if not self._batch:

            def from_sums() -> None:
                w = weight[0]
                np.multiply(sum_mean, 1 / w if w else 0, out=mean)
                np.multiply(sum_variance, 1 / w if w else 0, out=variance)

            return in_a_row([from_sums, run])
        fraction = np.float32(self._norm.moving_average_fraction)
        bessel = np.float32(self._n / (self._n - 1) if self._n > 1 else 1.0)

        def gather() -> None:
            for total, new in ((sum_mean, mean), (sum_variance, variance * bessel), (weight, 1)):
                np.multiply(total, fraction, out=total)
                np.add(total, new, out=total)

        return in_a_row([run, gather])

    def _bind_again(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DST: (self._x, binding.tops[0]),
            onednn.MEAN: (self._channels, binding.kept[0]),
            onednn.VARIANCE: (self._channels, binding.kept[1]),
            **self._bound_factors(binding),
        }
        return self._again.bind(arrays)

    def backward(self, binding: Binding) -> Prepared:
        dx = binding.bottom_diffs[0]
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DIFF_DST: (self._x, binding.top_diffs[0]),
            onednn.DIFF_SRC: (self._x, self._unused_x(binding) if dx is None else dx),
            **self._statistics(binding),
        }
        if self._scale is not None:
            arrays |= self._bound_factors(binding)
            arrays.pop(onednn.SHIFT, None)
            diffs = binding.param_diffs[self._first_scale :]
            for factor, diff in zip(self._factors, diffs, strict=True):
                where = self._unused(binding) if diff is None else diff
                arrays[factor.diff] = (self._channels, where)
        return self._backward.bind(arrays)

    def _statistics(self, binding: Binding) -> dict[int, tuple[Desc, Array]]:
        found = {
            onednn.MEAN: (self._channels, binding.kept[0]),
            onednn.VARIANCE: (self._channels, binding.kept[1]),
        }
        if self._workspace is not None:
            found[onednn.WORKSPACE] = (self._workspace, binding.kept[2])
        return found

    def _bound_factors(self, binding: Binding) -> dict[int, tuple[Desc, Array]]:
        params = binding.params[self._first_scale :]
        return {
            factor.value: (self._channels, param)
            for factor, param in zip(self._factors, params, strict=True)
        }


class _Factor(NamedTuple):
    """The library's words for a param of a Scale or Bias: that there is one, and its arguments."""

    flag: int
    value: int
    diff: int


_SCALE = _Factor(onednn.USE_SCALE, onednn.SCALE, onednn.DIFF_SCALE)
_SHIFT = _Factor(onednn.USE_SHIFT, onednn.SHIFT, onednn.DIFF_SHIFT)


def _factors_of(layer: Scale | Bias | None) -> tuple[_Factor, ...]:
    """Return what the params of a layer are for the library, in their order."""
    match layer:
        case None:
            return ()
        case Bias():
            return (_SHIFT,)
        case Scale(bias_term=biased):
            return (_SCALE, _SHIFT) if biased else (_SCALE,)


def _check_scale(layer: Broadcasting, node: Node, shape: tuple[int, ...]) -> None:
    if len(node.bottoms) > 1:
        raise Impossible("the factors are a blob")
    if node.signature.params[0].shape != (shape[1],) or layer.axis % len(shape) != 1:
        raise Impossible("the factors are not one for each channel")


def affine_of(node: Node, shape: tuple[int, ...]) -> Affine:
    """Return what a layer does to each channel of a blob of this shape in a pass for inference."""
    match node.layer:
        case BatchNorm(global_stats=True, eps=eps):
            return lambda params: _standardising(stored_statistics(np, params), eps)
        case Scale(bias_term=biased) as layer:
            _check_scale(layer, node, shape)
            return lambda params: (params[0], params[1] if biased else 0)
        case Bias() as layer:
            _check_scale(layer, node, shape)
            return lambda params: (np.float32(1), params[0])
        case AffineNorm() as norm if norm.statistics() is not Statistics.BATCH:
            return lambda params: _of_affine_norm(norm, [param.reshape(-1) for param in params])
    raise Impossible("the statistics are those of the batch")


def _standardising(statistics: tuple[Array, Array], eps: float) -> tuple[Array, Array]:
    mean, variance = statistics
    factor = 1 / np.sqrt(variance + np.float32(eps))
    return factor, -mean * factor


def _of_affine_norm(norm: AffineNorm, params: Sequence[Array]) -> tuple[Array, Array]:
    slope, bias = (params[i] for i in norm.affine())
    if norm.statistics() is Statistics.NONE:
        return slope, bias
    factor, shift = _standardising(norm.stored(np, params), norm.epsilon())
    return factor * slope, shift * slope + bias
