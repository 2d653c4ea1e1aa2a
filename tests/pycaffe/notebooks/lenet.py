"""Write a net and a solver in Python, then train step by step, with tests in between."""

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2


def lenet(lmdb: str, batch_size: int) -> caffe_pb2.NetParameter:
    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        batch_size=batch_size,
        backend=P.Data.LMDB,
        source=lmdb,
        transform_param=dict(scale=1.0 / 255),
        ntop=2,
    )
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=8, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=24, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=4, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


with open("train.prototxt", "w") as f:
    f.write(str(lenet("train", 16)))
with open("test.prototxt", "w") as f:
    f.write(str(lenet("test", 40)))

s = caffe_pb2.SolverParameter()
s.random_seed = 0xCAFFE
s.train_net = "train.prototxt"
s.test_net.append("test.prototxt")
s.test_interval = 500
s.test_iter.append(1)
s.max_iter = 10000
s.type = "SGD"
s.base_lr = 0.05
s.momentum = 0.9
s.weight_decay = 5e-4
s.lr_policy = "inv"
s.gamma = 0.0001
s.power = 0.75
s.display = 1000
s.snapshot = 5000
s.snapshot_prefix = "custom_net"
s.solver_mode = caffe_pb2.SolverParameter.CPU
with open("solver.prototxt", "w") as f:
    f.write(str(s))

solver = None  # Solvers on one database, one at a time.
solver = caffe.get_solver("solver.prototxt")
assert isinstance(solver, caffe.SGDSolver)
print([(k, v.data.shape) for k, v in solver.net.blobs.items()])
print([(k, v[0].data.shape) for k, v in solver.net.params.items()])
assert solver.net.forward().keys() == {"loss"}
assert "loss" in solver.test_nets[0].forward()
assert solver.net.blobs["label"].data[:4].tolist() == [0, 1, 2, 3]

solver.step(1)
assert solver.net.params["conv1"][0].diff[:, 0].any()

niter, test_interval = 60, 20
train_loss = np.zeros(niter)
test_acc = np.zeros(int(np.ceil(niter / test_interval)))
for it in range(niter):
    solver.step(1)
    train_loss[it] = solver.net.blobs["loss"].data
    solver.test_nets[0].forward(start="conv1")
    if it % test_interval == 0:
        correct = 0
        for _ in range(3):
            solver.test_nets[0].forward()
            scores = solver.test_nets[0].blobs["score"].data
            correct += (scores.argmax(1) == solver.test_nets[0].blobs["label"].data).sum()
        test_acc[it // test_interval] = correct / 120
print("test accuracy:", test_acc)
assert test_acc[-1] > 0.9 and train_loss[-5:].mean() < train_loss[:5].mean() / 4
assert solver.iter == niter + 1
