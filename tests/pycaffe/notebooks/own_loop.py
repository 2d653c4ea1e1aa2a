"""A training loop of one's own: a loss in Python, forward, backward, update, and watchers."""

import caffe
import numpy as np
from caffe import layers as L
from loss_layer import EuclideanLoss


def regression(python: bool) -> str:
    n = caffe.NetSpec()
    n.data = L.DummyData(shape=dict(dim=[10, 3]), data_filler=dict(type="gaussian"))
    n.target = L.DummyData(shape=dict(dim=[10, 2]), data_filler=dict(type="constant", value=1))
    n.ip = L.InnerProduct(n.data, num_output=2, weight_filler=dict(type="xavier"))
    if python:
        n.loss = L.Python(n.ip, n.target, module="loss_layer", layer="EuclideanLoss", loss_weight=1)
    else:
        n.loss = L.EuclideanLoss(n.ip, n.target)
    return str(n.to_proto())


def watch(net: caffe.Net, timers: list[tuple[caffe.Timer, caffe.Timer]]) -> None:
    net.before_forward(lambda i: timers[i][0].start())
    net.after_forward(lambda i: timers[i][0].stop())
    net.before_backward(lambda i: timers[i][1].start())
    net.after_backward(lambda i: timers[i][1].stop())


losses, weights = {}, {}
for python in (True, False):
    with open("net.prototxt", "w") as f:
        f.write(regression(python))
    with open("solver.prototxt", "w") as f:
        f.write('train_net: "net.prototxt" base_lr: 0.1 momentum: 0.5 lr_policy: "fixed" '
                'max_iter: 100 random_seed: 7 snapshot_prefix: "own"')  # fmt: skip
    solver = caffe.SGDSolver("solver.prototxt")
    timers = [(caffe.Timer(), caffe.Timer()) for _ in solver.net.layers]
    watch(solver.net, timers)
    losses[python] = []
    for _ in range(30):
        solver.net.clear_param_diffs()
        losses[python].append(solver.net.forward()["loss"].sum())
        solver.net.backward()
        for blobs in solver.net.params.values():
            for blob in blobs:
                np.clip(blob.diff, -1, 1, out=blob.diff)
        solver.apply_update()
    weights[python] = solver.net.params["ip"][0].data.copy()
    assert timers[-1][0].ms > 0
np.testing.assert_allclose(losses[True], losses[False], rtol=1e-5, atol=1e-9)
np.testing.assert_allclose(weights[True], weights[False], rtol=1e-4, atol=1e-6)
assert losses[True][-1] < losses[True][0] / 50
assert isinstance(caffe.Layer, type) and issubclass(EuclideanLoss, caffe.Layer)
