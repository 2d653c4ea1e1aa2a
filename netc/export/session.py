"""ONNX Runtime, quiet: which opsets it runs, and a model made ready to run on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, defs, helper

from netc.export.builder import ir_version

#: The oldest opset that the lowering rules write for.
OLDEST_OPSET = 13

#: The opset unless the user names another: every operator that the layer types need is in it, and it
#: is of 2022, so that the tools people deploy with (TensorRT 8.6, OpenVINO 2022, OpenCV 4.7, ONNX
#: Runtime 1.12 and whatever is newer) read it.
DEFAULT_OPSET = 17

# ONNX Runtime's levels: 2 is warnings, 3 errors. Its warnings speak of its own optimisations.
_ERRORS = 3


class Session:
    """A model in ONNX Runtime on the CPU.

    `threads` is the number of threads within an operator, 0 for ONNX Runtime's own choice.
    """

    def __init__(self, model: onnx.ModelProto | bytes, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self._session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Return the outputs by name."""
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))


@functools.cache
def latest_opset() -> int:
    """Return the newest opset that both the installed onnx and ONNX Runtime have released.

    ONNX Runtime publishes no list: it is asked with a net of one node.
    """
    for opset in range(defs.onnx_opset_version(), OLDEST_OPSET, -1):
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [x], [y])
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version(opset),
        )
        try:
            Session(model, threads=1)
        except Exception:  # noqa: S112 - its exceptions have no common base but this
            continue
        return opset
    return OLDEST_OPSET
