"""Load a net, classify an image, look at what is inside; then many images in one batch."""

import caffe
import numpy as np

caffe.set_mode_cpu()
net = caffe.Net("deploy.prototxt", "bars.caffemodel", caffe.TEST)

mean = np.load("mean.npy").mean(1).mean(1)
transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
transformer.set_transpose("data", (2, 0, 1))
transformer.set_mean("data", mean)
transformer.set_raw_scale("data", 255)
transformer.set_input_scale("data", 0.01)

net.blobs["data"].reshape(50, 1, 8, 8)
labels = list(np.loadtxt("words.txt", str, delimiter="\t"))
image = caffe.io.load_image("bar.png", color=False)
net.blobs["data"].data[...] = transformer.preprocess("data", image)
output = net.forward()
probabilities = output["prob"][0]
print("predicted class is:", labels[probabilities.argmax()])
best = probabilities.argsort()[::-1][:2]
print(list(zip(probabilities[best], [labels[i] for i in best], strict=True)))
assert labels[probabilities.argmax()] == "standing"
# The last rows of a matrix product may be summed up in another order than the others.
np.testing.assert_allclose(output["prob"][1:], output["prob"][:-1], rtol=1e-6)

for name, blob in net.blobs.items():
    print(name + "\t" + str(blob.data.shape))
for name, param in net.params.items():
    print(name + "\t" + str(param[0].data.shape), str(param[1].data.shape))


def tiles(data: np.ndarray) -> np.ndarray:
    """Put square pictures (n, height, width) into a square, with a frame around each."""
    data = (data - data.min()) / (data.max() - data.min())
    n = int(np.ceil(np.sqrt(data.shape[0])))
    padding = ((0, n**2 - data.shape[0]), (0, 1), (0, 1), *((0, 0),) * (data.ndim - 3))
    data = np.pad(data, padding, mode="constant", constant_values=1)
    data = data.reshape((n, n, *data.shape[1:])).transpose((0, 2, 1, 3))
    return data.reshape((n * data.shape[1], n * data.shape[3]))


filters = net.params["conv1"][0].data
assert tiles(filters[:, 0]).shape == (12, 12)
features = net.blobs["conv1"].data[0, :6]
assert (features >= 0).all() and tiles(features).shape == (21, 21)
assert net.blobs["pool1"].data.max() == net.blobs["conv1"].data.max()

# The image as the net saw it.
grey = caffe.io.Transformer({"data": (1, 8, 8)})
grey.set_raw_scale("data", 255)
grey.set_input_scale("data", 0.01)
seen = grey.deprocess("data", net.blobs["data"].data[0]) + mean / 255
np.testing.assert_allclose(seen, image[..., 0], atol=1e-6)

# Many images, one by one and by the Classifier.
net.blobs["data"].reshape(4, 1, 8, 8)
images = [caffe.io.load_image(f"bar{i}.png", False) for i in range(4)]
for i, each in enumerate(images):
    net.blobs["data"].data[i] = transformer.preprocess("data", each)
together = net.forward()["prob"].argmax(1)
classifier = caffe.Classifier(
    "deploy.prototxt", "bars.caffemodel", mean=mean, raw_scale=255, input_scale=0.01
)
alone = classifier.predict(images, oversample=False).argmax(1)
assert list(together) == list(alone) == [0, 1, 2, 3]
