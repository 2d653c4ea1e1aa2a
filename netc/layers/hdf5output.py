"""Two blobs written to a file. The writing is done in `netc.data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.labels import check_items
from netc.layers.registry import layer
from netc.layers.types import Arity, BlobType, Layer, Refusal, Signature, exactly


@layer("HDF5Output", "hdf5_output_param")
@dataclass(frozen=True)
class HDF5Output(Layer):
    """Writes its bottoms to an HDF5 file, as the data sets `data` and `label`.

    Shapes: bottoms (N, ...) and (N, ...), of at most 4 axes; the data sets have 4, the missing ones
    of size 1. The first pass begins the file anew, each further one adds its N rows (in BVLC Caffe
    1.0 the second pass fails). `file_name` is a path from the working directory, as in Caffe.

    Source: BVLC Caffe.
    """

    file_name: str = ""

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = exactly(0)
    writes_data: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        if not self.file_name:
            raise Refusal(
                "the layer names no file",
                expected='hdf5_output_param { file_name: "PATH" }',
                got="no file_name",
                setting="file_name",
            )
        check_items(*bottoms)
        for index, bottom in enumerate(bottoms):
            if bottom.axes > 4:
                raise Refusal(
                    f"bottom {index} has too many axes for the file",
                    expected="at most 4",
                    got=f"shape {bottom}",
                    setting="bottom",
                )
        return Signature(())

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def deployed(self) -> Layer | None:
        return None
