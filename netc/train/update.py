"""The solvers' update rules, as Caffe computes them.

The order of one update: clip the accumulated gradients, divide by iter_size, add weight decay,
apply the rule. The learning rate is inside the history, so that a change of rate does not rescale
the momentum of the past.
"""

from __future__ import annotations

import functools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from netc.graph.types import Param
from netc.train.policy import learning_rate
from netc.train.settings import SolverSettings

Blob = NDArray[np.float32]

# Elements that are updated at a time: gradient, param and history fit into a core's cache together.
PIECE = 1 << 15
# From here on the pieces are shared out among threads; below, starting them takes longer.
PIECES_WORTH_THREADS = 16


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="netc-update")


def _with_our_state(call: Callable[[int], None]) -> Callable[[int], None]:
    """Return the call for another thread, with what this one does about overflow and the like."""
    state = np.geterr()

    def run(start: int) -> None:
        with np.errstate(**state):
            call(start)

    return run


class UpdateRule(ABC):
    """One solver type with its history: `slots` blobs for each param.

    All first ones before all second ones.
    """

    slots: ClassVar[int] = 1
    #: With a rate of 0 the history of a param stays at zero, so that the param can be passed over.
    rate_in_history: ClassVar[bool] = False

    def __init__(
        self,
        settings: SolverSettings,
        params: Sequence[Param],
        shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        """`shapes` are those of the arrays in memory, where they are not the params' own."""
        self.settings = settings
        self.params = tuple(params)
        shapes = [param.shape for param in params] if shapes is None else shapes
        self.history: list[Blob] = [
            np.zeros(shape, np.float32) for _ in range(self.slots) for shape in shapes
        ]

    def apply(self, iteration: int, data: Sequence[Blob], diffs: Sequence[Blob | None]) -> None:
        """Update `data` in place from the accumulated `diffs`, which the update overwrites.

        A frozen param gathers its decay in the history of rules that keep the rate outside: as in
        Caffe.
        """
        self._clip(diffs)
        for i, (values, diff) in enumerate(zip(data, diffs, strict=True)):
            self.apply_to(i, iteration, values, diff)

    def apply_to(
        self, i: int, iteration: int, data: Blob, diff: Blob | None, start: int = 0
    ) -> None:
        """Update param `i` alone, for settings that do not clip all gradients together.

        `data` and `diff` may be a piece of it, from element `start` on. Where the diff is None (no
        gradient reaches the param), it decays all the same.
        """
        param = self.params[i]
        if param.lr_mult == 0 and self.rate_in_history:
            return
        if diff is None:
            if not self.settings.weight_decay * param.decay_mult:
                return
            diff = np.zeros_like(data)
        rate = np.float32(learning_rate(self.settings, iteration) * param.lr_mult)
        self._apply_to_param(i, param, rate, data, diff, iteration, start)

    def _apply_to_param(
        self,
        i: int,
        param: Param,
        rate: np.float32,
        data: Blob,
        diff: Blob,
        iteration: int,
        first: int,
    ) -> None:
        """Update one param, a piece at a time, so that all operations find it in the cache.

        Every operation is elementwise: the pieces change no number.
        """
        slots = [
            self.history[slot * len(self.params) + i].reshape(-1)[first : first + diff.size]
            for slot in range(self.slots)
        ]
        assert data.flags.c_contiguous and diff.flags.c_contiguous, "a piece would be a copy"
        arrays = [data.reshape(-1), diff.reshape(-1), *slots]

        def piece(start: int) -> None:
            values, gradient, *past = (array[start : start + PIECE] for array in arrays)
            if self.settings.iter_size > 1:
                gradient *= np.float32(1 / self.settings.iter_size)
            self._decay(param, values, gradient)
            self.update(past, rate, gradient, iteration)
            values -= gradient

        starts = range(0, diff.size, PIECE)
        if len(starts) < PIECES_WORTH_THREADS:
            for start in starts:
                piece(start)
            return
        for _ in _threads().map(_with_our_state(piece), starts):
            pass

    @abstractmethod
    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        """Turn a piece of a gradient into what is subtracted from the param, in place.

        `past` is that piece of the history, a blob for each slot.
        """

    def _clip(self, diffs: Sequence[Blob | None]) -> None:
        """Scale all gradients when their joint L2 norm exceeds clip_gradients. Pascanu et al..

        ICML 2013.
        """
        limit = self.settings.clip_gradients
        if limit < 0:
            return
        present = [diff for diff in diffs if diff is not None]
        norm = math.sqrt(sum(float(np.vdot(diff, diff)) for diff in present))
        if norm > limit:
            for diff in present:
                diff *= np.float32(limit / norm)

    def _decay(self, param: Param, data: Blob, diff: Blob) -> None:
        decay = np.float32(self.settings.weight_decay * param.decay_mult)
        if decay:
            diff += decay * (np.sign(data) if self.settings.regularization_type == "L1" else data)


class SGD(UpdateRule):
    """v = momentum v + rate g; w -= v."""

    rate_in_history = True

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        (history,) = past
        history *= np.float32(self.settings.momentum)
        history += rate * diff
        diff[...] = history


class Nesterov(UpdateRule):
    """v' = momentum v + rate g; w -= (1 + momentum) v' - momentum v.

    Source: Sutskever et al., ICML 2013.
    """

    rate_in_history = True

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        momentum = np.float32(self.settings.momentum)
        (history,) = past
        previous = history.copy()
        history *= momentum
        history += rate * diff
        diff[...] = (1 + momentum) * history - momentum * previous


class AdaGrad(UpdateRule):
    """h += g^2; w -= rate g / (sqrt(h) + delta). Duchi et al., JMLR 2011."""

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        (history,) = past
        history += diff * diff
        diff *= rate / (np.sqrt(history) + np.float32(self.settings.delta))


class RMSProp(UpdateRule):
    """h = d h + (1 - d) g^2; w -= rate g / (sqrt(h) + delta), d = rms_decay. Tieleman and Hinton.

    2012.
    """

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        decay = np.float32(self.settings.rms_decay)
        (history,) = past
        history *= decay
        history += (1 - decay) * diff * diff
        diff *= rate / (np.sqrt(history) + np.float32(self.settings.delta))


class AdaDelta(UpdateRule):
    """u = g sqrt((s + delta) / (h + delta)), with running means h of g^2 and s of u^2. Zeiler.

    2012.
    """

    slots = 2

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        momentum = np.float32(self.settings.momentum)
        delta = np.float32(self.settings.delta)
        gradients, updates = past
        gradients *= momentum
        gradients += (1 - momentum) * diff * diff
        diff *= np.sqrt((updates + delta) / (gradients + delta))
        updates *= momentum
        updates += (1 - momentum) * diff * diff
        diff *= rate


class Adam(UpdateRule):
    """m, v: running means of g and g^2 with their start corrected for. Kingma and Ba, ICLR 2015."""

    slots = 2

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, iteration: int) -> None:
        beta1, beta2 = self.settings.momentum, self.settings.momentum2
        mean, square = past
        mean *= np.float32(beta1)
        mean += np.float32(1 - beta1) * diff
        square *= np.float32(beta2)
        square += np.float32(1 - beta2) * diff * diff
        time = iteration + 1
        correction = math.sqrt(1 - beta2**time) / (1 - beta1**time)
        scale = np.float32(rate * correction)
        diff[...] = scale * mean / (np.sqrt(square) + np.float32(self.settings.delta))


RULES: dict[str, type[UpdateRule]] = {
    rule.__name__: rule for rule in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)
}
