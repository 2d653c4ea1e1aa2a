"""Products of matrices."""

from __future__ import annotations

from netc.backends.base import Binding, Prepared
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Mover, Scratch, quick
from netc.backends.cpu.onednn import Desc, PostOps, any_layout, primitive
from netc.layers.types import Array


class Product:
    """out (M, N) = a (M, K) @ b (K, N) + bias (1, N).

    `pack` copies b to where the library wants it; then `run` may be bound to many a and out.
    """

    def __init__(
        self,
        a: Desc,
        b: Desc,
        out: Desc,
        scratch: Scratch,
        *,
        bias: Desc | None = None,
        post: PostOps | None = None,
    ) -> None:
        self._a, self._out, self._bias = a, out, bias
        self._product = quick(
            (
                primitive("matmul", a, wanted, bias, out, post=post)
                for wanted in (any_layout(b.dims), b)
            ),
            "product of matrices",
        )
        self._b = Mover(b, self._product.desc(onednn.WEIGHTS_MD), scratch)

    def pack(self, binding: Binding, b: Array) -> list[Prepared]:
        """Return the calls to make before `run`, as often as b changes."""
        return self._b.before(binding, b)

    def run(
        self, binding: Binding, a: Array, b: Array, out: Array, bias: Array | None = None
    ) -> Prepared:
        """Return the call that multiplies."""
        arrays = {
            onednn.SRC: (self._a, a),
            onednn.WEIGHTS: (self._b.wanted, self._b.array(binding, b)),
            onednn.DST: (self._out, out),
        }
        if self._bias is not None:
            arrays[onednn.BIAS] = (self._bias, bias)
        return self._product.bind(arrays)

    def calls(
        self, binding: Binding, a: Array, b: Array, out: Array, bias: Array | None = None
    ) -> list[Prepared]:
        """Return the calls for a single product."""
        return [*self.pack(binding, b), self.run(binding, a, b, out, bias)]


def transposed(rows: int, columns: int) -> Desc:
    """Return how the transpose of a matrix (rows, columns) in C order lies."""
    return Desc.strided((columns, rows), (1, columns))
