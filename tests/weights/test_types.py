"""The rule by which a saved blob fits a param."""

from __future__ import annotations

import numpy as np
import pytest

from netc.schema import netc_pb2
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen


def blob(*shape: int, legacy: bool = False) -> SavedBlob:
    return SavedBlob(frozen(np.zeros(shape)), legacy)


@pytest.mark.parametrize(
    ("saved", "wanted", "fits"),
    [
        (blob(3, 64), (3, 64), True),
        (blob(3, 64), (64, 3), False),
        (blob(3, 64), (192,), False),
        (blob(1, 1, 3, 64), (3, 64), False),
        (blob(1, 1, 3, 64, legacy=True), (3, 64), True),
        (blob(1, 1, 3, 64, legacy=True), (1, 3, 64), True),
        (blob(1, 1, 3, 64, legacy=True), (1, 1, 3, 64), True),
        (blob(1, 1, 3, 64, legacy=True), (3, 64, 1, 1), False),
        (blob(1, 1, 3, 64, legacy=True), (1, 1, 1, 3, 64), False),
        (blob(1, 1, 1, 5, legacy=True), (5,), True),
        (blob(5, 1, 1, 1, legacy=True), (5,), False),
        (blob(1, 1, 1, 1, legacy=True), (), True),
        (blob(), (), True),
        (blob(1), (), False),
    ],
)
def test_fits(saved: SavedBlob, wanted: tuple[int, ...], fits: bool) -> None:
    assert saved.fits(wanted) is fits
    if fits:
        assert saved.shaped(wanted).shape == wanted


def test_frozen_leaves_the_callers_array_writable() -> None:
    mine = np.ones(3, np.float32)
    view = frozen(mine)
    mine[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 3
    assert np.shares_memory(mine, view)


def test_a_layer_from_the_nets_message_is_left_as_it_was() -> None:
    message = netc_pb2.LayerParameter(name="ip", type="InnerProduct", bottom=["a"], top=["b"])
    message.inner_product_param.num_output = 3
    message.blobs.add()
    before = message.SerializeToString()
    entry = SavedLayer.of(message, [blob(3, 4)])
    assert message.SerializeToString() == before
    assert (entry.name, entry.type) == ("ip", "InnerProduct")
    assert (entry.bottoms, entry.tops) == (("a",), ("b",))
    settings = netc_pb2.LayerParameter.FromString(entry.settings)
    assert settings.ListFields()[0][1].num_output == 3
    assert len(settings.ListFields()) == 1


def test_weights_are_names_and_arrays() -> None:
    saved = Weights((SavedLayer("a", (blob(2), None)), SavedLayer("a", (blob(3),))))
    assert [
        (name, [array if array is None else array.shape for array in arrays])
        for name, arrays in saved
    ] == [("a", [(2,), None]), ("a", [(3,)])]
    assert saved.n_values == 5
