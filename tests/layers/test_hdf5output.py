"""The settings and shapes of HDF5Output."""

from __future__ import annotations

import numpy as np
import pytest

from netc.layers.hdf5output import HDF5Output
from netc.layers.types import Refusal
from tests.support.layer_harness import infer


def test_it_has_no_tops_and_stops_gradients() -> None:
    layer = HDF5Output("out.h5")
    signature = infer(layer, [np.zeros((3, 2, 4, 4)), np.zeros(3)])
    assert signature.tops == signature.params == ()
    assert layer.gradient_bottoms(2) == (False, False)
    assert layer.deployed() is None


@pytest.mark.parametrize(
    ("layer", "setting", "shapes"),
    [
        (HDF5Output(), "file_name", [(3, 2), (3,)]),
        (HDF5Output("out.h5"), "bottom", [(3, 2), (2,)]),
        (HDF5Output("out.h5"), "bottom", [(3, 2, 1, 1, 1), (3,)]),
    ],
)
def test_what_the_file_cannot_hold_is_refused(
    layer: HDF5Output, setting: str, shapes: list[tuple[int, ...]]
) -> None:
    with pytest.raises(Refusal) as caught:
        infer(layer, [np.zeros(shape) for shape in shapes])
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got
