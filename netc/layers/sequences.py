"""Types of forks that read text: axes in another order, time reversed, an LSTM and its marks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.input import BlobShape
from netc.layers.permute import Permute
from netc.layers.recurrent import (
    apply_gates,
    gate_slopes,
    onnx_gate_order,
    rows_of,
    states_before,
    through_gates,
)
from netc.layers.registry import layer
from netc.layers.shape import Reshape
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    ParamType,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)


@layer("Transpose", "transpose_param")
@dataclass(frozen=True)
class Transpose(Layer):
    """The axes in another order: axis i of the top is axis `dim[i]` of the bottom.

    Shapes: (N, C, H, W) -> (W, H, N, C) for the order 3, 2, 0, 1; each axis is named once.
    Source: Tian et al., "Detecting text in natural image with connectionist text proposal network",
    ECCV 2016, and their Caffe. Permute, which SSD has, is the same but for axes that go unnamed.
    """

    dim: tuple[int, ...] = ()

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        x = bottoms[0]
        if sorted(self.dim) != list(range(x.axes)):
            raise Refusal(
                "dim does not name each axis once",
                expected=f"the numbers 0..{x.axes - 1}, each once, in any order",
                got=f"dim {', '.join(map(str, self.dim)) or 'not set'}, bottom of shape {x}",
                setting="dim",
            )
        return (Part("", Permute(order=self.dim), ("$b0",), ("$t0",)),)


@layer("Reverse", "reverse_param")
@dataclass(frozen=True)
class Reverse(Layer):
    """The slices of one axis in reverse order, so that a sequence is read from its end.

    Shapes: bottom (any) -> top (the same). Source: the Caffe of CTPN (Tian et al., ECCV 2016).
    """

    axis: int = 0

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes == 0:
            raise Refusal(
                "the bottom has no axis to reverse",
                expected="at least one axis",
                got=f"bottom of shape {x}",
                setting="bottom",
            )
        x.axis(self.axis)
        return Signature((x,))

    def _reversed(self, x: Array) -> Array:
        index = [slice(None)] * x.ndim
        index[self.axis] = slice(None, None, -1)
        return x[tuple(index)]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (self._reversed(call.bottoms[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((self._reversed(call.top_diffs[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        least = -(2**31)
        ends = [g.constant([end], "int64") for end in (-1, least, self.axis % len(x.shape), -1)]
        return (g.op("Slice", x, *ends),)


@layer("ContinuationIndicator", "continuation_indicator_param")
@dataclass(frozen=True)
class ContinuationIndicator(Layer):
    """The marks of sequences that begin with the batch: 0 at the first time step, 1 at the others.

    The batch is as large as axis `axis` of the bottom, which is looked at for its shape only, or,
    without a bottom, as `batch_size` says.

    Shapes: bottom (any) or none -> top (time_step, N). No gradient passes.
    Source: crnn.caffe, which has `batch_size`; the Caffe of DeepDetect, which has a bottom.
    """

    time_step: int = 0
    batch_size: int | None = None
    axis: int | None = None

    bottoms: ClassVar[Arity] = between(0, 1)

    def infer(self, *bottoms: BlobType) -> Signature:
        if self.time_step <= 0:
            raise Refusal(
                "time_step is missing",
                expected="time_step > 0, the number of time steps",
                got=f"time_step {self.time_step}",
                hint="add continuation_indicator_param { time_step: T }",
                setting="time_step",
            )
        return Signature((BlobType((self.time_step, self._batch(*bottoms))),))

    def _batch(self, *bottoms: BlobType) -> int:
        unread = "batch_size" if bottoms else "axis"
        if getattr(self, unread) is not None:
            raise Refusal(
                f"{unread} is not read {'besides' if bottoms else 'without'} a bottom",
                expected="axis, with a bottom; batch_size, without one",
                got=f"{unread} {getattr(self, unread)}",
                hint=f"remove {unread}",
                setting=unread,
            )
        if bottoms:
            x = bottoms[0]
            if x.axes == 0:
                raise Refusal(
                    "the bottom has no axis to count the sequences on",
                    expected="at least one axis",
                    got=f"bottom of shape {x}",
                    setting="bottom",
                )
            return x.shape[x.axis(self.axis or 0)]
        if not self.batch_size:
            raise Refusal(
                "the number of sequences is missing",
                expected="batch_size > 0, or a bottom whose axis tells it",
                got="neither",
                hint="add continuation_indicator_param { batch_size: N }",
                setting="batch_size",
            )
        return self.batch_size

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        top = call.out[0]
        top[...] = 1
        top[0] = 0
        return (top,)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        batch = self._batch(*(BlobType(bottom.shape) for bottom in bottoms))
        column = g.constant([[float(step > 0)] for step in range(self.time_step)])
        return (g.op("Expand", column, g.constant([self.time_step, batch], "int64")),)


@layer("Lstm", "lstm_param")
@dataclass(frozen=True)
class Lstm(Layer):
    """c_t = f c_(t-1) + i g; y_t = h_t = o tanh(c_t), each batch from zero: an LSTM by itself.

    i, f, o = sigmoid and g = tanh of the blocks, in this order, of W_h h_(t-1) + W_x x_t + b. With
    a second bottom, which holds 0 where a sequence begins and 1 where it goes on, the states are
    carried from one batch to the next. `clipping_threshold`, if it is not 0, limits the gradients
    of those blocks.

    Shapes: x (T, N, ...), if wanted the marks (T, N) -> y (T, N, num_output). In x of two axes,
    (T N, K), the rows of a time step follow each other, N is `batch_size`, and y is (T N,
    num_output); with more axes `batch_size` changes nothing. Params W_x (4 D, K), W_h (4 D, D),
    b (4 D,), which LSTM has in another order.

    Source: Hochreiter and Schmidhuber, 1997; the layer of J. Oh's fork, whose x has two axes, and
    of CTPN (Tian et al., ECCV 2016).
    """

    num_output: int = 0
    clipping_threshold: float = 0.0
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    batch_size: int = 1

    bottoms: ClassVar[Arity] = between(1, 2)
    param_names: ClassVar[tuple[str, ...]] = ("weight_x", "weight_h", "bias")

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return the layer between changes of shape, for a bottom of two axes."""
        x = bottoms[0]
        if x.axes != 2:
            return None
        rows, size = x.shape
        if self.batch_size < 1 or rows % self.batch_size:
            raise Refusal(
                "batch_size does not divide the rows of the bottom",
                expected="rows % batch_size == 0: they are time steps of so many sequences",
                got=f"batch_size {self.batch_size}, bottom of shape {x}",
                setting="batch_size",
            )
        steps = Reshape(shape=BlobShape((-1, self.batch_size, size)))
        outputs = Reshape(shape=BlobShape((rows, self.num_output)))
        marks = ("$b1",) if len(bottoms) > 1 else ()
        return (
            Part("steps", steps, ("$b0",), (".x",)),
            Part("", self, (".x", *marks), (".y",)),
            Part("rows", outputs, (".y",), ("$t0",)),
        )

    def infer(self, *bottoms: BlobType) -> Signature:
        x, d = bottoms[0], self.num_output
        if d <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0",
                got=d,
                hint="add lstm_param { num_output: N }",
                setting="num_output",
            )
        if not self.clipping_threshold >= 0:
            raise Refusal(
                "clipping_threshold is negative",
                expected="clipping_threshold > 0, or 0 for no limit",
                got=f"{self.clipping_threshold:g}",
                setting="clipping_threshold",
            )
        if x.axes < 3 or x.shape[0] == 0:
            raise Refusal(
                "the input is not a batch of sequences of vectors",
                expected="shape (T, N, ...) with at least one time step and 3 axes",
                got=f"bottom of shape {x}",
                hint="time is the first axis, the batch the second",
                setting="bottom",
            )
        steps, batch = x.shape[:2]
        if len(bottoms) > 1 and bottoms[1].count != steps * batch:
            raise Refusal(
                "the sequence markers do not match the input",
                expected=f"bottom 1 of shape {BlobType((steps, batch))}: (T, N) of x {x}",
                got=f"shape {bottoms[1]}",
                setting="bottom",
            )
        kept = [KeptType("gates", (steps, batch, 4 * d)), KeptType("cell", (steps, batch, d))]
        if len(bottoms) > 1:
            kept += [KeptType(name, (batch, d), persistent=True) for name in "hc"]
            kept += [KeptType(f"first_{name}", (batch, d)) for name in "hc"]
        return Signature(
            (BlobType((steps, batch, d)),),
            (
                ParamType((4 * d, x.span(2)), self.weight_filler),
                ParamType((4 * d, d), self.weight_filler),
                ParamType((4 * d,), self.bias_filler),
            ),
            tuple(kept),
        )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)[:n_bottoms]

    @staticmethod
    def _marks(call: ForwardCall | BackwardCall) -> Array:
        """Return 0 where a sequence begins and 1 where it goes on, as (T, N, 1)."""
        x = call.bottoms[0]
        steps, batch = x.shape[:2]
        if len(call.bottoms) > 1:
            # Whatever is not 0 continues, as in the fork.
            return (call.bottoms[1].reshape(steps, batch, 1) != 0).astype(x.dtype)
        marks = call.xp.ones((steps, batch, 1), dtype=x.dtype)
        marks[0] = 0
        return marks

    @staticmethod
    def _first(call: ForwardCall | BackwardCall) -> tuple[Array, Array]:
        """Return the states h and c (N, D) that the first step started from."""
        if len(call.bottoms) > 1:
            return call.kept[4], call.kept[5]
        zeros = call.xp.zeros_like(call.kept[1][0])
        return zeros, zeros

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, y = call.xp, call.bottoms[0], call.out[0]
        weight_x, weight_h, bias = call.params
        gates, cell = call.kept[:2]
        for state, first in zip(call.kept[2:4], call.kept[4:6], strict=True):
            first[...] = state
        gates[...] = (rows_of(x, 2) @ weight_x.T + bias).reshape(gates.shape)
        h, c = self._first(call)
        for t, cont in enumerate(self._marks(call)):
            z = gates[t]
            z += (h * cont) @ weight_h.T
            i, f, o, g = apply_gates(xp, z, self.num_output)
            c = f * (c * cont) + i * g
            h = o * xp.tanh(c)
            cell[t], y[t] = c, h
        for state, last in zip(call.kept[2:4], (h, c), strict=False):
            state[...] = last
        return (y,)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, d, cont = call.xp, self.num_output, self._marks(call)
        weight_x, weight_h, _ = call.params
        gates, cell = call.kept[:2]
        first_h, first_c = self._first(call)
        dz, dc_dh = gate_slopes(xp, gates, cell, states_before(xp, first_c, cell) * cont, d)
        dh, dc = xp.zeros_like(dz[0, :, :d]), 0
        for t in reversed(range(len(dz))):
            dh = dh + call.top_diffs[0][t]
            dc = dc + dh * dc_dh[t]
            through_gates(dz[t], dh, dc, d)
            if self.clipping_threshold > 0:
                xp.clip(dz[t], -self.clipping_threshold, self.clipping_threshold, out=dz[t])
            dc = dc * gates[t, :, d : 2 * d] * cont[t]
            dh = (dz[t] @ weight_h) * cont[t]
        flat, x = rows_of(dz, 2), call.bottoms[0]
        before = states_before(xp, first_h, call.tops[0]) * cont
        wants = call.wants_params
        dx = (flat @ weight_x).reshape(x.shape) if call.wants_bottoms[0] else None
        return Gradients(
            (dx, None)[: len(call.bottoms)],
            (
                flat.T @ rows_of(x, 2) if wants[0] else None,
                flat.T @ rows_of(before, 2) if wants[1] else None,
                flat.sum(axis=0) if wants[2] else None,
            ),
        )

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if len(bottoms) > 1:
            raise g.refuse(
                "the hidden state is carried from one batch to the next, and an ONNX graph keeps "
                "nothing between two runs",
                hint="without the second bottom each batch starts from zero",
            )
        arrays = [g.array(param) for param in params]
        if any(array is None for array in arrays):
            raise g.refuse("the params are computed, not stored")
        xp, x = g.xp, bottoms[0]
        if len(x.shape) > 3:
            x = g.reshape(x, (*x.shape[:2], BlobType(x.shape).span(2)))
        weight_x, weight_h, bias = (onnx_gate_order(xp, array) for array in arrays)
        both = xp.concatenate([bias, xp.zeros_like(bias)])
        constants = [g.constant(array[None]) for array in (weight_x, weight_h, both)]
        y = g.op("LSTM", x, *constants, hidden_size=self.num_output)
        return (g.op("Squeeze", y, g.constant([1], "int64")),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        steps, batch = bottoms[0].shape[:2]
        return steps * batch * sum(BlobType(p.shape).count for p in signature.params[:2])
