"""The solver's settings: one frozen value, checked before anything runs."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netc.backends.base import Precision
from netc.errors import Problem, Problems, nearest
from netc.graph.types import REGULARIZATION_TYPES
from netc.schema import Source, bind_fields, chooses_implementation, netc_pb2
from netc.train.conditions import REFUSED, idle


@dataclass(frozen=True)
class LayerUnfreeze:
    """From iteration `iter` on the frozen layers that `layer` matches are trained."""

    layer: str = ""
    iter: int = 0


@dataclass(frozen=True)
class LayerRate:
    """The rate of the layers that `layer` matches, as a factor of what the text says."""

    layer: str = ""
    lr_mult: float = 1.0


@dataclass(frozen=True)
class LayerRename:
    """What layers of a weights file are called in the net."""

    old: str = ""
    new: str = ""


@dataclass(frozen=True)
class PartialCopy:
    """Layers that take rows of weights with another number of them."""

    layer: str = ""
    row: tuple[int, ...] = ()


class SnapshotFormat(enum.Enum):
    """Encoding of snapshots; the values are the schema's."""

    HDF5 = 0
    BINARYPROTO = 1


class ScoreGoal(enum.Enum):
    """Which scores are better; the values are the schema's."""

    LOWEST = 10050
    HIGHEST = 10051


@dataclass(frozen=True)
class SolverSettings:
    """The fields of a solver file, under their schema names.

    Counts are iterations unless said otherwise. `random_seed` -1 means "choose one and say which".
    `average_loss` is the window of the smoothed loss. `patience` counts tests, `time_limit` is in
    seconds.
    """

    base_lr: float = 0.0
    lr_policy: str = ""
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalue: tuple[int, ...] = ()
    plateau_winsize: tuple[int, ...] = ()
    stagelr: tuple[float, ...] = ()
    stageiter: tuple[int, ...] = ()
    restart_interval: int = 0
    restart_mult: float = 1.0
    min_lr: float = 0.0
    warmup_iter: int = 0
    warmup_start_lr: float = 0.0
    warmup_policy: str = "linear"
    rampup_interval: int = 0
    rampup_lr: float = 0.0
    max_iter: int = 0
    iter_size: int = 1
    type: str = "SGD"
    momentum: float = 0.0
    momentum_policy: str = "fixed"
    max_momentum: float | None = None
    momentum_power: float = 1.0
    momentum2: float = 0.999
    rms_decay: float = 0.99
    delta: float = 1e-8
    larc: bool = False
    larc_policy: str = "scale"
    larc_eta: float = 0.001
    local_lr_auto: bool = False
    local_gw_ratio: float = 0.001
    weight_decay: float = 0.0
    weight_decay_policy: str = "fixed"
    max_weight_decay: float = 0.0
    weight_decay_power: float = 1.0
    regularization_type: str = "L2"
    clip_gradients: float = -1.0
    clip_gradient_values: float = 0.0
    gradient_noise: float = 0.0
    gradient_noise_decay: float = 0.55
    max_norm: float = 0.0
    clip_weights: float = -1.0
    clamp_weights_lower: float | None = None
    clamp_weights_upper: float | None = None
    ema_decay: float = 0.0
    average_loss: int = 1
    display: int = 0
    debug_info: bool = False
    test_iter: tuple[int, ...] = ()
    test_interval: int = 0
    test_offset: int = 0
    test_compute_loss: bool = False
    test_initialization: bool = True
    eval_type: str = "classification"
    ap_version: str = "Integral"
    show_per_class_result: bool = False
    snapshot: int = 0
    snapshot_prefix: str = ""
    snapshot_diff: bool = False
    snapshot_format: SnapshotFormat = SnapshotFormat.BINARYPROTO
    snapshot_after_train: bool = True
    random_seed: int = -1
    precision: str = Precision.FP32.value
    weights: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    unfreeze: tuple[LayerUnfreeze, ...] = ()
    layer_rate: tuple[LayerRate, ...] = ()
    rename: tuple[LayerRename, ...] = ()
    rename_file: str = ""
    partial_copy: tuple[PartialCopy, ...] = ()
    data_threads: int = 0
    score: str | None = None
    score_net: int = 0
    score_goal: ScoreGoal | None = None
    patience: int = 0
    min_delta: float = 0.0
    target_score: float | None = None
    time_limit: float | None = None
    keep_best: bool = False
    keep_last: int = 0
    guard_interval: int = 100
    guard_loss: bool = True
    update_ratio_limit: float = 1.0
    dead_unit_limit: float = 0.0
    guard_stops: bool = False
    json_log: str = ""
    tensorboard: str = ""

    @property
    def judges(self) -> bool:
        """Whether anything depends on the score of the tests."""
        return bool(self.patience or self.keep_best) or self.target_score is not None


# Policy -> the settings it needs, in the words of the message.
_POLICY_SETTINGS: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
    "cosine": ("max_iter",),
    "plateau": ("gamma", "plateau_winsize"),
    "multifixed": ("stagelr", "stageiter"),
}
# Fields of a solver that are no settings of its loop: which nets, in which state, on which device.
_READ_ELSEWHERE = frozenset(
    [
        *("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param"),
        *("train_state", "test_state", "solver_mode", "device_id", "layer_wise_reduce"),
    ]
)
SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "AdamW")
# Settings with a few known values.
_CHOICES = {
    "type": SOLVER_TYPES,
    "precision": tuple(precision.value for precision in Precision),
    "regularization_type": REGULARIZATION_TYPES,
    "warmup_policy": ("linear", "constant"),
    "momentum_policy": ("fixed", "poly", "opt"),
    "weight_decay_policy": ("fixed", "poly"),
    "larc_policy": ("scale", "clip"),
    "eval_type": ("classification", "detection"),
    "ap_version": ("Integral", "MaxIntegral", "11point", "101point"),
}
# The least value of a setting.
_LEAST = {
    **dict.fromkeys(("base_lr", "max_iter", "display", "test_interval", "snapshot"), 0),
    **dict.fromkeys(("momentum", "weight_decay", "max_weight_decay", "min_lr"), 0),
    **dict.fromkeys(("warmup_iter", "warmup_start_lr", "rampup_interval", "rampup_lr"), 0),
    **dict.fromkeys(("larc_eta", "local_gw_ratio", "test_offset", "ema_decay"), 0),
    **dict.fromkeys(("clip_gradient_values", "gradient_noise", "gradient_noise_decay"), 0),
    **dict.fromkeys(("max_norm", "momentum_power", "weight_decay_power"), 0),
    **dict.fromkeys(("iter_size", "average_loss", "restart_mult"), 1),
}
# Of two ways to say one thing, a file takes one.
_EXCLUSIVE = (
    ("warmup_iter", "rampup_interval", "a rate can warm up in one way only"),
    ("larc", "local_lr_auto", "a rate can be adapted to each layer in one way only"),
)


def read_settings(source: Source[netc_pb2.SolverParameter]) -> SolverSettings:
    """Bind and check a solver file; raises one NetcError with all that is wrong with it."""
    settings, unread = bind_fields(SolverSettings, [source.message], span=source.span)
    assert isinstance(settings, SolverSettings)
    _Check(source, settings).run([path[0] for path in unread])
    return settings


def idle_settings(
    source: Source[netc_pb2.SolverParameter], settings: SolverSettings
) -> tuple[str, ...]:
    """Return a line for each setting that this solver does not use: Caffe passes over them too."""
    return tuple(
        f"{source.span(name)}: {name} has no effect without {needs}"
        for name, needs in idle(settings, lambda name: _is_set(source.message, name))
    )


def _is_set(message: netc_pb2.SolverParameter, name: str) -> bool:
    field = message.DESCRIPTOR.fields_by_name[name]
    return bool(getattr(message, name)) if field.is_repeated else message.HasField(name)


def _is_ours(name: str) -> bool:
    """Say whether a field is netc's own: those of forks without a free number begin at 20000."""
    return 10000 <= netc_pb2.SolverParameter.DESCRIPTOR.fields_by_name[name].number < 20000


class _Check:
    def __init__(self, source: Source[netc_pb2.SolverParameter], settings: SolverSettings) -> None:
        self.source = source
        self.settings = settings
        self.problems = Problems()

    def run(self, unread: Sequence[str]) -> None:
        s = self.settings
        self._check_unread(unread)
        if s.lr_policy != "multifixed" or s.warmup_iter or s.rampup_interval:
            self._require("base_lr", "base_lr: 0.01")
        self._check_policy()
        for name, known in _CHOICES.items():
            self._known(name, getattr(s, name), known, name if name != "type" else "solver type")
        for field in dataclasses.fields(s):
            value = getattr(s, field.name)
            values = value if isinstance(value, tuple) else (value,)
            if any(isinstance(item, float) and math.isnan(item) for item in values):
                self._add(field.name, f"{field.name} is not a number", "a number", value)
        for name, least in _LEAST.items():
            if getattr(s, name) < least:
                self._add(name, f"{name} is too small", f"{name} >= {least}", getattr(s, name))
        if s.type in ("AdaGrad", "RMSProp") and s.momentum:
            self._add(
                "momentum",
                f"solver type {s.type} has no momentum",
                "no momentum setting",
                f"momentum {s.momentum:g}",
                'remove it, or use type: "Adam"',
            )
        if s.type == "RMSProp" and not 0 <= s.rms_decay < 1:
            self._add("rms_decay", "rms_decay is out of range", "0 <= rms_decay < 1", s.rms_decay)
        if s.type == "AdamW":
            for name in ("momentum", "momentum2"):
                self._below_1(name)
        self._below_1("ema_decay")
        self._check_decay_and_momentum()
        self._check_bounds()
        self._check_tests()
        self._check_pairs()
        self._check_stopping()
        self.problems.raise_any()

    def _check_unread(self, unread: Sequence[str]) -> None:
        for name in unread:
            # These are fields of forks: of Caffe's, all are read.
            if name in _READ_ELSEWHERE or chooses_implementation(self.source.message, [name]):
                continue
            value = getattr(self.source.message, name)
            if name not in REFUSED:
                what, hint = f"field '{name}' of the solver is set, but not read", "delete it"
            elif value:
                what, hint = REFUSED[name]
            else:
                continue
            self._add(name, what, f"no {name}", f"{name} {value}", hint)

    def _check_stopping(self) -> None:
        s = self.settings
        for name in (
            *("score_net", "patience", "min_delta", "keep_last"),
            *("guard_interval", "update_ratio_limit"),
        ):
            if getattr(s, name) < 0:
                self._add(name, f"{name} is negative", f"{name} >= 0", getattr(s, name))
        if not 0 <= s.dead_unit_limit < 1:
            self._add(
                "dead_unit_limit",
                "dead_unit_limit is out of range",
                "0 <= dead_unit_limit < 1, a share of the units",
                s.dead_unit_limit,
            )
        if s.time_limit is not None and not s.time_limit > 0:
            self._add("time_limit", "time_limit is too small", "seconds, more than 0", s.time_limit)
        judging = [
            name for name in ("patience", "keep_best", "target_score") if self._is_used(name)
        ]
        if judging and not s.test_interval:
            self._add(
                judging[0],
                f"{judging[0]} looks at tests, but none are made",
                "test_interval and test_iter",
                "no test_interval",
                "add test_interval: N, in iterations, and test_iter",
            )
        unused = ["min_delta"] if s.min_delta and not s.patience else []
        if not judging:
            unused += [n for n in ("score", "score_net", "score_goal") if self._is_used(n)]
        for name in unused:
            needs = "patience" if name == "min_delta" else "patience, target_score or keep_best"
            self._add(name, f"{name} is set, but nothing uses it", needs, "none", f"add {needs}")

    def _is_used(self, name: str) -> bool:
        """Say whether an optional setting is there, and is not an explicit 0 or false."""
        value = getattr(self.settings, name)
        return self.source.message.HasField(name) and (value or isinstance(value, float))

    def _check_policy(self) -> None:
        s = self.settings
        if not s.lr_policy:
            self._add(
                "lr_policy",
                "lr_policy is missing",
                ", ".join(_POLICY_SETTINGS),
                "none",
                'add lr_policy: "fixed"',
            )
            return
        if not self._known("lr_policy", s.lr_policy, tuple(_POLICY_SETTINGS), "lr_policy"):
            return
        # With restarts a cosine has no end.
        ends = s.lr_policy != "cosine" or not self._has("restart_interval")
        self._needs("lr_policy", _POLICY_SETTINGS[s.lr_policy] if ends else ())
        if self._has("stepsize") and s.lr_policy in ("step", "sigmoid") and s.stepsize <= 0:
            self._add("stepsize", "stepsize is too small", "stepsize > 0", s.stepsize)
        if self._has("gamma") and "gamma" in _POLICY_SETTINGS[s.lr_policy] and s.gamma < 0:
            self._add("gamma", "gamma is negative", "gamma >= 0", s.gamma)
        if any(n <= 0 for n in s.plateau_winsize):
            self._add(
                "plateau_winsize",
                "a window of plateau_winsize is empty",
                "iterations without a lower loss before each drop of the rate, 1 or more",
                ", ".join(map(str, s.plateau_winsize)),
            )
        if len(s.stagelr) != len(s.stageiter):
            self._add(
                "stageiter",
                "the numbers of stagelr and of stageiter differ",
                f"{len(s.stagelr)} stageiter, the last iteration of each stage",
                len(s.stageiter),
            )
        if self._has("restart_interval") and s.restart_interval < 1:
            self._add(
                "restart_interval",
                "restart_interval is too small",
                "restart_interval >= 1",
                s.restart_interval,
            )
        if s.lr_policy in ("poly", "cosine") and s.min_lr > s.base_lr:
            self._add(
                "min_lr",
                f"lr_policy '{s.lr_policy}' cannot descend to min_lr",
                f"min_lr <= base_lr, which is {s.base_lr:g}",
                f"min_lr {s.min_lr:g}",
            )

    def _check_decay_and_momentum(self) -> None:
        s = self.settings
        if s.weight_decay_policy == "poly":
            self._needs("weight_decay_policy", ("max_weight_decay", "max_iter"))
        if s.momentum_policy == "poly":
            self._needs("momentum_policy", ("max_iter",))

    def _check_bounds(self) -> None:
        lower, upper = self.settings.clamp_weights_lower, self.settings.clamp_weights_upper
        for name, value, wrong in (
            ("clamp_weights_lower", lower, lower is not None and lower > 0),
            ("clamp_weights_upper", upper, upper is not None and upper < 0),
        ):
            if wrong:
                self._add(
                    name,
                    "weights are clamped to a range without 0",
                    "clamp_weights_lower <= 0 <= clamp_weights_upper",
                    f"{name} {value:g}",
                )

    def _check_tests(self) -> None:
        s = self.settings
        if s.test_interval and not s.test_iter:
            self._add(
                "test_interval",
                "test_interval is set, but test_iter is not",
                "one test_iter for each test net",
                "none",
                "add test_iter: N, with N * batch size covering the test data",
            )
        if any(n < 0 for n in s.test_iter):
            self._add("test_iter", "test_iter is negative", "test_iter >= 0", s.test_iter)

    def _check_pairs(self) -> None:
        for first, second, why in _EXCLUSIVE:
            if getattr(self.settings, first) and getattr(self.settings, second):
                self._add(second, why, f"{first} or {second}", f"{first} and {second}")
        for name, needs in idle(self.settings, self._has):
            if _is_ours(name):
                self._add(
                    name,
                    f"{name} has no effect without {needs}",
                    needs,
                    f"{name} alone",
                    f"delete {name}, or set what it belongs to",
                )

    def _below_1(self, name: str) -> None:
        value = getattr(self.settings, name)
        if value >= 1:
            self._add(name, f"{name} is too large", f"{name} < 1", f"{value:g}")

    def _needs(self, policy: str, names: Sequence[str]) -> None:
        """Complain about each of the settings that a policy needs and the file lacks."""
        value = getattr(self.settings, policy)
        for name in names:
            if not self._has(name):
                self._add(policy, f"{policy} '{value}' needs {name}", f"a setting {name}", "none")

    def _has(self, name: str) -> bool:
        return _is_set(self.source.message, name)

    def _require(self, name: str, example: str) -> None:
        if not self.source.message.HasField(name):
            self._add(name, f"{name} is missing", f"a setting {name}", "none", f"add {example}")

    def _known(self, name: str, value: str, known: tuple[str, ...], what: str) -> bool:
        if value in known:
            return True
        self._add(name, f"unknown {what} '{value}'", ", ".join(known), value, nearest(value, known))
        return False

    def _add(self, name: str, what: str, expected: str, got: Any, hint: str = "") -> None:
        self.problems.add(Problem(what, self.source.span(name), "", expected, str(got), hint))
