"""A data layer in Python, for several labels per image."""

import os

import caffe
import numpy as np
from caffe import layers as L
from multilabel_layers import check_params


def multilabel_net(data_layer_params: dict, datalayer: str) -> str:
    n = caffe.NetSpec()
    n.data, n.label = L.Python(
        module="multilabel_layers", layer=datalayer, ntop=2, param_str=str(data_layer_params)
    )
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=8, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=2, weight_filler=dict(type="xavier"))
    n.loss = L.SigmoidCrossEntropyLoss(n.score, n.label)
    return str(n.to_proto())


workdir = "./multilabel"
os.makedirs(workdir, exist_ok=True)
for split in ("train", "val"):
    with open(os.path.join(workdir, f"{split}net.prototxt"), "w") as f:
        settings = dict(batch_size=16, im_shape=[8, 8], split=split, root=".")
        check_params(settings)
        f.write(multilabel_net(settings, "BarsDataLayerSync"))
with open(os.path.join(workdir, "solver.prototxt"), "w") as f:
    f.write(
        'train_net: "./multilabel/trainnet.prototxt" test_net: "./multilabel/valnet.prototxt" '
        "test_iter: 1 test_interval: 250 base_lr: 0.1 display: 250 momentum: 0.9 max_iter: 20000 "
        'lr_policy: "step" gamma: 0.1 stepsize: 20000 snapshot: 5000 random_seed: 2 '
        'snapshot_prefix: "snapshot" solver_mode: GPU'
    )
solver = caffe.SGDSolver(os.path.join(workdir, "solver.prototxt"))
solver.test_nets[0].share_with(solver.net)
solver.step(1)
assert solver.net.blobs["data"].data.shape == (16, 1, 8, 8)


def hamming_distance(gt: np.ndarray, est: np.ndarray) -> float:
    return sum(1 for g, e in zip(gt, est, strict=True) if g == e) / float(len(gt))


def check_accuracy(net: caffe.Net, num_batches: int, batch_size: int = 16) -> float:
    acc = 0.0
    for _ in range(num_batches):
        net.forward()
        gts = net.blobs["label"].data
        ests = net.blobs["score"].data > 0
        for gt, est in zip(gts, ests, strict=True):
            acc += hamming_distance(gt, est)
    return acc / (num_batches * batch_size)


def check_baseline_accuracy(net: caffe.Net, num_batches: int, batch_size: int = 16) -> float:
    acc = 0.0
    for _ in range(num_batches):
        net.forward()
        gts = net.blobs["label"].data
        for gt in gts:
            acc += hamming_distance(gt, np.zeros_like(gt))
    return acc / (num_batches * batch_size)


for itt in range(4):
    solver.step(25)
    print(f"itt:{itt * 25}", f"accuracy:{check_accuracy(solver.test_nets[0], 2):.4f}")
assert check_accuracy(solver.test_nets[0], 4) > 0.95
assert check_baseline_accuracy(solver.test_nets[0], 4) < 0.7
assert type(solver.net.layers[0]).__name__ == "BarsDataLayerSync"
