"""The data layer of regions.py, in the style of Fast R-CNN's."""

import caffe
import numpy as np


class RoIDataLayer(caffe.Layer):
    def setup(self, bottom, top):
        self._name_to_top_map = {"data": 0, "rois": 1, "labels": 2}
        self._cur = 0
        top[0].reshape(1, 3, 8, 8)
        top[1].reshape(1, 5)
        top[2].reshape(1)

    def set_roidb(self, roidb):
        self._roidb = roidb

    def forward(self, bottom, top):
        entry = self._roidb[self._cur % len(self._roidb)]
        self._cur += 1
        for blob_name, blob in entry.items():
            top_ind = self._name_to_top_map[blob_name]
            top[top_ind].reshape(*blob.shape)
            top[top_ind].data[...] = blob.astype(np.float32, copy=False)

    def backward(self, top, propagate_down, bottom):
        pass

    def reshape(self, bottom, top):
        pass


class ImageLayer(caffe.Layer):
    """Loads an image of another size each time, in reshape, as FCN's layers do."""

    def setup(self, bottom, top):
        self.idx = 0
        self.sizes = eval(self.param_str)["sizes"]

    def reshape(self, bottom, top):
        height, width = self.sizes[self.idx]
        self.data = np.random.default_rng(self.idx).random((3, height, width))
        self.label = (self.data[:1] > 0.5).astype(np.uint8)
        top[0].reshape(1, *self.data.shape)
        top[1].reshape(1, *self.label.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.data
        top[1].data[...] = self.label
        self.idx = (self.idx + 1) % len(self.sizes)

    def backward(self, top, propagate_down, bottom):
        pass
