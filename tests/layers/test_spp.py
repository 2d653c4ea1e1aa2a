from __future__ import annotations

import numpy as np
import pytest

from netc.layers.pooling import PoolMethod
from netc.layers.spp import SPP
from netc.layers.types import BlobType, Refusal
from tests.support.layer_harness import check_vector, vector_names
from tests.support.lowering import check_lowering


@pytest.mark.parametrize("name", vector_names("spp"))
def test_golden_vector(name):
    check_vector(name)


def test_one_level_is_a_pooling_of_everything():
    pool, flatten = SPP(pyramid_height=1).expand(BlobType((2, 3, 7, 5)))
    assert (pool.layer.kernel_h, pool.layer.kernel_w) == (7, 5)
    assert flatten.tops == ("$t0",)


@pytest.mark.parametrize("sizes", [(4, 4), (7, 9), (13, 10), (40, 31)])
def test_every_size_gives_the_same_length(sizes):
    x = BlobType((2, 3, *sizes))
    parts = SPP(pyramid_height=3).expand(x)
    pooled = [part.layer.infer(x).tops[0].shape for part in parts if part.layer.type == "Pooling"]
    assert pooled == [(2, 3, bins, bins) for bins in (1, 2, 4)]


@pytest.mark.parametrize(
    ("layer", "shape", "setting"),
    [
        (SPP(), (1, 2, 8, 8), "pyramid_height"),
        (SPP(pyramid_height=2), (1, 2, 8), ""),
        # 4 bins of 2 pixels on 5 pixels: 2 pixels of padding, as much as the kernel.
        (SPP(pyramid_height=3), (1, 2, 5, 8), "pyramid_height"),
        (SPP(pyramid_height=4), (1, 2, 6, 6), "pyramid_height"),
    ],
)
def test_refused(layer, shape, setting):
    with pytest.raises(Refusal) as caught:
        layer.expand(BlobType(shape))
    assert caught.value.setting == setting


@pytest.mark.parametrize("method", [PoolMethod.MAX, PoolMethod.AVE])
def test_onnx(method):
    for part in SPP(pyramid_height=3, pool=method).expand(BlobType((2, 3, 9, 7))):
        if part.layer.type == "Pooling":
            check_lowering(part.layer, [np.random.default_rng(0).random((2, 3, 9, 7))])
