"""Rules, policies and averages against PyTorch's, where it has the same; skipped without it."""

from __future__ import annotations

import numpy as np
import pytest

from netc.train.policy import learning_rate, rates_at
from netc.train.settings import SolverSettings
from tests.train.test_update import CLOSE, gradients, params_of, rule_of, start

torch = pytest.importorskip("torch", reason="the extra bench, which has PyTorch, is not installed")

# Solver type, its settings, PyTorch's class and arguments. Its Adam has no form with delta beside
# the uncorrected root, so that delta must not matter there.
SAME = [
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, "SGD", {"momentum": 0.9}),
    (
        "Nesterov",
        {"momentum": 0.9, "weight_decay": 0.1},
        "SGD",
        {"momentum": 0.9, "nesterov": True},
    ),
    ("AdaGrad", {"delta": 1e-3, "weight_decay": 0.1}, "Adagrad", {"eps": 1e-3}),
    (
        "RMSProp",
        {"rms_decay": 0.9, "delta": 1e-3, "weight_decay": 0.1},
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-3},
    ),
    (
        "AdaDelta",
        {"momentum": 0.9, "delta": 1e-3, "weight_decay": 0.1},
        "Adadelta",
        {"rho": 0.9, "eps": 1e-3},
    ),
    ("Adam", {"momentum": 0.9, "weight_decay": 0.1}, "Adam", {}),
    ("AdamW", {"momentum": 0.9, "weight_decay": 0.1, "delta": 1e-3}, "AdamW", {"eps": 1e-3}),
]


@pytest.mark.parametrize(("kind", "ours", "name", "theirs"), SAME)
def test_a_rule_is_that_of_torch(
    kind: str, ours: dict[str, float], name: str, theirs: dict[str, object]
) -> None:
    settings = SolverSettings(base_lr=0.1, lr_policy="fixed", type=kind, **ours)  # type: ignore[arg-type]
    data, rule = start(), rule_of(settings, params_of())
    tensors = [torch.tensor(values) for values in start()]
    make = getattr(torch.optim, name)
    optimizer = make(tensors, lr=0.1, weight_decay=settings.weight_decay, **theirs)
    for t, diffs in zip(range(12), gradients(), strict=False):
        for tensor, diff in zip(tensors, diffs, strict=True):
            tensor.grad = torch.tensor(diff)
        optimizer.step()
        rule.apply(rates_at(settings, t), data, diffs)
        for values, tensor in zip(data, tensors, strict=True):
            np.testing.assert_allclose(values, tensor.numpy(), **CLOSE)


@pytest.mark.parametrize("mult", [1, 2])
def test_restarts_are_those_of_torch(mult: int) -> None:
    settings = SolverSettings(
        base_lr=0.1, lr_policy="cosine", restart_interval=5, restart_mult=mult, min_lr=0.01
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=5, T_mult=mult, eta_min=0.01
    )
    for t in range(40):
        (rate,) = scheduler.get_last_lr()
        assert learning_rate(settings, t) == pytest.approx(rate, rel=1e-6)
        optimizer.step()
        scheduler.step()
