"""Elementwise activations: in any layout, in place where backward can tell all from the top."""

from __future__ import annotations

from dataclasses import dataclass, replace

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Impossible, Kernel, required, same_layout
from netc.backends.cpu.onednn import Desc, PostOps, Primitive, primitive
from netc.layers.activation import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Exp,
    Power,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
)
from netc.layers.modern import GELU, Approximation, HSigmoid, HSwish, Mish, ReLU6
from netc.layers.types import Array, Layer, Reads


@dataclass(frozen=True)
class Formula:
    """One of the library's algorithms with its constants.

    `by_top` is its form for backward, None where backward has to see the bottom. `differs` says how
    the library's gradient is not Caffe's, "" where it is.
    """

    algorithm: int
    by_top: int | None = None
    alpha: float = 0.0
    beta: float = 0.0
    differs: str = ""

    def check_gradient(self, *, by_top: bool) -> None:
        """Raise Impossible where there is no backward pass, or none that looks at the top only."""
        if self.differs:
            raise Impossible(self.differs)
        if by_top and self.by_top is None:
            raise Impossible("backward has to see what the activation is applied to")

    def after(self, post: PostOps) -> PostOps:
        """Let a primitive apply this to its results."""
        return post.eltwise(self.algorithm, self.alpha, self.beta)

    @property
    def reads(self) -> Reads:
        """What its backward pass looks at."""
        if self.algorithm == onednn.LINEAR:
            return Reads.NOTHING
        return Reads.BOTTOM if self.by_top is None else Reads.TOP

    def forward(self, desc: Desc, kind: int) -> Primitive:
        """Return the primitive of the forward pass."""
        found = primitive(
            "eltwise_forward", kind, self.algorithm, desc, desc, self.alpha, self.beta
        )
        return required(found, "activation")

    def gradient(self, desc: Desc) -> Primitive:
        """Return the primitive of the backward pass."""
        if self.reads is Reads.NOTHING:
            return replace(self, beta=0.0).forward(desc, onednn.FORWARD_TRAINING)
        form = self if self.by_top is None else replace(self, algorithm=self.by_top)
        settings = form.alpha, form.beta
        hint = form.forward(desc, onednn.FORWARD_TRAINING)
        return required(
            primitive("eltwise_backward", form.algorithm, desc, desc, desc, *settings, hint),
            "gradient of the activation",
        )

    def backward(self, desc: Desc, seen: Array, dy: Array, dx: Array) -> Prepared:
        """Return the call of the backward pass; `seen` is what it reads, and dx may be dy."""
        if self.reads is Reads.NOTHING:
            return self.gradient(desc).bind({onednn.SRC: (desc, dy), onednn.DST: (desc, dx)})
        return self.gradient(desc).bind(
            {
                (onednn.DST if self.reads is Reads.TOP else onednn.SRC): (desc, seen),
                onednn.DIFF_DST: (desc, dy),
                onednn.DIFF_SRC: (desc, dx),
            }
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
        case ReLU6(negative_slope=0, threshold=most):
            return Formula(onednn.CLIP, onednn.CLIP_BY_TOP, 0.0, most)
        case ReLU6():
            raise Impossible("a negative slope with a threshold")
        case HSigmoid():
            return Formula(onednn.HARD_SIGMOID, alpha=1 / 6, beta=0.5)
        case HSwish():
            return Formula(onednn.HARD_SWISH, alpha=1 / 6, beta=0.5)
        case Mish():
            return Formula(onednn.MISH)
        case GELU(approximate=approximate):
            exact = approximate is Approximation.NONE
            return Formula(onednn.GELU_ERF if exact else onednn.GELU_TANH)
        case Exp(base=-1, scale=1, shift=0):
            return Formula(onednn.EXP, onednn.EXP_BY_TOP)
        case Power(power=1, scale=scale, shift=shift):
            return Formula(onednn.LINEAR, alpha=scale, beta=shift)
        case Power(power=2, scale=1, shift=0):
            return Formula(onednn.SQUARE)
        case Exp() | Power():
            raise Impossible("several steps")
        case Clip(min=least, max=most) if least is not None and most is not None and least <= most:
            return Formula(
                onednn.CLIP,
                alpha=least,
                beta=most,
                differs="its gradient at the limits is not Caffe's",
            )
        case Clip():
            raise Impossible("min is above max")
    raise Impossible("no formula")


def formula_behind(job: Job) -> Formula | None:
    """Return the activation of a chain, None where there is none."""
    if len(job.nodes) == 1:
        return None
    formula = formula_of(job.nodes[1].layer)
    if job.train:
        formula.check_gradient(by_top=True)
    return formula


class ActivationKernel(Kernel):
    """y = f(x) for one bottom."""

    def __init__(self, job: Job) -> None:
        self._formula = formula_of(job.node.layer)
        self._desc, layout = same_layout(job)
        self._forward = self._formula.forward(
            self._desc, onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE
        )
        if job.train:
            self._formula.check_gradient(by_top=False)
            self._formula.gradient(self._desc)
        self.terms = Terms(
            bottoms=(layout,),
            tops=(layout,),
            params=(),
            reads=self._formula.reads if job.train else Reads.NOTHING,
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
        seen = (binding.tops if self._formula.reads is Reads.TOP else binding.bottoms)[0]
        dy, dx = binding.top_diffs[0], binding.bottom_diffs[0]
        return self._formula.backward(self._desc, seen, dy, dx)
