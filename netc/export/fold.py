"""One operator for what Caffe needs two layers for: BatchNorm, then Scale.

ONNX's BatchNormalization has a scale and a bias of its own, and tools expect to find them there.
Only results that the text has no name for are folded away (layers in place): a blob that somebody
can ask for stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from netc.export.builder import Array, Operator, Tensor


def fold_scales(operators: Sequence[Operator], named: Collection[Tensor]) -> list[Operator]:
    """Return the operators, a Mul or Add per channel made part of the BatchNormalization before.

    `named` are the tensors that must stay.
    """
    readers = Counter(tensor for operator in operators for tensor in operator.inputs if tensor)
    norms: dict[Tensor, Operator] = {}
    kept: dict[Operator, None] = {}
    for operator in operators:
        found = _per_channel(operator)
        if found and found[0] in norms and readers[found[0]] == 1 and found[0] not in named:
            norm = norms[found[0]]
            del kept[norm]
            operator = _folded(norm, operator, found[1])
        if operator.type == "BatchNormalization" and len(operator.outputs) == 1:
            norms[operator.outputs[0]] = operator
        kept[operator] = None
    return list(kept)


def _per_channel(operator: Operator) -> tuple[Tensor, Tensor] | None:
    """Return (computed, constant) for a Mul or Add with one value per channel, else None."""
    if operator.type not in ("Mul", "Add"):
        return None
    constants = [t for t in operator.inputs if t is not None and t.data is not None]
    computed = [t for t in operator.inputs if t is not None and t.data is None]
    if len(constants) != 1 or len(computed) != 1 or computed[0].known is None:
        return None
    data, shape = constants[0].data, computed[0].known
    if data is None or data.ndim > len(shape) or len(shape) < 2:
        return None
    aligned = (1,) * (len(shape) - data.ndim) + data.shape
    varies = [axis for axis, size in enumerate(aligned) if size != 1]
    return (computed[0], constants[0]) if varies in ([], [1]) else None


def _folded(norm: Operator, operator: Operator, constant: Tensor) -> Operator:
    x, scale, bias, mean, variance = norm.inputs
    assert scale is not None
    assert bias is not None
    if operator.type == "Mul":
        scale, bias = (
            _combined(np.multiply, scale, constant),
            _combined(np.multiply, bias, constant),
        )
    else:
        bias = _combined(np.add, bias, constant)
    inputs = (x, scale, bias, mean, variance)
    return Operator(norm.type, inputs, operator.outputs, norm.attributes, operator.layer)


def _combined(compute: np.ufunc, own: Tensor, constant: Tensor) -> Tensor:
    """Return own (+ or *) constant; where the result is the constant it is that param, by name."""
    assert own.data is not None
    assert constant.data is not None
    values: Array = constant.data.reshape(-1)
    data = compute(own.data, values)
    origin = (constant.origin or constant) if np.array_equal(data, values) else None
    return Tensor(data.shape, data.shape, data.dtype, data, origin=origin)
