"""What applies to all nets of a process: phases, mode, device, random seed, layer types."""

from __future__ import annotations

import logging
import secrets

from netc.errors import fail
from netc.layers import registry
from netc.layers.types import Phase
from netc.runtime.executor import generator

TRAIN = Phase.TRAIN.value
TEST = Phase.TEST.value

logger = logging.getLogger("netc")


class _Seeds:
    """Where nets without a seed of their own get one: at random, or in a row from a given one."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.drawn = 0

    def next(self) -> int:
        """Return the seed of the next net. The first after a given seed has that seed itself."""
        if self.first is None:
            return secrets.randbits(31)
        number = self.drawn
        self.drawn += 1
        if number == 0:
            return self.first
        return int(generator(self.first, "net", number).integers(2**31))


seeds = _Seeds()


def set_random_seed(seed: int) -> None:
    """Make what follows reproducible: fillers, dropout and shuffling of the nets made from here on.

    Two nets made after it differ from each other, but do not change from run to run. Without it,
    every net has a random seed of its own, unless its solver sets one.
    """
    if seed < 0:
        raise fail("a random seed must not be negative", expected="seed >= 0", got=seed)
    seeds.first, seeds.drawn = seed, 0


def set_mode_cpu() -> None:
    """Compute on the CPU, which is what happens anyway."""


def set_mode_gpu() -> None:
    """Go on on the CPU, and say so: no backend of this version uses a GPU.

    No error, because the results are the same and scripts that call it are meant to run.
    """
    logger.warning("set_mode_gpu: this version of netc has no GPU backend; running on the CPU")


def set_device(device: int) -> None:
    """Accept the number of a GPU; it has no effect (see `set_mode_gpu`)."""


def layer_type_list() -> list[str]:
    """Return the names of all layer types, in alphabetical order."""
    return sorted(registry.layer_types())


def phase_of(value: object) -> Phase:
    """Return the phase that TRAIN or TEST stands for."""
    if isinstance(value, Phase):
        return value
    if isinstance(value, int) and value in (TRAIN, TEST):
        return Phase(value)
    raise fail(
        "this is not a phase",
        expected="TRAIN or TEST: Net(file, TEST), Net(file, TEST, weights=file)",
        got=repr(value),
    )
