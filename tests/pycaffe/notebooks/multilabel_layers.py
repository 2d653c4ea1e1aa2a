"""The data layer of multilabel.py: a bar lying, a bar standing, both, or none."""

import os

import caffe
import numpy as np


class BarsDataLayerSync(caffe.Layer):
    def setup(self, bottom, top):
        self.top_names = ["data", "label"]
        params = eval(self.param_str)
        check_params(params)
        self.batch_size = params["batch_size"]
        self.loader = Loader(params)
        top[0].reshape(self.batch_size, 1, params["im_shape"][0], params["im_shape"][1])
        top[1].reshape(self.batch_size, 2)

    def forward(self, bottom, top):
        for itt in range(self.batch_size):
            im, multilabel = self.loader.load_next_image()
            top[0].data[itt, ...] = im
            top[1].data[itt, ...] = multilabel

    def reshape(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


class Loader:
    def __init__(self, params):
        self.rng = np.random.default_rng(["train", "val"].index(params["split"]))
        self.shape = params["im_shape"]
        assert os.path.exists(os.path.join(params["root"], "words.txt"))

    def load_next_image(self):
        image = self.rng.random(self.shape) * 0.2
        labels = self.rng.random(2) < 0.4
        at = self.rng.integers(1, 7, 2)
        if labels[0]:
            image[at[0]] = 1
        if labels[1]:
            image[:, at[1]] = 1
        if self.rng.random() < 0.5:
            image = image[:, ::-1]
        return image - 0.2, labels


def check_params(params):
    for r in ("batch_size", "split", "root", "im_shape"):
        assert r in params, f"params must include {r}"
