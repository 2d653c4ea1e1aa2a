"""Data layers in Python whose tops change their shape: regions of images, and whole images."""

import caffe
import numpy as np
from caffe import layers as L
from caffe.coord_map import crop


def solver_for(net: caffe.NetSpec, rate: float) -> caffe.SGDSolver:
    with open("net.prototxt", "w") as f:
        f.write(str(net.to_proto()))
    with open("solver.prototxt", "w") as f:
        f.write(f'train_net: "net.prototxt" base_lr: {rate} lr_policy: "fixed" momentum: 0.9 '
                'max_iter: 100 random_seed: 3 snapshot_prefix: "regions"')  # fmt: skip
    return caffe.SGDSolver("solver.prototxt")


# Regions: the layer is handed its data through the net, and reshapes in forward.
n = caffe.NetSpec()
n.data, n.rois, n.labels = L.Python(module="region_layers", layer="RoIDataLayer", ntop=3)
n.conv = L.Convolution(
    n.data, num_output=4, kernel_size=3, pad=1, weight_filler=dict(type="xavier")
)
n.pool = L.ROIPooling(n.conv, n.rois, pooled_h=2, pooled_w=2, spatial_scale=1)
n.score = L.InnerProduct(n.pool, num_output=2, weight_filler=dict(type="xavier"))
n.loss = L.SoftmaxWithLoss(n.score, n.labels)
solver = solver_for(n, 0.05)

roidb = []
for count in (3, 5, 4):
    data = np.zeros((1, 3, 16, 12 + 4 * count), np.float32)
    data[..., 12:] = 1
    rois = np.array([[0, 12 * (i % 2), 0, 12 * (i % 2) + 7, 7] for i in range(count)])
    roidb.append({"data": data, "rois": rois, "labels": np.arange(count) % 2})
solver.net.layers[0].set_roidb(roidb)
losses = []
for it in range(30):
    solver.step(1)
    count = len(roidb[it % 3]["labels"])
    assert solver.net.blobs["data"].data.shape == roidb[it % 3]["data"].shape
    assert solver.net.blobs["score"].data.shape == (count, 2)
    losses.append(solver.net.blobs["loss"].data.copy())
assert losses[-1] < 0.2 * losses[0]

# Whole images of any size, fully convolutional: padded much, cropped back.
n = caffe.NetSpec()
n.data, n.label = L.Python(
    module="region_layers", layer="ImageLayer", ntop=2,
    param_str=str(dict(sizes=[(12, 9), (7, 11), (16, 16)])),
)  # fmt: skip
n.conv = L.Convolution(
    n.data, num_output=2, kernel_size=3, pad=10, weight_filler=dict(type="xavier")
)
n.score = crop(n.conv, n.data)
n.loss = L.SoftmaxWithLoss(n.score, n.label)
solver = solver_for(n, 0.5)
for it in range(60):
    solver.step(1)
    assert solver.net.blobs["score"].data.shape[2:] == [(12, 9), (7, 11), (16, 16)][it % 3]
correct = solver.net.blobs["score"].data.argmax(1) == solver.net.blobs["label"].data[:, 0]
print("pixels:", correct.mean())
assert correct.mean() > 0.9
assert solver.net.layers[0].idx == 0
