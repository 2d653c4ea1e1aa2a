"""The CPU backend: oneDNN's kernels, each family in its file; the rest runs on the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from netc.backends.base import (
    Backend,
    Declined,
    Job,
    Layout,
    MomentumStep,
    Precision,
    Prepared,
)
from netc.backends.base import Kernel as AnyKernel
from netc.backends.cpu import library, momentum, onednn
from netc.backends.cpu.activation import ActivationKernel
from netc.backends.cpu.concat import ConcatKernel, SliceKernel
from netc.backends.cpu.convolution import ConvolutionKernel
from netc.backends.cpu.dropout import DropoutKernel
from netc.backends.cpu.eltwise import eltwise_kernel
from netc.backends.cpu.gating import GateKernel, scale_kernel
from netc.backends.cpu.innerproduct import InnerProductKernel
from netc.backends.cpu.kernel import Kernel, kernel_or_reason, move
from netc.backends.cpu.lrn import lrn_kernel
from netc.backends.cpu.matmul import MatMulKernel
from netc.backends.cpu.normalization import NormKernel
from netc.backends.cpu.onednn import Desc
from netc.backends.cpu.permute import PermuteKernel
from netc.backends.cpu.pooling import PoolingKernel
from netc.backends.cpu.prelu import PReluKernel
from netc.backends.cpu.recurrent import LstmKernel, RnnKernel
from netc.backends.cpu.softmax import SoftmaxKernel, SoftmaxLossKernel
from netc.backends.reference import ReferenceBackend
from netc.layers.activation import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Dropout,
    Exp,
    Power,
    PReLU,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
)
from netc.layers.convolution import Convolution, Deconvolution
from netc.layers.depthwise import ConvolutionDepthwise
from netc.layers.eltwise import Eltwise
from netc.layers.gating import Axpy
from netc.layers.innerproduct import InnerProduct
from netc.layers.losses import SoftmaxWithLoss
from netc.layers.modern import GELU, HSigmoid, HSwish, Mish, ReLU6
from netc.layers.normalization import LRN, BatchNorm
from netc.layers.permute import Permute
from netc.layers.pooling import Pooling
from netc.layers.products import MatMul
from netc.layers.recurrent import LSTM, RNN
from netc.layers.scale import Bias, Scale
from netc.layers.shape import Concat, Slice
from netc.layers.softmax import Softmax
from netc.layers.types import Array, ArrayNamespace, Layer
from netc.layers.volume import NdPooling, Pooling3D

ACTIVATIONS: tuple[type[Layer], ...] = (
    *(ReLU, ELU, Sigmoid, TanH, AbsVal, BNLL, Swish, Clip, Exp, Power),
    *(ReLU6, HSigmoid, HSwish, Mish, GELU),
)

FAMILIES: dict[type[Layer], Callable[[Job], Kernel]] = {
    Convolution: ConvolutionKernel,
    ConvolutionDepthwise: ConvolutionKernel,
    Deconvolution: ConvolutionKernel,
    InnerProduct: InnerProductKernel,
    Pooling: PoolingKernel,
    Pooling3D: PoolingKernel,
    NdPooling: PoolingKernel,
    LRN: lrn_kernel,
    BatchNorm: NormKernel,
    Scale: scale_kernel,
    Axpy: GateKernel,
    Bias: NormKernel,
    Eltwise: eltwise_kernel,
    LSTM: LstmKernel,
    MatMul: MatMulKernel,
    Permute: PermuteKernel,
    RNN: RnnKernel,
    PReLU: PReluKernel,
    Concat: ConcatKernel,
    Slice: SliceKernel,
    Softmax: SoftmaxKernel,
    SoftmaxWithLoss: SoftmaxLossKernel,
    Dropout: DropoutKernel,
    **dict.fromkeys(ACTIVATIONS, ActivationKernel),
}

#: Layers that multiply and shift channels behind a convolution or an inner product.
_AFFINE = ((), ("BatchNorm",), ("BatchNorm", "Scale"), ("Scale",), ("Bias",), ("BN",))
_ACTIVATIONS = ("PReLU", *(activation.type for activation in ACTIVATIONS))
_PRODUCTS = ("Convolution", "ConvolutionDepthwise", "InnerProduct")

#: What may run as one, by layer types, the longest first: the kernel of the first takes in the
#: others, or declines.
CHAINS: tuple[tuple[str, ...], ...] = tuple(
    sorted(
        [
            ("BatchNorm", "Scale", "ReLU"),
            ("BatchNorm", "Scale"),
            ("BatchNorm", "ReLU"),
            ("Scale", "ReLU"),
            ("Bias", "ReLU"),
            *(
                (first, activation.type)
                for first in ("Eltwise", "Pooling", "Axpy")
                for activation in ACTIVATIONS
            ),
            *(
                (product, *affine, *summed, *activation)
                for product in _PRODUCTS
                for affine in _AFFINE
                for summed in ((), ("Eltwise",))
                for activation in ((), *((name,) for name in _ACTIVATIONS))
                if affine or summed or activation
            ),
        ],
        key=lambda chain: -len(chain),
    )
)


def status() -> tuple[bool, str]:
    """Say whether the backend works on this machine, and what it runs on or what it lacks."""
    try:
        words = str(library.load())
        return True, f"{words}, {'bf16 too' if onednn.has_bf16() else 'no bf16 on this processor'}"
    except library.Unavailable as reason:
        return False, str(reason)


class CpuBackend:
    """oneDNN on all cores, on NumPy arrays.

    Raises `library.Unavailable` where there is no oneDNN. BF16 needs `onednn.has_bf16()`.
    """

    name = "cpu"
    xp: ArrayNamespace = np

    def __init__(self, precision: Precision = Precision.FP32) -> None:
        library.load()
        self.precision = precision
        self._reference = ReferenceBackend()

    def candidates(self) -> Sequence[Backend]:
        return (self, self._reference)

    def chains(self) -> Sequence[tuple[str, ...]]:
        return CHAINS

    def kernel_for(self, job: Job) -> AnyKernel | Declined:
        make = FAMILIES.get(type(job.node.layer))
        if make is None:
            return Declined(f"no kernel for {job.node.type}")
        job = replace(job, precision=self.precision)
        found = kernel_or_reason(make, job)
        layouts = tuple(onednn.widened(layout) for layout in job.layouts)
        if isinstance(found, Declined) and layouts != job.layouts:
            # What the library cannot do in bfloat16 it may do in float32.
            return kernel_or_reason(make, replace(job, layouts=layouts, precision=Precision.FP32))
        return found

    def reorder(
        self,
        shape: tuple[int, ...],
        source: Array,
        source_layout: Layout | None,
        target: Array,
        target_layout: Layout | None,
        *,
        add: bool = False,
    ) -> Prepared:
        if not target.size:
            return lambda: None
        layout = source_layout or target_layout
        dims = layout.dims if layout else (target.size,)
        if source_layout and target_layout and source_layout.dims != target_layout.dims:
            return self._by_way_of_plain(
                shape, source, source_layout, target, target_layout, add=add
            )
        return move(
            Desc.of(source_layout, dims), source, Desc.of(target_layout, dims), target, add=add
        )

    def _by_way_of_plain(
        self,
        shape: tuple[int, ...],
        source: Array,
        source_layout: Layout,
        target: Array,
        target_layout: Layout,
        *,
        add: bool,
    ) -> Prepared:
        """Copy between layouts of two kernels that see the blob in different shapes."""
        plain = self.allocate(4 * int(np.prod(shape, dtype=np.int64))).view("float32")
        first = self.reorder(shape, source, source_layout, plain, None)
        second = self.reorder(shape, plain, None, target, target_layout, add=add)

        def run() -> None:
            first()
            second()

        return run

    def momentum_step(self) -> MomentumStep | None:
        return momentum.step

    def allocate(self, nbytes: int) -> Array:
        return self._reference.allocate(nbytes)

    def to_host(self, array: Array) -> Any:
        return array

    def synchronize(self) -> None:
        return
