"""The ImageGtData layer's source: it tells shapes, and reads nothing."""

from __future__ import annotations

from netc.data.source import DataAbsent, Item, Opening
from netc.layers.mscnn import ImageGtData
from netc.layers.types import BlobType


class GroundTruthSource:
    """Images with objects, in a form that netc does not read."""

    def __init__(self, layer: ImageGtData, opening: Opening) -> None:
        """Raise DataAbsent."""
        raise DataAbsent(
            "netc does not cut images around objects as ImageGtData does",
            expected="another data layer with the same tops: images, and labels for each map",
            got=f"source '{layer.source}'",
            hint="put images and labels of these shapes into HDF5 files, and read them by HDF5Data",
            setting="source",
        )

    @staticmethod
    def assume(layer: ImageGtData, opening: Opening) -> Item | None:
        """Return images of the size that the settings tell."""
        if not all(layer.size):
            return None
        image = BlobType((3, *layer.size))
        return Item((image,), f"images of shape {image} are assumed, from the settings")
