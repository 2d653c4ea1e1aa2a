"""No stage names a layer type, apart from the types themselves, kernels, and what is told below.

A ladder on the type (`if type == "BatchNorm"`) says that the layer lacks a method or a fact. Every
string and every imported class outside netc/layers is read from the source and looked up.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from netc.layers import registry

ROOT = Path(__file__).resolve().parents[1]

# Folders that may name any type: the types, and the kernels and fusion tables of backends.
FREE = ("netc/layers", "netc/backends")

# file or folder: (the names, why). An entry that nothing needs any more is an error.
ALLOWED: dict[str, tuple[str, str]] = {
    "netc/data": (
        "AnnotatedData BoxData CPMData Data DataHeatmap DenseImageData DetectionData EvalData "
        "FrcnnRoiData HDF5Data HDF5Output ImageData ImageGtData ImageLabelmapData ImageSegData "
        "LaneData MCWindowData SegData SparseData VideoClipData VideoData VideoSampleData "
        "VideoSegmentationData VideoSnippetData VideoWithVoxelTruthData WindowData "
        "WindowSegData",
        "each reads or writes the files of one type, whose settings are its own",
    ),
    "netc/export/builder.py": ("Reshape Transpose", "operators of ONNX"),
    "netc/export/model.py": ("Input", "the inputs of a net of one layer"),
    "netc/graph/deploy.py": ("Input", "the inputs of a net for inference"),
    "netc/pycaffe/input_arrays.py": ("MemoryData", "Net.set_input_arrays is about this type"),
    "netc/pycaffe/layout.py": ("Split", "the layers that Caffe inserts and pycaffe shows"),
    "netc/pycaffe/net.py": ("Input", "the inputs of a net, which pycaffe lists"),
    "netc/pycaffe/net_spec.py": ("Parameter", "how the names of messages end"),
    "netc/report/onnx_forms.py": ("Reshape", "an operator of ONNX"),
    "netc/schema/frcnn.py": (
        "FrcnnAnchorTarget FrcnnProposal FrcnnProposalTarget FrcnnRoiData",
        "the layers of a fork that follow a file of settings, which a net names once",
    ),
    "netc/schema/upgrade.py": (
        "AbsVal Accuracy ArgMax BN BNLL BatchNorm Concat ContrastiveLoss Convolution "
        "Convolution3D Crop Data Deconvolution Deconvolution3D DenseCRF Dropout DummyData "
        "Eltwise EltwiseAccuracy EltwiseAffine EuclideanLoss Exp Flatten HDF5Data HDF5Output "
        "HingeLoss Im2col ImageData ImageSegData InfogainLoss InnerProduct Input Interp LRN "
        "Local MCWindowData MVN MemoryData MultiStageMeanfield MultinomialLogisticLoss "
        "Normalize Pooling Pooling3D Power ROIPooling ReLU Scale Sigmoid "
        "SigmoidCrossEntropyLoss Silence Slice Softmax SoftmaxWithLoss Split TanH Threshold "
        "TripletLoss Unpooling VideoData VideoSegmentationData VideoWithVoxelTruthData "
        "VoxelSoftmaxWithLoss WindowData WindowSegData",
        "what the names of older formats mean, and where a fork's settings of one type belong",
    ),
}


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield the layer types that a module names: in strings, and as classes that it imports."""
    types = registry.layer_types()
    classes = {kind.cls.__name__ for kind in types.values()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in types:
            yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netc.layers."):
            for alias in node.names:
                if alias.name in classes:
                    yield node.lineno, alias.name


def owner(path: str) -> str:
    """Return the entry of ALLOWED that a file falls under, "" for none."""
    return next((e for e in ALLOWED if path == e or path.startswith(e + "/")), "")


def test_no_stage_names_a_type() -> None:
    found, used = [], set()
    for path in sorted((ROOT / "netc").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(FREE) or path.name.endswith("_pb2.py"):
            continue
        allowed = ALLOWED.get(owner(name), ("", ""))[0].split()
        for line, layer_type in names_in(path.read_text(encoding="utf-8")):
            used.add((owner(name), layer_type))
            if layer_type not in allowed:
                found.append(f"{name}:{line}: names the layer type {layer_type}")
    assert not found
    listed = {(entry, one) for entry, (names, _) in ALLOWED.items() for one in names.split()}
    assert not listed - used, "no longer needed"


def test_a_ladder_is_found() -> None:
    source = 'from netc.layers.softmax import Softmax, softmax\nif kind == "BatchNorm":\n    pass\n'
    assert sorted(names_in(source)) == [(1, "Softmax"), (2, "BatchNorm")]
