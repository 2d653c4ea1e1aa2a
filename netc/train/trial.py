"""Solvers for trials: they train in the same way, and neither test nor write anything."""

from __future__ import annotations

import dataclasses

from netc.schema import Source, netc_pb2

_NOT_TRAINING = (
    *("test_iter", "test_interval", "test_net", "test_net_param", "test_state"),
    *("test_compute_loss", "test_initialization", "snapshot", "json_log", "tensorboard"),
    *("score", "score_net", "score_goal", "patience", "min_delta", "target_score"),
    *("time_limit", "keep_best", "keep_last", "ema_decay"),
)
_RATES = (
    *("power", "stepsize", "stepvalue", "warmup_policy", "warmup_iter", "warmup_start_lr"),
    *("restart_interval", "restart_mult", "rampup_interval", "rampup_lr", "min_lr"),
    *("plateau_winsize", "stagelr", "stageiter"),
)


def training_only(
    source: Source[netc_pb2.SolverParameter], iterations: int
) -> Source[netc_pb2.SolverParameter]:
    """Return the solver without tests, snapshots and logs, for so many iterations."""
    message = netc_pb2.SolverParameter()
    message.CopyFrom(source.message)
    for name in _NOT_TRAINING:
        message.ClearField(name)
    message.snapshot_after_train = False
    message.max_iter = iterations
    return dataclasses.replace(source, message=message)


def sweeping(
    source: Source[netc_pb2.SolverParameter], least: float, most: float, iterations: int
) -> Source[netc_pb2.SolverParameter]:
    """Return that solver with a rate that grows from `least` to `most`, each time as many times."""
    trial = training_only(source, iterations)
    message = trial.message
    for name in _RATES:
        message.ClearField(name)
    message.lr_policy, message.base_lr = "exp", least
    message.gamma = (most / least) ** (1 / (iterations - 1))
    # That the loss explodes in the end is what a sweep is after.
    message.guard_loss, message.guard_interval = False, 0
    return trial
