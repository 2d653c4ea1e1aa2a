"""Take over the lower layers of a trained net; compare with a net that starts afresh."""

import os
import tempfile

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2

learned = [dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)]
frozen = [dict(lr_mult=0)] * 2


def net(
    data: object,
    label: object = None,
    train: bool = True,
    classifier: str = "two",
    all: bool = True,
) -> str:
    n = caffe.NetSpec()
    n.data = data
    n.conv1 = L.Convolution(
        n.data, kernel_size=3, num_output=6, param=learned if all else frozen,
        weight_filler=dict(type="gaussian", std=0.01), bias_filler=dict(type="constant", value=0.1),
    )  # fmt: skip
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    top = n.drop = L.Dropout(n.pool1, in_place=True) if train else n.pool1
    fc = L.InnerProduct(top, num_output=2, param=learned, weight_filler=dict(type="xavier"))
    n[classifier] = fc
    if not train:
        n.probs = L.Softmax(fc)
    if label is not None:
        n.label = label
        n.loss = L.SoftmaxWithLoss(fc, n.label)
        n.acc = L.Accuracy(fc, n.label)
    with tempfile.NamedTemporaryFile(mode="w", delete=False, dir=".", suffix=".prototxt") as f:
        f.write(str(n.to_proto()))
        return f.name


def lines_net(train: bool = True, all: bool = False) -> str:
    """Straight lines, classes 0 and 1, from slanted ones, classes 2 and 3."""
    source = "lines_train.txt" if train else "lines_test.txt"
    data, label = L.ImageData(
        source=source, batch_size=16, is_color=False, ntop=2, transform_param=dict(scale=0.01)
    )
    return net(data, label, train, classifier="lines", all=all)


def solver(train: str, test: str | None = None, base_lr: float = 0.02) -> str:
    s = caffe_pb2.SolverParameter()
    s.train_net = train
    if test is not None:
        s.test_net.append(test)
        s.test_interval = 1000
        s.test_iter.append(2)
    s.iter_size = 1
    s.max_iter = 100000
    s.type = "SGD"
    s.base_lr = base_lr
    s.lr_policy = "step"
    s.gamma = 0.1
    s.stepsize = 20000
    s.momentum = 0.9
    s.random_seed = 5
    s.snapshot_prefix = os.path.join(".", "lines")
    with tempfile.NamedTemporaryFile(mode="w", delete=False, dir=".", suffix=".prototxt") as f:
        f.write(str(s))
        return f.name


def run(niter: int, solvers: list[tuple[str, caffe.SGDSolver]]) -> tuple[dict, dict, dict]:
    blobs = ("loss", "acc")
    loss, acc = ({name: np.zeros(niter) for name, _ in solvers} for _ in blobs)
    for it in range(niter):
        for name, s in solvers:
            s.step(1)
            loss[name][it], acc[name][it] = (s.net.blobs[b].data.copy() for b in blobs)
    weights = {}
    for name, s in solvers:
        weights[name] = os.path.join(".", f"weights.{name}.caffemodel")
        s.net.save(weights[name])
    return loss, acc, weights


base = "bars.caffemodel"
tuned = caffe.get_solver(solver(lines_net()))
tuned.net.copy_from(base)
scratch = caffe.get_solver(solver(lines_net(all=True)))
before = tuned.net.params["conv1"][0].data.copy()
loss, acc, weights = run(40, [("pretrained", tuned), ("scratch", scratch)])
assert (tuned.net.params["conv1"][0].data == before).all(), "frozen"
assert loss["pretrained"][-10:].mean() < loss["scratch"][-10:].mean()


def evaluate(weights: str, iters: int = 3) -> tuple[caffe.Net, float]:
    test_net = caffe.Net(lines_net(train=False), weights, caffe.TEST)
    accuracy = 0.0
    for _ in range(iters):
        accuracy += test_net.forward()["acc"]
    return test_net, accuracy / iters


test_net, accuracy = evaluate(weights["pretrained"])
print("accuracy, tuned:", accuracy)
assert accuracy > 0.9

# All layers, from where the last run ended.
whole = caffe.get_solver(solver(lines_net(all=True), base_lr=0.001))
whole.net.copy_from(weights["pretrained"])
run(10, [("end-to-end", whole)])
assert not (whole.net.params["conv1"][0].data == before).all()

# A net for single images, on the same weights.
single = caffe.Net(
    net(L.Input(shape=dict(dim=[1, 1, 8, 8])), train=False, classifier="lines"), caffe.TEST
)
single.share_with(test_net)
for i in range(16):
    single.blobs["data"].data[...] = test_net.blobs["data"].data[i]
    np.testing.assert_allclose(single.forward()["probs"][0], test_net.blobs["probs"].data[i],
                               rtol=1e-4, atol=1e-6)  # fmt: skip
