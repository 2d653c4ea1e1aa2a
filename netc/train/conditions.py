"""Which settings of a solver take effect only beside others, and which netc does not follow.

Caffe and its forks pass over a setting that the chosen solver does not use: such a file trains here
too, and whoever checks it is told. A setting of netc's own without effect is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netc.train.settings import SolverSettings


@dataclass(frozen=True, slots=True)
class Condition:
    """Settings that count only while something `holds`; `needs` says what, in words."""

    names: tuple[str, ...]
    needs: str
    holds: Callable[[SolverSettings], bool]


def _under(setting: str, *values: str) -> tuple[str, Callable[[SolverSettings], bool]]:
    """Return the words and the test for a setting that must have one of some values."""
    *others, last = values
    words = f"{', '.join(others)} or {last}" if others else last
    return f"{setting} {words}", lambda s: getattr(s, setting) in values


def _beside(setting: str) -> tuple[str, Callable[[SolverSettings], bool]]:
    """Return the words and the test for a setting that must be given."""
    return setting, lambda s: bool(getattr(s, setting))


CONDITIONS = (
    Condition(
        ("gamma",),
        *_under("lr_policy", "step", "exp", "inv", "multistep", "sigmoid", "plateau"),
    ),
    Condition(("power",), *_under("lr_policy", "inv", "poly")),
    Condition(("stepsize",), *_under("lr_policy", "step", "sigmoid")),
    Condition(("stepvalue",), *_under("lr_policy", "multistep")),
    Condition(("plateau_winsize",), *_under("lr_policy", "plateau")),
    Condition(("stagelr", "stageiter"), *_under("lr_policy", "multifixed")),
    Condition(("restart_interval",), *_under("lr_policy", "cosine")),
    Condition(("restart_mult",), *_beside("restart_interval")),
    Condition(("warmup_start_lr", "warmup_policy"), *_beside("warmup_iter")),
    Condition(("rampup_lr",), *_beside("rampup_interval")),
    Condition(("momentum_policy",), *_under("type", "SGD")),
    Condition(("max_momentum",), *_under("momentum_policy", "poly", "opt")),
    Condition(("momentum_power",), *_under("momentum_policy", "poly")),
    Condition(("momentum2",), *_under("type", "Adam", "AdamW")),
    Condition(("rms_decay",), *_under("type", "RMSProp")),
    Condition(("delta",), *_under("type", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "AdamW")),
    Condition(("larc", "local_lr_auto"), *_under("type", "SGD")),
    Condition(("larc_policy", "larc_eta"), *_beside("larc")),
    Condition(("local_gw_ratio",), *_beside("local_lr_auto")),
    Condition(("max_weight_decay", "weight_decay_power"), *_under("weight_decay_policy", "poly")),
    Condition(("gradient_noise_decay",), *_beside("gradient_noise")),
    Condition(("ap_version", "show_per_class_result"), *_under("eval_type", "detection")),
)

# Settings of forks that netc does not follow: why, and what to do instead. Off, as by default, they
# are accepted.
REFUSED = {
    "disabled_update": (
        "a solver whose updates are disabled learns nothing",
        "Intel's nodes set it for a server to update the params; delete it",
    ),
    "larc_turbo": (
        "larc_turbo is not followed: its running correlations are in no snapshot",
        "larc without it is what the paper describes",
    ),
    "test_and_snapshot_last_epochs": (
        "test_and_snapshot_last_epochs is not followed: the solver counts iterations, not epochs",
        "use snapshot and test_interval",
    ),
}


def idle(settings: SolverSettings, is_set: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the settings given without effect, each with what it would need."""
    for condition in CONDITIONS:
        if not condition.holds(settings):
            yield from ((name, condition.needs) for name in condition.names if is_set(name))
