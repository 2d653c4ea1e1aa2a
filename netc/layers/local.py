"""Windows whose weights are not shared between places."""

from __future__ import annotations

from dataclasses import dataclass, field

from netc.layers.convolution import Im2col
from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    Neurons,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
)
from netc.layers.window import Slide, fold, unfold


@layer("LocallyConnected", "local_param", aliases=("Local",))
@dataclass(frozen=True)
class LocallyConnected(Layer):
    """Weighted sums of what a sliding window sees, with weights of its own at every place.

    y[o, p] = b[o, p] + sum over k of W[o, k, p] * (what tap k of the window at place p sees), where
    a tap k is a channel, a row and a column, the column fastest.

    Shapes: bottom (N, C, H, W) -> top (N, num_output, rows, columns), where rows are
    (H + 2 pad - kernel) / stride + 1, rounded down. Params W (num_output, 1, C * taps, places), and
    b (1, 1, num_output, places) unless `bias_term` is false.
    Source: LeCun, "Generalization and network design strategies", 1989; Taigman et al., "DeepFace",
    CVPR 2014; params as in the face recognition fork CaffeWindows.
    """

    num_output: int = 0
    bias_term: bool = True
    pad: int | None = None
    kernel_size: int | None = None
    stride: int | None = None
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    pad_h: int | None = None
    pad_w: int | None = None

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        """Return how the kernel slides over the two spatial axes of a bottom."""
        found = []
        for size, side in zip(x.shape[2:], "hw", strict=True):
            kernel = self._setting("kernel_size", side, default=None)
            stride = self._setting("stride", side, default=1)
            pad = self._setting("pad", side, default=0, least=0)
            room = size + 2 * pad - kernel
            if room < 0:
                raise Refusal(
                    "the kernel is larger than the bottom",
                    expected=f"kernel <= {size + 2 * pad}, the size with its padding",
                    got=f"kernel {kernel}, pad {pad}, bottom of shape {x}",
                    setting="kernel_size" if self.kernel_size is not None else f"kernel_{side}",
                )
            found.append(Slide(size, room // stride + 1, kernel, stride, pad))
        return tuple(found)

    def _setting(self, name: str, side: str, *, default: int | None, least: int = 1) -> int:
        """Return the value of a setting for one of the two axes."""
        both: int | None = getattr(self, name)
        stem = name.removesuffix("_size")
        own: int | None = getattr(self, f"{stem}_{side}")
        if both is not None and own is not None:
            raise Refusal(
                f"{name} is given twice",
                expected=f"either {name}, or {stem}_h and {stem}_w",
                got=f"{name} {both} and {stem}_{side} {own}",
                setting=f"{stem}_{side}",
            )
        value = own if both is None else both
        value = default if value is None else value
        if value is None or value < least:
            raise Refusal(
                f"{name} is missing" if value is None else f"{name} is too small",
                expected=f"{name} >= {least}, or {stem}_h and {stem}_w",
                got=f"no {stem}_{side}" if value is None else f"{value}",
                hint=f"add local_param {{ {name}: N }}" if value is None else "",
                setting=name if both is not None else f"{stem}_{side}",
            )
        return value

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if self.num_output <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0",
                got=f"num_output {self.num_output}",
                hint="add local_param { num_output: N }",
                setting="num_output",
            )
        if x.axes != 4:
            raise Refusal(
                "the bottom is not a batch of images",
                expected="a bottom of shape (N, C, H, W)",
                got=f"bottom of shape {x}",
            )
        down, across = self.slides(x)
        places = down.places * across.places
        taps = x.shape[1] * down.kernel * across.kernel
        shape = (self.num_output, 1, taps, places)
        params = [ParamType(shape, self.weight_filler, neurons=Neurons(shape, (2,)))]
        if self.bias_term:
            params.append(ParamType((1, 1, self.num_output, places), self.bias_filler))
        top = BlobType((x.shape[0], self.num_output, down.places, across.places))
        return Signature((top,), tuple(params))

    @staticmethod
    def _columns(xp: ArrayNamespace, x: Array, slides: tuple[Slide, ...]) -> Array:
        """Return what the windows see as (places, taps, N): a matrix for each place."""
        seen = unfold(xp, x, slides)
        places = slides[0].places * slides[1].places
        taps = x.shape[1] * slides[0].kernel * slides[1].kernel
        return seen.reshape(taps, len(x), places).transpose(2, 0, 1)

    @staticmethod
    def _matrices(weight: Array) -> Array:
        """View the weights as (places, num_output, taps)."""
        return weight[:, 0].transpose(2, 0, 1)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        columns = self._columns(xp, x, self.slides(BlobType(x.shape)))
        y = xp.matmul(self._matrices(call.params[0]), columns).transpose(2, 1, 0)
        if self.bias_term:
            y = y + call.params[1][0]
        return (y.reshape(call.out[0].shape),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, weight = call.xp, call.bottoms[0], call.params[0]
        slides = self.slides(BlobType(x.shape))
        dy = call.top_diffs[0].reshape(len(x), self.num_output, weight.shape[3])
        diffs = dy.transpose(2, 1, 0)
        dx = dw = db = None
        if call.wants_params[0]:
            columns = self._columns(xp, x, slides)
            dw = xp.matmul(diffs, columns.swapaxes(1, 2)).transpose(1, 2, 0)[:, None]
        if self.bias_term and call.wants_params[1]:
            db = dy.sum(axis=0)[None, None]
        if call.wants_bottoms[0]:
            seen = xp.matmul(self._matrices(weight).swapaxes(1, 2), diffs).transpose(1, 2, 0)
            kernel, places = [s.kernel for s in slides], [s.places for s in slides]
            dx = xp.zeros(x.shape, dy.dtype)
            fold(seen.reshape(x.shape[1], *kernel, len(x), *places), slides, dx)
        return Gradients((dx,), (dw, db) if self.bias_term else (dw,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # ONNX has no such operator; it is a matrix product for each place.
        x = BlobType(bottoms[0].shape)
        slides = self.slides(x)
        patches = Im2col(
            kernel_size=tuple(s.kernel for s in slides),
            stride=tuple(s.stride for s in slides),
            pad=tuple(s.pad for s in slides),
        )
        [seen] = patches.lower(g, bottoms, ())
        outputs, _, taps, places = params[0].shape
        rows = g.op("Transpose", g.reshape(seen, (x.shape[0], taps, places)), perm=[2, 0, 1])
        weight = g.reshape(params[0], (outputs, taps, places))
        y = g.op("MatMul", rows, g.op("Transpose", weight, perm=[2, 1, 0]))
        y = g.op("Transpose", y, perm=[1, 2, 0])
        if self.bias_term:
            y = g.op("Add", y, g.reshape(params[1], (1, outputs, places)))
        return (g.reshape(y, (x.shape[0], outputs, *(s.places for s in slides))),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].shape[0] * BlobType(signature.params[0].shape).count
