"""Depthwise convolution under the names of the forks that brought it."""

from __future__ import annotations

from dataclasses import dataclass

from netc.layers.convolution import Convolution
from netc.layers.registry import layer
from netc.layers.types import BlobType, Refusal


@layer("ConvolutionDepthwise", "convolution_param", aliases=("DepthwiseConvolution",))
@dataclass(frozen=True)
class ConvolutionDepthwise(Convolution):
    """A Convolution with a group for each channel: each output sees one channel only.

    `group` may be left out; then num_output is the number of channels. Everything else is
    Convolution's, so that the weights of either load into the other.

    Shapes: bottom (N, C, sizes...) -> top (N, num_output, places...). Params W (num_output, 1,
    kernel...), and b (num_output,) unless `bias_term` is false.
    Source: Sifre, "Rigid-motion scattering for image classification", 2014; Howard et al.,
    "MobileNets", arXiv 1704.04861. The forks' kernels are for num_output = C, which is not asked
    for here.
    """

    def __post_init__(self) -> None:
        if self.group == 1 and self.num_output > 0:
            object.__setattr__(self, "group", self.num_output)

    def _check(self, *bottoms: BlobType) -> int:
        x = bottoms[0]
        channels = x.shape[x.axis(self.axis)]
        if self.num_output > 0 and self.group != channels:
            raise Refusal(
                "a depthwise convolution has a group for each channel",
                expected=f"num_output {channels} without group, or group {channels}",
                got=f"num_output {self.num_output}, group {self.group}, bottom of shape {x}",
                hint="type Convolution takes any group",
                setting="group" if self.group != self.num_output else "num_output",
            )
        return super()._check(*bottoms)
