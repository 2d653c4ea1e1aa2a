"""Two towers with the same weights bring pictures of one class together and others apart."""

import caffe
import numpy as np

solver = caffe.SGDSolver("siamese_solver.prototxt")
net = solver.net
for one, other in (("conv", "conv_p"), ("feat", "feat_p")):
    for i in (0, 1):
        assert np.shares_memory(net.params[one][i].data, net.params[other][i].data)
first = None
for _ in range(40):
    solver.step(5)
    first = first if first is not None else float(net.blobs["loss"].data)
assert float(net.blobs["loss"].data) < first / 3
solver.net.save("siamese.caffemodel")

tower = caffe.Net("siamese.prototxt", "siamese.caffemodel", caffe.TEST)
images, labels = np.load("pictures.npy"), np.load("labels.npy")
caffe_in = images.reshape(len(images), 1, 8, 8) * 0.00390625
feat = tower.forward_all(data=caffe_in)["feat"]
assert feat.shape == (len(images), 2)
centres = np.array([feat[labels == label].mean(0) for label in range(4)])
nearest = np.linalg.norm(feat[:, np.newaxis] - centres, axis=2).argmin(1)
print("of their class:", (nearest == labels).mean())
assert (nearest == labels).mean() > 0.8
