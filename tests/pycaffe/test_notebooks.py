"""Programs as they are in pycaffe's notebooks, on small data; they say `import caffe`.

Each file of the folder `notebooks` that is not a Python layer is a program, with its own asserts.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.data import write_datums
from netc.schema import netc_pb2
from tests.pycaffe.test_classifier import NET
from tests.pycaffe.test_scripts import (
    BODY,
    CONV_SCORE,
    DEPLOY,
    PROB,
    picture,
    write_files,
)

PROGRAMS = Path(__file__).with_name("notebooks")
LAYERS = {"multilabel_layers", "loss_layer", "region_layers"}
MEAN = 40

CONV = """
layer { name: "input" type: "Input" top: "data"
        input_param { shape { dim: 1 dim: 1 dim: 12 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
        num_output: 3 kernel_size: 5 weight_filler { type: "gaussian" std: 0.01 }
        bias_filler { type: "constant" } } }
"""
TOWER = """
layer {{ name: "conv{p}" type: "Convolution" bottom: "{data}" top: "conv{p}"
        param {{ name: "conv_w" }} param {{ name: "conv_b" }}
        convolution_param {{ num_output: 6 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu{p}" type: "ReLU" bottom: "conv{p}" top: "conv{p}" }}
layer {{ name: "feat{p}" type: "InnerProduct" bottom: "conv{p}" top: "feat{p}"
        param {{ name: "feat_w" }} param {{ name: "feat_b" }}
        inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
"""
PAIRS = (
    """
layer { name: "pair_data" type: "Data" top: "pair_data" top: "sim"
        data_param { source: "pairs" batch_size: 32 backend: LMDB }
        transform_param { scale: 0.00390625 } }
layer { name: "slice_pair" type: "Slice" bottom: "pair_data" top: "data" top: "data_p"
        slice_param { slice_dim: 1 slice_point: 1 } }
"""
    + TOWER.format(p="", data="data")
    + TOWER.format(p="_p", data="data_p")
    + """
layer { name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "sim"
        top: "loss" contrastive_loss_param { margin: 1 } }
"""
)
WINDOWS = """filename,ymin,xmin,ymax,xmax
spot.png,0,0,10,10
spot.png,10,16,30,38
spot.png,8,12,20,26
spot.png,2,2,28,36
spot.png,22,0,30,12
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the programs find in their folder: data, nets, and weights."""
    folder = tmp_path_factory.mktemp("notebooks")
    solver_file = write_files(folder)
    net = folder / "train_test.prototxt"
    net.write_text(net.read_text().replace("scale: 0.01", f"scale: 0.01 mean_value: {MEAN}"))
    solver = caffe.SGDSolver(solver_file)
    solver.step(60)
    solver.net.save(folder / "bars.caffemodel")
    np.save(folder / "mean.npy", np.full((1, 8, 8), MEAN, np.float64))
    (folder / "words.txt").write_text("lying\nstanding\nfalling\nrising\n")
    (folder / "conv.prototxt").write_text(CONV)
    head = BODY.partition('layer { name: "score"')[0]
    wide = DEPLOY.replace("dim: 5 dim: 1 dim: 8 dim: 8", "dim: 1 dim: 1 dim: 8 dim: 16")
    (folder / "deploy_full_conv.prototxt").write_text(wide + head + CONV_SCORE + PROB)

    rng = np.random.default_rng(1)
    pictures = [picture(rng, i % 4) for i in range(64)]
    np.save(folder / "pictures.npy", np.array(pictures)[:, 0])
    np.save(folder / "labels.npy", np.arange(64) % 4)
    for i, image in enumerate(pictures):
        cv2.imwrite(str(folder / f"bar{i}.png"), image[0])
    shutil.copy(folder / "bar1.png", folder / "bar.png")
    lines = [f"bar{i}.png {i % 4 // 2}\n" for i in range(64)]
    (folder / "lines_train.txt").write_text("".join(lines[:48]))
    (folder / "lines_test.txt").write_text("".join(lines[48:]))

    _write_pairs(folder, pictures, rng)
    _write_detection(folder)
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, folder)
    return folder


def _write_pairs(folder: Path, pictures: list[np.ndarray], rng: np.random.Generator) -> None:
    pairs = []
    for i in range(256):
        a, b = rng.integers(64, size=2)
        if i % 2:
            b = (b - b % 4 + a % 4) % 64
        images = np.concatenate([pictures[a], pictures[b]])
        pairs.append(
            netc_pb2.Datum(
                channels=2, height=8, width=8, data=images.tobytes(), label=int(a % 4 == b % 4)
            )
        )
    write_datums(folder / "pairs", pairs)
    (folder / "siamese_train.prototxt").write_text(PAIRS)
    (folder / "siamese_solver.prototxt").write_text(
        'train_net: "siamese_train.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" '
        'max_iter: 1000 random_seed: 1 snapshot_prefix: "siamese"'
    )
    (folder / "siamese.prototxt").write_text(DEPLOY + TOWER.format(p="", data="data"))


def _write_detection(folder: Path) -> None:
    (folder / "deploy_rgb.prototxt").write_text(NET.replace("dim: 4 dim: 4 }", "dim: 8 dim: 8 }"))
    net = caffe.Net(str(folder / "deploy_rgb.prototxt"), caffe.TEST)
    net.params["ip"][0].data[...] = np.eye(3)
    net.save(folder / "red.caffemodel")
    image = np.full((30, 40, 3), 30, np.uint8)
    image[8:20, 12:26] = (0, 0, 255)
    cv2.imwrite(str(folder / "spot.png"), image)
    (folder / "windows.csv").write_text(WINDOWS)


@pytest.fixture
def _caffe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caffe.install()
    yield
    for name in list(sys.modules):
        if name.split(".")[0] == "caffe" or name in LAYERS:
            del sys.modules[name]


@pytest.mark.usefixtures("_caffe")
@pytest.mark.parametrize("program", sorted({p.stem for p in PROGRAMS.glob("*.py")} - LAYERS))
def test_program(program: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path(f"{program}.py", run_name="__main__")
