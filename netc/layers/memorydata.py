"""Images and labels that the caller sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.transform import TransformParam
from netc.layers.types import Arity, BlobType, Layer, Refusal, Signature, between, exactly


@layer("MemoryData", "memory_data_param")
@dataclass(frozen=True)
class MemoryData(Layer):
    """Images and labels whose content the caller sets before each pass. They start at zero.

    Shapes: tops (N, C, H, W) and (N,), with N = `batch_size` and the other sizes of the same names,
    and, as in DeepLab's nets, the height and width of each image (N, 1, 1, 2).
    Caffe insists on the label top; here it may be left out. `transform_param` is read and has no
    effect, as on the arrays that pycaffe hands to Caffe. `source` is a note to the caller: there
    CaffeOnSpark's program finds what it sets.

    Source: BVLC Caffe; `source` and the `share_in_parallel` beside it, CaffeOnSpark.
    """

    batch_size: int = 0
    channels: int = 0
    height: int = 0
    width: int = 0
    source: str = ""
    top: tuple[str, ...] = ()
    transform_param: TransformParam = field(default_factory=TransformParam)

    bottoms: ClassVar[Arity] = exactly(0)
    tops: ClassVar[Arity] = between(1, 3)
    fed: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        sizes = {
            name: getattr(self, name) for name in ("batch_size", "channels", "height", "width")
        }
        for name, size in sizes.items():
            if size < 1:
                raise Refusal(
                    f"{name} is missing",
                    expected="batch_size, channels, height and width, all above 0",
                    got=", ".join(f"{n} {v}" for n, v in sizes.items()),
                    hint=f"add memory_data_param {{ {name}: ... }}",
                    setting=name,
                )
        n = self.batch_size
        blobs = (BlobType(tuple(sizes.values())), BlobType((n,)), BlobType((n, 1, 1, 2)))
        return Signature(blobs[: len(self.top)])
