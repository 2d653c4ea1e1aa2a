"""Spatial pyramid pooling: an output of one length for images of any size."""

from __future__ import annotations

from dataclasses import dataclass

from netc.layers.activation import Engine
from netc.layers.pooling import Pooling, PoolMethod
from netc.layers.registry import layer
from netc.layers.shape import Concat, Flatten
from netc.layers.types import BlobType, Layer, Part, Phase, Refusal


@layer("SPP", "spp_param")
@dataclass(frozen=True)
class SPP(Layer):
    """Pools to 1x1, 2x2, 4x4, ... up to `pyramid_height` levels, side by side.

    Shapes: bottom (N, C, H, W) -> top (N, C * (4^pyramid_height - 1) / 3).
    Source: He et al., ECCV 2014; kernel, stride and padding of a level are those of BVLC Caffe 1.0.
    """

    pyramid_height: int = 0
    pool: PoolMethod = PoolMethod.MAX
    engine: Engine = Engine.DEFAULT
    phase: Phase = Phase.TRAIN

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        """Return a Pooling and a Flatten for each level, and a Concat of them all."""
        x = bottoms[0]
        if x.axes != 4:
            raise Refusal(
                "the bottom of an SPP layer must have 4 axes",
                expected="(N, C, H, W)",
                got=f"bottom of shape {x}",
            )
        if self.pyramid_height < 1:
            raise Refusal(
                "pyramid_height is missing",
                expected="pyramid_height > 0",
                got=f"pyramid_height {self.pyramid_height}",
                hint="add spp_param { pyramid_height: 3 }",
                setting="pyramid_height",
            )
        parts: list[Part] = []
        flat = []
        for level in range(self.pyramid_height):
            pooled = f".pool{level}"
            flat.append("$t0" if self.pyramid_height == 1 else f".flat{level}")
            parts += (
                Part(pooled, self._level(x, 2**level), ("$b0",), (pooled,)),
                Part(f".flatten{level}", Flatten(), (pooled,), (flat[-1],)),
            )
        if len(flat) > 1:
            parts.append(Part(".concat", Concat(), tuple(flat), ("$t0",)))
        return tuple(parts)

    def _level(self, x: BlobType, bins: int) -> Pooling:
        """Return the pooling to bins x bins."""
        kernels, pads = [], []
        for size in x.shape[2:]:
            kernel = -(-size // bins)
            pad = (kernel * bins - size + 1) // 2
            if pad >= kernel:
                raise Refusal(
                    f"the pyramid is too high for the bottom: {bins} bins do not fit",
                    expected="(kernel * bins - size + 1) / 2 < kernel, "
                    "with kernel = size / bins rounded up",
                    got=f"size {size} in {bins} bins, bottom of shape {x}",
                    hint="a lower pyramid_height, or a larger bottom",
                    setting="pyramid_height",
                )
            kernels.append(kernel)
            pads.append(pad)
        h, w = kernels
        return Pooling(
            pool=self.pool,
            kernel_h=h,
            kernel_w=w,
            stride_h=h,
            stride_w=w,
            pad_h=pads[0],
            pad_w=pads[1],
            phase=self.phase,
        )
