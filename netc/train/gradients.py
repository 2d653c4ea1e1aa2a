"""What is done to gradients before a solver's rule sees them: bounds, and noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from netc.train.pieces import Blob, bound_norm, in_pieces
from netc.train.settings import SolverSettings

#: (index of a param, iteration) -> the random numbers for its noise in that iteration.
Random = Callable[[int, int], np.random.Generator]


def clip(settings: SolverSettings, diffs: Sequence[Blob]) -> None:
    """Bound the accumulated gradients in place: each value, then the norm of all of them.

    With `clip_gradient_values` no value exceeds that limit. When the joint L2 norm then exceeds
    `clip_gradients`, all are scaled down to it: Pascanu et al., ICML 2013.
    """
    if most := np.float32(settings.clip_gradient_values):
        for diff in diffs:
            in_pieces([diff], lambda piece: np.clip(piece, -most, most, out=piece))
    if settings.clip_gradients >= 0:
        bound_norm(diffs, settings.clip_gradients)


def noise(
    settings: SolverSettings, random: Random, index: int, iteration: int, shape: tuple[int, ...]
) -> Blob:
    """Return what is added to the gradient of a param, in C order.

    Gaussian, of variance gradient_noise / (1 + iter)^gradient_noise_decay: Neelakantan et al.,
    "Adding gradient noise improves learning for very deep networks", 2015, where eta is 0.01, 0.3
    or 1 and gamma 0.55.
    """
    variance = settings.gradient_noise / (1 + iteration) ** settings.gradient_noise_decay
    values = random(index, iteration).standard_normal(shape, dtype=np.float32)
    values *= np.float32(math.sqrt(variance))
    return values
