"""Fillers: how a param is filled before training."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from netc.errors import fail, nearest
from netc.layers.gabor import NETS, kernels
from netc.layers.types import Array, ArrayNamespace


class VarianceNorm(enum.Enum):
    """Which fan xavier and msra divide by."""

    FAN_IN = 0
    FAN_OUT = 1
    AVERAGE = 2


@dataclass(frozen=True, slots=True)
class Filler:
    """A `filler` message.

    Published nets set fields that the chosen type does not use (a `std` for xavier): these are
    ignored, as in Caffe. `sparse` is refused there, as in Caffe.
    """

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: VarianceNorm = VarianceNorm.FAN_IN

    @property
    def random(self) -> bool:
        """Whether two draws differ."""
        return self.type not in ("constant", "bilinear", "gabor")

    def check(self, shape: tuple[int, ...] | None = None) -> None:
        """Raise a NetcError for what cannot be drawn, so that it is told before anything runs.

        That is an unknown type, a setting out of range, or a `shape`, where it is known, that does
        not suit the type: bilinear wants square kernels, gabor those of four nets.
        """
        if self.type not in _FILLERS:
            raise fail(
                f"unknown filler type '{self.type}'",
                expected=", ".join(sorted(_FILLERS)),
                got=self.type,
                hint=nearest(self.type, _FILLERS),
            )
        if self.type == "uniform" and self.min > self.max:
            raise fail(
                "uniform filler: min is above max",
                expected="min <= max",
                got=f"min {self.min:g}, max {self.max:g}",
            )
        if self.type == "gaussian" and self.std < 0:
            raise fail(
                "gaussian filler: std is negative", expected="std >= 0", got=f"std {self.std:g}"
            )
        if self.sparse != -1 and (self.type != "gaussian" or self.sparse < 0):
            raise fail(
                f"{self.type} filler: sparse does not suit it",
                expected="sparse >= 0, with type 'gaussian' only",
                got=f"sparse {self.sparse} with type '{self.type}'",
            )
        square = shape is None or (len(shape) == 4 and shape[2] == shape[3])
        if self.type == "bilinear" and not square:
            raise fail(
                "bilinear filler: the kernel is not square",
                expected="a blob of 4 axes with kernel_h == kernel_w",
                got=f"shape {shape}",
            )
        if self.type == "gabor" and shape and shape not in _GABOR_SHAPES:
            raise fail(
                "gabor filler: there are no filters of that number and size",
                expected="one of the shapes " + ", ".join(map(str, _GABOR_SHAPES)),
                got=f"shape {shape}",
            )

    def draw(self, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
        """Return a float32 array of `shape`, drawn from the numpy Generator `rng`.

        Raises NetcError as `check` does.
        """
        self.check(shape)
        if 0 in shape:
            return xp.zeros(shape, dtype="float32")
        return xp.asarray(_FILLERS[self.type](self, xp, rng, shape), dtype="float32")

    def fan(self, shape: tuple[int, ...]) -> float:
        """Return the number of inputs (outputs, or the mean of both) of one unit.

        As in Caffe: fan-in is count / shape[0], fan-out is count / shape[1] (count for a vector).
        """
        count = math.prod(shape)
        fan_in = count / (shape[0] if shape else 1)
        fan_out = count / shape[1] if len(shape) > 1 else count
        match self.variance_norm:
            case VarianceNorm.FAN_IN:
                return fan_in
            case VarianceNorm.FAN_OUT:
                return fan_out
            case VarianceNorm.AVERAGE:
                return (fan_in + fan_out) / 2


def _constant(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    return xp.full(shape, filler.value, dtype="float32")


#: Numbers that are drawn at a time: they are of twice the size of what they become.
_PIECE = 1 << 20


def _in_pieces(xp: ArrayNamespace, shape: tuple[int, ...], draw: Callable[[int], Array]) -> Array:
    """Return what one call would draw for the shape; `draw` gets the number of elements."""
    values = xp.empty(shape, dtype="float32")
    flat = values.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        piece[...] = xp.asarray(draw(piece.size))
    return values


def _uniform(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    return _in_pieces(xp, shape, partial(rng.uniform, filler.min, filler.max))


def _gaussian(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    """Normal values; with `sparse: s` each survives with probability s / shape[0]."""
    values = _in_pieces(xp, shape, partial(rng.normal, filler.mean, filler.std))
    if filler.sparse < 0:
        return values
    units = shape[0] if shape else 1
    return values * (rng.random(shape) < min(1.0, filler.sparse / units))


def _xavier(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    """Uniform with variance 1 / fan. Glorot and Bengio, AISTATS 2010."""
    bound = math.sqrt(3.0 / filler.fan(shape))
    return _in_pieces(xp, shape, partial(rng.uniform, -bound, bound))


def _msra(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    """Normal with variance 2 / fan. He et al., ICCV 2015."""
    std = math.sqrt(2.0 / filler.fan(shape))
    return _in_pieces(xp, shape, partial(rng.normal, 0.0, std))


def _positive_unitball(
    filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]
) -> Array:
    """Uniform in 0..1, scaled so that each unit's weights sum to 1."""
    values = rng.random(shape)
    sums = values.reshape(shape[0] if shape else 1, -1).sum(axis=1)
    return values / sums.reshape((-1,) + (1,) * (len(shape) - 1))


def _gaussian_unitball(
    filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]
) -> Array:
    """Normal, scaled so that each unit's weights have length 1. CaffeWindows."""
    values = rng.normal(0.0, 1.0, shape).reshape(shape[0] if shape else 1, math.prod(shape[1:]))
    lengths = xp.sqrt((values * values).sum(axis=1, keepdims=True) + 1e-12)
    return (values / lengths).reshape(shape)


def _bilinear(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    """Interpolation weights for up-sampling by a Deconvolution. Long et al., CVPR 2015."""
    size = shape[3]
    factor = math.ceil(size / 2)
    center = (size - 1) / (2.0 * factor)
    ramp = [1 - abs(i / factor - center) for i in range(size)]
    kernel = [[a * b for b in ramp] for a in ramp]
    return xp.broadcast_to(xp.asarray(kernel), shape)


def _gabor(filler: Filler, xp: ArrayNamespace, rng: Any, shape: tuple[int, ...]) -> Array:
    """Waves of several directions, lengths and colours, as in IntelCaffe: nothing is drawn."""
    return kernels(xp, shape[0], shape[2])


_GABOR_SHAPES = [(count, 3, size, size) for count, size in NETS]

_FILLERS: dict[str, Callable[[Filler, ArrayNamespace, Any, tuple[int, ...]], Array]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "xavier": _xavier,
    "msra": _msra,
    "positive_unitball": _positive_unitball,
    "gaussian_unitball": _gaussian_unitball,
    "bilinear": _bilinear,
    "gabor": _gabor,
}
