"""Shaped graph and weights -> ONNX model, checked and proven.

    model = export(graph, params, batch="dynamic", metadata=provenance(net_file, [weights_file]))
    proof = parity(model, Forward(graph, params, backend))
    print(proof.table())
    save(model, path)

onnx and onnxruntime are imported when one of these names is first used, not with the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netc.export.batch import batch_size, with_batch
    from netc.export.builder import InvalidLowering
    from netc.export.forward import Forward
    from netc.export.model import export, lower_layer, provenance, save
    from netc.export.proof import Draw, OutputParity, Parity, Regions, parity
    from netc.export.session import DEFAULT_OPSET, OLDEST_OPSET, Session, latest_opset

_HOMES = {
    "batch": ("batch_size", "with_batch"),
    "builder": ("InvalidLowering",),
    "forward": ("Forward",),
    "model": ("export", "lower_layer", "provenance", "save"),
    "proof": ("Draw", "OutputParity", "Parity", "Regions", "parity"),
    "session": ("DEFAULT_OPSET", "OLDEST_OPSET", "Session", "latest_opset"),
}

__all__ = [
    "DEFAULT_OPSET",
    "OLDEST_OPSET",
    "Draw",
    "Forward",
    "InvalidLowering",
    "OutputParity",
    "Parity",
    "Regions",
    "Session",
    "batch_size",
    "export",
    "latest_opset",
    "lower_layer",
    "parity",
    "provenance",
    "save",
    "with_batch",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"netc.export.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
