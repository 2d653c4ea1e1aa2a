"""Logistic regression on a table in HDF5 files, then with a hidden layer."""

import os

import caffe
import h5py
import numpy as np
from caffe import layers as L
from caffe.proto import caffe_pb2

rng = np.random.default_rng(0)
X = rng.standard_normal((900, 4)).astype(np.float32)
y = (X[:, 0] * X[:, 1] + 0.5 * X[:, 2] > 0.2).astype(np.float32)
os.makedirs("hdf5_classification/data", exist_ok=True)
for name, part in (("train", slice(0, 750)), ("test", slice(750, 900))):
    file = os.path.abspath(f"hdf5_classification/data/{name}.h5")
    with h5py.File(file, "w") as f:
        f["data"] = X[part]
        f.create_dataset("label", data=y[part], compression="gzip", compression_opts=1)
    with open(f"hdf5_classification/data/{name}.txt", "w") as f:
        f.write(file + "\n")


def logreg(hdf5: str, batch_size: int) -> caffe_pb2.NetParameter:
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip1, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip1, n.label)
    return n.to_proto()


def nonlinear(hdf5: str, batch_size: int) -> caffe_pb2.NetParameter:
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=40, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.ip1, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip2, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def learn_and_test(make: object) -> float:
    for name in ("train", "test"):
        with open(f"hdf5_classification/{name}.prototxt", "w") as f:
            f.write(str(make(f"hdf5_classification/data/{name}.txt", 25)))
    s = caffe_pb2.SolverParameter(
        train_net="hdf5_classification/train.prototxt",
        test_net=["hdf5_classification/test.prototxt"],
        test_interval=1000, test_iter=[6], max_iter=200, base_lr=0.1, lr_policy="step", gamma=0.1,
        stepsize=150, momentum=0.9, weight_decay=5e-4, snapshot=10000, random_seed=3,
        snapshot_prefix="hdf5_classification/data/train", solver_mode=caffe_pb2.SolverParameter.CPU,
    )  # fmt: skip
    with open("hdf5_classification/solver.prototxt", "w") as f:
        f.write(str(s))
    caffe.set_mode_cpu()
    solver = caffe.get_solver("hdf5_classification/solver.prototxt")
    solver.solve()
    accuracy = 0
    test_iters = int(150 / solver.test_nets[0].blobs["data"].num)
    for _ in range(test_iters):
        solver.test_nets[0].forward()
        accuracy += solver.test_nets[0].blobs["accuracy"].data
    return accuracy / test_iters


linear, hidden = learn_and_test(logreg), learn_and_test(nonlinear)
print(f"Accuracy: {linear:.3f}, with a hidden layer: {hidden:.3f}")
assert 0.55 < linear < 0.8 and hidden > 0.9
assert os.path.exists("hdf5_classification/data/train_iter_200.caffemodel")
