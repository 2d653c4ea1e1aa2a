"""ONNX Runtime, quiet: which opsets it runs, and a model made ready to run on the CPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, defs, helper

from netc.errors import NetcError, fail
from netc.export.builder import ir_version

#: The oldest opset that the lowering rules write for.
OLDEST_OPSET = 13

#: The opset unless the user names another. It is of 2022, so that whatever people deploy with reads
#: it (ONNX Runtime from 1.12, TensorRT from 8.6), and it has every operator that the types need.
DEFAULT_OPSET = 17

# ONNX Runtime's levels: 2 is warnings, 3 errors. Its warnings speak of its own optimisations.
_ERRORS = 3


class Session:
    """A model in ONNX Runtime on the CPU.

    `threads` is the number of threads within an operator, 0 for ONNX Runtime's own choice. Raises
    NetcError for a model that ONNX Runtime does not accept.
    """

    def __init__(self, model: onnx.ModelProto | bytes, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        content = model if isinstance(model, bytes) else model.SerializeToString()
        with _said_in_words("does not accept the model"):
            self._session: Any = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Return the outputs by name. Raises NetcError where ONNX Runtime fails."""
        with _said_in_words("fails to run the model"):
            results = self._session.run(None, dict(inputs))
        return dict(zip(self._outputs, results, strict=True))


@contextlib.contextmanager
def _said_in_words(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its exceptions have no common base but this
        raise fail(f"ONNX Runtime {what}", got=str(error).strip()) from error


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
        except NetcError:
            continue
        return opset
    return OLDEST_OPSET
