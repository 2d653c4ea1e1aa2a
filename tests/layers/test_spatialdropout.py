from __future__ import annotations

import numpy as np
import pytest

from netc.layers.spatialdropout import SpatialDropout
from netc.layers.types import BlobType, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 3, 2)])
def test_rules_agree(phase: Phase, shape: tuple[int, ...]) -> None:
    check_layer(SpatialDropout(dropout_ratio=0.4, phase=phase), [smooth(*shape)])


@definition("SpatialDropout")
def test_whole_maps_go_and_the_rest_is_scaled() -> None:
    x = 1 + np.abs(smooth(40, 50, 3, 2))
    y = forward(SpatialDropout(dropout_ratio=0.25), [x]).tops[0] / x
    kept = y[:, :, 0, 0] > 0
    np.testing.assert_allclose(y, np.broadcast_to(kept[..., None, None], y.shape) / 0.75)
    assert 0.7 < kept.mean() < 0.8  # 2000 draws: five standard deviations


def test_nothing_happens_in_the_test_phase() -> None:
    x = smooth(2, 3, 4, 4)
    layer = SpatialDropout(phase=Phase.TEST)
    np.testing.assert_array_equal(forward(layer, [x]).tops[0], x)
    assert check_lowering(layer, [x]) == ["Identity"]


def test_refused() -> None:
    with pytest.raises(Refusal, match="not a probability"):
        SpatialDropout(dropout_ratio=1.0).infer(BlobType((2, 3)))
    with pytest.raises(Refusal, match="no feature maps"):
        SpatialDropout().infer(BlobType((2,)))
