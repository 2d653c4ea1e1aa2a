"""What applies to all nets of a process: phases, mode, device, seed, log, layer types."""

from __future__ import annotations

import logging
import secrets

from netc.backends import use_threads
from netc.errors import NetcError, fail
from netc.layers import registry
from netc.layers.types import Phase
from netc.pycaffe.errors import RuntimeMistake, mistake
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


def set_threads(threads: int) -> None:
    """Let so many threads compute, in nets and solvers that are made from here on.

    Without it there is one for each processor that the process may use. netc's own: Caffe leaves
    this to the environment of its BLAS.
    """
    use_threads(threads)


def set_device(device: int) -> None:
    """Accept the number of a GPU; it has no effect (see `set_mode_gpu`)."""


# -- log -------------------------------------------------------------------------------------------

# glog's levels are these: information, warnings, errors, and what ends the process.
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_printing: logging.Handler | None = None


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Print the log, from a level on: 0 all, 1 warnings, 2 errors; not without `stderr`.

    Until then messages go to Python's logger "netc" and are printed if its handlers do so, which
    by default is from warnings on. Caffe writes log files where `stderr` is False; here nothing is.
    """
    global _printing
    if level not in range(len(_LEVELS)):
        raise fail("this is not a level of the log", expected="0, 1, 2 or 3", got=repr(level))
    if _printing is not None:
        logger.removeHandler(_printing)
    _printing = logging.StreamHandler() if stderr else logging.NullHandler()
    _printing.setFormatter(logging.Formatter("%(levelname).1s%(asctime)s %(message)s", "%m%d %T"))
    logger.addHandler(_printing)
    logger.setLevel(_LEVELS[level])


def log(message: str) -> None:
    """Write a line to the log, as information."""
    logger.info("%s", message)


# -- several processes -----------------------------------------------------------------------------


def solver_count() -> int:
    """Return how many solvers train together: one."""
    return 1


def solver_rank() -> int:
    """Return the number of this solver among them: 0."""
    return 0


def set_solver_count(count: int) -> None:
    """Accept 1; NetcError for more, which this version cannot do."""
    if count != 1:
        raise _alone(f"solver_count {count}")


def set_solver_rank(rank: int) -> None:
    """Accept 0, likewise."""
    if rank != 0:
        raise _alone(f"solver_rank {rank}")


def set_multiprocess(multiprocess: bool) -> None:
    """Accept any answer: with one solver it makes no difference."""


def has_nccl() -> bool:
    """Say whether several GPUs can train together: no."""
    return False


class NCCL:
    """The link between the solvers of several GPUs in pycaffe. NetcError: there is none here."""

    def __init__(self, solver: object, uid: str | bytes) -> None:
        raise _alone("NCCL(solver, uid)")

    @staticmethod
    def new_uid() -> bytes:
        """Return a name for such a link. NetcError, likewise."""
        raise _alone("NCCL.new_uid()")


def _alone(got: str) -> NetcError:
    return mistake(
        RuntimeMistake,
        "this version of netc trains in one process, without NCCL",
        expected="one solver: solver_count 1, solver_rank 0",
        got=got,
        hint="ask has_nccl() first, and leave the link out where it says no",
    )


# -- what is known ---------------------------------------------------------------------------------


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
