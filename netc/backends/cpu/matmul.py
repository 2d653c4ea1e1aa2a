"""MatMul: batches of matrices, each perhaps transposed."""

from __future__ import annotations

from math import prod

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Kernel, in_a_row, positive, quick
from netc.backends.cpu.onednn import Desc, primitive
from netc.layers.products import MatMul
from netc.layers.types import Array, Reads


def _seen(shape: tuple[int, ...], turned: bool) -> Desc:
    """Return a batch of matrices (B, rows, columns), or of their transposes."""
    matrices, rows, columns = prod(shape[:-2]), *shape[-2:]
    if not turned:
        return Desc.plain((matrices, rows, columns))
    return Desc.strided((matrices, columns, rows), (rows * columns, 1, columns))


class MatMulKernel(Kernel):
    """y = a b; da = dy b^T and db = a^T dy.

    The library writes no transposes: where a bottom is one, its gradient is b dy^T or dy^T a.
    """

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, MatMul)
        shapes = [positive(shape) for shape in job.bottoms]
        turns = layer.transpose_a, layer.transpose_b
        stored = [_seen(shape, False) for shape in shapes]
        # As the product takes them, and their transposes.
        a, b = (_seen(shape, turn) for shape, turn in zip(shapes, turns, strict=True))
        a_t, b_t = (_seen(shape, not turn) for shape, turn in zip(shapes, turns, strict=True))
        y, y_t = (_seen(positive(job.tops[0]), turn) for turn in (False, True))
        self._forward = _Product(a, b, y)
        if job.wants_bottoms[0]:
            self._to_a = _Product(b, y_t, stored[0]) if turns[0] else _Product(y, b_t, stored[0])
        if job.wants_bottoms[1]:
            self._to_b = _Product(y_t, a, stored[1]) if turns[1] else _Product(a_t, y, stored[1])
        self._turns = turns
        self.terms = Terms(
            bottoms=(None, None),
            tops=(None,),
            params=(),
            reads=Reads.BOTTOM if job.train else Reads.NOTHING,
        )

    def forward(self, binding: Binding) -> Prepared:
        a, b = binding.bottoms
        return self._forward.bind(a, b, binding.tops[0])

    def backward(self, binding: Binding) -> Prepared:
        (a, b), (da, db), dy = binding.bottoms, binding.bottom_diffs, binding.top_diffs[0]
        calls: list[Prepared] = []
        if da is not None:
            calls.append(self._to_a.bind(*((b, dy) if self._turns[0] else (dy, b)), da))
        if db is not None:
            calls.append(self._to_b.bind(*((dy, a) if self._turns[1] else (a, dy)), db))
        return in_a_row(calls)


class _Product:
    def __init__(self, a: Desc, b: Desc, out: Desc) -> None:
        self._descs = a, b, out
        self._primitive = quick([primitive("matmul", a, b, None, out)], "product of matrices")

    def bind(self, a: Array, b: Array, out: Array) -> Prepared:
        arrays = zip(self._descs, (a, b, out), strict=True)
        return self._primitive.bind(
            dict(zip((onednn.SRC, onednn.WEIGHTS, onednn.DST), arrays, strict=True))
        )
