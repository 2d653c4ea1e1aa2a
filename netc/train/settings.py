"""The solver's settings: one frozen value, checked before anything runs."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netc.errors import Problem, Problems, nearest
from netc.schema import Source, bind_fields, chooses_implementation, netc_pb2


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
    max_iter: int = 0
    iter_size: int = 1
    type: str = "SGD"
    momentum: float = 0.0
    momentum2: float = 0.999
    rms_decay: float = 0.99
    delta: float = 1e-8
    weight_decay: float = 0.0
    regularization_type: str = "L2"
    clip_gradients: float = -1.0
    average_loss: int = 1
    display: int = 0
    debug_info: bool = False
    test_iter: tuple[int, ...] = ()
    test_interval: int = 0
    test_compute_loss: bool = False
    test_initialization: bool = True
    snapshot: int = 0
    snapshot_prefix: str = ""
    snapshot_diff: bool = False
    snapshot_format: SnapshotFormat = SnapshotFormat.BINARYPROTO
    snapshot_after_train: bool = True
    random_seed: int = -1
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
}
# Fields of a solver that are no settings of its loop: which nets, in which state, on which device.
_READ_ELSEWHERE = frozenset(
    [
        *("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param"),
        *("train_state", "test_state", "solver_mode", "device_id", "layer_wise_reduce"),
    ]
)
SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


def read_settings(source: Source[netc_pb2.SolverParameter]) -> SolverSettings:
    """Bind and check a solver file; raises one NetcError with all that is wrong with it."""
    settings, unread = bind_fields(SolverSettings, [source.message], span=source.span)
    assert isinstance(settings, SolverSettings)
    _Check(source, settings).run([path[0] for path in unread])
    return settings


class _Check:
    def __init__(self, source: Source[netc_pb2.SolverParameter], settings: SolverSettings) -> None:
        self.source = source
        self.settings = settings
        self.problems = Problems()

    def run(self, unread: Sequence[str]) -> None:
        s = self.settings
        for name in unread:
            # These are fields of forks: of Caffe's, all are read.
            known = name in _READ_ELSEWHERE or chooses_implementation(self.source.message, [name])
            if not known:
                self._add(
                    name,
                    f"field '{name}' of the solver is set, but not read",
                    "what BVLC Caffe's solver knows",
                    name,
                    "a fork's solver has it; delete it to train without",
                )
        self._require("base_lr", "base_lr: 0.01")
        self._check_policy()
        self._known("type", s.type, SOLVER_TYPES, "solver type")
        self._known(
            "regularization_type", s.regularization_type, ("L1", "L2"), "regularization_type"
        )
        for name, least in (
            ("base_lr", 0),
            ("max_iter", 0),
            ("iter_size", 1),
            ("average_loss", 1),
            ("display", 0),
            ("test_interval", 0),
            ("snapshot", 0),
            ("momentum", 0),
            ("weight_decay", 0),
        ):
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
        if s.test_interval and not s.test_iter:
            self._add(
                "test_interval",
                "test_interval is set, but test_iter is not",
                "one test_iter for each test net",
                "none",
                "add test_iter: N, with N * batch size covering the test data",
            )
        if any(n <= 0 for n in s.test_iter):
            self._add("test_iter", "test_iter must be positive", "test_iter >= 1", s.test_iter)
        self._check_stopping()
        self.problems.raise_any()

    def _check_stopping(self) -> None:
        s = self.settings
        for name in ("score_net", "patience", "min_delta", "keep_last"):
            if getattr(s, name) < 0:
                self._add(name, f"{name} is negative", f"{name} >= 0", getattr(s, name))
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
        for name in _POLICY_SETTINGS[s.lr_policy]:
            if not self._has(name):
                self._add(
                    "lr_policy",
                    f"lr_policy '{s.lr_policy}' needs {name}",
                    f"a setting {name}",
                    "none",
                )
            elif name == "stepsize" and s.stepsize <= 0:
                self._add("stepsize", "stepsize is too small", "stepsize > 0", s.stepsize)
            elif name == "gamma" and s.gamma < 0:
                self._add("gamma", "gamma is negative", "gamma >= 0", s.gamma)

    def _has(self, name: str) -> bool:
        message = self.source.message
        value = getattr(message, name)
        return bool(value) if name == "stepvalue" else message.HasField(name)

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
