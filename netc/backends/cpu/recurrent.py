"""LSTM and RNN: a product for each time step, with the activation of the gates inside it.

The library's own LSTM cannot cut a sequence within a batch, as `cont` does. What does not depend on
the hidden state is multiplied for all steps at once, and so are the gradients of the weights. The
weights between hidden states are packed once for all steps; gates with one activation lie side by
side, apart from those with another, because the library is slow with results that have gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Kernel, Scratch, in_a_row, positive
from netc.backends.cpu.onednn import Desc, PostOps
from netc.backends.cpu.product import Product, transposed
from netc.layers.recurrent import LSTM, RNN, Recurrent
from netc.layers.types import Array, KeptType, Reads


@dataclass(frozen=True)
class _Gates:
    """Gates with one activation: rows `first`..`last` of the weights."""

    first: int
    last: int
    activation: int

    @property
    def n(self) -> int:
        return self.last - self.first

    def of(self, weights: Array) -> Array:
        return weights[self.first : self.last]


@dataclass(frozen=True)
class _Weights:
    """The params, or their gradients, by name; those that RNN adds are in `more`."""

    x: Array
    bias: Array
    static: Array
    h: Array
    more: tuple[Array, ...]


class _Recurrence(Kernel):
    """What the two types share."""

    def __init__(self, job: Job, gates: tuple[_Gates, ...], kept: tuple[KeptType, ...]) -> None:
        layer = job.node.layer
        assert isinstance(layer, Recurrent)
        positive(job.bottoms[0])
        self._layer, self._gates = layer, gates
        self._steps, self._batch = job.bottoms[0][:2]
        self._d, self._k = layer.num_output, prod(job.bottoms[0][2:])
        self._n_states = len(layer.states)
        self._n_exposed = self._n_states if layer.expose_hidden else 0
        self._static = len(job.bottoms) > 2 + self._n_exposed
        self._k_static = prod(job.bottoms[2][1:]) if self._static else 0
        self._wants_bottoms = job.wants_bottoms
        self._forward_scratch, self._scratch = Scratch(), Scratch()
        self._hidden_before = self._forward_scratch.reserve(4 * self._batch * self._d)
        self._make_forward()
        if job.train:
            self._make_backward()
        self._carried = 0 if layer.expose_hidden else 2 * self._n_states
        self._kept = (*job.node.kept[: self._carried], *kept)

    def _terms(self, job: Job) -> Terms:
        return Terms(
            bottoms=(None,) * len(job.bottoms),
            tops=(None,) * len(job.tops),
            params=(None,) * len(job.params),
            kept=self._kept,
            reads=Reads.BOTTOM | Reads.TOP if job.train else Reads.NOTHING,
            forward_scratch=self._forward_scratch.nbytes,
            backward_scratch=self._scratch.nbytes,
        )

    def _make_forward(self) -> None:
        all_rows, rows, scratch = self._steps * self._batch, self._batch, self._forward_scratch
        self._project, self._advance, self._project_static = [], [], []
        for gates in self._gates:
            out = Desc.plain((all_rows, gates.n))
            self._project.append(
                Product(
                    Desc.plain((all_rows, self._k)),
                    transposed(gates.n, self._k),
                    out,
                    scratch,
                    bias=Desc.plain((1, gates.n)),
                )
            )
            post = PostOps().add_to_target().eltwise(gates.activation)
            self._advance.append(
                Product(
                    Desc.plain((rows, self._d)),
                    transposed(gates.n, self._d),
                    Desc.plain((rows, gates.n)),
                    scratch,
                    post=post,
                )
            )
            if self._static:
                static = Product(
                    Desc.plain((rows, self._k_static)),
                    transposed(gates.n, self._k_static),
                    Desc.plain((rows, gates.n)),
                    scratch,
                )
                self._project_static.append((static, scratch.reserve(4 * rows * gates.n)))

    def _make_backward(self) -> None:
        all_rows, rows, scratch = self._steps * self._batch, self._batch, self._scratch
        d, each = self._d, self._batch * self._d
        self._dz = [scratch.reserve(4 * all_rows * gates.n) for gates in self._gates]
        self._before = scratch.reserve(4 * all_rows * d)
        self._temporary = scratch.reserve(4 * each * 8)
        self._back, self._to_x, self._weights_diff = [], [], []
        for i, gates in enumerate(self._gates):
            # The gradients through one group of gates are added to those through the others.
            add = [PostOps().add_to_target() if i else None for _ in range(2)]
            step, dz = Desc.plain((rows, gates.n)), Desc.plain((all_rows, gates.n))
            weights, plain_h = Desc.plain((gates.n, d)), Desc.plain((rows, d))
            self._back.append(Product(step, weights, plain_h, scratch, post=add[0]))
            if self._wants_bottoms[0]:
                weights, x = Desc.plain((gates.n, self._k)), Desc.plain((all_rows, self._k))
                self._to_x.append(Product(dz, weights, x, scratch, post=add[1]))
            columns = transposed(all_rows, gates.n)
            self._weights_diff.append(
                tuple(
                    Product(columns, Desc.plain((all_rows, k)), Desc.plain((gates.n, k)), scratch)
                    for k in (self._k, d)
                )
            )

    # -- what a pass works on ----------------------------------------------------------------------

    def _named(self, params: tuple[Array, ...]) -> _Weights:
        rest = list(params[2:])
        static = rest.pop(0) if self._static else None
        return _Weights(params[0], params[1], static, rest[0], tuple(rest[1:]))

    def _first_states(self, binding: Binding) -> list[Array]:
        """Return the states before the first step, (N, num_output)."""
        n = self._n_states
        blobs = binding.bottoms[-n:] if self._n_exposed else binding.kept[n : 2 * n]
        return [blob[0] for blob in blobs]

    def _last_states(self, binding: Binding) -> list[Array]:
        """Return where the states go after the last step."""
        n = self._n_states
        blobs = binding.tops[1:] if self._n_exposed else binding.kept[:n]
        return [blob[0] for blob in blobs]

    def _own_kept(self, binding: Binding) -> tuple[Array, ...]:
        return binding.kept[self._carried :]

    # -- passes ------------------------------------------------------------------------------------

    def _begin(self, binding: Binding, blocks: list[Array]) -> list[Prepared]:
        """Return the calls before the first step.

        They remember the states to start from, and compute what does not depend on these: `blocks`
        (T, N, rows), one for each group of gates.
        """
        weights, x = self._named(binding.params), binding.bottoms[0]
        calls: list[Prepared] = []
        if not self._n_exposed:
            n = self._n_states
            for carried, first in zip(binding.kept[:n], binding.kept[n : 2 * n], strict=True):
                calls.append(partial(np.copyto, first, carried))
        for gates, project, block in zip(self._gates, self._project, blocks, strict=True):
            rows = gates.of(weights.x), gates.of(weights.bias)
            calls += project.calls(binding, x, rows[0], block, rows[1])
        for gates, block, (product, cut) in zip(
            self._gates, blocks, self._project_static, strict=False
        ):
            once = cut(binding).view("float32").reshape(block.shape[1:])
            calls += product.calls(binding, binding.bottoms[2], gates.of(weights.static), once)
            calls.append(partial(np.add, block, once, out=block))
        for gates, advance in zip(self._gates, self._advance, strict=True):
            calls += advance.pack(binding, gates.of(weights.h))
        return calls

    def _advancing(self, binding: Binding, blocks: list[Array]) -> list[Prepared]:
        """Return a call for each step: from the hidden state, cut, to the gates."""
        before = self._hidden_before(binding).view("float32")
        weight = self._named(binding.params).h
        return [
            in_a_row(
                [
                    advance.run(binding, before, gates.of(weight), block[t])
                    for gates, advance, block in zip(
                        self._gates, self._advance, blocks, strict=True
                    )
                ]
            )
            for t in range(self._steps)
        ]

    def _going_back(
        self, binding: Binding, dz: list[Array], into: Array
    ) -> tuple[list[Prepared], list[Prepared]]:
        """Return the calls before the last step, and for each step that from dz to the state."""
        weight = self._named(binding.params).h
        pack, steps = [], []
        for gates, back in zip(self._gates, self._back, strict=True):
            pack += back.pack(binding, gates.of(weight))
        for t in range(self._steps):
            calls = [
                back.run(binding, block[t], gates.of(weight), into)
                for gates, back, block in zip(self._gates, self._back, dz, strict=True)
            ]
            steps.append(in_a_row(calls))
        return pack, steps

    def _gradients(
        self, binding: Binding, dz: list[Array], hidden: Array, first: Array
    ) -> Iterator[Prepared]:
        """Yield the calls behind the first step, for all steps at once.

        `hidden` are the states after each step, `first` those before the first.
        """
        weights, diffs = self._named(binding.params), self._named(binding.param_diffs)
        x, cont = binding.bottoms[0], binding.bottoms[1][..., None]
        before = self._before(binding).view("float32").reshape(hidden.shape)

        def cut() -> None:
            np.multiply(first, cont[0], out=before[0])
            np.multiply(hidden[:-1], cont[1:], out=before[1:])

        if diffs.h is not None:
            yield cut
        dx = binding.bottom_diffs[0]
        for i, (gates, block) in enumerate(zip(self._gates, dz, strict=True)):
            if dx is not None:
                yield from self._to_x[i].calls(binding, block, gates.of(weights.x), dx)
            of_x, of_h = self._weights_diff[i]
            if diffs.x is not None:
                yield from of_x.calls(binding, block, x, gates.of(diffs.x))
            if diffs.h is not None:
                yield from of_h.calls(binding, block, before, gates.of(diffs.h))
            if diffs.bias is not None:
                total = gates.of(diffs.bias)
                yield partial(np.sum, block, axis=(0, 1), out=total)
        if self._static:
            yield partial(self._static_gradients, binding, dz, weights.static, diffs.static)

    def _static_gradients(
        self, binding: Binding, dz: list[Array], weight: Array, diff: Array | None
    ) -> None:
        """Every step sees the static input: its gradient is that of the sum over time."""
        static, into = binding.bottoms[2], binding.bottom_diffs[2]
        rows = static.reshape(len(static), -1)
        summed = np.concatenate([block.sum(axis=0) for block in dz], axis=1)
        if into is not None:
            np.matmul(summed, weight, out=into.reshape(rows.shape))
        if diff is not None:
            np.matmul(summed.T, rows, out=diff)


class LstmKernel(_Recurrence):
    """The gates i, f and o lie in one block, g in another."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, LSTM)
        d, shape = layer.num_output, job.bottoms[0][:2]
        super().__init__(
            job,
            (_Gates(0, 3 * d, onednn.LOGISTIC), _Gates(3 * d, 4 * d, onednn.TANH)),
            (
                KeptType("sigmoids", (*shape, 3 * d)),
                KeptType("candidates", (*shape, d)),
                KeptType("cell", (*shape, d)),
            ),
        )
        self._product_of_gates = self._forward_scratch.reserve(4 * shape[1] * d)
        self.terms = self._terms(job)

    def _blocks(self, binding: Binding) -> tuple[list[Array], list[list[Array]], Array]:
        """Return the gates in their blocks, each gate i, f, o, g by step, and the cells."""
        sigmoids, candidates, cell = self._own_kept(binding)
        d = self._d
        each = [[step[:, n * d : (n + 1) * d] for step in sigmoids] for n in range(3)]
        return [sigmoids, candidates], [*each, list(candidates)], cell

    def forward(self, binding: Binding) -> Prepared:
        blocks, (i, f, o, g), cell = self._blocks(binding)
        y, cont = binding.tops[0], binding.bottoms[1][..., None]
        first_h, first_c = self._first_states(binding)
        last_h, last_c = self._last_states(binding)
        before = self._hidden_before(binding).view("float32").reshape(first_h.shape)
        some = self._product_of_gates(binding).view("float32").reshape(first_h.shape)
        begin = in_a_row(self._begin(binding, blocks))
        steps = list(zip(self._advancing(binding, blocks), cont, i, f, o, g, cell, y, strict=True))

        def run() -> None:
            begin()
            h, c = first_h, first_c
            for advance, cut, i_t, f_t, o_t, g_t, c_t, h_t in steps:
                np.multiply(h, cut, out=before)
                advance()
                np.multiply(c, cut, out=c_t)
                np.multiply(c_t, f_t, out=c_t)
                np.multiply(i_t, g_t, out=some)
                np.add(c_t, some, out=c_t)
                np.tanh(c_t, out=some)
                np.multiply(o_t, some, out=h_t)
                h, c = h_t, c_t
            np.copyto(last_h, h)
            np.copyto(last_c, c)

        return run

    def backward(self, binding: Binding) -> Prepared:
        _, (i, f, o, g), cell = self._blocks(binding)
        cont, y, dy = binding.bottoms[1][..., None], binding.tops[0], binding.top_diffs[0]
        first_h, first_c = self._first_states(binding)
        shape, d = first_h.shape, self._d
        dz = [cut(binding).view("float32").reshape(self._steps, shape[0], -1) for cut in self._dz]
        di, df, do = ([step[:, n * d : (n + 1) * d] for step in dz[0]] for n in range(3))
        dg = list(dz[1])
        spare = self._temporary(binding).view("float32").reshape(8, *shape)
        dh, dc, tanh_c, before, through, some = spare[:6]
        pack, back = self._going_back(binding, dz, dh)
        prepare, finish = in_a_row(pack), in_a_row(list(self._gradients(binding, dz, y, first_h)))
        steps = range(self._steps)

        def run() -> None:
            prepare()
            dh.fill(0)
            dc.fill(0)
            for t in reversed(steps):
                np.add(dh, dy[t], out=dh)
                np.tanh(cell[t], out=tanh_c)
                # What reaches the cell through the hidden state: dh o (1 - tanh(c)^2).
                np.multiply(dh, o[t], out=through)
                np.multiply(tanh_c, tanh_c, out=some)
                np.multiply(some, through, out=some)
                np.subtract(through, some, out=through)
                np.add(dc, through, out=dc)
                np.multiply(cell[t - 1] if t else first_c, cont[t], out=before)
                # The slope of a sigmoid s is s (1 - s), that of tanh 1 - tanh^2.
                for gate, into, factor, top in (
                    (i[t], di[t], g[t], dc),
                    (f[t], df[t], before, dc),
                    (o[t], do[t], tanh_c, dh),
                ):
                    np.multiply(gate, gate, out=some)
                    np.subtract(gate, some, out=some)
                    np.multiply(some, factor, out=some)
                    np.multiply(some, top, out=into)
                np.multiply(g[t], g[t], out=some)
                np.subtract(1, some, out=some)
                np.multiply(some, i[t], out=some)
                np.multiply(some, dc, out=dg[t])
                np.multiply(dc, f[t], out=dc)
                np.multiply(dc, cont[t], out=dc)
                back[t]()
                np.multiply(dh, cont[t], out=dh)
            finish()

        return run


class RnnKernel(_Recurrence):
    """Then the output: tanh(W_o h + b_o)."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, RNN)
        d, shape = layer.num_output, job.bottoms[0][:2]
        super().__init__(job, (_Gates(0, d, onednn.TANH),), (KeptType("hidden", (*shape, d)),))
        n = shape[0] * shape[1]
        rows, square = Desc.plain((n, d)), transposed(d, d)
        self._output = Product(
            rows,
            square,
            rows,
            self._forward_scratch,
            bias=Desc.plain((1, d)),
            post=PostOps().eltwise(onednn.TANH),
        )
        if job.train:
            self._output_back = Product(rows, Desc.plain((d, d)), rows, self._scratch)
            self._output_diff = Product(transposed(n, d), rows, Desc.plain((d, d)), self._scratch)
            self._dy = self._scratch.reserve(4 * n * d)
        self.terms = self._terms(job)

    def forward(self, binding: Binding) -> Prepared:
        (hidden,), (first,) = self._own_kept(binding), self._first_states(binding)
        (last,), cont = self._last_states(binding), binding.bottoms[1][..., None]
        before = self._hidden_before(binding).view("float32").reshape(first.shape)
        weight, bias = self._named(binding.params).more
        begin = in_a_row(self._begin(binding, [hidden]))
        advance = self._advancing(binding, [hidden])
        end = in_a_row(self._output.calls(binding, hidden, weight, binding.tops[0], bias))
        steps = range(self._steps)

        def run() -> None:
            begin()
            h = first
            for t in steps:
                np.multiply(h, cont[t], out=before)
                advance[t]()
                h = hidden[t]
            np.copyto(last, h)
            end()

        return run

    def backward(self, binding: Binding) -> Prepared:
        (hidden,), (first,) = self._own_kept(binding), self._first_states(binding)
        cont, y, top_diff = binding.bottoms[1][..., None], binding.tops[0], binding.top_diffs[0]
        dz = self._dz[0](binding).view("float32").reshape(hidden.shape)
        dy = self._dy(binding).view("float32").reshape(hidden.shape)
        carried, some = self._temporary(binding).view("float32").reshape(8, *first.shape)[:2]
        pack, back = self._going_back(binding, [dz], carried)
        weight, _ = self._named(binding.params).more
        dweight, dbias = self._named(binding.param_diffs).more
        pack += self._output_back.calls(binding, dy, weight, dz)
        if dweight is not None:
            pack += self._output_diff.calls(binding, dy, hidden, dweight)
        prepare = in_a_row(pack)
        finish = in_a_row(list(self._gradients(binding, [dz], hidden, first)))
        steps = range(self._steps)

        def run() -> None:
            np.multiply(y, y, out=dy)
            np.subtract(1, dy, out=dy)
            np.multiply(dy, top_diff, out=dy)
            prepare()
            if dbias is not None:
                np.sum(dy, axis=(0, 1), out=dbias)
            carried.fill(0)
            for t in reversed(steps):
                np.add(dz[t], carried, out=dz[t])
                np.multiply(hidden[t], hidden[t], out=some)
                np.subtract(1, some, out=some)
                np.multiply(dz[t], some, out=dz[t])
                back[t]()
                np.multiply(carried, cont[t], out=carried)
            finish()

        return run
