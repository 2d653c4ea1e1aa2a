"""The Gabor filters that IntelCaffe's filler "gabor" has for the first layers of four nets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi

from netc.layers.types import Array, ArrayNamespace


@dataclass(frozen=True, slots=True)
class Wave:
    """One filter: a plane wave under a Gaussian, in each channel times its part of `color`.

    `cycles` counts half periods between two pixels of the kernel's grid, `rate` is added to that in
    radians over half a kernel; `phase` and `angle` are in half turns, and half a kernel is 1 wide.
    """

    height: float = 1.0
    width: float = 0.6
    cycles: float = 0.0
    rate: float = 0.0
    phase: float = 0.0
    angle: float = 0.0
    color: tuple[float, float, float] = (1, 1, 1)


def kernels(xp: ArrayNamespace, count: int, size: int) -> Array:
    """Return the filters (count, 3, size, size) of one of the `NETS`."""
    wave_of = NETS[count, size]
    half = (size - 1) / 2
    grid = (xp.arange(size) - half) / half
    x, y = grid[None, :], grid[:, None]
    found = []
    for index in range(count):
        wave = wave_of(index)
        bell = xp.exp(-(x * x + y * y) / (2 * wave.width**2))
        along = x * xp.cos(pi * wave.angle) - y * xp.sin(pi * wave.angle)
        turns = along * (pi * half * wave.cycles + wave.rate) + pi * wave.phase
        plane = wave.height * bell * xp.cos(turns)
        found.append(xp.stack([part * plane for part in wave.color]))
    return xp.stack(found)


def _ladder(index: int, turn: float, width: float) -> Wave:
    """Return one of eight frequencies at one of the angles, each `turn` further."""
    angle, step = divmod(index, 8)
    return Wave(
        height=1 / (1 + step / 8),
        width=width + 0.2 * step / 8,
        cycles=1 / (1 + step / 2),
        phase=index % 2 + 12 / 32,
        angle=angle * turn,
    )


def _spot(phase: int, size: int) -> Wave:
    """Return a spot that is green on red and blue, or the reverse."""
    return Wave(
        height=1 / (1 + size / 2),
        width=1 / (2.5 - size / 2),
        rate=pi / 4,
        phase=phase,
        color=(0.25, -1, 1),
    )


def _edge(
    index: int,
    turn: float,
    start: float,
    color: tuple[float, float, float] = (1, 1, 1),
    *,
    cycles: float,
    height: float = 1.0,
    width: float = 0.6,
) -> Wave:
    """Return one of the edges between two colours, each `turn` further from `start`."""
    return Wave(height, width, cycles, 0.0, 0.5, index * turn + start, color)


def _cifar(index: int) -> Wave:
    if index < 8:
        return Wave(0.5, cycles=1, angle=index / 8)
    if index < 14:
        return Wave(0.5, cycles=1 / 2, angle=(index - 2) % 6 / 6 + 1 / 12)
    if index < 16:
        return Wave(0.5, 0.75, 1 / 8, phase=index % 2, color=(1, -1, 1))
    if index >= 30:
        return _edge(index % 2, 1 / 2, 3 / 8, (1, 1, 0), cycles=1 / 4, height=0.5)
    if index >= 28:
        return _edge(index % 2, 1 / 2, 1 / 8, (-1, 1, -1), cycles=1 / 4, height=0.5)
    color = ((1, 1, 1), (1, 0, -1), (-1, 1, 1))[(index - 16) // 4]
    return _edge(index % 4, 1 / 2, 3 / 8, color, cycles=1 / 4, height=0.5)


def _googlenet(index: int) -> Wave:
    if index < 32:
        return _ladder(index, 1 / 4, 0.4)
    if index < 40:
        return Wave(0.5, 0.45, 1, phase=1, angle=index % 8 / 8)
    if index < 46:
        return _spot((index - 1) // 3, (index - 1) % 3)
    height, turn, start, color = {
        0: (2 / 3, 1, 1 / 8, (1, 0.1, -0.5)),
        1: (2 / 3, 1 / 4, 1 / 32, (-0.5, 0.1, 1)),
        2: (1, 1 / 2, 1 / 8, (0.25, -1, 1)),
        3: (2 / 3, 1 / 2, 1 / 8, (-1, -1, 1)),
    }[(index >= 48) + (index >= 56) + (index >= 60)]
    return _edge(index % 8, turn, start, color, cycles=1 / 12, height=height, width=1)


def _vgg(index: int) -> Wave:
    return replace(_googlenet(index), width=1)


def _alexnet(index: int) -> Wave:
    wave = _alexnet_of_height_1(index)
    return replace(wave, height=wave.height / 3)


def _alexnet_of_height_1(index: int) -> Wave:
    if index < 48:
        return _ladder(index, 1 / 6, 0.5)
    if index < 56:
        return _spot(index // 4, index % 4)
    four, eight = (index % 4, 1 / 2, 1 / 8), (index % 8, 1 / 4, 1 / 32)
    if index < 60:
        return _edge(*four, (-1, 1, -0.5), cycles=1 / 8, height=1 / 1.5, width=0.75)
    if index < 64:
        return _edge(*four, (1, -0.5, -0.75), cycles=1 / 8, height=1 / 3, width=2)
    if index < 72:
        return _edge(*eight, (1, 0.1, -0.75), cycles=1 / 4, height=1 / 1.5, width=0.75)
    if index < 80:
        return _edge(*eight, (-0.5, 0.1, 1), cycles=1 / 12, height=1 / 1.5, width=1)
    if index < 88:
        return _edge(*eight, (-1, -1, 1), cycles=1 / 8, height=1 / 2.5, width=1)
    if index < 92:
        return _edge(index % 4, 1 / 2, 1 / 16, cycles=1 / 16)
    return _edge(*eight, (-1, -1, 1), cycles=1 / 4, height=1 / 4, width=0.75)


NETS = {(32, 5): _cifar, (64, 7): _googlenet, (64, 3): _vgg, (96, 11): _alexnet}
"""By number and size of the filters: those of the nets for CIFAR-10, of GoogLeNet, VGG, AlexNet."""
