"""Every net in zoo/ and every solver in solvers/ compiles, with the sizes that its paper gives.

The files run from a copy, beside databases of one black image each: a shape is all that compiling
needs of the data.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import make_zoo
import numpy as np
import pytest
from compute_mean import write_mean
from datum_lmdb import raw_datum, write_database

from netc.assemble import load_graph
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.schema import netc_pb2, read_net, read_solver

ROOT = Path(__file__).resolve().parents[1]
NETS = sorted(
    str(path.relative_to(ROOT))
    for kind in ("*.prototxt", "*.yaml")
    for path in (ROOT / "zoo").rglob(kind)
)
SOLVERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "solvers").iterdir())

# build/<folder>: the shape of its images as they are stored.
IMAGES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 256, 256),
}

# Learned numbers without batch norm's statistics. AlexNet, VGG-16, ResNet-50: the usual figures
# (for ResNet-50 plus the 64 biases of conv1). GoogLeNet: with both auxiliary classifiers. The
# small ones: by hand from their layers.
PARAMS = {
    "lenet": 431_080,
    "cifar10_quick": 145_578,
    "alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "vgg16": 138_357_544,
    "googlenet": 13_378_280,
    "resnet50": 25_557_032 + 64,
    "digits": 200 + 9_050 + 20_100 + 1_010,
    "digits_0_4": 200 + 9_050 + 20_100 + 505,
    "digits_5_9": 200 + 9_050 + 20_100 + 505,
}
# The shape of some blobs at batch size N, from the papers' tables.
BLOBS = {
    "lenet": {"pool1": (20, 12, 12), "pool2": (50, 4, 4), "ip2": (10,)},
    "cifar10_quick": {"pool1": (32, 16, 16), "pool2": (32, 8, 8), "pool3": (64, 4, 4)},
    "alexnet": {"conv1": (96, 55, 55), "pool2": (256, 13, 13), "pool5": (256, 6, 6)},
    "caffenet": {"conv1": (96, 55, 55), "norm2": (256, 13, 13), "pool5": (256, 6, 6)},
    "vgg16": {"pool1": (64, 112, 112), "pool5": (512, 7, 7), "fc8": (1000,)},
    "googlenet": {
        "pool2/3x3_s2": (192, 28, 28),
        "inception_3b/output": (480, 28, 28),
        "inception_4e/output": (832, 14, 14),
        "inception_5b/output": (1024, 7, 7),
        "pool5/7x7_s1": (1024, 1, 1),
    },
    "resnet50": {"pool1": (64, 56, 56), "res2c": (256, 56, 56), "res5c": (2048, 7, 7)},
    "digits": {"pool1": (20, 4, 4), "pool2": (50, 2, 2), "ip2": (10,)},
    "digits_0_4": {"ip2": (5,)},
    "digits_5_9": {"ip2": (5,)},
}


def net_name(path: str) -> str:
    return Path(path).stem.removesuffix("_train_test")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of zoo/ and solvers/, with the data that the nets name."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "zoo", root / "zoo")
    shutil.copytree(ROOT / "solvers", root / "solvers")
    for path in NETS:
        net: netc_pb2.NetParameter = read_net(root / path).message
        for layer in net.layer:
            if layer.type != "Data":
                continue
            database = (root / path).parent / layer.data_param.source
            image = np.zeros(IMAGES[database.resolve().parent.name], np.uint8)
            write_database(database.resolve(), [("", raw_datum(image, 0))], overwrite=True)
            if layer.transform_param.mean_file:
                mean = (root / path).parent / layer.transform_param.mean_file
                write_mean(image.astype(np.float32), mean.resolve())
    return root


def count_params(graph: Graph) -> int:
    statistics = {
        use.param for node in graph.nodes if node.type == "BatchNorm" for use in node.params
    }
    return sum(math.prod(p.shape) for i, p in enumerate(graph.params) if i not in statistics)


def test_the_tables_name_every_net() -> None:
    assert sorted(net_name(path) for path in NETS) == sorted(PARAMS) == sorted(BLOBS)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("path", NETS)
def test_a_net_compiles_with_the_known_sizes(path: str, phase: Phase, copy: Path) -> None:
    graph = load_graph(copy / path, phase)
    assert count_params(graph) == PARAMS[net_name(path)]
    shapes = {blob.name: blob.shape for blob in graph.blobs.values()}
    expected = BLOBS[net_name(path)]
    assert {name: shapes[name][1:] for name in expected} == expected
    # What is left over at the end is what the net is for: losses, and accuracies in tests.
    left_over = {graph.blobs[key].name for key, readers in graph.readers.items() if not readers}
    assert all(shapes[name] == () for name in left_over), left_over
    assert any("accuracy" in name or "top-" in name for name in left_over) == (phase is Phase.TEST)


@pytest.mark.parametrize("path", SOLVERS)
def test_a_solver_names_a_net_of_the_zoo(path: str, copy: Path) -> None:
    solver: netc_pb2.SolverParameter = read_solver(copy / path).message
    net = ((copy / path).parent / solver.net).resolve()
    assert str(net.relative_to(copy.resolve())) in NETS
    # Tests of ImageNet, MNIST and the digits see every image once; CIFAR-10 may be a part of it.
    test_images = {"imagenet": 50_000, "mnist": 10_000, "cifar10": 10_000, "digits": 355}
    test_images |= {"digits_0_4": 178, "digits_5_9": 177}
    batch = next(
        layer.data_param.batch_size
        for layer in read_net(net).message.layer
        if layer.type == "Data" and any(rule.phase == netc_pb2.TEST for rule in layer.include)
    )
    data = Path(solver.snapshot_prefix).parent.name
    images = test_images[net_name(path) if data == "digits" else data]
    assert list(solver.test_iter) == [images // batch]
    assert images % batch == 0


def test_the_long_nets_are_what_their_script_writes() -> None:
    for name, build in make_zoo.NETS.items():
        text = (ROOT / "zoo" / name / f"{name}_train_test.prototxt").read_text(encoding="utf-8")
        assert text == build(), "stale: run tools/make_zoo.py"
