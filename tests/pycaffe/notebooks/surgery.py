"""Edit filters by hand; turn inner products into convolutions, for images of any size."""

import caffe
import numpy as np

# Designer filters.
net = caffe.Net("conv.prototxt", caffe.TEST)
print("blobs", list(net.blobs.keys()), "params", list(net.params.keys()))
image = caffe.io.load_image("bar.png", color=False)[np.newaxis, ..., 0][np.newaxis]
net.blobs["data"].reshape(*image.shape)
net.blobs["data"].data[...] = image
net.params["conv"][1].data[:] = 0.0
net.forward()
plain = [net.blobs["conv"].data.min(), net.blobs["conv"].data.max()]
conv0 = net.blobs["conv"].data.copy()
net.params["conv"][1].data[0] = 1.0
net.forward()
np.testing.assert_allclose(net.blobs["conv"].data[0, 0], conv0[0, 0] + 1, rtol=1e-5, atol=1e-6)
assert (net.blobs["conv"].data[0, 1] == conv0[0, 1]).all()

ksize = net.params["conv"][0].data.shape[2:]
sobel = np.array((-1, -2, -1, 0, 0, 0, 1, 2, 1), dtype=np.float32).reshape(3, 3)
net.params["conv"][0].data[0, 0, 1:-1, 1:-1] = sobel  # upper edges
net.params["conv"][0].data[1, 0, 1:-1, 1:-1] = sobel.T  # left edges
for edge in (0, 1):
    net.params["conv"][0].data[edge, 0, [0, -1]] = 0
    net.params["conv"][0].data[edge, 0, :, [0, -1]] = 0
net.params["conv"][1].data[:2] = 0
net.forward()
y, x = 2, 2
window = image[0, 0, y + 1 : y + 4, x + 1 : x + 4]
assert abs(net.blobs["conv"].data[0, 0, y, x] - (window * sobel).sum()) < 1e-5
assert ksize == (5, 5)

# Inner products to convolutions.
net = caffe.Net("deploy.prototxt", "bars.caffemodel", caffe.TEST)
params = ["score"]
fc_params = {pr: (net.params[pr][0].data, net.params[pr][1].data) for pr in params}
for fc in params:
    print(f"{fc} weights are {fc_params[fc][0].shape} and biases {fc_params[fc][1].shape}")
net_full_conv = caffe.Net("deploy_full_conv.prototxt", "bars.caffemodel", caffe.TEST)
params_full_conv = ["score-conv"]
conv_params = {
    pr: (net_full_conv.params[pr][0].data, net_full_conv.params[pr][1].data)
    for pr in params_full_conv
}
for pr, pr_conv in zip(params, params_full_conv, strict=True):
    conv_params[pr_conv][0].flat = fc_params[pr][0].flat
    conv_params[pr_conv][1][...] = fc_params[pr][1]
net_full_conv.save("bars_full_conv.caffemodel")

net_full_conv = caffe.Net(
    "deploy_full_conv.prototxt", caffe.TEST, weights="bars_full_conv.caffemodel"
)
images = [caffe.io.load_image(f"bar{i}.png", color=False)[..., 0] for i in (1, 2)]
wide = np.concatenate(images, axis=1)[np.newaxis]
out = net_full_conv.forward_all(data=np.asarray([wide * 2.55 - 0.4]))
classes = out["prob"][0].argmax(axis=0)
print(classes)
assert out["prob"].shape == (1, 4, 1, 5)
assert (classes[0, 0], classes[0, -1]) == (1, 2)
