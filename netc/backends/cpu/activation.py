"""Elementwise activations: in any layout, in place where backward can tell all from the top."""

from __future__ import annotations

from dataclasses import dataclass

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Impossible, Kernel, required, same_layout
from netc.backends.cpu.onednn import Desc, PostOps, Primitive, primitive
from netc.layers.activation import BNLL, ELU, AbsVal, Clip, ReLU, Sigmoid, Swish, TanH
from netc.layers.types import Array, Layer, Reads


@dataclass(frozen=True)
class Formula:
    """One of the library's algorithms with its constants; `by_top` is its form for backward.

    None where backward has to see the bottom.
    """

    algorithm: int
    by_top: int | None = None
    alpha: float = 0.0
    beta: float = 0.0

    def after(self, post: PostOps) -> PostOps:
        """Let a primitive apply this to its results."""
        return post.eltwise(self.algorithm, self.alpha, self.beta)

    def gradient(self, desc: Desc) -> Primitive:
        """Return the primitive of the backward pass."""
        algorithm = self.algorithm if self.by_top is None else self.by_top
        settings = self.alpha, self.beta
        forward = primitive(
            "eltwise_forward", onednn.FORWARD_TRAINING, algorithm, desc, desc, *settings
        )
        hint = required(forward, "activation")
        return required(
            primitive("eltwise_backward", algorithm, desc, desc, desc, *settings, hint),
            "gradient of the activation",
        )

    def backward(self, desc: Desc, top: Array, dy: Array, dx: Array) -> Prepared:
        """Return the call of the backward pass that looks at the top; dx may be dy."""
        assert self.by_top is not None, "this backward pass has to see the bottom"
        return self.gradient(desc).bind(
            {onednn.DST: (desc, top), onednn.DIFF_DST: (desc, dy), onednn.DIFF_SRC: (desc, dx)}
        )


def formula_of(layer: Layer) -> Formula:
    """Return the library's formula for a layer."""
    match layer:
        case ReLU(negative_slope=slope):
            return Formula(onednn.RELU, onednn.RELU_BY_TOP if slope >= 0 else None, slope)
        case ELU(alpha=alpha):
            return Formula(onednn.ELU, onednn.ELU_BY_TOP if alpha >= 0 else None, alpha)
        case Sigmoid():
            return Formula(onednn.LOGISTIC, onednn.LOGISTIC_BY_TOP)
        case TanH():
            return Formula(onednn.TANH, onednn.TANH_BY_TOP)
        case AbsVal():
            return Formula(onednn.ABS)
        case BNLL():
            return Formula(onednn.SOFT_RELU, alpha=1.0)
        case Swish(beta=beta):
            return Formula(onednn.SWISH, alpha=beta)
        case Clip():
            raise Impossible("its gradient at the limits is not Caffe's")
    raise Impossible("no formula")


class ActivationKernel(Kernel):
    """y = f(x) for one bottom."""

    def __init__(self, job: Job) -> None:
        formula = formula_of(job.node.layer)
        desc, layout = same_layout(job)
        self._desc, self._by_top = desc, formula.by_top is not None
        self._forward = required(
            primitive(
                "eltwise_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                formula.algorithm,
                desc,
                desc,
                formula.alpha,
                formula.beta,
            ),
            "activation",
        )
        if job.train:
            self._backward = formula.gradient(desc)
        self.terms = Terms(
            bottoms=(layout,),
            tops=(layout,),
            params=(),
            reads=(Reads.TOP if self._by_top else Reads.BOTTOM) if job.train else Reads.NOTHING,
            in_place=True,
        )

    def forward(self, binding: Binding) -> Prepared:
        return self._forward.bind(
            {
                onednn.SRC: (self._desc, binding.bottoms[0]),
                onednn.DST: (self._desc, binding.tops[0]),
            }
        )

    def backward(self, binding: Binding) -> Prepared:
        return self._backward.bind(
            {
                (onednn.DST if self._by_top else onednn.SRC): (
                    self._desc,
                    (binding.tops if self._by_top else binding.bottoms)[0],
                ),
                onednn.DIFF_DST: (self._desc, binding.top_diffs[0]),
                onednn.DIFF_SRC: (self._desc, binding.bottom_diffs[0]),
            }
        )
