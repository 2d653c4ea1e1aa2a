"""Data that only a Python class could read: its shapes are known, the reading is not done here."""

from __future__ import annotations

from netc.data.source import DataAbsent, Item, Opening
from netc.layers.python import PythonData
from netc.layers.types import BlobType


class CodeSource:
    """Where a reader for a Python class would be."""

    def __init__(self, layer: PythonData, opening: Opening) -> None:
        """Raise DataAbsent."""
        raise DataAbsent(
            f"the data of {layer.code} is read by Python code, which is not run",
            expected="data in a database, an image list or an HDF5 file, or its module in "
            "PYTHONPATH and -allow_python_layers",
            got=f"{len(layer.top)} tops of a Python class",
            hint="for a look at the net its shapes are enough: netc check, summary, time",
            setting="module",
        )

    @staticmethod
    def assume(layer: PythonData, opening: Opening) -> Item | None:
        """Return the shapes that the class is known for, None where its code has them."""
        if not layer.shapes:
            return None
        return Item(tuple(map(BlobType, layer.shapes)), layer.remark)
