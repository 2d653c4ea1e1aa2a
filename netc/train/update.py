"""The solvers' update rules: Caffe's as Caffe computes them, and AdamW.

The order of one update: clip the accumulated gradients, divide by iter_size, add noise, add weight
decay, apply the rule, bound the weights. The learning rate is inside the history, so that a change
of rate does not rescale the momentum of the past.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from netc.backends.base import MomentumStep
from netc.graph.types import Param
from netc.train.constraint import Layouts, constrain
from netc.train.gradients import Random, clip, noise
from netc.train.pieces import Blob, bound_norm, flat, in_pieces, norm, spare
from netc.train.policy import Rates
from netc.train.settings import SolverSettings


def _silent() -> np.errstate:
    """Let overflow and the like give Inf or NaN without a word, as in a pass.

    The solver looks for those.
    """
    return np.errstate(all="ignore")


class UpdateRule(ABC):
    """One solver type with its history: `slots` blobs for each param.

    All first ones before all second ones.
    """

    slots: ClassVar[int] = 1
    #: A param with a rate of 0 is passed over: its history stays at zero.
    passes_over_frozen: ClassVar[bool] = False
    #: Weight decay does not go through the gradient, but is subtracted beside the step.
    decoupled: ClassVar[bool] = False
    #: LARC, LARS and momentum policies apply, as in the forks that have them.
    adapts: ClassVar[bool] = False

    def __init__(
        self,
        settings: SolverSettings,
        params: Sequence[Param],
        shapes: Sequence[tuple[int, ...]],
        layouts: Layouts,
        random: Random | None = None,
        step: MomentumStep | None = None,
    ) -> None:
        """`shapes` are those of the arrays in memory; gradient noise needs `random`.

        `step` is a backend's form of SGD's rule.
        """
        self.settings = settings
        self._step = step
        self.params = tuple(params)
        self._layouts, self._random = layouts, random
        self.history: list[Blob] = [
            np.zeros(shape, np.float32) for _ in range(self.slots) for shape in shapes
        ]

    @_silent()
    def apply(self, rates: Rates, data: Sequence[Blob], diffs: Sequence[Blob | None]) -> None:
        """Update `data` in place from the accumulated `diffs`, which the update overwrites.

        A frozen param gathers its decay in the history of rules that keep the rate outside: as in
        Caffe.
        """
        clip(self.settings, [diff for diff in diffs if diff is not None])
        for i, (values, diff) in enumerate(zip(data, diffs, strict=True)):
            self._update(i, rates, values, diff)
        trained = [i for i, param in enumerate(self.params) if param.lr_mult]
        if self.settings.clip_weights >= 0:
            bound_norm([data[i] for i in trained], self.settings.clip_weights)
        for i in trained:
            constrain(self.settings, self.params[i], i, self._layouts, data[i])

    @_silent()
    def apply_to(self, i: int, rates: Rates, data: Blob, diff: Blob | None, start: int = 0) -> None:
        """Update param `i` alone, where the settings need no other param for that.

        Where they do not even need the whole of it, `data` and `diff` may be a piece, from element
        `start` on.
        """
        if diff is not None:
            clip(self.settings, [diff])
        self._update(i, rates, data, diff, start)
        if self.params[i].lr_mult:
            constrain(self.settings, self.params[i], i, self._layouts, data)

    def _update(self, i: int, rates: Rates, data: Blob, diff: Blob | None, start: int = 0) -> None:
        """Update one param; where no gradient reaches it (None), it decays all the same."""
        param = self.params[i]
        if param.lr_mult == 0 and self.passes_over_frozen:
            return
        if diff is None:
            if not rates.weight_decay * param.decay_mult:
                return
            diff = np.zeros_like(data)
        elif self.settings.gradient_noise and param.lr_mult:
            self._add_noise(i, rates.iteration, diff)
        history = (self.history[slot * len(self.params) + i] for slot in range(self.slots))
        past = [array.reshape(-1)[start : start + diff.size] for array in history]
        self._apply(param, rates, data, diff, past)

    def _apply(
        self, param: Param, rates: Rates, data: Blob, diff: Blob, history: Sequence[Blob]
    ) -> None:
        """Update one param, a piece at a time, so that all operations find it in the cache."""
        rate = np.float32(self._local_rate(param, rates, data, diff))
        share = np.float32(1 / self.settings.iter_size)
        decay = np.float32(rates.weight_decay * param.decay_mult)
        absolute = (param.regularization_type or self.settings.regularization_type) == "L1"

        def update(values: Blob, gradient: Blob, *past: Blob) -> None:
            if share != 1:
                gradient *= share
            if decay and not self.decoupled:
                gradient += _penalty(values, decay, absolute)
            self.update(past, rate, gradient, rates)
            if decay and self.decoupled:
                gradient += _penalty(values, rate * decay, absolute)
            values -= gradient

        arrays = [flat(array) for array in (data, diff, *history)]
        # The gradient is divided by iter_size through the rate, and the decay through neither.
        quick = not (absolute and decay)
        done = self.start(arrays, rate * share, decay / share, rates) if quick else 0
        in_pieces([array[done:] for array in arrays], update)

    def start(
        self, arrays: Sequence[Blob], rate: np.float32, decay: np.float32, rates: Rates
    ) -> int:
        """Update the first elements of a param in a faster way, if there is one; say how many.

        `arrays` are the param, its gradient, and its history, `decay` is that of L2.
        """
        return 0

    @abstractmethod
    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        """Turn a piece of a gradient into what is subtracted from the param, in place.

        `past` is that piece of the history, a blob for each slot; `rate` is that of the param.
        """

    def _add_noise(self, i: int, iteration: int, diff: Blob) -> None:
        assert self._random, "nobody gives random numbers for the noise"
        values = noise(self.settings, self._random, i, iteration, self.params[i].shape)
        # The gradient has yet to be divided by iter_size.
        values *= np.float32(self.settings.iter_size)
        added = np.zeros_like(diff)
        self._layouts.from_plain(i, values, added)
        diff += added

    def remarks(self) -> Iterator[str]:
        """Yield what somebody may not expect of these settings with these params."""
        if self._adapts_rates() and any(param.lr_mult not in (0, 1) for param in self.params):
            yield (
                "larc and local_lr_auto take no account of lr_mult, but for 0: "
                "so do the forks that have them"
            )

    def _adapts_rates(self) -> bool:
        return self.adapts and (self.settings.larc or self.settings.local_lr_auto)

    def _local_rate(self, param: Param, rates: Rates, data: Blob, diff: Blob) -> float:
        """Return the rate of one param: that of the iteration times lr_mult, or LARS's or LARC's.

        Those take their measure from the norms of weights and gradient, and ask of lr_mult only
        whether it is 0, as in the forks that have them.
        """
        settings, rate = self.settings, rates.rate
        if not self._adapts_rates() or not param.lr_mult:
            return rate * param.lr_mult
        weights, gradient = norm(data), norm(diff) / settings.iter_size
        if not (weights > 0 and gradient > 0):
            return rate
        if settings.local_lr_auto:
            # You et al., "Large batch training of convolutional networks", 2017, as in IntelCaffe.
            slope = gradient + rates.weight_decay * weights
            return rate * settings.local_gw_ratio * weights / slope
        # The same by NVCaffe, which leaves out the decay, and what momentum adds to the steps.
        trust = (1 - rates.momentum) * settings.larc_eta * weights / gradient
        return min(rate, trust) if settings.larc_policy == "clip" else rate * trust


def _penalty(values: Blob, decay: np.float32, absolute: bool) -> Blob:
    """Return the gradient of a penalty on a piece of a param: its L1 norm, or half its square."""
    found = spare(values)
    if absolute:
        np.sign(values, out=found)
        found *= decay
    else:
        np.multiply(values, decay, out=found)
    return found


class SGD(UpdateRule):
    """v = momentum v + rate g; w -= v."""

    passes_over_frozen = True
    adapts = True

    def start(
        self, arrays: Sequence[Blob], rate: np.float32, decay: np.float32, rates: Rates
    ) -> int:
        if self._step is None:
            return 0
        factors = {"rate": float(rate), "momentum": rates.momentum, "decay": float(decay)}
        return self._step(*arrays, **factors)

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        (history,) = past
        history *= np.float32(rates.momentum)
        diff *= rate
        history += diff
        diff[...] = history


class Nesterov(UpdateRule):
    """v' = momentum v + rate g; w -= (1 + momentum) v' - momentum v.

    Source: Sutskever et al., ICML 2013.
    """

    passes_over_frozen = True

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        momentum = np.float32(self.settings.momentum)
        (history,) = past
        before = spare(diff)
        np.multiply(history, momentum, out=before)
        diff *= rate
        np.add(before, diff, out=history)
        np.multiply(history, 1 + momentum, out=diff)
        diff -= before


class AdaGrad(UpdateRule):
    """h += g^2; w -= rate g / (sqrt(h) + delta). Duchi et al., JMLR 2011."""

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        (history,) = past
        square = spare(diff)
        np.multiply(diff, diff, out=square)
        history += square
        _divide_by_root(diff, rate, history, self.settings.delta)


class RMSProp(UpdateRule):
    """h = d h + (1 - d) g^2; w -= rate g / (sqrt(h) + delta), d = rms_decay. Tieleman and Hinton.

    2012.
    """

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        (history,) = past
        decay = np.float32(self.settings.rms_decay)
        _average_squares(history, diff, decay, 1 - decay)
        _divide_by_root(diff, rate, history, self.settings.delta)


class AdaDelta(UpdateRule):
    """u = g sqrt((s + delta) / (h + delta)), with running means h of g^2 and s of u^2. Zeiler.

    2012.
    """

    slots = 2

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        momentum = np.float32(self.settings.momentum)
        delta = np.float32(self.settings.delta)
        gradients, updates = past
        _average_squares(gradients, diff, momentum, 1 - momentum)
        above, below = spare(diff), spare(diff, 1)
        np.add(updates, delta, out=above)
        np.add(gradients, delta, out=below)
        above /= below
        np.sqrt(above, out=above)
        diff *= above
        _average_squares(updates, diff, momentum, 1 - momentum)
        diff *= rate


class Adam(UpdateRule):
    """m, v: running means of g and g^2 with their start corrected for. Kingma and Ba, ICLR 2015.

    In the form at the end of its section 2: delta stands beside the uncorrected root.
    """

    slots = 2

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        mean, square = past
        first, second = self._average(mean, square, diff, rates)
        scale = np.float32(rate * (math.sqrt(second) / first))
        root = spare(diff)
        np.sqrt(square, out=root)
        root += np.float32(self.settings.delta)
        np.multiply(mean, scale, out=diff)
        diff /= root

    def _average(self, mean: Blob, square: Blob, diff: Blob, rates: Rates) -> tuple[float, float]:
        """Take a gradient into the running means; return what their weights have added up to."""
        beta1, beta2 = self.settings.momentum, self.settings.momentum2
        part = spare(diff)
        mean *= np.float32(beta1)
        np.multiply(diff, np.float32(1 - beta1), out=part)
        mean += part
        _average_squares(square, diff, np.float32(beta2), np.float32(1 - beta2))
        time = rates.iteration + 1
        return 1 - beta1**time, 1 - beta2**time


class AdamW(Adam):
    """Adam whose weight decay is w -= rate decay w beside its step. Loshchilov and Hutter.

    ICLR 2019, algorithm 2: delta stands beside the corrected root.
    """

    passes_over_frozen = True
    decoupled = True

    def update(self, past: Sequence[Blob], rate: np.float32, diff: Blob, rates: Rates) -> None:
        mean, square = past
        first, second = self._average(mean, square, diff, rates)
        root = spare(diff)
        np.sqrt(square, out=root)
        root *= np.float32(1 / math.sqrt(second))
        root += np.float32(self.settings.delta)
        np.multiply(mean, np.float32(rate / first), out=diff)
        diff /= root


def _average_squares(mean: Blob, values: Blob, keep: np.float32, take: np.float32) -> None:
    """Mean = keep mean + take values^2, in place."""
    square = spare(values)
    mean *= keep
    np.multiply(values, take, out=square)
    square *= values
    mean += square


def _divide_by_root(diff: Blob, rate: np.float32, history: Blob, delta: float) -> None:
    """Diff *= rate / (sqrt(history) + delta), in place."""
    root = spare(diff)
    np.sqrt(history, out=root)
    root += np.float32(delta)
    np.divide(rate, root, out=root)
    diff *= root


RULES: dict[str, type[UpdateRule]] = {
    rule.__name__: rule for rule in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam, AdamW)
}
