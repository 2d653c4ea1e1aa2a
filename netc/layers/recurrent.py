"""Recurrent layers: RNN, LSTM, and the LSTM's single step.

Time is the first axis, the batch the second: x is (T, N, ...), `cont` is (T, N) with a 0 where a
sequence begins and a 1 where it goes on. A layer runs one loop over time, with one matrix product
for the whole batch in each step; what does not depend on the hidden state is computed for all
steps at once.

The hidden state starts at 0 and is carried from one batch to the next, so that long sequences can
be fed in pieces; `cont` cuts it. With `expose_hidden` the state comes in as bottoms and goes out as
tops instead. In both cases gradients end at the border of the batch (truncated back-propagation
through time): as in Caffe, none flows in or out through exposed states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    Neurons,
    OnnxBuilder,
    ParamType,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)


@dataclass(frozen=True)
class Recurrent(Layer):
    """Base of RNN and LSTM.

    Bottoms: x (T, N, ...), cont (T, N), if wanted a static input (N, ...) that every step sees, and
    with `expose_hidden` the states (1, N, num_output) to start from. Tops: y (T, N, num_output),
    and the exposed states (1, N, num_output) after the last step.
    Params: W_x (G, K), b (G,), with a static input W_s (G, K_s), W_h (G, num_output), then those of
    the subclass; G is num_output for each of its gates. `debug_info`, by which Caffe prints the net
    that it unrolls, has nothing to print here.
    """

    num_output: int = 0
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    debug_info: bool = False
    expose_hidden: bool = False
    top: tuple[str, ...] = ()

    param_names: ClassVar[tuple[str, ...]] = ("weight_x", "bias")
    #: The parts of the hidden state.
    states: ClassVar[tuple[str, ...]] = ("h",)
    #: How many blocks of num_output values a step computes from x and h.
    gates: ClassVar[int] = 1

    # -- shapes ------------------------------------------------------------------------------------

    @property
    def _n_exposed(self) -> int:
        return len(self.states) if self.expose_hidden else 0

    def _has_static(self, n_bottoms: int) -> bool:
        return n_bottoms > 2 + self._n_exposed

    def _weight_type(self, *shape: int) -> ParamType:
        return ParamType(shape, self.weight_filler, neurons=Neurons.rows(shape))

    def infer(self, *bottoms: BlobType) -> Signature:
        self._check(bottoms)
        steps, batch = bottoms[0].shape[:2]
        d, rows = self.num_output, self.gates * self.num_output
        y, state = BlobType((steps, batch, d)), (1, batch, d)
        weights = [self._weight_type(rows, bottoms[0].span(2))]
        weights.append(ParamType((rows,), self.bias_filler))
        if self._has_static(len(bottoms)):
            weights.append(self._weight_type(rows, bottoms[2].span(1)))
        weights.append(self._weight_type(rows, d))
        carried: list[KeptType] = []
        if not self.expose_hidden:
            carried += [KeptType(name, state, persistent=True) for name in self.states]
            carried += [KeptType(f"first_{name}", state) for name in self.states]
        return Signature(
            (y, *(BlobType(state),) * self._n_exposed),
            (*weights, *self._more_params()),
            (*carried, *self._more_kept(steps, batch)),
        )

    def _more_params(self) -> tuple[ParamType, ...]:
        return ()

    def _more_kept(self, steps: int, batch: int) -> tuple[KeptType, ...]:
        return ()

    def _check(self, bottoms: tuple[BlobType, ...]) -> None:
        if self.num_output <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0",
                got=self.num_output,
                hint="add recurrent_param { num_output: N }",
                setting="num_output",
            )
        n, fewest = self._n_exposed, 2 + self._n_exposed
        exposed = ", ".join(f"{name}0" for name in self.states[:n])
        if len(bottoms) not in (fewest, fewest + 1):
            raise Refusal(
                "wrong number of bottoms",
                expected="x, cont, a static input if wanted" + (exposed and f", {exposed}"),
                got=f"{len(bottoms)} bottoms, expose_hidden {str(self.expose_hidden).lower()}",
                setting="bottom",
            )
        if self.top and len(self.top) != 1 + n:
            raise Refusal(
                "wrong number of tops",
                expected=f"{1 + n}: y"
                + "".join(f", {name} after the last step" for name in self.states[:n]),
                got=f"{len(self.top)} tops, expose_hidden {str(self.expose_hidden).lower()}",
                setting="top",
            )
        x, cont = bottoms[:2]
        if x.axes < 3 or x.shape[0] == 0:
            raise Refusal(
                "the input is not a batch of sequences of vectors",
                expected="shape (T, N, ...) with at least one time step and 3 axes",
                got=f"bottom of shape {x}",
                hint="time is the first axis, the batch the second",
                setting="bottom",
            )
        if cont.shape != x.shape[:2]:
            raise Refusal(
                "the sequence markers do not match the input",
                expected=f"cont of shape {BlobType(x.shape[:2])}: (T, N) of x {x}",
                got=f"cont of shape {cont}",
                setting="bottom",
            )
        if self._has_static(len(bottoms)):
            static = bottoms[2]
            if static.axes < 2 or static.shape[0] != x.shape[1]:
                raise Refusal(
                    "the static input does not match the batch",
                    expected=f"shape (N, ...) with N = {x.shape[1]}, as in x {x}",
                    got=f"static input of shape {static}",
                    setting="bottom",
                )
        wanted = BlobType((1, x.shape[1], self.num_output))
        for name, state in zip(self.states, bottoms[len(bottoms) - n :], strict=False):
            if state != wanted:
                raise Refusal(
                    f"the state {name}0 has the wrong shape",
                    expected=f"{wanted}: (1, N, num_output)",
                    got=state,
                    setting="bottom",
                )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        static = (True,) if self._has_static(n_bottoms) else ()
        return (True, False, *static, *(False,) * self._n_exposed)

    # -- what both passes share --------------------------------------------------------------------

    def _weights(self, params: Sequence[Array], n_bottoms: int) -> _Weights:
        """Give the params their names."""
        rest = list(params[2:])
        static = rest.pop(0) if self._has_static(n_bottoms) else None
        return _Weights(params[0], params[1], static, rest[0], tuple(rest[1:]))

    def _begin(self, call: ForwardCall) -> list[Array]:
        """Return the states (N, num_output) before the first step; remember them for backward."""
        n = len(self.states)
        if not self.expose_hidden:
            for carried, first in zip(call.kept[:n], call.kept[n : 2 * n], strict=True):
                first[...] = carried
        return self._first_states(call)

    def _first_states(self, call: ForwardCall | BackwardCall) -> list[Array]:
        n = len(self.states)
        blobs = call.bottoms[-n:] if self.expose_hidden else call.kept[n : 2 * n]
        return [blob[0] for blob in blobs]

    def _end(self, call: ForwardCall, y: Array, *states: Array) -> tuple[Array, ...]:
        """Carry the states (N, num_output) over to the next batch, or return them as tops."""
        if self.expose_hidden:
            return (y, *(state[None] for state in states))
        for carried, state in zip(call.kept, states, strict=False):
            carried[0] = state
        return (y,)

    def _own_kept(self, call: ForwardCall | BackwardCall) -> tuple[Array, ...]:
        """Return the kept blobs that the subclass asked for."""
        return call.kept if self.expose_hidden else call.kept[2 * len(self.states) :]

    def _projected(self, call: ForwardCall, weights: _Weights) -> Array:
        """Return W_x x + b, plus W_s times the static input, of all steps: (T, N, G)."""
        x = call.bottoms[0]
        z = rows_of(x, 2) @ weights.x.T
        z += weights.bias
        z = z.reshape(*x.shape[:2], self.gates * self.num_output)
        if weights.static is not None:
            z += rows_of(call.bottoms[2], 1) @ weights.static.T
        return z

    def _gradients(
        self, call: BackwardCall, dz: Array, h: Array, more: tuple[Array | None, ...] = ()
    ) -> Gradients:
        """Return all gradients, given those of z = W_x x + b + W_s s + W_h h of all steps.

        `h` holds the hidden states that went into the steps, already cut; `more` the gradients of
        the params of the subclass.
        """
        weights = self._weights(call.params, len(call.bottoms))
        x, flat, wants = call.bottoms[0], rows_of(dz, 2), iter(call.wants_params)
        bottoms: list[Array | None] = [None] * len(call.bottoms)
        if call.wants_bottoms[0]:
            bottoms[0] = (flat @ weights.x).reshape(x.shape)
        params = [flat.T @ rows_of(x, 2) if next(wants) else None]
        params.append(flat.sum(axis=0) if next(wants) else None)
        if weights.static is not None:
            static, summed = call.bottoms[2], dz.sum(axis=0)
            if call.wants_bottoms[2]:
                bottoms[2] = (summed @ weights.static).reshape(static.shape)
            params.append(summed.T @ rows_of(static, 1) if next(wants) else None)
        params.append(flat.T @ rows_of(h, 2) if next(wants) else None)
        return Gradients(tuple(bottoms), (*params, *more))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        steps, batch = bottoms[0].shape[:2]
        shapes = [BlobType(p.shape) for p in signature.params]
        weights = self._weights(shapes, len(bottoms))
        each: int = sum(w.count for w in (weights.x, weights.h, *weights.more) if w.axes == 2)
        once: int = weights.static.count if weights.static is not None else 0
        return batch * (steps * each + once)

    # -- ONNX --------------------------------------------------------------------------------------

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Unroll: the ONNX operators cannot cut a sequence within a batch, so each step is one."""
        if not self.expose_hidden:
            before, after = (", ".join(s + end for s in self.states) for end in "0T")
            raise g.refuse(
                f"the hidden state ({', '.join(self.states)}) is carried from one batch to the "
                "next, and an ONNX graph keeps nothing between two runs",
                hint=f"set expose_hidden: true, with bottoms {before} and tops {after}, "
                "so that the caller carries it; the weights stay the same",
            )
        arrays = [g.array(param) for param in params]
        if any(array is None for array in arrays):
            raise g.refuse("the params are computed, not stored")
        xp, weights = g.xp, self._weights(arrays, len(bottoms))
        x, (steps, batch) = bottoms[0], bottoms[0].shape[:2]
        if len(x.shape) > 3:
            x = g.reshape(x, (steps, batch, BlobType(x.shape).span(2)))
        weight_x = weights.x
        if weights.static is not None:
            static = bottoms[2]
            if len(static.shape) > 2:
                static = g.reshape(static, (batch, BlobType(static.shape).span(1)))
            static = g.op("Unsqueeze", static, g.constant([0], "int64"))
            static = g.op("Tile", static, g.constant([steps, 1, 1], "int64"))
            x = g.op("Concat", x, static, axis=2)
            weight_x = xp.concatenate([weights.x, weights.static], axis=1)
        bias = xp.concatenate([self._onnx_order(xp, weights.bias), xp.zeros_like(weights.bias)])
        matrices = [self._onnx_order(xp, w) for w in (weight_x, weights.h)]
        constants = [g.constant(w[None]) for w in (*matrices, bias)]
        marks = g.op("Unsqueeze", bottoms[1], g.constant([2], "int64"))
        states = list(bottoms[-len(self.states) :])
        hidden = []
        for x_t, mark in zip(_split(g, x, steps), _split(g, marks, steps), strict=True):
            cut = [g.op("Mul", state, mark) for state in states]
            _, *states = g.op(
                self.type, x_t, *constants, None, *cut,
                outputs=1 + len(cut), hidden_size=self.num_output,
            )  # fmt: skip
            hidden.append(states[0])
        h = hidden[0] if steps == 1 else g.op("Concat", *hidden, axis=0)
        return (self._lower_output(g, h, weights), *states)

    def _onnx_order(self, xp: ArrayNamespace, array: Array) -> Array:
        """Return the rows of the gates in the order of the ONNX operator."""
        return array

    def _lower_output(self, g: OnnxBuilder, h: Value, weights: _Weights) -> Value:
        """Return the first top, given the hidden states of all steps."""
        return h


@dataclass(frozen=True, slots=True)
class _Weights:
    """The params by name; those that a subclass adds are in `more`."""

    x: Array
    bias: Array
    static: Array | None
    h: Array
    more: tuple[Array, ...]


def rows_of(array: Array, axis: int) -> Array:
    """View an array as a matrix whose columns are the axes from `axis` on."""
    shape = BlobType(array.shape)
    return array.reshape(shape.span(0, axis), shape.span(axis))


def _split(g: OnnxBuilder, x: Value, steps: int) -> tuple[Value, ...]:
    """Return the slices of axis 0, each with a first axis of size 1."""
    if steps == 1:
        return (x,)
    parts: tuple[Value, ...] = g.op(
        "Split", x, g.constant([1] * steps, "int64"), outputs=steps, axis=0
    )
    return parts


def states_before(xp: ArrayNamespace, first: Array, states: Array) -> Array:
    """Return the states that the steps started from: `first`, then all but the last of `states`."""
    return xp.concatenate([first[None], states[:-1]])


def _sigmoid(xp: ArrayNamespace, x: Array) -> Array:
    """Turn x into 1 / (1 + exp(-x)), in place and without overflow."""
    x *= 0.5
    xp.tanh(x, out=x)
    x *= 0.5
    x += 0.5
    return x


@layer("RNN", "recurrent_param")
@dataclass(frozen=True)
class RNN(Recurrent):
    """h_t = tanh(W_h (cont_t h_(t-1)) + W_x x_t + W_s s + b); y_t = tanh(W_o h_t + b_o).

    Shapes: x (T, N, ...), cont (T, N) with 0 where a sequence begins, if wanted a static input (N,
    ...), with `expose_hidden` h (1, N, num_output) to start from -> y (T, N, num_output), with
    `expose_hidden` h after the last step. Params W_x (D, K), b (D,), with a static input W_s (D,
    K_s), W_h (D, D), W_o (D, D), b_o (D,), D being num_output. Otherwise the state is carried from
    batch to batch.
    Source: Elman, Cognitive Science 1990; the tanh on the output is Caffe's.
    """

    bottoms: ClassVar[Arity] = between(2, 4)
    tops: ClassVar[Arity] = between(1, 2)

    def _more_params(self) -> tuple[ParamType, ...]:
        d = self.num_output
        return self._weight_type(d, d), ParamType((d,), self.bias_filler)

    def _more_kept(self, steps: int, batch: int) -> tuple[KeptType, ...]:
        return (KeptType("hidden", (steps, batch, self.num_output)),)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        weights = self._weights(call.params, len(call.bottoms))
        (h,) = self._begin(call)
        (hidden,) = self._own_kept(call)
        hidden[...] = self._projected(call, weights)
        for z, cont in zip(hidden, call.bottoms[1][..., None], strict=True):
            z += (h * cont) @ weights.h.T
            h = xp.tanh(z, out=z)
        weight_o, bias_o = weights.more
        y = hidden @ weight_o.T
        y += bias_o
        return self._end(call, xp.tanh(y, out=y), h)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, cont = call.xp, call.bottoms[1][..., None]
        weights = self._weights(call.params, len(call.bottoms))
        (hidden,) = self._own_kept(call)
        y, weight_o = call.tops[0], weights.more[0]
        dy = call.top_diffs[0] * (1 - y * y)
        dz = dy @ weight_o
        slope = 1 - hidden * hidden
        carried = xp.zeros_like(dz[0])
        for t in reversed(range(len(dz))):
            dz[t] += carried
            dz[t] *= slope[t]
            carried = (dz[t] @ weights.h) * cont[t]
        wants_weight, wants_bias = call.wants_params[-2:]
        more = (
            rows_of(dy, 2).T @ rows_of(hidden, 2) if wants_weight else None,
            rows_of(dy, 2).sum(axis=0) if wants_bias else None,
        )
        before = states_before(xp, self._first_states(call)[0], hidden) * cont
        return self._gradients(call, dz, before, more)

    def _lower_output(self, g: OnnxBuilder, h: Value, weights: _Weights) -> Value:
        weight_o, bias_o = weights.more
        product = g.op("MatMul", h, g.constant(weight_o.T))
        y: Value = g.op("Tanh", g.op("Add", product, g.constant(bias_o)))
        return y


@layer("LSTM", "recurrent_param")
@dataclass(frozen=True)
class LSTM(Recurrent):
    """c_t = f * cont_t c_(t-1) + i * g; y_t = h_t = o * tanh(c_t).

    i, f, o = sigmoid and g = tanh of the blocks, in this order, of W_h (cont_t h_(t-1)) + W_x x_t +
    W_s s + b.

    Shapes: x (T, N, ...), cont (T, N) with 0 where a sequence begins, if wanted a static input (N,
    ...), with `expose_hidden` h and c (1, N, num_output) to start from -> y (T, N, num_output),
    with `expose_hidden` h and c after the last step. Params W_x (4 D, K), b (4 D,), with a static
    input W_s (4 D, K_s), W_h (4 D, D), D being num_output. Otherwise the states are carried from
    batch to batch.
    Source: Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000; in this
    form used by Donahue et al., CVPR 2015.
    """

    bottoms: ClassVar[Arity] = between(2, 5)
    tops: ClassVar[Arity] = between(1, 3)
    states: ClassVar[tuple[str, ...]] = ("h", "c")
    gates: ClassVar[int] = 4

    def _more_kept(self, steps: int, batch: int) -> tuple[KeptType, ...]:
        d = self.num_output
        return (
            KeptType("gates", (steps, batch, 4 * d)),
            KeptType("cell", (steps, batch, d)),
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, d, y = call.xp, self.num_output, call.out[0]
        weights = self._weights(call.params, len(call.bottoms))
        h, c = self._begin(call)
        gates, cell = self._own_kept(call)
        gates[...] = self._projected(call, weights)
        for t, cont in enumerate(call.bottoms[1][..., None]):
            z = gates[t]
            z += (h * cont) @ weights.h.T
            i, f, o, g = apply_gates(xp, z, d)
            c = f * (c * cont) + i * g
            h = o * xp.tanh(c)
            cell[t], y[t] = c, h
        return self._end(call, y, h, c)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, d, cont = call.xp, self.num_output, call.bottoms[1][..., None]
        weights = self._weights(call.params, len(call.bottoms))
        gates, cell = self._own_kept(call)
        first_h, first_c = self._first_states(call)
        dz, dc_dh = gate_slopes(xp, gates, cell, states_before(xp, first_c, cell) * cont, d)
        dh, dc = xp.zeros_like(dz[0, :, :d]), 0
        for t in reversed(range(len(dz))):
            dh = dh + call.top_diffs[0][t]
            dc = dc + dh * dc_dh[t]
            through_gates(dz[t], dh, dc, d)
            dc = dc * gates[t, :, d : 2 * d] * cont[t]
            dh = (dz[t] @ weights.h) * cont[t]
        before = states_before(xp, first_h, call.tops[0]) * cont
        return self._gradients(call, dz, before)

    def _onnx_order(self, xp: ArrayNamespace, array: Array) -> Array:
        return onnx_gate_order(xp, array)


def onnx_gate_order(xp: ArrayNamespace, array: Array) -> Array:
    """Return rows (4 D, ...) in blocks i, f, o, g in the blocks of ONNX's LSTM: i, o, f, g."""
    i, f, o, g = xp.split(array, 4)
    return xp.concatenate([i, o, f, g])


def apply_gates(xp: ArrayNamespace, z: Array, d: int) -> tuple[Array, Array, Array, Array]:
    """Apply the gates' functions to z (..., 4 d) in place; return views of i, f, o and g."""
    _sigmoid(xp, z[..., : 3 * d])
    xp.tanh(z[..., 3 * d :], out=z[..., 3 * d :])
    return z[..., :d], z[..., d : 2 * d], z[..., 2 * d : 3 * d], z[..., 3 * d :]


def gate_slopes(
    xp: ArrayNamespace, gates: Array, c: Array, c_before: Array, d: int
) -> tuple[Array, Array]:
    """Return dc/dz for i, f and g with dh/dz for o, as (..., 4 d), and dh/dc.

    `gates` holds i, f, o and g, `c_before` the cells that went into the steps, already cut.
    """
    i, f, o, g = (gates[..., n * d : (n + 1) * d] for n in range(4))
    tanh_c = xp.tanh(c)
    slopes = xp.concatenate(
        [g * i * (1 - i), c_before * f * (1 - f), tanh_c * o * (1 - o), i * (1 - g * g)], axis=-1
    )
    return slopes, o * (1 - tanh_c * tanh_c)


def through_gates(slopes: Array, dh: Array, dc: Array, d: int) -> None:
    """Turn the slopes of a step into the gradient of its z, in place."""
    slopes[..., :d] *= dc
    slopes[..., d : 2 * d] *= dc
    slopes[..., 2 * d : 3 * d] *= dh
    slopes[..., 3 * d :] *= dc


@layer("LSTMUnit")
@dataclass(frozen=True)
class LSTMUnit(Layer):
    """One step of an LSTM: cell and hidden state from the cell before and the gates' inputs.

    Shapes: c (1, N, D), z (1, N, 4 D) with the blocks i, f, o, g, cont (1, N) -> c (1, N, D),
    h (1, N, D). The formulas are those of LSTM; Caffe unrolls its LSTM into these.

    Source: BVLC Caffe.
    """

    bottoms: ClassVar[Arity] = exactly(3)
    tops: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        c, z, cont = bottoms
        if c.axes != 3 or c.shape[0] != 1:
            raise Refusal(
                "the cell state is not that of one step",
                expected="shape (1, N, D)",
                got=f"bottom 0 of shape {c}",
                setting="bottom",
            )
        _, batch, d = c.shape
        for index, bottom, wanted in ((1, z, (1, batch, 4 * d)), (2, cont, (1, batch))):
            if bottom.shape != wanted:
                raise Refusal(
                    "the gates' input does not fit the cell state"
                    if index == 1
                    else "the sequence markers do not fit the cell state",
                    expected=f"bottom {index} of shape {BlobType(wanted)}",
                    got=f"bottom {index} of shape {bottom}, cell state of shape {c}",
                    setting="bottom",
                )
        return Signature((c, c))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, False)

    @staticmethod
    def _active(call: ForwardCall | BackwardCall) -> tuple[Array, Array, int]:
        """Return the gates i, f, o, g in one array, the cell before, already cut, and D."""
        c, z, cont = call.bottoms
        d, gates = c.shape[-1], z + 0
        apply_gates(call.xp, gates, d)
        return gates, c * cont[..., None], d

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        gates, before, d = self._active(call)
        i, f, o, g = (gates[..., n * d : (n + 1) * d] for n in range(4))
        c = f * before + i * g
        return (c, o * call.xp.tanh(c))

    def backward(self, call: BackwardCall) -> Gradients:
        gates, before, d = self._active(call)
        dz, dc_dh = gate_slopes(call.xp, gates, call.tops[0], before, d)
        dc, dh = call.top_diffs
        dc = dc + dh * dc_dh
        through_gates(dz, dh, dc, d)
        return Gradients((dc * gates[..., d : 2 * d] * call.bottoms[2][..., None], dz, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        before, z, cont = bottoms
        d = before.shape[2]
        parts = g.op("Split", z, g.constant([d] * 4, "int64"), outputs=4, axis=2)
        i, f, o = (g.op("Sigmoid", part) for part in parts[:3])
        mark = g.op("Unsqueeze", cont, g.constant([2], "int64"))
        kept = g.op("Mul", f, g.op("Mul", before, mark))
        c = g.op("Add", kept, g.op("Mul", i, g.op("Tanh", parts[3])))
        return (c, g.op("Mul", o, g.op("Tanh", c)))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 4 * bottoms[0].count
