"""pycaffe on top of netc: `import netc.pycaffe as caffe`, and scripts for Caffe run.

    Net(file, phase, weights=...)      a net: blobs, params, forward, backward, save
    get_solver(file), SGDSolver(file)  training: step, solve, snapshot
    set_random_seed(n)                 the same fillers and dropout in every run
    NetSpec, layers, params, to_proto  nets written in Python
    io.Transformer, Classifier         images in, class probabilities out
    Detector                           windows of images in, scores out
    draw, coord_map                    pictures of nets, coordinates of blobs
    install()                          let `import caffe` mean this package

What differs from pycaffe is told in `docs/pycaffe.md`. Mistakes are a `netc.errors.NetcError` that
says what to do, and of pycaffe's class of exception besides.
"""

from netc.pycaffe import coord_map, draw, io, proto
from netc.pycaffe.blob import Blob, Layer
from netc.pycaffe.classifier import Classifier
from netc.pycaffe.code import allow_python_layers, install
from netc.pycaffe.detector import Detector
from netc.pycaffe.net import Net
from netc.pycaffe.net_spec import NetSpec, layers, params, to_proto
from netc.pycaffe.settings import (
    NCCL,
    TEST,
    TRAIN,
    has_nccl,
    init_log,
    layer_type_list,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    set_threads,
    solver_count,
    solver_rank,
)
from netc.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    AdamWSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from netc.pycaffe.timing import Timer

#: The version of Caffe whose Python interface this is. netc's own is `netc.__version__`.
__version__ = "1.0.0"

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "AdamWSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "__version__",
    "allow_python_layers",
    "coord_map",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "install",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "params",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "set_threads",
    "solver_count",
    "solver_rank",
    "to_proto",
]
