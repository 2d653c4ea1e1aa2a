"""One call that checks a layer's ONNX form: ONNX Runtime gives the numbers of the forward rule.

assert check_lowering(ReLU(), [distinct(2, 3)]) == ["Relu"]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from netc.export import DEFAULT_OPSET, OLDEST_OPSET, Session, latest_opset, lower_layer
from netc.layers.types import BlobType, Layer
from netc.report.onnx_forms import onnx_operators
from tests.support.audit import note
from tests.support.layer_harness import assert_close, forward, infer, smooth


def check_lowering(
    layer: Layer,
    bottoms: Sequence[np.ndarray],
    params: Sequence[np.ndarray] | None = None,
    *,
    other_batch: Sequence[np.ndarray] | None = None,
    opset: int | None = None,
) -> list[str]:
    """Check the ONNX form in the oldest, the usual and the newest opset; return its operators.

    `other_batch` gives bottoms of another batch size: a model with that size left open, made from
    the shapes of `bottoms`, must then be right for both. The operators are those of the usual
    opset, or of `opset`.
    """
    shapes = [BlobType(np.shape(b)) for b in bottoms]
    if params is None:
        found = infer(layer, bottoms).params
        params = [smooth(*p.shape, seed=i + 1) for i, p in enumerate(found)]
    weights = [np.asarray(p, np.float32) for p in params]
    runs = [bottoms] if other_batch is None else [bottoms, other_batch]
    usual = opset or DEFAULT_OPSET
    operators: list[str] = []
    for number in sorted({OLDEST_OPSET, usual, latest_opset()}):
        model = lower_layer(layer, shapes, weights, opset=number)
        _compare(layer, model, bottoms, weights, f"opset {number}")
        _check_told(layer, model)
        if number == usual:
            operators = [node.op_type for node in model.graph.node]
        if other_batch is not None:
            model = lower_layer(layer, shapes, weights, opset=number, batch="dynamic")
            for given in runs:
                _compare(layer, model, given, weights, f"opset {number}, open batch size")
    note("onnx", layer.type)
    return operators


def _check_told(layer: Layer, model: onnx.ModelProto) -> None:
    """Check that the catalogue names every operator that the type is lowered to."""
    told = onnx_operators(type(layer))
    assert told is not None, f"the catalogue says that {layer.type} has no ONNX form"
    # An Identity gives a top that is a bottom or a constant its name.
    unnamed = {node.op_type for node in model.graph.node} - {"Identity", *told}
    assert not unnamed, f"the catalogue does not name {sorted(unnamed)} of {layer.type}"


def _compare(
    layer: Layer,
    model: onnx.ModelProto,
    bottoms: Sequence[np.ndarray],
    params: Sequence[np.ndarray],
    what: str,
) -> None:
    values = [np.asarray(b, np.float32) for b in bottoms]
    tops = forward(layer, values, params).tops
    names = [i.name for i in model.graph.input]
    got = Session(model, threads=1).run(dict(zip(names, values, strict=True)))
    assert len(got) == len(tops)
    for index, top in enumerate(tops):
        assert_close(got[f"top{index}"], top, f"top {index} in ONNX Runtime, {what}")
